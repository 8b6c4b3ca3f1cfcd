package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/internal/agent"
	"banger/internal/errs"
	"banger/internal/guest"
	"banger/internal/guestproto"

	"github.com/hashicorp/yamux"
)

// machine is the host's end of a guest that is none.
type machine struct {
	t       *testing.T
	mux     *yamux.Session
	control *guest.Control
	ready   guestproto.Ready
	served  chan error
}

func (m *machine) Accept(ctx context.Context) (net.Conn, error) {
	return m.mux.AcceptStreamWithContext(ctx)
}

// start serves a guest; the test's end checks that nothing of it remains.
func start(t *testing.T, o agent.HostOptions) *machine {
	t.Helper()
	goroutines := goleak.IgnoreCurrent()
	fds := openFDs(t)
	ctx, cancel := context.WithCancel(context.Background())
	near, far := socketpair(t)
	m := &machine{t: t, served: make(chan error, 1)}
	go func() { m.served <- agent.ServeHost(ctx, far, o) }()
	var err error
	if m.mux, err = muxClient(near); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if m.control != nil {
			_ = m.control.Close()
		}
		_ = m.mux.Close()
		select {
		case <-m.served:
		case <-time.After(10 * time.Second):
			t.Error("ServeHost does not return")
		}
		goleak.VerifyNone(t, goroutines)
		if now := openFDs(t); now > fds {
			t.Errorf("%d descriptors before, %d after", fds, now)
		}
	})
	return m
}

func socketpair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return conns[0], conns[1]
}

func openFDs(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func boot(t *testing.T, o agent.HostOptions, env ...string) *machine {
	t.Helper()
	m := start(t, o)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var err error
	m.control, m.ready, err = guest.Boot(ctx, m, guestproto.BootConfig{Env: env}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// open opens a session without serving it.
func (m *machine) open(id string, e guestproto.Exec) *guestproto.Conn {
	m.t.Helper()
	stream, err := m.mux.OpenStream()
	if err != nil {
		m.t.Fatal(err)
	}
	conn := guestproto.NewConn(stream)
	if err := conn.WriteJSON(guestproto.KindRequest, guestproto.Request{ID: id, Verb: guestproto.VerbExec, Exec: &e}); err != nil {
		m.t.Fatal(err)
	}
	return conn
}

type result struct {
	guestproto.Exit
	stdout, stderr string
}

func (m *machine) run(e guestproto.Exec, stdin string) result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var stdout, stderr bytes.Buffer
	exit, err := guest.RunSession(ctx, m.open("", e), guest.Streams{Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		m.t.Fatalf("%q: %v", e.Argv, err)
	}
	return result{exit, stdout.String(), stderr.String()}
}

func sh(script string) guestproto.Exec { return guestproto.Exec{Argv: []string{"sh", "-c", script}} }

func TestExitCodes(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no program\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(dir, "orphan")
	if err := os.WriteFile(orphan, []byte("#!/does/not/exist\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		exec   guestproto.Exec
		code   int
		signal int
		text   string
	}{
		{"success", sh("true"), 0, 0, ""},
		{"a code", sh("exit 7"), 7, 0, ""},
		{"255", sh("exit 255"), 255, 0, ""},
		{"killed", sh("kill -9 $$"), 137, 9, ""},
		{"terminated", sh("kill -TERM $$"), 143, 15, ""},
		{"not there, by name", guestproto.Exec{Argv: []string{"no-such-command"}}, 127, 0, "command not found"},
		{"not there, by path", guestproto.Exec{Argv: []string{"/no/such"}}, 127, 0, "no such file"},
		{"empty name", guestproto.Exec{Argv: []string{""}}, 127, 0, "command not found"},
		{"not executable", guestproto.Exec{Argv: []string{plain}}, 126, 0, "permission denied"},
		{"not executable, on PATH", guestproto.Exec{Argv: []string{"plain"}, Env: []string{"PATH=" + dir}}, 126, 0, "permission denied"},
		{"a directory", guestproto.Exec{Argv: []string{dir}}, 126, 0, "is a directory"},
		{"no format", guestproto.Exec{Argv: []string{text}}, 126, 0, "exec format error"},
		{"no interpreter", guestproto.Exec{Argv: []string{orphan}}, 126, 0, "interpreter"},
		{"no directory", guestproto.Exec{Argv: []string{"true"}, Dir: "/no/such"}, 125, 0, "directory /no/such: no such file"},
		{"relative directory", guestproto.Exec{Argv: []string{"true"}, Dir: "x"}, 125, 0, "absolute"},
		{"a file as directory", guestproto.Exec{Argv: []string{"true"}, Dir: plain}, 125, 0, "not a directory"},
		{"no command", guestproto.Exec{}, 125, 0, "want either"},
		{"environment without =", guestproto.Exec{Argv: []string{"true"}, Env: []string{"X"}}, 125, 0, "NAME=VALUE"},
		{"zero byte", guestproto.Exec{Argv: []string{"true", "a\x00b"}}, 125, 0, "zero byte"},
		{"too long", guestproto.Exec{Argv: []string{"true", strings.Repeat("x", 200<<10)}}, 126, 0, "too long"},
		{"relative to the directory", guestproto.Exec{Argv: []string{"./text"}, Dir: dir}, 126, 0, "exec format error"},
	}
	for _, c := range cases {
		got := m.run(c.exec, "")
		if got.Code != c.code || got.Signal != c.signal || !strings.Contains(got.Error, c.text) || (c.text == "") != (got.Error == "") {
			t.Errorf("%s: %+v, want code %d, signal %d, text %q", c.name, got.Exit, c.code, c.signal, c.text)
		}
	}
}

func TestStreamsAreSeparate(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	got := m.run(sh("cat; echo out; echo err >&2; printf end"), "in\n")
	if got.stdout != "in\nout\nend" || got.stderr != "err\n" || got.Code != 0 {
		t.Errorf("%+v", got)
	}
	// A command's descriptors are as a shell makes them.
	const look = "ls /proc/self/fd; grep -h flags /proc/self/fdinfo/[012]"
	direct := exec.Command("sh", "-c", look)
	direct.Stdin, direct.Stderr = strings.NewReader(""), io.Discard
	want, err := direct.Output()
	if got = m.run(sh(look), ""); err != nil || got.stdout != string(want) {
		t.Errorf("descriptors %q, want %q, %v", got.stdout, want, err)
	}
}

func TestEnvironment(t *testing.T) {
	m := boot(t, agent.HostOptions{}, "A=config", "B=config", "HOME=/nowhere")
	got := m.run(guestproto.Exec{Argv: []string{"env"}, Env: []string{"B=exec", "C=1", "C=2"}}, "")
	env := map[string]string{}
	for _, line := range strings.Split(got.stdout, "\n") {
		name, value, _ := strings.Cut(line, "=")
		if _, twice := env[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		env[name] = value
	}
	for name, want := range map[string]string{"A": "config", "B": "exec", "C": "2", "PATH": os.Getenv("PATH"), "TERM": ""} {
		if env[name] != want {
			t.Errorf("%s=%q, want %q", name, env[name], want)
		}
	}
	if env["HOME"] == "/nowhere" || env["HOME"] == "" || env["SHELL"] == "" || env["USER"] != env["LOGNAME"] || env["USER"] == "" {
		t.Errorf("account: %q", env)
	}
}

func TestLargeOutputIsExact(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	const size = 64 << 20
	sum := sha256.New()
	exit, err := guest.RunSession(t.Context(), m.open("", guestproto.Exec{Argv: []string{"head", "-c", strconv.Itoa(size), "/dev/urandom"}}),
		guest.Streams{Stdout: sum})
	if err != nil || exit.Code != 0 {
		t.Fatalf("%+v, %v", exit, err)
	}
	// The same bytes there and back: what comes out has the sum of what went in.
	data := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	back := sha256.New()
	exit, err = guest.RunSession(t.Context(), m.open("", guestproto.Exec{Argv: []string{"cat"}}),
		guest.Streams{Stdin: bytes.NewReader(data), Stdout: back})
	if err != nil || exit.Code != 0 {
		t.Fatalf("%+v, %v", exit, err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(back.Sum(nil), want[:]) {
		t.Error("the bytes changed")
	}
}

func TestManyAtOnceAndInSequence(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			got := m.run(sh(fmt.Sprintf("cat; exit %d", i)), strings.Repeat(strconv.Itoa(i), 5000))
			if got.Code != i || got.stdout != strings.Repeat(strconv.Itoa(i), 5000) {
				t.Errorf("session %d: %+v, %d bytes", i, got.Exit, len(got.stdout))
			}
		})
	}
	wg.Wait()
	before := openFDs(t)
	for range 300 {
		if got := m.run(guestproto.Exec{Argv: []string{"true"}}, ""); got.Code != 0 {
			t.Fatalf("%+v", got)
		}
	}
	if after := openFDs(t); after > before+6 { // the last sessions' ends may still be closing
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestRepeatedRequestRunsOnce(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	file := filepath.Join(t.TempDir(), "count")
	e := sh("echo x >>" + file)
	for i, want := range []int{0, guestproto.CodeRefused} {
		exit, err := guest.RunSession(t.Context(), m.open("the-id", e), guest.Streams{})
		if err != nil || exit.Code != want {
			t.Fatalf("call %d: %+v, %v", i, exit, err)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "x\n" {
		t.Errorf("ran as often as %q", b)
	}
}

func TestSignals(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	signals := make(chan os.Signal, 1)
	stdout, w := io.Pipe()
	type end struct {
		exit guestproto.Exit
		err  error
	}
	ended := make(chan end, 1)
	// Its input is full and it reads none: a signal comes through all the same.
	flood := io.MultiReader(bytes.NewReader(make([]byte, 8<<20)))
	go func() {
		exit, err := guest.RunSession(context.Background(), m.open("", sh("trap 'exit 3' USR1; echo ready; while :; do sleep 0.01; done")),
			guest.Streams{Stdin: flood, Stdout: w, Signals: signals})
		ended <- end{exit, err}
	}()
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	signals <- syscall.SIGUSR1
	select {
	case e := <-ended:
		if e.err != nil || e.exit.Code != 3 {
			t.Errorf("%+v, %v", e.exit, e.err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the signal had no effect")
	}
	// The group, not only the shell.
	go func() {
		exit, err := guest.RunSession(context.Background(), m.open("", sh("sleep 1000 & sleep 1000")), guest.Streams{Signals: signals})
		ended <- end{exit, err}
	}()
	time.Sleep(50 * time.Millisecond)
	signals <- syscall.SIGKILL
	if e := <-ended; e.err != nil || e.exit.Code != 137 || e.exit.Signal != 9 {
		t.Errorf("%+v, %v", e.exit, e.err)
	}
}

func TestBackgroundChildDoesNotHoldTheExit(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	begin := time.Now()
	got := m.run(sh("sleep 1000 & echo $!"), "")
	if got.Code != 0 || time.Since(begin) > 5*time.Second {
		t.Fatalf("%+v after %s", got.Exit, time.Since(begin))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(got.stdout))
	if err != nil || syscall.Kill(pid, 0) != nil {
		t.Fatalf("the child %q does not live on: %v", got.stdout, err)
	}
	_ = m.control.Close() // the guest's end, which nothing survives
	m.served <- <-m.served
	wantGone(t, pid)
}

func wantGone(t *testing.T, pid int) {
	t.Helper()
	for range 500 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestClientDisappears(t *testing.T) {
	for _, script := range []string{
		"echo $$; sleep 1000",
		"sleep 1000 & echo $!; wait",
		"setsid sleep 1000 & echo $!; wait",
		"trap '' HUP; echo $$; while :; do sleep 0.05; done",
		"yes >&2 & echo $!; sleep 1000",
		"kill -STOP $$ & echo $$; sleep 1000",
	} {
		t.Run(script, func(t *testing.T) {
			m := boot(t, agent.HostOptions{})
			conn := m.open("", sh(script))
			pid := 0
			for pid == 0 {
				kind, payload, err := conn.Read()
				if err != nil {
					t.Fatal(err)
				}
				if kind == guestproto.KindStdout {
					if pid, err = strconv.Atoi(strings.TrimSpace(string(payload))); err != nil {
						t.Fatal(err)
					}
				}
			}
			_ = conn.Close()
			wantGone(t, pid)
		})
	}
}

func TestSlowReaderBlocksNobodyAndLosesNothing(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	slow := m.open("", guestproto.Exec{Argv: []string{"head", "-c", "3000000", "/dev/zero"}})
	time.Sleep(300 * time.Millisecond) // its window is full, and its command waits or is gone
	if got := m.run(sh("echo other"), ""); got.stdout != "other\n" {
		t.Errorf("%+v", got)
	}
	var out bytes.Buffer
	exit, err := guest.RunSession(t.Context(), slow, guest.Streams{Stdout: &out})
	if err != nil || exit.Code != 0 || out.Len() != 3000000 {
		t.Errorf("%+v, %v, %d bytes", exit, err, out.Len())
	}
}

func TestTerminal(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	resizes := make(chan guestproto.Resize, 1)
	stdin, typed := io.Pipe()
	screen, w := io.Pipe()
	ended := make(chan guestproto.Exit, 1)
	go func() {
		exit, err := guest.RunSession(context.Background(),
			m.open("", guestproto.Exec{Argv: []string{"sh", "-c", `tty; stty size; echo "$TERM"; cat
				trap 'stty size; kill $!; exit 5' WINCH; sleep 1000 & echo armed; wait`}, TTY: true, Rows: 11, Cols: 22}),
			guest.Streams{Stdin: stdin, Stdout: w, Resizes: resizes})
		if err != nil {
			t.Error(err)
		}
		_ = w.Close()
		ended <- exit
	}()
	expect := func(want string) {
		t.Helper()
		var got []byte
		one := make([]byte, 1)
		for !strings.Contains(string(got), want) {
			if _, err := screen.Read(one); err != nil {
				t.Fatalf("%q, want %q: %v", got, want, err)
			}
			got = append(got, one[0])
		}
	}
	expect("/dev/pts/")
	expect("11 22\r\n")
	expect("xterm\r\n")
	_, _ = io.WriteString(typed, "hello\n")
	expect("hello\r\nhello\r\n") // the terminal's echo, then cat
	_ = typed.Close()            // end of input ends cat
	expect("armed\r\n")
	resizes <- guestproto.Resize{Rows: 33, Cols: 44}
	expect("33 44\r\n")
	go io.Copy(io.Discard, screen)
	if exit := <-ended; exit.Code != 5 {
		t.Errorf("%+v", exit)
	}
}

func TestTerminalInterrupt(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	stdin, typed := io.Pipe()
	go func() {
		time.Sleep(100 * time.Millisecond)
		_, _ = typed.Write([]byte{3})
	}()
	exit, err := guest.RunSession(t.Context(), m.open("", guestproto.Exec{Argv: []string{"sleep", "1000"}, TTY: true}), guest.Streams{Stdin: stdin})
	_ = typed.Close()
	if err != nil || exit.Code != 130 || exit.Signal != int(syscall.SIGINT) {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestLoginShell(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	got := m.run(guestproto.Exec{Login: true}, "echo $0\n")
	if got.Code != 0 || !strings.HasPrefix(got.stdout, "-") {
		t.Errorf("%+v", got)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestHostStreamsBreak(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	_, err := guest.RunSession(t.Context(), m.open("", sh("echo $$ >"+t.TempDir()+"/pid; yes")), guest.Streams{Stdout: brokenWriter{}})
	if !errors.Is(err, syscall.EPIPE) || !strings.Contains(err.Error(), "write stdout") {
		t.Errorf("broken stdout: %v", err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errs.New(errs.Cancelled, "enough"))
	defer cancel()
	_, err = guest.RunSession(ctx, m.open("", sh("sleep 1000")), guest.Streams{Stdin: new(blockingReader)})
	if err == nil || err.Error() != "enough" {
		t.Errorf("cancelled: %v", err)
	}
}

// blockingReader never has anything, but can be interrupted.
type blockingReader struct {
	once sync.Once
	c    chan struct{}
}

func (b *blockingReader) init() { b.once.Do(func() { b.c = make(chan struct{}) }) }
func (b *blockingReader) Read([]byte) (int, error) {
	b.init()
	<-b.c
	return 0, os.ErrDeadlineExceeded
}
func (b *blockingReader) SetReadDeadline(d time.Time) error {
	b.init()
	if !d.IsZero() {
		close(b.c)
	}
	return nil
}

func TestStdinBlockedDoesNotHoldTheEnd(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	exit, err := guest.RunSession(t.Context(), m.open("", sh("exit 4")), guest.Streams{Stdin: new(blockingReader)})
	if err != nil || exit.Code != 4 {
		t.Errorf("%+v, %v", exit, err)
	}
	// A program that closes its input early gets the rest dropped.
	got := m.run(sh("exec <&-; sleep 0.2; echo done"), strings.Repeat("x", 4<<20))
	if got.Code != 0 || got.stdout != "done\n" {
		t.Errorf("%+v", got)
	}
}

func TestMain(m *testing.M) {
	if _, err := exec.LookPath("setsid"); err != nil {
		fmt.Println("these tests need setsid")
		os.Exit(1)
	}
	code := m.Run()
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// muxClient is the host's end of the agent's stream.
func muxClient(port io.ReadWriteCloser) (*yamux.Session, error) {
	c := yamux.DefaultConfig()
	c.LogOutput, c.EnableKeepAlive = io.Discard, false
	return yamux.Client(port, c)
}
