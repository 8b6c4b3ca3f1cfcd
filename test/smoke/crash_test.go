package smoke_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// kill is kill -9 of one process, known for sure, and returns when it has ended.
func kill(t *testing.T, id procid.ID) {
	t.Helper()
	pidfd, err := id.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	ended := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	for deadline := time.Now().Add(host.Patience); ; {
		n, err := unix.Poll(ended, int(time.Until(deadline).Milliseconds()))
		if n == 1 {
			return
		}
		if err != unix.EINTR {
			t.Fatalf("process %d does not end: %v", id.PID, err)
		}
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
			s.StopDaemon()
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

// A VM that runs, and what is killed under it.
func TestKillUnderARunningVM(t *testing.T) {
	s := &saver{Host: shaken(t)}
	all := s.TB
	t.Cleanup(func() { s.TB = all; s.Run("vm", "delete", "--force", keeper) })
	s.Want(0, "vm", "create", keeper)
	s.Want(0, "vm", "start", keeper)
	s.save(t)

	for _, c := range []struct {
		name  string
		kill  func(t *testing.T)
		state string
		why   string // part of the VM's error
	}{
		{"stop/the intent is recorded", func(t *testing.T) {
			s.shot(t, "daemon:kill-after@store.vm.update#1", "vm", "stop", keeper)
		}, api.StateStopped, ""},
		{"stop/the VM has ended", func(t *testing.T) {
			s.shot(t, "daemon:kill@store.vm.update#2", "vm", "stop", keeper)
		}, api.StateStopped, ""},
		{"stop/the shim before it says how it ended", func(t *testing.T) {
			s.StopDaemon()
			s.Want(0, "vm", "stop", keeper)
			s.faulty(t, "shim:kill@vm.outcome.write#1")
			s.start(t)
			s.Want(0, "vm", "stop", keeper)
			s.StopDaemon()
		}, api.StateFailed, "shim died"},
		{"the shim", func(t *testing.T) {
			kill(t, s.handles(t).Shim)
			s.Want(0, "vm", "wait", keeper, "--for", "stopped")
		}, api.StateFailed, "shim died"},
		{"the shim while no daemon looks", func(t *testing.T) {
			shim := s.handles(t).Shim
			s.StopDaemon()
			kill(t, shim)
		}, api.StateFailed, "shim died"},
		{"the VMM", func(t *testing.T) {
			kill(t, *s.handles(t).VMM)
			s.Want(0, "vm", "wait", keeper, "--for", "stopped")
		}, api.StateFailed, "signal: killed"},
		{"daemon, shim and VMM at once", func(t *testing.T) {
			handles := s.handles(t)
			s.killDaemon(t)
			kill(t, handles.Shim)
			if handles.VMM.Alive() { // else it has gone with its shim
				_ = syscall.Kill(handles.VMM.PID, syscall.SIGKILL)
			}
		}, api.StateFailed, "shim died"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.TB = t
			c.kill(t)
			vm := s.InState(keeper, c.state)
			contains(t, "the VM's error", vm.Error, c.why)
			if c.why == "" && vm.Error != "" {
				t.Errorf("the VM's error: %s", vm.Error)
			}
			s.start(t)
		})
	}

	t.Run("delete", func(t *testing.T) {
		s.TB = t
		s.shot(t, "daemon:kill-after@vm.dir.remove#1", "vm", "delete", "--force", keeper)
		if vms := s.VMs(); len(vms) != 0 {
			t.Errorf("not deleted: %+v", vms)
		}
	})
	s.TB = t
}

// The VMM and the shim are killed while the guest boots: the start fails and says why.
func TestKillWhileBooting(t *testing.T) {
	h := shaken(t)
	for name, victim := range map[string]func(sandbox.Handles) procid.ID{
		"VMM":  func(x sandbox.Handles) procid.ID { return *x.VMM },
		"shim": func(x sandbox.Handles) procid.ID { return x.Shim },
	} {
		h.Want(0, "vm", "create", "boots")
		p := h.Start(nil, "vm", "start", "boots")
		h.Eventually("the VMM runs", func() bool {
			vm := h.VM("boots")
			handles, err := sandbox.ReadHandles(h.RunDir(vm.ID))
			if err != nil || handles.VMM == nil {
				return false
			}
			kill(t, victim(handles))
			return true
		})
		r := p.Wait()
		if r.Code != 1 {
			t.Errorf("%s was killed while it booted: %v", name, r)
		}
		contains(t, "stderr", r.Err, `start VM "boots"`, map[string]string{"VMM": "boot ended before", "shim": "shim"}[name])
		if vm := h.InState("boots", api.StateFailed); vm.Error == "" {
			t.Error("no reason")
		}
		h.Want(0, "vm", "delete", "--yes", "boots")
	}
}
