// Package host drives banger's built programs as a person does: one state directory, the
// command line, and an inventory of what every test leaves on the machine.
package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/internal/effect"
	"banger/internal/leakcheck"
	"banger/internal/paths"
	"banger/internal/store"
	"banger/test/rig"
)

// Patience is how long anything may take before a test gives it up: many times what it
// takes on a machine that has nothing else to do.
const Patience = 3 * time.Minute

// Image is the Debian image in a Host that has one.
const Image = "debian-12"

// Host is one state directory. Use it from one test at a time.
type Host struct {
	testing.TB
	Dir   string // holds the state directory and nothing else
	State string
	Env   []string // added to the environment of the commands
	bin   string
}

// Bin is where the built programs are; the test is skipped when that is not said.
func Bin(t testing.TB) string {
	t.Helper()
	bin := os.Getenv("BANGER_TEST_BIN")
	if bin == "" {
		t.Skip("BANGER_TEST_BIN does not say where the programs are")
	}
	return bin
}

// OCI is the reference of the Debian image.
func OCI(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("BANGER_TEST_OCI")
	if dir == "" {
		t.Skip("BANGER_TEST_OCI does not say where the image is")
	}
	return "oci:" + dir
}

// New makes an empty state directory. At the test's end its VMs are deleted, its daemon
// is stopped, and no process may be left.
func New(t testing.TB) *Host {
	t.Helper()
	h := At(t, t.TempDir())
	t.Cleanup(func() { h.End() })
	return h
}

// At uses a state directory below dir; the caller ends it.
func At(t testing.TB, dir string) *Host {
	t.Helper()
	return &Host{TB: t, Dir: dir, State: filepath.Join(dir, "state"), bin: Bin(t)}
}

// Pull puts the Debian image in the state directory, and uses it once: what is made at
// the first use only is no leak of a later one.
func (h *Host) Pull() {
	h.Helper()
	h.Want(0, "image", "pull", OCI(h), "--name", Image)
	h.Want(0, "run", "--rm", "--", "true")
}

// Result is what a command ended with.
type Result struct {
	Code     int
	Out, Err string
}

func (r Result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.Code, abridged(r.Out), abridged(r.Err))
}

func abridged(s string) string {
	const most = 4 << 10
	if len(s) <= most {
		return s
	}
	return s[:most/2] + "\n[…]\n" + s[len(s)-most/2:]
}

// Run runs banger to its end, with nothing on standard input.
func (h *Host) Run(args ...string) Result {
	h.Helper()
	return h.RunWith("", args...)
}

// RunWith is Run with text on standard input.
func (h *Host) RunWith(stdin string, args ...string) Result {
	h.Helper()
	p := h.Start(strings.NewReader(stdin), args...)
	return p.Wait()
}

// Want is Run of a command that must end with that code.
func (h *Host) Want(code int, args ...string) Result {
	h.Helper()
	r := h.Run(args...)
	if r.Code != code {
		h.Fatalf("banger %s: want exit code %d, got %v\n%s", strings.Join(args, " "), code, r, h.DaemonLog())
	}
	return r
}

// Process is a banger that runs, the leader of a process group of its own.
type Process struct {
	h        *Host
	args     []string
	cmd      *exec.Cmd
	cancel   context.CancelFunc
	out, err *Stream
}

// Start starts banger.
func (h *Host) Start(stdin io.Reader, args ...string) *Process {
	h.Helper()
	p := &Process{h: h, args: args, out: newStream(), err: newStream()}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	p.cancel = cancel
	p.cmd = exec.CommandContext(ctx, filepath.Join(h.bin, "banger"), args...)
	p.cmd.Env = h.environ()
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, p.out, p.err
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = time.Minute
	if err := p.cmd.Start(); err != nil {
		cancel()
		h.Fatal(err)
	}
	return p
}

// StartPipe is Start with a pipe to standard input.
func (h *Host) StartPipe(args ...string) (*Process, io.WriteCloser) {
	h.Helper()
	r, w, err := os.Pipe() // a file: nobody copies, so Wait waits for the process only
	if err != nil {
		h.Fatal(err)
	}
	p := h.Start(r, args...)
	if err := r.Close(); err != nil {
		h.Fatal(err)
	}
	return p, w
}

// environ is small: nothing of the machine's user reaches banger.
func (h *Host) environ() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.Dir, "LC_ALL=C.UTF-8", "BANGER_STATE_DIR=" + h.State}
	return append(env, h.Env...)
}

// Faults plans faults (package effect) for what is started from here on; "" plans none.
func (h *Host) Faults(plan string) {
	h.Env = slices.DeleteFunc(h.Env, func(e string) bool { return strings.HasPrefix(e, effect.EnvPlan+"=") })
	if plan != "" {
		h.Env = append(h.Env, effect.EnvPlan+"="+plan)
	}
}

// Wait waits until the process has ended.
func (p *Process) Wait() Result {
	p.h.Helper()
	defer p.cancel()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.h.Fatalf("banger %s: %v", strings.Join(p.args, " "), err)
	}
	r := Result{Code: p.cmd.ProcessState.ExitCode(), Out: p.out.String(), Err: p.err.String()}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		r.Code = -int(status.Signal())
	}
	return r
}

// Signal sends a signal to the process group, as a terminal does.
func (p *Process) Signal(sig syscall.Signal) {
	p.h.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, sig); err != nil {
		p.h.Fatal(err)
	}
}

// Expect waits until text was written to standard output, and forgets all up to its end.
func (p *Process) Expect(text string) {
	p.h.Helper()
	if before, ok := p.out.await(text); !ok {
		_ = p.cmd.Process.Kill()
		p.h.Fatalf("banger %s: no %q in %q; stderr: %s\n%s", strings.Join(p.args, " "), text, before, p.err, p.h.DaemonLog())
	}
}

// Stream keeps what was written to it.
type Stream struct {
	mu      sync.Mutex
	all     bytes.Buffer
	changed chan struct{}
}

func newStream() *Stream { return &Stream{changed: make(chan struct{})} }

func (s *Stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.all.Write(p)
}

func (s *Stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

func (s *Stream) await(text string) (before string, found bool) {
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		before, after, found := strings.Cut(s.all.String(), text)
		if found {
			s.all.Reset()
			s.all.WriteString(after)
		}
		changed := s.changed
		s.mu.Unlock()
		if found {
			return before, true
		}
		select {
		case <-changed:
		case <-deadline.C:
			return before, false
		}
	}
}

// VMs is banger vm list, which starts the daemon when it does not run.
func (h *Host) VMs() map[string]api.VM {
	h.Helper()
	var list []api.VM
	if err := json.Unmarshal([]byte(h.Want(0, "vm", "list", "--json").Out), &list); err != nil {
		h.Fatal(err)
	}
	byName := map[string]api.VM{}
	for _, vm := range list {
		byName[vm.Name] = vm
	}
	return byName
}

// VM is one VM that must be there.
func (h *Host) VM(name string) api.VM {
	h.Helper()
	vm, ok := h.VMs()[name]
	if !ok {
		h.Fatalf("there is no VM %q\n%s", name, h.DaemonLog())
	}
	return vm
}

// InState holds the VM to a state, and gives it. It does not wait.
func (h *Host) InState(name, state string) api.VM {
	h.Helper()
	vm := h.VM(name)
	if vm.State != state {
		h.Errorf("VM %s is %s, want %s; its error: %s\n%s", name, vm.State, state, vm.Error, h.DaemonLog())
	}
	if running := state == api.StateRunning; running != (len(h.Processes(vm.ID)) > 0) || running != (vm.PID != 0) {
		h.Errorf("VM %s is %s with pid %d, and its processes are: %v", name, vm.State, vm.PID, h.Processes(vm.ID))
	}
	return vm
}

// Processes are those of a VM.
func (h *Host) Processes(id string) []string { return rig.Processes(h.dirs().VM(id).Dir) }

// RunDir is a VM's run directory.
func (h *Host) RunDir(id string) paths.VM { return h.dirs().VM(id) }

func (h *Host) dirs() paths.Dirs {
	return paths.Dirs{State: h.State, Runtime: h.State, Cache: filepath.Join(h.Dir, ".cache", "banger")}
}

// Daemon is the daemon that runs, as it tells of itself.
func (h *Host) Daemon() api.DaemonFile {
	h.Helper()
	var file api.DaemonFile
	b, err := os.ReadFile(h.dirs().DaemonFile())
	if err == nil {
		err = json.Unmarshal(b, &file)
	}
	if err != nil {
		h.Fatal(err)
	}
	return file
}

// Socket is the daemon's.
func (h *Host) Socket() string { return h.dirs().Socket() }

// DaemonLog is the end of what the daemons said.
func (h *Host) DaemonLog() string {
	b, _ := os.ReadFile(h.dirs().DaemonLog())
	return "daemon.log: " + string(b[max(0, len(b)-2<<10):])
}

// Eventually waits for what comes about without being waited for.
func (h *Host) Eventually(what string, true func() bool) {
	h.Helper()
	for deadline := time.Now().Add(Patience); !true(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("not within %v: %s\n%s", Patience, what, h.DaemonLog())
		}
	}
}

// StopDaemon ends the daemon; VMs go on.
func (h *Host) StopDaemon() {
	h.Helper()
	h.Faults("")
	h.Want(0, "system", "stop")
}

// End deletes the VMs and stops the daemon. No process may be left.
func (h *Host) End() {
	h.Helper()
	if _, err := os.Stat(h.dirs().Database()); err == nil {
		h.Faults("")
		for name := range h.VMs() {
			h.Want(0, "vm", "delete", "--force", name)
		}
		h.StopDaemon()
	}
	if left := rig.Processes(h.State); len(left) > 0 {
		h.Errorf("processes left:\n%s", strings.Join(left, "\n"))
	}
}

// runFiles are those that each run of a VM makes anew. They go with the VM's directory.
var runFiles = []string{
	"state/vms/*/vm.json", "state/vms/*/handles.json", "state/vms/*/outcome.json", "state/vms/*/shim.sock",
	"state/vms/*/console.log*", "state/vms/*/vmm.log*", "state/vms/*/shim.log", "state/vms/*/lock",
}

// Unchanged holds the test to leaving the machine as it is now. With a daemon, that one
// runs all the while and holds the same descriptors; without, none runs before and after.
func (h *Host) Unchanged(daemon bool) {
	h.Helper()
	o := leakcheck.Options{
		Dirs: []string{h.Dir}, Volatile: []string{"banger.db*", "daemon.log"}, Ignore: runFiles,
		Rows: h.rows, Deep: daemon, Grace: time.Minute,
	}
	ready := func() {
		h.Want(0, "system", "status") // answers when the daemon knows about KVM and has noted it
		if !daemon {
			h.StopDaemon()
		}
	}
	ready()
	before, err := leakcheck.Take(o)
	for settled := false; err == nil && !settled; {
		var again leakcheck.Inventory
		again, err = leakcheck.Take(o)
		settled = before.String() == again.String()
		before = again
	}
	if err != nil {
		h.Fatalf("inventory before: %v", err)
	}
	t := h.TB
	t.Cleanup(func() {
		h.TB = t
		if t.Failed() { // what it made is still there; the next test must not stumble over it
			h.clear()
		}
		ready()
		diff, err := before.Wait(o)
		if err != nil {
			t.Errorf("inventory after: %v", err)
		}
		if len(diff) > 0 {
			t.Errorf("the test leaves the host changed:\n%s\n%s", strings.Join(diff, "\n"), h.DaemonLog())
		}
	})
}

// clear deletes every VM but those whose names begin with "keep".
func (h *Host) clear() {
	h.Faults("")
	for name := range h.VMs() {
		if !strings.HasPrefix(name, "keep") {
			h.Run("vm", "delete", "--force", name)
		}
	}
}

// rows counts the rows of a copy of the database: the daemon's own is not to be opened
// by anybody else.
func (h *Host) rows() (counts map[string]int, err error) {
	dir, err := os.MkdirTemp("", "banger-rows")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(h.dirs().Database() + suffix)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "db"+suffix), b, 0o600)
		}
		if err != nil {
			return nil, err
		}
	}
	ctx := context.Background()
	s, err := store.Open(ctx, effect.New(nil), filepath.Join(dir, "db"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	vms, err := s.VMs(ctx)
	if err != nil {
		return nil, err
	}
	images, err := s.Images(ctx)
	counts = map[string]int{"image": len(images)}
	for _, vm := range vms {
		counts[fmt.Sprintf("VM %s, %s, %q", vm.Name, vm.State, vm.Op)]++
	}
	return counts, err
}
