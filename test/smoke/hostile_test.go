package smoke_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/leakcheck"
	"banger/internal/paths"
	"banger/internal/sandbox"
	"banger/internal/shim"
	"banger/test/rig"
	"banger/test/smoke/host"

	"log/slog"
)

// A kernel that does not boot ends the start with what it and the VMM said last.
func TestKernelThatDoesNotBoot(t *testing.T) {
	h := steady(t)
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		vmlinux []byte
		says    []string
	}{
		{"garbage", bytes.Repeat([]byte("no kernel\n"), 1<<16), []string{"exit status 1", "last lines of the VMM:"}},
		{"empty", nil, []string{"the VMM ended"}},
		{"program", program, []string{"exit status 1", "last lines of the VMM:", "PVH"}},
		{"resets", host.ResettingKernel(t, "last\x1b[31mwords\n"), []string{"before the kernel reached the agent", "last[31mwords"}},
	} {
		h.AddKernel("bad", c.vmlinux)
		r := h.Want(125, "run", "--rm", "--kernel", "bad", "--", "true")
		contains(t, c.name, r.Err, append(c.says, "banger: start VM ")...)
		if strings.Contains(r.Err, "\x1b") {
			t.Errorf("%s: the guest writes to the terminal: %q", c.name, r.Err)
		}
		h.Want(0, "vm", "create", "bad", "--kernel", "bad")
		h.Want(1, "vm", "start", "bad")
		contains(t, c.name, h.InState("bad", api.StateFailed).Error, c.says...)
		h.Want(0, "vm", "delete", "--yes", "bad")
		h.RemoveKernel("bad")
	}
}

// One that hangs can be interrupted, killed and deleted.
func TestKernelThatHangs(t *testing.T) {
	h := steady(t)
	h.AddKernel("hangs", host.HangingKernel(t, "still here\n"))
	p := h.Start(nil, "run", "--rm", "--kernel", "hangs", "--", "true")
	booting(h)
	p.Signal(syscall.SIGINT)
	if r := p.Wait(); r.Code != 130 {
		t.Errorf("interrupted: %v", r)
	}
	h.Eventually("the VM is gone", func() bool { return len(h.VMs()) == 0 })
	h.RemoveKernel("hangs")
}

// And nobody waits for one for ever: its time is over, and the error says what was on
// its console. The shim is asked directly, because the daemon gives a guest a minute and
// a half.
func TestBootDeadline(t *testing.T) {
	bin := host.Bin(t)
	dir := t.TempDir()
	leakcheck.Check(t, leakcheck.Options{Dirs: []string{dir}, Ignore: []string{"*"}, Grace: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), host.Patience)
	defer cancel()
	vm := paths.VM{Dir: filepath.Join(dir, "vm")}
	kernel := filepath.Join(dir, "vmlinux")
	err := errors.Join(
		os.WriteFile(kernel, host.HangingKernel(t, "still here\n"), 0o600),
		os.Mkdir(vm.Dir, 0o700),
		os.WriteFile(vm.Upper(), make([]byte, 1<<20), 0o600),
		os.WriteFile(vm.Work(), make([]byte, 1<<20), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	seam := effect.New(nil)
	err = sandbox.WriteSpec(ctx, seam, vm, sandbox.Spec{
		ID: "slow", Name: "slow", Driver: "qemu", Kernel: kernel, Base: kernel, CPUs: 1, MemoryBytes: 128 << 20,
		BootTimeout: 3 * time.Second, StopGrace: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	lock, err := seam.TryLock(ctx, "lock", vm.Lock())
	if err != nil {
		t.Fatal(err)
	}
	launcher := shim.Launcher{
		Seam: seam, Exe: filepath.Join(bin, "bangerd"), Env: []string{"PATH=" + os.Getenv("PATH")},
		Log: slog.New(slog.DiscardHandler),
	}
	if err := errors.Join(launcher.Launch(ctx, vm, lock), lock.Close()); err != nil {
		t.Fatal(err)
	}
	state, err := sandbox.Connect(vm).State(ctx, sandbox.PhaseEnded)
	if err != nil {
		t.Fatal(err)
	}
	if state.Error == nil || !errs.Is(state.Error.Err(), errs.Timeout) || state.Outcome == nil || state.Outcome.How != sandbox.EndBoot {
		t.Fatalf("state %+v", state)
	}
	contains(t, "the error", state.Error.Message, "not ready within 3s", "before the kernel reached the agent", "still here")
}

// A guest whose memory is full loses the command that filled it, and lives on.
func TestGuestFillsItsMemory(t *testing.T) {
	h := steady(t)
	h.Want(0, "run", "--name", "full", "--keep-running", "--memory", "192M", "--", "true")
	before := identity(t, h, "full")
	r := h.Want(137, "exec", "full", "--", "tail", "/dev/zero")
	contains(t, "stderr", r.Err, "banger: the guest ran out of memory", "--memory")
	// Its shell lives on, and so do others.
	h.Want(0, "exec", "full", "--", "sh", "-c", "tail /dev/zero; test $? = 137")
	if after := identity(t, h, "full"); after != before {
		t.Errorf("another VM: %s, before %s", after, before)
	}
	h.Want(0, "vm", "stop", "full")
	h.Want(0, "vm", "delete", "--yes", "full")
}

// A guest that floods its console is heard and answers, and can be stopped.
func TestGuestFloodsItsConsole(t *testing.T) {
	h := steady(t)
	h.Want(0, "run", "--name", "flood", "--keep-running", "--", "true")
	p := h.Start(nil, "exec", "flood", "--", "sh", "-c", "yes all work and no play >/dev/console & yes makes jack a dull boy >/dev/ttyS0")
	console := h.RunDir(h.VM("flood").ID).Console()
	h.Eventually("the console is flooded", func() bool {
		info, err := os.Stat(console)
		return err == nil && info.Size() > 128<<10
	})
	for range 3 {
		h.Want(5, "exec", "flood", "--", "sh", "-c", "exit 5")
	}
	h.Want(0, "vm", "stop", "flood")
	if vm := h.InState("flood", api.StateStopped); vm.Error != "" {
		t.Errorf("the stop: %s", vm.Error)
	}
	if r := p.Wait(); r.Code == 0 {
		t.Errorf("the flood: %v", r)
	}
	h.Want(0, "vm", "delete", "--yes", "flood")
}

// However much comes, the log keeps what came last, within its bounds. 100 MiB take
// minutes through an emulated serial port, so the guest is a fake one.
func TestConsoleLogIsBounded(t *testing.T) {
	const flood, most = 100 << 20, 8 << 20
	r := rig.New(t)
	r.AddKernel("flood", "console=104857600")
	r.Start("")
	r.PullImage()
	c := r.Client()
	defer c.Close()
	vm, err := c.CreateVM(t.Context(), api.VMSpec{Name: "flood", Image: rig.Image, Kernel: "flood", VMM: "fake"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartVM(t.Context(), "flood", nil); err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(paths.VM{Dir: filepath.Join(r.State, "vms", vm.ID)}.Console() + "*")
	if err != nil || len(logs) != 2 {
		t.Errorf("logs %v, %v", logs, err)
	}
	var sum int64
	for _, path := range logs {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	if sum > most || sum < most/4 {
		t.Errorf("of %d bytes %d are kept, want at most %d", flood, sum, most)
	}
}
