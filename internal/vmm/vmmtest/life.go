package vmmtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/errs"
	"banger/internal/procid"
	"banger/internal/vmm"
)

func testProbe(t *testing.T, c Config) {
	info, err := c.Driver.Probe(t.Context())
	if err != nil || info.Path == "" || info.Version == "" || info.Accelerator != "kvm" && info.Accelerator != "tcg" {
		t.Errorf("probe: %+v, %v", info, err)
	}
	if c.Driver.Name() == "" {
		t.Error("the driver has no name")
	}
	t.Logf("%+v", info)
}

func testGuestSpeaksAndAnswers(t *testing.T, c Config) {
	m := c.boot(t, func(spec *vmm.Spec) { spec.CPUs = 2 })
	m.echo()
	var all sync.WaitGroup
	for range 20 {
		conn := m.open()
		all.Go(func() { // half a megabyte each way, at once
			const size = 512 << 10
			go func() {
				_, _ = io.WriteString(conn, "echo\n")
				_, _ = conn.Write(make([]byte, size))
			}()
			if n, err := io.CopyN(io.Discard, conn, size); err != nil {
				t.Errorf("came back: %d bytes, %v", n, err)
			}
		})
	}
	all.Wait()
}

// More threads than CPUs get their share: each CPU's clock ticks.
func testEveryCPUWorks(t *testing.T, c Config) {
	m := c.boot(t, func(spec *vmm.Spec) { spec.CPUs = 2 })
	var cpus, slowest, fastest int
	answer := m.ask("spin")
	if _, err := fmt.Sscan(answer, &cpus, &slowest, &fastest); err != nil {
		t.Fatalf("%q: %v", answer, err)
	}
	t.Logf("%d CPUs, %d to %d rounds", cpus, slowest, fastest)
	if cpus < min(2, runtime.NumCPU()) || slowest*50 < fastest {
		t.Error("not every CPU works as it should")
	}
}

func testProcess(t *testing.T, c Config) {
	m := c.start(t, nil)
	id := m.Process()
	if !id.Alive() || id.PID == os.Getpid() {
		t.Fatalf("process %+v is not alive", id)
	}
	if m.Exit() != "" {
		t.Errorf("exit before the end: %q", m.Exit())
	}
	if session, err := unix.Getsid(id.PID); err != nil || session != id.PID {
		t.Errorf("session %d of process %d, %v", session, id.PID, err)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", id.PID)); err != nil || cwd != "/" {
		t.Errorf("working directory %q, %v", cwd, err)
	}
}

func testEndByReset(t *testing.T, c Config) {
	m := c.boot(t, nil)
	m.tell("reset")
	m.waitDone()
	if m.Process().Alive() {
		t.Error("alive after Done")
	}
	if m.Exit() == "" {
		t.Error("no exit after Done")
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Errorf("kill after the end: %v", err)
	}
}

func testKillIsIdempotent(t *testing.T, c Config) {
	m := c.start(t, nil)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := m.Kill(t.Context()); err != nil {
				t.Errorf("kill: %v", err)
			}
			select {
			case <-m.Done():
			default:
				t.Error("Kill came back before Done")
			}
			var status unix.WaitStatus
			if _, err := unix.Wait4(m.Process().PID, &status, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
				t.Errorf("after Kill there is something to reap: %v", err)
			}
		})
	}
	all.Wait()
	if !strings.Contains(m.Exit(), "killed") {
		t.Errorf("exit %q", m.Exit())
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

func testKillWithCancelledContext(t *testing.T, c Config) {
	m := c.start(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Kill(ctx); !errs.Is(err, errs.Cancelled) {
		t.Errorf("kill: %v", err)
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Errorf("kill: %v", err)
	}
	if err := m.Kill(ctx); err != nil {
		t.Errorf("kill of one that has ended: %v", err)
	}
}

// The end of the machine ends what is blocked on its channel, and is Unavailable after.
func testEndOfTheChannel(t *testing.T, c Config) {
	m := c.boot(t, nil)
	conn := m.open()
	_ = conn.SetDeadline(time.Time{})
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("read: bytes from nowhere")
		}
	})
	all.Go(func() {
		if _, err := m.Accept(t.Context()); !errs.Is(err, errs.Unavailable) {
			t.Errorf("accept: %v", err)
		}
	})
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if conn, err := m.Open(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("open after the end: %v, %v", conn, err)
	}
	if conn, err := m.Accept(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("accept after the end: %v, %v", conn, err)
	}
}

func testOpenNeedsAnAnswer(t *testing.T, c Config) {
	m := c.start(t, nil)
	if err := unix.Kill(m.Process().PID, unix.SIGSTOP); err != nil { // a guest that never comes
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.Open(ctx); !errs.Is(err, errs.Unavailable) {
		t.Errorf("open with a deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := m.Open(ctx); !errs.Is(err, errs.Cancelled) {
		t.Errorf("open, cancelled: %v", err)
	}
	if _, err := m.Accept(ctx); !errs.Is(err, errs.Cancelled) {
		t.Errorf("accept, cancelled: %v", err)
	}
}

func testCloseOfAConnection(t *testing.T, c Config) {
	m := c.boot(t, nil)
	conn := m.open()
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "echo\nx"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond)
	if err := conn.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("blocked read: %v", err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	m.echo()
}

// orphan is what a child of the test tells about the machine that it started.
type orphan struct {
	ID procid.ID
}

// RunOrphan is the child of DiesWithItsParent: it starts a machine, tells its process
// on standard output, and waits to be killed.
func RunOrphan(c Config, dir string) error {
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			panic(err)
		}
		return f
	}
	m, err := c.Driver.Start(context.Background(), vmm.Spec{
		Kernel: c.Kernel, Initrd: c.Initrd, CPUs: 1, MemoryBytes: 128 << 20,
		Console: open("console"), Log: open("log"),
	})
	if err != nil {
		return err
	}
	// Threads come and go; only the end of the process may end the machine.
	for range 20 {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { time.Sleep(time.Millisecond) })
		}
		all.Wait()
	}
	if err := json.NewEncoder(os.Stdout).Encode(orphan{m.Process()}); err != nil {
		return err
	}
	select {}
}

func testDiesWithItsParent(t *testing.T, c Config) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, append(c.OrphanArgs, t.TempDir())...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	var child orphan
	if err == nil {
		err = json.Unmarshal(line, &child)
	}
	if err != nil {
		t.Errorf("the child says %q, %v", line, err)
	} else if !child.ID.Alive() {
		t.Error("the machine ended before its parent")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for deadline := time.Now().Add(5 * time.Second); child.ID.Alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the machine outlives its parent")
		}
	}
}

// While the VMM lives somebody holds the lock, and nobody after.
func testInheritedLock(t *testing.T, c Config) {
	path := filepath.Join(t.TempDir(), "lock")
	lock := create(t, path)
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	m := c.start(t, func(spec *vmm.Spec) { spec.Inherit = []*os.File{lock} })
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again := create(t, path)
	if err := unix.Flock(int(again.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("lock while the VMM lives: %v", err)
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(again.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("lock after the VMM has ended: %v", err)
	}
}

func testNothingElseIsInherited(t *testing.T, c Config) {
	secret := create(t, filepath.Join(t.TempDir(), "secret"))
	m := c.boot(t, nil)
	dir := fmt.Sprintf("/proc/%d/fd", m.Process().PID)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		target, _ := os.Readlink(filepath.Join(dir, entry.Name()))
		if target == secret.Name() {
			t.Errorf("descriptor %s is %s", entry.Name(), target)
		}
		if entry.Name() == "0" && target != "/dev/null" {
			t.Errorf("standard input is %s", target)
		}
	}
	if environ := read(fmt.Sprintf("/proc/%d/environ", m.Process().PID)); environ != "" {
		t.Errorf("environment %q", environ)
	}
}

func testManyAtOnce(t *testing.T, c Config) {
	var all sync.WaitGroup
	for range 4 {
		m := c.start(t, nil)
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*c.Boot)
			defer cancel()
			if _, err := m.Accept(ctx); err != nil {
				t.Errorf("accept: %v", err)
			}
		})
	}
	all.Wait()
}
