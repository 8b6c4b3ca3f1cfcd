package cli_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/client/clienttest"
	"banger/internal/guestproto"
)

// terminal is banger in a process of its own on a pseudo-terminal.
type terminal struct {
	t    *testing.T
	cmd  *exec.Cmd
	ptmx *os.File
	tty  *os.File // kept open, to look at its mode after the end

	mu  sync.Mutex
	all bytes.Buffer
}

func onTerminal(t *testing.T, d *clienttest.Daemon, change func(*exec.Cmd), args ...string) *terminal {
	t.Helper()
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(ptmx, &pty.Winsize{Rows: 30, Cols: 90}); err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, ptmx: ptmx, tty: tty, cmd: exec.Command(os.Args[0], args...)}
	x.cmd.Env = []string{mainEnv + "=1", "BANGER_STATE_DIR=" + d.Dir, "TERM=xterm", "NO_COLOR=1", "GORACE=atexit_sleep_ms=0"}
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = tty, tty, tty
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if change != nil {
		change(x.cmd)
	}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := ptmx.Read(buf)
			x.mu.Lock()
			x.all.Write(buf[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		_ = ptmx.Close()
		_ = tty.Close()
	})
	return x
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.all.String()
}

func (x *terminal) expect(want string) {
	x.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(x.text(), want) {
			return
		}
	}
	x.t.Fatalf("no %q in %q", want, x.text())
}

func (x *terminal) typed(text string) {
	x.t.Helper()
	if _, err := io.WriteString(x.ptmx, text); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) raw() bool {
	x.t.Helper()
	mode, err := unix.IoctlGetTermios(int(x.tty.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return mode.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0
}

func (x *terminal) exit() int {
	x.t.Helper()
	done := make(chan error, 1)
	go func() { done <- x.cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			x.t.Fatal(err)
		}
		return x.cmd.ProcessState.ExitCode()
	case <-time.After(15 * time.Second):
		x.t.Fatalf("it does not end; %q", x.text())
		return -1
	}
}

// shellInGuest answers what it is sent: input, sizes and signals, until it reads a q.
func shellInGuest(conn *guestproto.Conn) {
	out := conn.Writer(guestproto.KindStdout)
	_, _ = io.WriteString(out, "$ ")
	for {
		kind, payload, err := conn.Read()
		if err != nil {
			return
		}
		switch kind {
		case guestproto.KindStdin:
			_, _ = io.WriteString(out, "got "+strings.ToUpper(strings.Map(visible, string(payload)))+"\r\n")
			if bytes.Contains(payload, []byte("q")) {
				_ = conn.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: 5})
				return
			}
			if bytes.Contains(payload, []byte("b")) {
				_ = conn.Close()
				return
			}
		case guestproto.KindResize:
			_, _ = out.Write(append([]byte("size "), payload...))
		case guestproto.KindSignal:
			_, _ = out.Write(append([]byte("signal "), payload...))
			_ = conn.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: 143})
			return
		}
	}
}

func visible(r rune) rune {
	if r < ' ' {
		return r + '@'
	}
	return r
}

func TestTerminal(t *testing.T) {
	d := runs(t, shellInGuest)
	x := onTerminal(t, d, nil, "run", "--rm")
	x.expect("$ ")
	x.expect(`size {"rows":30,"cols":90}`)
	if !x.raw() {
		t.Error("the terminal is not raw")
	}
	if body := d.Body("POST /v1/run"); !strings.Contains(body, `"tty":true,"rows":30,"cols":90`) || !strings.Contains(body, `"TERM=xterm"`) {
		t.Errorf("sent %s", body)
	}
	x.typed("\x03") // goes to the guest, and is no signal here
	x.expect("got C")
	if err := pty.Setsize(x.ptmx, &pty.Winsize{Rows: 10, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	x.expect(`size {"rows":10,"cols":40}`)
	x.typed("q")
	if code := x.exit(); code != 5 || x.raw() {
		t.Errorf("exit %d, raw %t, %q", code, x.raw(), x.text())
	}
}

// However a session ends, the terminal gets its mode back.
func TestTerminalIsRestored(t *testing.T) {
	for name, end := range map[string]func(*terminal){
		"the connection breaks": func(x *terminal) { x.typed("b") },
		"SIGTERM":               func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGTERM) },
		"SIGHUP":                func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGHUP) },
		"SIGQUIT":               func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGQUIT) },
		"SIGINT from elsewhere": func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGINT) },
	} {
		t.Run(name, func(t *testing.T) {
			d := runs(t, shellInGuest)
			x := onTerminal(t, d, nil, "exec", "swift-fox")
			x.expect("$ ")
			if !x.raw() {
				t.Fatal("the terminal is not raw")
			}
			end(x)
			if code := x.exit(); x.raw() || code != 143 && code != 125 {
				t.Errorf("exit %d, raw %t", code, x.raw())
			}
		})
	}
}

func TestNoTerminalWhenAPipeIsAtOneEnd(t *testing.T) {
	d := runs(t, shellInGuest)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	x := onTerminal(t, d, func(cmd *exec.Cmd) { cmd.Stdout = w }, "run", "--rm", "--", "sh")
	_ = w.Close()
	buf := make([]byte, 2)
	if _, err := io.ReadFull(r, buf); err != nil || x.raw() || strings.Contains(d.Body("POST /v1/run"), "tty") {
		t.Errorf("%q, %v, raw %t, sent %s", buf, err, x.raw(), d.Body("POST /v1/run"))
	}
	x.typed("q\n")
	if code := x.exit(); code != 5 {
		t.Errorf("exit %d", code)
	}
}

// Nobody reads the output any more: like a local command, banger ends as if by SIGPIPE,
// with the terminal as it was.
func TestBrokenPipe(t *testing.T) {
	d := runs(t, func(conn *guestproto.Conn) {
		for conn.Write(guestproto.KindStdout, []byte("y\n")) == nil {
			time.Sleep(time.Millisecond)
		}
	})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	x := onTerminal(t, d, func(cmd *exec.Cmd) { cmd.Stdout = w }, "run", "--rm", "-t", "--", "yes")
	_ = w.Close()
	_, _ = r.Read(make([]byte, 2))
	_ = r.Close()
	if code := x.exit(); code != 141 || x.raw() {
		t.Errorf("exit %d, raw %t, %q", code, x.raw(), x.text())
	}
}

func TestCtrlCOnATerminal(t *testing.T) {
	d := clienttest.Start(t)
	gone := make(chan bool, 1)
	d.Stream("POST /v1/run", func(send func(string, any), hungUp <-chan struct{}) {
		send(api.EventProgress, api.Progress{Step: "booting slowly"})
		select {
		case <-hungUp:
			gone <- true
		case <-time.After(10 * time.Second):
			gone <- false
		}
	})
	x := onTerminal(t, d, nil, "run", "--rm")
	x.expect("booting slowly")
	x.typed("\x03")
	x.expect("banger: run: interrupted")
	if code := x.exit(); code != 130 || !<-gone {
		t.Errorf("exit %d, %q", code, x.text())
	}
}

func TestQuestionOnATerminal(t *testing.T) {
	d := clienttest.Start(t)
	d.Answer("DELETE /v1/vms/a", struct{}{})
	x := onTerminal(t, d, nil, "rm", "a")
	x.expect(`delete VM "a" with all its disks? [y/N] `)
	x.typed("y\n")
	if code := x.exit(); code != 0 {
		t.Errorf("exit %d, %q", code, x.text())
	}
	x = onTerminal(t, d, nil, "rm", "a")
	x.expect("[y/N] ")
	x.typed("\x03")
	if code := x.exit(); code != 130 {
		t.Errorf("exit %d, %q", code, x.text())
	}
}

// The whole way from nothing: the daemon is started, used and stopped.
func TestDaemonStartsByItself(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	env := []string{mainEnv + "=1", "BANGER_STATE_DIR=" + dir, "BANGER_DAEMON=" + os.Args[0], clienttest.ModeEnv + "=ok", "GORACE=atexit_sleep_ms=0"}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	banger := func(args ...string) (string, error) {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = env
		cmd.ExtraFiles = []*os.File{w}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := banger("vm", "list", "--json"); err != nil || out != "[]\n" {
		t.Errorf("%q, %v", out, err)
	}
	// The daemon, which lives on, has nothing of what the shell had open.
	_ = w.Close()
	if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("somebody has the pipe: %v", err)
	}
	w = os.Stderr
	if out, err := banger("system", "stop"); err != nil || out != "" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := banger("system", "stop"); err != nil || out != "the daemon does not run\n" {
		t.Errorf("%q, %v", out, err)
	}
}
