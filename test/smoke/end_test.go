package smoke_test

import (
	"os"
	"strings"
	"testing"

	"banger/api"
)

// However a guest ends, that is what the VM says: stopped, running again, or failed and
// why.
func TestEndsAreToldApart(t *testing.T) {
	h := steady(t)
	h.Want(0, "run", "--name", "ends", "--keep-running", "--memory", "512M", "--", "true")
	first := identity(t, h, "ends")

	// Its own reboot: the same VM, another boot.
	h.Run("exec", "ends", "--", "reboot")
	h.Eventually("the VM runs again", func() bool {
		return h.Run("exec", "ends", "--", "true").Code == 0 && identity(t, h, "ends") != first
	})
	if vm := h.InState("ends", api.StateRunning); vm.Error != "" {
		t.Errorf("after a reboot: %q", vm.Error)
	}

	// Its own power-off.
	h.Run("exec", "ends", "--", "poweroff")
	h.Want(0, "vm", "wait", "ends", "--for", "stopped")
	if vm := h.InState("ends", api.StateStopped); vm.Error != "" {
		t.Errorf("after a power-off: %q", vm.Error)
	}

	// Asked to stop.
	h.Want(0, "vm", "start", "ends")
	h.Want(0, "vm", "stop", "ends")
	if vm := h.InState("ends", api.StateStopped); vm.Error != "" {
		t.Errorf("after a stop: %q", vm.Error)
	}

	// A panic.
	h.Want(0, "vm", "start", "ends")
	h.Run("exec", "ends", "--", "sh", "-c", "echo c >/proc/sysrq-trigger")
	h.Want(0, "vm", "wait", "ends", "--for", "stopped")
	contains(t, "after a panic", h.InState("ends", api.StateFailed).Error, "Kernel panic - not syncing: sysrq triggered crash")

	// A hang: nobody thaws PID 1. The guest tells on its console, because its agent cannot.
	h.Want(0, "vm", "start", "ends")
	frozen := h.Start(nil, "exec", "ends", "--", "sh", "-c", `
		mkdir /sys/fs/cgroup/ice && cd /sys/fs/cgroup/ice && echo 1 >cgroup.procs && echo 1 >cgroup.freeze
		until grep -q "frozen 1" cgroup.events; do sleep 0.01; done
		echo it-is-frozen >/dev/ttyS0
		sleep 1000`)
	console := h.RunDir(h.VM("ends").ID).Console()
	h.Eventually("PID 1 is frozen", func() bool {
		text, _ := os.ReadFile(console)
		return strings.Contains(string(text), "it-is-frozen")
	})
	h.Want(0, "vm", "stop", "ends")
	contains(t, "after a hang", h.InState("ends", api.StateStopped).Error, "did not stop in time")
	if r := frozen.Wait(); r.Code != 125 {
		t.Errorf("the command in a VM that was killed: %v", r)
	}
	h.Want(0, "vm", "delete", "--yes", "ends")
}
