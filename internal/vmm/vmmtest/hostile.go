package vmmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/errs"
	"banger/internal/vmm"
)

func testDisks(t *testing.T, c Config) {
	paths := []string{disk(t, "first"), disk(t, "second"), disk(t, "third")}
	m := c.boot(t, func(spec *vmm.Spec) {
		spec.Disks = []vmm.Disk{
			{Path: paths[0], ReadOnly: true},
			{Path: paths[1], Durable: true},
			{Path: paths[2]},
		}
	})
	for i, text := range []string{"first", "second", "third"} {
		want := make([]byte, 16)
		copy(want, text)
		if got := m.ask("disk %d", i); got != fmt.Sprintf("%d %x", 1<<20, want) {
			t.Errorf("disk %d: %s", i, got)
		}
	}
	if got := m.ask("disk 3"); got != "no such disk" {
		t.Errorf("a disk too many: %s", got)
	}
	if got := m.ask("write 0 changed"); got == "done" {
		t.Error("the guest wrote to a read-only disk")
	}
	for i, disk := range paths[1:] {
		if got := m.ask("write %d changed", i+1); got != "done" {
			t.Errorf("write disk %d: %s", i+1, got)
		}
		// What the guest has synced is in the file; whether it is on the platter needs a
		// power cut to tell.
		if got := read(disk); !strings.HasPrefix(got, "changed") {
			t.Errorf("disk %d holds %q", i+1, got[:16])
		}
	}
	if got := read(paths[0]); !strings.HasPrefix(got, "first") {
		t.Errorf("the read-only disk holds %q", got[:16])
	}
}

func testSharedReadOnlyDisk(t *testing.T, c Config) {
	path := disk(t, "shared")
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	share := func(spec *vmm.Spec) { spec.Disks = []vmm.Disk{{Path: path, ReadOnly: true}} }
	one, two := c.boot(t, share), c.boot(t, share)
	if a, b := one.ask("disk 0"), two.ask("disk 0"); a != b || !strings.Contains(a, "736861726564") {
		t.Errorf("one reads %s, the other %s", a, b)
	}
}

func testWritableDiskHasOneUser(t *testing.T, c Config) {
	path := disk(t, "private")
	use := func(spec *vmm.Spec) { spec.Disks = []vmm.Disk{{Path: path, Durable: true}} }
	one := c.boot(t, use)
	two := c.start(t, use)
	two.waitDone()
	if !strings.Contains(read(two.log), "lock") {
		t.Errorf("the second one's log: %s", read(two.log))
	}
	one.echo()
}

func testConsole(t *testing.T, c Config) {
	m := c.boot(t, nil)
	if got := m.ask("console 200"); got != "done" {
		t.Fatal(got)
	}
	for deadline := time.Now().Add(c.Boot); !strings.Contains(read(m.console), "xxxxxxxxxxxxxxxx"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("console: %s", tail(read(m.console)))
		}
	}
}

// A guest that floods its console harms itself alone, also when nobody reads it.
func testConsoleFlood(t *testing.T, c Config) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	m := c.boot(t, func(spec *vmm.Spec) { spec.Console = w })
	drained := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, r)
		drained <- n
	}()
	if got := m.ask("console 100000"); got != "done" {
		t.Error(got)
	}
	m.echo()
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if n := <-drained; n < 100000 {
		t.Errorf("%d bytes arrived", n)
	}
}

// The guest may open connections as it likes: few are taken, the rest is reset, and
// requests go on.
func testHostileConnections(t *testing.T, c Config) {
	m := c.boot(t, nil)
	accepted := make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		n := 0
		for {
			conn, err := m.Accept(ctx)
			if err != nil {
				accepted <- n
				return
			}
			n++
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	m.tell("open 300")
	for until := time.Now().Add(time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		m.echo()
	}
	cancel()
	if n := <-accepted; n < 1 || n > 8 {
		t.Errorf("%d connections of the guest were taken", n)
	}
	m.echo()
}

// yamux answers each ping on a goroutine; a flood of them must end the channel and not
// fill the host's memory.
func testHostilePings(t *testing.T, c Config) {
	m := c.boot(t, nil)
	before := runtime.NumGoroutine()
	m.tell("pings")
	ctx, cancel := context.WithTimeout(t.Context(), c.Boot)
	defer cancel()
	if _, err := m.Accept(ctx); !errs.Is(err, errs.Unavailable) || ctx.Err() != nil {
		t.Errorf("the channel did not end: %v", err)
	}
	if now := runtime.NumGoroutine(); now > before+100 {
		t.Errorf("goroutines: %d before, %d after", before, now)
	}
	if _, err := m.Open(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("open: %v", err)
	}
}

// A guest that reads nothing blocks nobody beyond the deadline they gave, and can be
// killed.
func testDeafGuest(t *testing.T, c Config) {
	m := c.boot(t, nil)
	m.tell("deaf")
	deaf := func() bool { // commands that are on their way are still taken
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		conn, err := m.Open(ctx)
		if err != nil {
			return errs.Is(err, errs.Unavailable)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := io.WriteString(conn, "echo\nx"); err != nil {
			return true
		}
		_, err = conn.Read(make([]byte, 1))
		return err != nil
	}
	for deadline := time.Now().Add(c.Boot); !deaf(); {
		if time.Now().After(deadline) {
			t.Fatal("the guest still answers")
		}
	}
	// As many as the channel takes, and more.
	for range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		conn, err := m.Open(ctx)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		} else if !errs.Is(err, errs.Unavailable) {
			t.Errorf("open: %v", err)
		}
		cancel()
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Error(err)
	}
}

func testMissingKernel(t *testing.T, c Config) {
	spec := func(spec *vmm.Spec) { spec.Kernel = filepath.Join(t.TempDir(), "missing") }
	diesAtOnce(t, c, spec)
}

func testGarbageKernel(t *testing.T, c Config) {
	path := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(path, bytes.Repeat([]byte("garbage "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	diesAtOnce(t, c, func(spec *vmm.Spec) { spec.Kernel = path })
}

// diesAtOnce is for what only the VMM finds out: it says so on its log and ends.
func diesAtOnce(t *testing.T, c Config, change func(*vmm.Spec)) {
	m := c.start(t, change)
	m.waitDone()
	if log := read(m.log); log == "" {
		t.Error("the log says nothing")
	} else {
		t.Log(strings.TrimSpace(log))
	}
	if m.Exit() == "exit status 0" {
		t.Error("exit status 0")
	}
}

// Names may hold what is syntax for the VMM's options.
func testOddFileNames(t *testing.T, c Config) {
	dir := filepath.Join(t.TempDir(), `a,b=c "d" 'e' ,,é%s`)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	link := func(target, name string) string {
		path := filepath.Join(dir, name)
		if target == "" {
			return ""
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := disk(t, "odd")
	m := c.boot(t, func(spec *vmm.Spec) {
		spec.Kernel, spec.Initrd = link(c.Kernel, "kernel,x"), link(c.Initrd, "initrd,x")
		spec.Disks = []vmm.Disk{{Path: link(path, "disk,readonly=on,x")}}
	})
	if got := m.ask("write 0 changed"); got != "done" {
		t.Error(got)
	}
}

func testRefusedSpecs(t *testing.T, c Config) {
	for name, change := range map[string]func(*vmm.Spec){
		"no CPU":          func(s *vmm.Spec) { s.CPUs = 0 },
		"no memory":       func(s *vmm.Spec) { s.MemoryBytes = 0 },
		"relative kernel": func(s *vmm.Spec) { s.Kernel = "vmlinux" },
	} {
		spec, _, _ := c.spec(t)
		change(&spec)
		if m, err := c.Driver.Start(t.Context(), spec); !errs.Is(err, errs.Usage) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

func testCancelledStart(t *testing.T, c Config) {
	spec, _, _ := c.spec(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if m, err := c.Driver.Start(ctx, spec); !errs.Is(err, errs.Cancelled) {
		t.Errorf("start: %v, %v", m, err)
	}
	// And a context that ends later bounds the start, not the machine.
	ctx, cancel = context.WithCancel(t.Context())
	m, err := c.Driver.Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	time.Sleep(20 * time.Millisecond)
	if !m.Process().Alive() {
		t.Error("the machine ended with the context of its start")
	}
	if err := errors.Join(m.Kill(t.Context()), m.Close()); err != nil {
		t.Error(err)
	}
}

// A start that fails closes nothing of the specification.
func testFailedStart(t *testing.T, c Config) {
	spec, _, _ := c.spec(t)
	lock := create(t, filepath.Join(t.TempDir(), "lock"))
	spec.Inherit = []*os.File{lock}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Driver.Start(ctx, spec); err == nil {
		t.Fatal("started")
	}
	for _, f := range []*os.File{spec.Console, spec.Log, lock} {
		if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
}
