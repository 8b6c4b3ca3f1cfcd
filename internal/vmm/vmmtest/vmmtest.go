// Package vmmtest holds every VMM driver to the contract in package vmm. The guest at
// the far side is package guest, in a real machine as its init.
package vmmtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/leakcheck"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest/guest"
)

// Config is a driver under test.
type Config struct {
	Driver vmm.Driver
	// Kernel, Initrd boot into package guest.
	Kernel, Initrd string
	// Boot is how long the guest may take to say hello.
	Boot time.Duration
	// OrphanArgs are arguments with which this test binary, run again, calls
	// RunOrphan with the same Config.
	OrphanArgs []string
}

// Run is the suite. It needs the environment of package leakcheck to itself.
func Run(t *testing.T, c Config) {
	tests := []struct {
		name string
		run  func(*testing.T, Config)
	}{
		{"Probe", testProbe},
		{"GuestSpeaksAndAnswers", testGuestSpeaksAndAnswers},
		{"EveryCPUWorks", testEveryCPUWorks},
		{"Process", testProcess},
		{"EndByReset", testEndByReset},
		{"KillIsIdempotent", testKillIsIdempotent},
		{"KillWithCancelledContext", testKillWithCancelledContext},
		{"EndOfTheChannel", testEndOfTheChannel},
		{"OpenNeedsAnAnswer", testOpenNeedsAnAnswer},
		{"CloseOfAConnection", testCloseOfAConnection},
		{"DiesWithItsParent", testDiesWithItsParent},
		{"InheritedLock", testInheritedLock},
		{"NothingElseIsInherited", testNothingElseIsInherited},
		{"Disks", testDisks},
		{"SharedReadOnlyDisk", testSharedReadOnlyDisk},
		{"WritableDiskHasOneUser", testWritableDiskHasOneUser},
		{"Console", testConsole},
		{"ConsoleFlood", testConsoleFlood},
		{"HostileConnections", testHostileConnections},
		{"HostilePings", testHostilePings},
		{"DeafGuest", testDeafGuest},
		{"ManyAtOnce", testManyAtOnce},
		{"MissingKernel", testMissingKernel},
		{"GarbageKernel", testGarbageKernel},
		{"OddFileNames", testOddFileNames},
		{"RefusedSpecs", testRefusedSpecs},
		{"CancelledStart", testCancelledStart},
		{"FailedStart", testFailedStart},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			leakcheck.Check(t, leakcheck.Options{Dirs: []string{t.TempDir()}, Grace: 10 * time.Second})
			test.run(t, c)
		})
	}
}

// machine is one under test, with its guest at hand.
type machine struct {
	vmm.Machine
	t       *testing.T
	c       Config
	console string // file
	log     string // file
}

// spec is a small machine whose console and log go to files.
func (c Config) spec(t *testing.T) (spec vmm.Spec, console, log string) {
	t.Helper()
	dir := t.TempDir()
	console, log = filepath.Join(dir, "console"), filepath.Join(dir, "log")
	return vmm.Spec{
		Kernel: c.Kernel, Initrd: c.Initrd, CPUs: 1, MemoryBytes: 128 << 20,
		Console: create(t, console), Log: create(t, log),
	}, console, log
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// start starts a machine that is killed, reaped and closed with the test.
func (c Config) start(t *testing.T, change func(*vmm.Spec)) *machine {
	t.Helper()
	spec, console, log := c.spec(t)
	if change != nil {
		change(&spec)
	}
	m, err := c.Driver.Start(t.Context(), spec)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := m.Kill(ctx); err != nil {
			t.Errorf("kill: %v", err)
		}
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &machine{m, t, c, console, log}
}

// boot is start, and waits for the guest's word.
func (c Config) boot(t *testing.T, change func(*vmm.Spec)) *machine {
	t.Helper()
	m := c.start(t, change)
	m.hello()
	return m
}

// hello accepts the control connection, which lives as long as the test.
func (m *machine) hello() net.Conn {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), m.c.Boot)
	defer cancel()
	control, err := m.Accept(ctx)
	if err != nil {
		m.t.Fatalf("accept: %v\nlog: %s\nconsole: %s", err, read(m.log), tail(read(m.console)))
	}
	m.t.Cleanup(func() { _ = control.Close() })
	_ = control.SetReadDeadline(time.Now().Add(m.c.Boot))
	got := make([]byte, len(guest.Hello))
	if _, err := io.ReadFull(control, got); err != nil || string(got) != guest.Hello {
		m.t.Fatalf("hello: %q, %v", got, err)
	}
	_ = control.SetReadDeadline(time.Time{})
	return control
}

// open opens a connection that is closed with the test.
func (m *machine) open() net.Conn {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), m.c.Boot)
	defer cancel()
	conn, err := m.Open(ctx)
	if err != nil {
		m.t.Fatalf("open: %v", err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(m.c.Boot))
	return conn
}

// tell sends the guest a command that has no answer.
func (m *machine) tell(format string, args ...any) {
	m.t.Helper()
	if _, err := fmt.Fprintf(m.open(), format+"\n", args...); err != nil {
		m.t.Fatalf("tell %s: %v", format, err)
	}
}

// ask sends the guest a command and gives its answer.
func (m *machine) ask(format string, args ...any) string {
	m.t.Helper()
	conn := m.open()
	if _, err := fmt.Fprintf(conn, format+"\n", args...); err != nil {
		m.t.Fatalf("ask %s: %v", format, err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		m.t.Fatalf("ask %s: answer %q, %v", format, answer, err)
	}
	return strings.TrimSpace(answer)
}

// echo fails the test unless the guest answers.
func (m *machine) echo() {
	m.t.Helper()
	conn := m.open()
	const text = "are you there?"
	if _, err := io.WriteString(conn, "echo\n"+text); err != nil {
		m.t.Fatalf("echo: %v", err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		m.t.Fatalf("echo: %q, %v", got, err)
	}
}

// waitDone fails the test unless the process ends.
func (m *machine) waitDone() {
	m.t.Helper()
	select {
	case <-m.Done():
	case <-time.After(m.c.Boot):
		m.t.Fatal("the process does not end")
	}
}

func read(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// disk makes a raw disk of 1 MiB that begins with text.
func disk(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	content := make([]byte, 1<<20)
	copy(content, text)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
