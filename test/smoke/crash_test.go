package smoke_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"banger/api"
	"banger/internal/procid"
	"banger/internal/sandbox"
	"banger/test/smoke/host"
)

// keeper is the VM that all crashes happen to; it must keep what was written to it.
const keeper = "keeper"

// saver is a VM with files that were written and fsynced: their number is the state that
// no crash may take back.
type saver struct {
	*host.Host
	files int
}

// save writes one more file in the running VM, which acknowledges it.
func (s *saver) save(t *testing.T) {
	t.Helper()
	s.files++
	s.Want(0, "exec", keeper, "--", "sh", "-c", fmt.Sprintf("echo saved-%d >/root/%[1]d && sync /root/%[1]d /root", s.files))
}

// check reads all files in the running VM.
func (s *saver) check(t *testing.T) {
	t.Helper()
	want := ""
	for n := 1; n <= s.files; n++ {
		want += fmt.Sprintf("saved-%d\n", n)
	}
	if r := s.Want(0, "exec", keeper, "--", "sh", "-c", "cat $(ls /root/* | sort -t/ -k3n)"); r.Out != want {
		t.Errorf("lost: %v, want %q", r, want)
	}
}

func (s *saver) start(t *testing.T) {
	t.Helper()
	s.Want(0, "vm", "start", keeper)
	s.check(t)
	s.save(t)
}

// faulty serves the commands that follow by a daemon that has faults planned.
func (s *saver) faulty(t *testing.T, faults string) {
	t.Helper()
	s.StopDaemon()
	s.Faults(faults)
}

// shot runs a command whose daemon is killed: it fails as one whose daemon went away.
// The next command has another daemon, without faults.
func (s *saver) shot(t *testing.T, faults string, args ...string) {
	t.Helper()
	s.faulty(t, faults)
	r := s.Run(args...)
	s.Faults("")
	if r.Code != 1 || !strings.HasPrefix(r.Err, "banger: ") || !strings.Contains(r.Err, "hint: ") {
		t.Errorf("the daemon was killed: %v", r)
	}
}

// kill is kill -9 of one process, known for sure.
func kill(t *testing.T, id procid.ID) {
	t.Helper()
	pidfd, err := id.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if err := syscall.Kill(id.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func (s *saver) killDaemon(t *testing.T) {
	t.Helper()
	d := s.Daemon()
	kill(t, procid.ID{PID: d.PID, StartTime: d.StartTime, BootID: d.BootID})
}

func (s *saver) handles(t *testing.T) sandbox.Handles {
	t.Helper()
	handles, err := sandbox.ReadHandles(s.RunDir(s.VM(keeper).ID))
	if err != nil {
		t.Fatal(err)
	}
	return handles
}

// Every crash is one on the way of one VM through its life. After each, the next command
// finds it as it truly is, nothing is left, and all that was saved is there when the VM
// runs again.
func TestKillAnything(t *testing.T) {
	s := &saver{Host: shaken(t)}
	leaveNothing := func(t *testing.T) { t.Helper(); s.TB = t; s.Unchanged(false) }
	all := s.TB
	t.Cleanup(func() { s.TB = all; s.Run("vm", "delete", "--force", keeper) })

	for _, faults := range []string{
		"daemon:kill-after@store.vm.insert#1", "daemon:kill-after@vm.dir.make#1",
		"daemon:kill@disk.format#2", "daemon:kill@store.vm.update#1",
	} {
		t.Run("create/"+faults, func(t *testing.T) {
			leaveNothing(t)
			s.shot(t, faults, "vm", "create", "half")
			if vms := s.VMs(); len(vms) != 0 {
				t.Errorf("a VM nobody was told of: %+v", vms)
			}
		})
	}
	t.Run("run/daemon:kill@store.vm.update#3", func(t *testing.T) { // it runs, and nobody knows
		leaveNothing(t)
		s.faulty(t, "daemon:kill@store.vm.update#3")
		r := s.Run("run", "--rm", "--", "true")
		s.Faults("")
		if r.Code != 125 || !strings.Contains(r.Err, "hint: ") {
			t.Errorf("the daemon was killed: %v", r)
		}
		if vms := s.VMs(); len(vms) != 0 {
			t.Errorf("a VM nobody was told of: %+v", vms)
		}
	})

	s.TB = t
	s.Want(0, "vm", "create", keeper)
	s.start(t)
	s.Want(0, "vm", "stop", keeper)
	for _, c := range []struct{ name, faults string }{
		{"the shim runs", "daemon:kill-after@vm.shim#1"},
		{"the VM runs", "daemon:kill@store.vm.update#2"},
	} {
		t.Run("start/daemon/"+c.name, func(t *testing.T) {
			leaveNothing(t)
			s.shot(t, c.faults, "vm", "start", keeper)
			s.InState(keeper, api.StateStopped)
		})
	}
	for _, c := range []struct{ name, faults string }{
		{"no handles", "shim:kill@vm.handles.write#1"},
		{"VMM not in the handles", "shim:kill-after@vmm.start#1"},
	} {
		t.Run("start/shim/"+c.name, func(t *testing.T) {
			leaveNothing(t)
			s.faulty(t, c.faults)
			r := s.Run("vm", "start", keeper)
			s.Faults("")
			if r.Code != 1 || !strings.Contains(r.Err, `start VM "`+keeper+`"`) || !strings.Contains(r.Err, "shim") {
				t.Errorf("the shim was killed: %v", r)
			}
			s.InState(keeper, api.StateFailed)
			s.Want(0, "vm", "stop", keeper)
			s.start(t)
			s.Want(0, "vm", "stop", keeper)
		})
	}
}
