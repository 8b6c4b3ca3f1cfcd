package smoke_test

import (
	"strings"
	"syscall"
	"testing"

	"banger/api"
	"banger/internal/sandbox"
	"banger/test/smoke/host"
)

// booting waits until the VMM of the only VM runs, and its guest does not answer yet.
func booting(h *host.Host) {
	h.Eventually("a guest boots", func() bool {
		for _, vm := range h.VMs() {
			handles, err := sandbox.ReadHandles(h.RunDir(vm.ID))
			if err == nil && handles.VMM != nil {
				return true
			}
		}
		return false
	})
}

func gone(t *testing.T, h *host.Host) {
	t.Helper()
	if vms := h.VMs(); len(vms) != 0 {
		t.Errorf("left: %+v", vms)
	}
}

func TestInterruptWhileBooting(t *testing.T) {
	h := steady(t)
	for name, args := range map[string][]string{
		"run --rm": {"run", "--rm", "--", "true"},
		"run":      {"run", "--name", "kept", "--", "true"},
	} {
		p := h.Start(nil, args...)
		booting(h)
		p.Signal(syscall.SIGINT)
		if r := p.Wait(); r.Code != 130 || r.Out != "" {
			t.Errorf("%s: %v", name, r)
		}
		// The daemon undoes the work without the client.
		h.Eventually("the VM is gone", func() bool { return len(h.VMs()) == 0 })
	}
	h.Want(0, "vm", "create", "starts")
	p := h.Start(nil, "vm", "start", "starts")
	booting(h)
	p.Signal(syscall.SIGINT)
	if r := p.Wait(); r.Code != 130 {
		t.Errorf("vm start: %v", r)
	}
	h.Want(0, "vm", "wait", "starts", "--for", "stopped")
	if vm := h.InState("starts", api.StateStopped); vm.Error != "" {
		t.Errorf("interrupted, not failed: %q", vm.Error)
	}
	h.Want(0, "vm", "delete", "--yes", "starts")
}

func TestInterruptIsTheCommands(t *testing.T) {
	h := steady(t)
	for _, c := range []struct {
		trap string
		code int
	}{
		{"trap 'echo caught; exit 3' INT", 3},
		{":", 130},
	} {
		p := h.Start(nil, "run", "--rm", "--", "sh", "-c", c.trap+"; echo ready; while :; do sleep 0.1; done")
		p.Expect("ready\n")
		p.Signal(syscall.SIGINT)
		r := p.Wait()
		if r.Code != c.code || c.code == 3 && r.Out != "caught\n" {
			t.Errorf("%s: %v", c.trap, r)
		}
		gone(t, h)
	}
}

// A second one ends a session whose command does not listen.
func TestSecondInterruptEndsTheSession(t *testing.T) {
	h := steady(t)
	p := h.Start(nil, "run", "--rm", "--", "sh", "-c", "trap 'echo no' INT; echo ready; while :; do sleep 0.1; done")
	p.Expect("ready\n")
	p.Signal(syscall.SIGINT)
	p.Expect("no\n")
	p.Signal(syscall.SIGINT)
	if r := p.Wait(); r.Code != 130 {
		t.Errorf("%v", r)
	}
	gone(t, h)
}

func TestOtherSignalsReachTheCommand(t *testing.T) {
	h := steady(t)
	p := h.Start(nil, "run", "--rm", "--", "sh", "-c", "echo ready; exec sleep 1000")
	p.Expect("ready\n")
	p.Signal(syscall.SIGTERM)
	if r := p.Wait(); r.Code != 143 {
		t.Errorf("%v", r)
	}
	gone(t, h)
}

// A client that is killed cannot ask for anything any more: the VM goes by itself.
func TestClientIsKilled(t *testing.T) {
	h := steady(t)
	p := h.Start(nil, "run", "--rm", "--", "sh", "-c", "echo ready; exec sleep 1000")
	p.Expect("ready\n")
	p.Signal(syscall.SIGKILL)
	if r := p.Wait(); r.Code != -int(syscall.SIGKILL) {
		t.Errorf("%v", r)
	}
	h.Eventually("the VM is gone", func() bool { return len(h.VMs()) == 0 })

	p = h.Start(nil, "run", "--rm", "--", "true")
	booting(h)
	p.Signal(syscall.SIGKILL)
	p.Wait()
	h.Eventually("the VM is gone", func() bool { return len(h.VMs()) == 0 })

	// A kept one is stopped and stays.
	p = h.Start(nil, "run", "--name", "stays", "--", "sh", "-c", "echo >/root/was-here; echo ready; exec sleep 1000")
	p.Expect("ready\n")
	p.Signal(syscall.SIGKILL)
	p.Wait()
	h.Want(0, "vm", "wait", "stays", "--for", "stopped")
	if vm := h.InState("stays", api.StateStopped); vm.Error != "" {
		t.Errorf("stopped, not failed: %q", vm.Error)
	}
	h.Want(0, "vm", "start", "stays")
	if r := h.Want(0, "exec", "stays", "--", "ls", "/root"); !strings.Contains(r.Out, "was-here") {
		t.Errorf("lost: %v", r)
	}
	h.Want(0, "rm", "-f", "stays")
}
