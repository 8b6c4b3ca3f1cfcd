package smoke_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
	"banger/test/smoke/host"
)

// Two state directories are two bangers, which know nothing of each other.
func TestTwoStateDirectories(t *testing.T) {
	ref := bareImage(t)
	one := steady(t)
	two := host.New(t)
	two.Want(0, "image", "pull", ref, "--name", "bare")
	one.Want(0, "run", "--name", "same", "--keep-running", "--memory", "512M", "--", "true")
	two.Want(5, "run", "--name", "same", "--keep-running", "--image", "bare")
	a, b := one.InState("same", api.StateRunning), two.InState("same", api.StateRunning)
	if a.ID == b.ID || a.PID == b.PID || one.Daemon().PID == two.Daemon().PID {
		t.Errorf("they share something: %+v and %+v", a, b)
	}
	for _, h := range []*host.Host{one, two} {
		if vms := h.VMs(); len(vms) != 1 {
			t.Errorf("VMs: %+v", vms)
		}
	}
	two.Want(3, "image", "show", host.Image)
	two.StopDaemon()
	one.Want(0, "rm", "-f", "same")
	two.InState("same", api.StateRunning)
	two.Want(7, "exec", "same", "--", "/tool", "7")
}

// A path longer than a socket's name may be changes nothing.
func TestLongStateDirectory(t *testing.T) {
	ref := bareImage(t)
	h := host.New(t)
	h.State = filepath.Join(h.Dir, strings.Repeat("a-long-name/", 20), "state")
	h.Want(0, "image", "pull", ref, "--name", "bare")
	h.Want(5, "run", "--rm", "--image", "bare")
	h.Want(0, "vm", "create", "far", "--image", "bare", "--memory", "256M")
	h.Want(0, "vm", "start", "far")
	h.Want(9, "exec", "far", "--", "/tool", "9")
	h.StopDaemon()
	h.Want(9, "exec", "far", "--", "/tool", "9")
	h.Want(0, "vm", "stop", "far")
}

// second starts a daemon by hand.
func second(t *testing.T, h *host.Host) (code int, said string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(host.Bin(t), "bangerd"), "serve")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.Dir, "BANGER_STATE_DIR=" + h.State}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestSecondDaemon(t *testing.T) {
	h := host.New(t)
	h.Unchanged(true)
	before := h.Daemon()
	code, said := second(t, h)
	if code != 4 || !strings.Contains(said, "another daemon has this state directory") || !strings.Contains(said, h.State) {
		t.Errorf("exit code %d: %s", code, said)
	}
	h.Want(0, "system", "status")
	if after := h.Daemon(); after != before {
		t.Errorf("daemon %+v, before %+v", after, before)
	}
}

// What a killed daemon left, or anybody else, keeps no daemon from starting.
func TestStaleFiles(t *testing.T) {
	s := &saver{Host: host.New(t)}
	s.Unchanged(false)
	daemonFile := filepath.Join(s.State, "daemon.json")
	for name, prepare := range map[string]func(t *testing.T){
		"both, of a killed daemon": func(*testing.T) {},
		"no daemon.json":           func(t *testing.T) { remove(t, daemonFile) },
		"no socket":                func(t *testing.T) { remove(t, s.Socket()) },
		"garbage":                  func(t *testing.T) { replace(t, daemonFile, []byte("{\"socket\": 7")) },
		"empty":                    func(t *testing.T) { replace(t, daemonFile, nil) },
		"the socket is a file":     func(t *testing.T) { replace(t, s.Socket(), []byte("x")) },
		"the socket is somebody's who went": func(t *testing.T) {
			remove(t, s.Socket())
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.Socket(), Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			l.Close()
		},
		"the pid is another's": func(t *testing.T) {
			file, err := os.ReadFile(daemonFile)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, daemonFile, bytes.Replace(file, []byte(`"pid":`), []byte(`"pid":1,"was":`), 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.TB = t
			s.Want(0, "vm", "list")
			old := s.Daemon()
			s.killDaemon(t)
			prepare(t)
			if r := s.Want(0, "vm", "list", "--json"); r.Out != "[]\n" || r.Err != "" {
				t.Errorf("%v", r)
			}
			if now := s.Daemon(); now.PID == old.PID {
				t.Errorf("no new daemon: %+v", now)
			}
		})
	}
	s.TB = t
	s.killDaemon(t)
	if r := s.Want(0, "system", "stop"); !strings.Contains(r.Err, "does not run") {
		t.Errorf("stop of a daemon that was killed: %v", r)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	remove(t, path)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
