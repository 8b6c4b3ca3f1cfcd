//go:build soak

package soak

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger/test/rig"
	"banger/test/smoke/host"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		rig.Main(m) // this is bangerd with the fake VMM
	}
	os.Exit(m.Run())
}

// steady is a host with a daemon that must hold the same after the test as before.
func steady(t *testing.T) *host.Host {
	t.Helper()
	h := host.New(t)
	h.Pull()
	h.Unchanged(true)
	return h
}

func TestHundredInARow(t *testing.T) {
	h := steady(t)
	for i := range 100 {
		text := fmt.Sprintf("run %d\n", i)
		r := h.RunWith(text, "run", "--rm", "--", "sh", "-c", fmt.Sprintf("cat; exit %d", i))
		if r.Code != i || r.Out != text || r.Err != "" {
			t.Fatalf("run %d: %v", i, r)
		}
	}
}

func TestStormOfForty(t *testing.T) {
	h := steady(t)
	todo := make(chan int)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := range todo {
				p := h.Start(nil, "run", "--rm", "--memory", "512M", "--", "sh", "-c", fmt.Sprintf("echo %d; exit %[1]d", i))
				if r := p.Wait(); r.Code != i || r.Out != fmt.Sprintf("%d\n", i) || r.Err != "" {
					t.Errorf("run %d: %v", i, r)
				}
			}
		})
	}
	for i := range 40 {
		todo <- i
	}
	close(todo)
	workers.Wait()
}

// The daemon's own boot deadline, which smoke tries with a shorter one.
func TestHangingKernelIsGivenUp(t *testing.T) {
	h := steady(t)
	h.AddKernel("hangs", host.HangingKernel(t, "still here\n"))
	r := h.Want(125, "run", "--rm", "--kernel", "hangs", "--json", "--", "true")
	for _, part := range []string{`"code":"timeout"`, "not ready within", "before the kernel reached the agent", "still here"} {
		if !strings.Contains(r.Err, part) {
			t.Errorf("no %q: %v", part, r)
		}
	}
	h.RemoveKernel("hangs")
}

// What a real guest writes is kept within the bounds that smoke tries with a fake one.
func TestRealConsoleIsBounded(t *testing.T) {
	h := steady(t)
	h.Want(0, "run", "--name", "flood", "--keep-running", "--", "true")
	h.Want(0, "exec", "flood", "--", "sh", "-c", "yes all work and no play | head -c 10000000 >/dev/ttyS0")
	h.Want(0, "vm", "stop", "flood")
	logs, err := filepath.Glob(h.RunDir(h.VM("flood").ID).Console() + "*")
	if err != nil || len(logs) != 2 {
		t.Errorf("logs %v, %v", logs, err)
	}
	var sum int64
	for _, path := range logs {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	if sum > 8<<20 || sum < 4<<20 {
		t.Errorf("%d bytes are kept", sum)
	}
	h.Want(0, "vm", "delete", "--yes", "flood")
}
