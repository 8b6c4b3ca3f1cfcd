package e2e_test

import (
	"bytes"
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
)

// screen keeps what a terminal was sent.
type screen struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screen) follow(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		s.mu.Lock()
		s.all.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// expect waits for text and forgets everything up to its end.
func (s *screen) expect(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		before, after, found := strings.Cut(s.all.String(), want)
		if found {
			s.all.Reset()
			s.all.WriteString(after)
		}
		s.mu.Unlock()
		if found {
			t.Logf("%q", before+want)
			return
		}
	}
	t.Fatalf("no %q in %q", want, s.all.String())
}

// A shell in a real guest: size, job control, the command's own code.
func TestRealTerminal(t *testing.T) {
	bin, oci := os.Getenv("BANGER_TEST_BIN"), os.Getenv("BANGER_TEST_OCI")
	if bin == "" || oci == "" {
		t.Skip("BANGER_TEST_BIN and BANGER_TEST_OCI do not say where the programs and the image are")
	}
	state := t.TempDir()
	t.Cleanup(func() { end(t, state) })
	env := append(os.Environ(), "BANGER_STATE_DIR="+state, "TERM=xterm", "NO_COLOR=1")
	pull := exec.Command(filepath.Join(bin, "banger"), "image", "pull", "oci:"+oci, "--name", "debian-12")
	pull.Env = env
	if out, err := pull.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	run := exec.Command(filepath.Join(bin, "banger"), "run", "--rm", "--", "bash", "--norc")
	run.Env = append(env, "PS1=")
	terminal, err := pty.StartWithAttrs(run, &pty.Winsize{Rows: 33, Cols: 101}, &syscall.SysProcAttr{Setsid: true, Setctty: true})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	defer func() { _ = run.Process.Kill() }()
	var s screen
	go s.follow(terminal)
	send := func(text string) {
		t.Helper()
		if _, err := io.WriteString(terminal, text); err != nil {
			t.Fatal(err)
		}
	}
	s.expect(t, "bash-") // its prompt
	send("stty size; echo $TERM; tty >/dev/null && echo a-$((6*7))\n")
	s.expect(t, "33 101\r\nxterm\r\na-42\r\n")
	send("sleep 1000; echo ended-$?\n")
	time.Sleep(500 * time.Millisecond)
	send("\x03")
	send("echo code-$?\n")
	s.expect(t, "code-130")
	if err := pty.Setsize(terminal, &pty.Winsize{Rows: 11, Cols: 44}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	send("stty size\n")
	s.expect(t, "11 44")
	send("exit 3\n")
	_ = run.Wait()
	if code := run.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit code %d", code)
	}
}
