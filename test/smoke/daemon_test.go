package smoke_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/procid"
	"banger/test/smoke/host"
)

// echo is a command that answers every line, so that a test knows it goes on, and that
// ends with a code of its own.
var echo = []string{"--", "sh", "-c", "echo ready; while read line; do echo got-$line; done; exit 9"}

// say is one line there and back.
func say(t *testing.T, p *host.Process, in io.Writer, line string) {
	t.Helper()
	if _, err := io.WriteString(in, line+"\n"); err != nil {
		t.Error(err)
	}
	p.Expect("got-" + line + "\n")
}

func finish(t *testing.T, p *host.Process, in io.Closer) {
	t.Helper()
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if r := p.Wait(); r.Code != 9 {
		t.Errorf("the command: %v", r)
	}
}

// identity tells one run of a VM from every other.
func identity(t *testing.T, h *host.Host, name string) string {
	t.Helper()
	vm := h.InState(name, api.StateRunning)
	process, err := procid.Of(vm.PID)
	if err != nil {
		t.Fatal(err)
	}
	boot := h.Want(0, "exec", name, "--", "cat", "/proc/sys/kernel/random/boot_id").Out
	return fmt.Sprintf("%+v, boot %s, started %v", process, strings.TrimSpace(boot), vm.StartedAt)
}

// The daemon ends, by a kill and in good order, and comes back: the VM is the same, and
// the command in it never noticed.
func TestDaemonComesBack(t *testing.T) {
	s := &saver{Host: shaken(t)}
	p, in := s.StartPipe(append([]string{"run", "--name", "lasting", "--keep-running"}, echo...)...)
	p.Expect("ready\n")
	before := identity(t, s.Host, "lasting")
	for _, end := range []struct {
		name string
		do   func()
	}{
		{"kill", func() { s.killDaemon(t) }},
		{"stop", func() { s.Want(0, "system", "stop") }},
	} {
		old := s.Daemon().PID
		say(t, p, in, "before-"+end.name)
		end.do()
		say(t, p, in, "meanwhile-"+end.name)
		if after := identity(t, s.Host, "lasting"); after != before {
			t.Errorf("after %s of the daemon: %s\nbefore: %s", end.name, after, before)
		}
		if s.Daemon().PID == old {
			t.Error("the daemon is the same")
		}
		say(t, p, in, "after-"+end.name)
	}
	// What the new daemon is asked for reaches the VM that the old one started.
	s.killDaemon(t)
	finish(t, p, in)
	s.InState("lasting", api.StateRunning)
	s.Want(0, "vm", "stop", "lasting")
	s.InState("lasting", api.StateStopped)
	s.Want(0, "vm", "delete", "--yes", "lasting")
}

// run --rm whose daemon ends under it still gives the command's code and leaves nothing.
func TestRunOutlivesTheDaemon(t *testing.T) {
	s := &saver{Host: shaken(t)}
	for _, c := range []struct {
		name string
		end  func()
	}{
		{"killed", func() { s.killDaemon(t) }},
		{"stopped", func() { s.Want(0, "system", "stop") }},
	} {
		p, in := s.StartPipe(append([]string{"run", "--rm"}, echo...)...)
		p.Expect("ready\n")
		c.end()
		say(t, p, in, c.name)
		finish(t, p, in)
		if vms := s.VMs(); len(vms) != 0 {
			t.Errorf("left: %+v", vms)
		}
	}
}
