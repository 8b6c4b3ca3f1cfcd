package smoke_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
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

// machineCode makes an ELF that boots as a kernel does: it writes text to the serial
// port and then executes end.
func machineCode(t *testing.T, text string, end ...byte) []byte {
	t.Helper()
	const base, page = 0x100000, 0x1000
	code := []byte{
		0xbe, 0, 0, 0, 0, // mov esi, text
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xac,       // again: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz done
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp again
	}
	code = append(code, end...) // done:
	binary.LittleEndian.PutUint32(code[1:], uint32(base+len(code)))
	code = append(append(code, text...), 0)
	note := []byte{4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0} // the entry of a 32-bit kernel
	note = binary.LittleEndian.AppendUint64(note, base)

	var file bytes.Buffer
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: base, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
	}
	noteAt := uint64(64 + 2*56)
	for _, part := range []any{
		header,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: 7, Off: page, Vaddr: base, Paddr: base, Filesz: uint64(len(code)), Memsz: page, Align: page},
		elf.Prog64{Type: uint32(elf.PT_NOTE), Flags: 4, Off: noteAt, Vaddr: noteAt, Filesz: uint64(len(note)), Memsz: uint64(len(note)), Align: 4},
		note, make([]byte, page-int(noteAt)-len(note)), code,
	} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

var (
	haltForEver = []byte{0xfa, 0xf4, 0xeb, 0xfd}             // cli; again: hlt; jmp again
	resetNow    = []byte{0x0f, 0x01, 0x1d, 0, 0, 0, 0, 0xcc} // lidt of nothing; int3: a triple fault
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
		{"resets", machineCode(t, "last\x1b[31mwords\n", resetNow...), []string{"before the kernel reached the agent", "last[31mwords"}},
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
	h.AddKernel("hangs", machineCode(t, "still here\n", haltForEver...))
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
		os.WriteFile(kernel, machineCode(t, "still here\n", haltForEver...), 0o600),
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
