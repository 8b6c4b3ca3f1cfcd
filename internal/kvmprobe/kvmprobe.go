// Package kvmprobe finds out whether KVM really runs guests here. That /dev/kvm exists
// proves nothing: on some hosts it answers every call, and then a guest crawls a
// thousand times too slowly.
package kvmprobe

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/effect"
	"banger/internal/procid"
)

// Verb is the first argument that makes bangerd the probe's child.
const Verb = "kvm-probe"

const (
	device = "/dev/kvm"
	tries  = 3
	// enough is what a million loop iterations may take, of the best try. Real KVM takes
	// under 1 ms, emulated virtualization 1.6 to 2.0 s.
	enough = 250 * time.Millisecond
	// limit ends a child that got stuck in a guest.
	limit = 2 * time.Second
)

// Result is what was found.
type Result struct {
	Usable bool   `json:"usable"`
	Reason string `json:"reason"` // for a person, also when it is usable
}

// Main is the child process: it prints a Result as JSON. The result is the exit code.
func Main() int {
	// The parent kills this process at the limit; without a parent it ends by itself.
	time.AfterFunc(limit+time.Second, func() { os.Exit(1) }) //nolint:forbidigo // a vCPU that runs cannot be told to return
	runtime.LockOSThread()                                   // a virtual CPU is run by the thread that made it
	if err := json.NewEncoder(os.Stdout).Encode(measure()); err != nil {
		return 1
	}
	return 0
}

func measure() Result {
	g, err := newGuest()
	if err != nil {
		return Result{Reason: err.Error()}
	}
	best := time.Duration(-1)
	for range tries {
		took, err := g.count()
		if err != nil {
			return Result{Reason: err.Error()}
		}
		if best < 0 || took < best {
			best = took
		}
		if best <= enough {
			break
		}
	}
	rounded := best.Round(10 * time.Microsecond)
	if best > enough {
		return Result{Reason: fmt.Sprintf("a guest needs %v for a million loops, at most %v would be usable", rounded, enough)}
	}
	return Result{Usable: true, Reason: fmt.Sprintf("a guest needs %v for a million loops", rounded)}
}

// Probe runs exe with Verb and reads its answer. It takes milliseconds where KVM works
// and up to 2 s where it does not. Whatever keeps KVM from being used is a Result with a
// reason; an error means that there is no answer: ctx ended, or the child could not run.
func Probe(ctx context.Context, seam *effect.Seam, exe string) (Result, error) {
	if err := openable(); err != nil {
		return Result{Reason: err.Error()}, nil
	}
	var out []byte
	timeout, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := seam.Do(ctx, "kvm.probe", func() (err error) {
		cmd := exec.CommandContext(timeout, exe, Verb)
		cmd.Env = []string{}
		cmd.Dir = "/"
		out, err = cmd.Output()
		return err
	})
	switch {
	case ctx.Err() != nil:
		return Result{}, fmt.Errorf("probe KVM: %w", context.Cause(ctx))
	case timeout.Err() != nil:
		return Result{Reason: fmt.Sprintf("a guest did not run a million loops within %v", limit)}, nil
	case err != nil:
		return Result{}, fmt.Errorf("probe KVM: run %s: %w", exe, err)
	}
	var r Result
	if err := json.Unmarshal(out, &r); err != nil {
		return Result{}, fmt.Errorf("probe KVM: answer of %s: %w", exe, err)
	}
	return r, nil
}

func openable() error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// record is a Result and what it was found for: KVM may work differently after a reboot,
// or behind another device file.
type record struct {
	BootID string `json:"boot_id"`
	Device uint64 `json:"device"`
	CTime  int64  `json:"ctime_ns"`
	Result
}

// current is the record of this boot and device, without a result.
func current() (r record, err error) {
	var stat unix.Stat_t
	if err := unix.Stat(device, &stat); err != nil {
		return r, fmt.Errorf("look at %s: %w", device, err)
	}
	r.Device, r.CTime = stat.Rdev, stat.Ctim.Nano()
	r.BootID, err = procid.BootID()
	return r, err
}

// Cached answers from the file at path if that was written in this boot for this
// /dev/kvm, and probes and writes it otherwise. A file that cannot be read, or be
// written, costs a probe each time; the second is also reported, beside a true Result.
func Cached(ctx context.Context, seam *effect.Seam, exe, path string) (Result, error) {
	// Never from the file: the user may have been given access since.
	if err := openable(); err != nil {
		return Result{Reason: err.Error()}, nil
	}
	now, err := current()
	if err != nil {
		return Result{Reason: err.Error()}, err
	}
	if have, ok := load(path); ok && have.BootID == now.BootID && have.Device == now.Device && have.CTime == now.CTime {
		return have.Result, nil
	}
	now.Result, err = Probe(ctx, seam, exe)
	if err != nil {
		return Result{Reason: err.Error()}, err
	}
	content, err := json.Marshal(now)
	if err != nil {
		return now.Result, err
	}
	return now.Result, seam.PublishBytes(ctx, "kvm.publish", path, 0o600, append(content, '\n'))
}

func load(path string) (r record, ok bool) {
	content, err := os.ReadFile(path)
	if err != nil {
		return r, false
	}
	return r, json.Unmarshal(content, &r) == nil
}
