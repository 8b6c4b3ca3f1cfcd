package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"banger/internal/cpio"
	"banger/internal/effect"
	"banger/internal/embedded"
	"banger/internal/errs"
	"banger/internal/kvmprobe"
	"banger/internal/vm"
)

// kvmState knows whether KVM really works. Finding out takes up to seconds where it does
// not, so it begins in the background when the daemon starts.
type kvmState struct {
	done   chan struct{}
	cancel context.CancelFunc
	result kvmprobe.Result
}

func newKVMState(ctx context.Context, seam *effect.Seam, log *slog.Logger, exe, cache string) *kvmState {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k := &kvmState{done: make(chan struct{}), cancel: cancel}
	go func() {
		defer close(k.done)
		var err error
		if k.result, err = kvmprobe.Cached(ctx, seam, exe, cache); err != nil {
			log.Warn("probe KVM", "error", err)
		}
	}()
	return k
}

func (k *kvmState) close() {
	k.cancel()
	<-k.done
}

func (k *kvmState) get(ctx context.Context) (kvmprobe.Result, error) {
	select {
	case <-k.done:
		return k.result, nil
	case <-ctx.Done():
		return kvmprobe.Result{}, context.Cause(ctx)
	}
}

// monitors chooses VMMs.
type monitors struct {
	drivers Drivers
	kvm     *kvmState
}

// Choose implements vm.Monitors.
func (m monitors) Choose(ctx context.Context, asked string) (vm.Monitor, error) {
	switch asked {
	case "", "auto":
		asked = "qemu"
	case "firecracker":
		return vm.Monitor{}, errs.Hint(errs.New(errs.Unavailable, "VMM firecracker: not in this version"),
			"use BANGER_VMM=auto")
	}
	if m.drivers[asked] == nil {
		return vm.Monitor{}, errs.Hint(errs.New(errs.Usage, "VMM %q: unknown", asked), "use BANGER_VMM=auto or qemu")
	}
	chosen := vm.Monitor{Driver: asked}
	if asked != "qemu" {
		return chosen, nil
	}
	kvm, err := m.kvm.get(ctx)
	if err != nil {
		return chosen, err
	}
	chosen.KVM, chosen.Program = kvm.Usable, os.Getenv("BANGER_QEMU")
	return chosen, nil
}

// initramfs makes the one file that every VM boots from: immutable, and named after what
// is in it.
type initramfs struct {
	seam *effect.Seam
	dir  string
	mu   sync.Mutex
	made string
}

func newInitramfs(seam *effect.Seam, dir string) *initramfs {
	return &initramfs{seam: seam, dir: dir}
}

func (i *initramfs) path(ctx context.Context) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.made != "" {
		return i.made, nil
	}
	agent, err := embedded.Agent()
	if err != nil {
		return "", err
	}
	var content bytes.Buffer
	if err := cpio.Initramfs(&content, agent); err != nil {
		return "", err
	}
	sum := sha256.Sum256(content.Bytes())
	path := filepath.Join(i.dir, hex.EncodeToString(sum[:8])+".cpio")
	if _, err := os.Stat(path); err != nil {
		if err := i.seam.PublishBytes(ctx, "initramfs", path, 0o400, content.Bytes()); err != nil {
			return "", err
		}
	}
	i.made = path
	return path, nil
}
