package procid_test

import (
	"os/exec"
	"testing"

	"banger/internal/errs"
	"banger/internal/procid"
)

func TestLifeOfAProcess(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := procid.Of(cmd.Process.Pid)
	if err != nil || !id.Alive() {
		t.Fatalf("running: %+v, %v", id, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if id.Alive() {
		t.Error("alive after it was reaped")
	}
	if _, err := id.Open(); !errs.Is(err, errs.NotFound) {
		t.Errorf("open after it was reaped: %v", err)
	}
}

// The pid is right and everything else is not: it must not be taken for the process.
func TestRecycledPid(t *testing.T) {
	self, err := procid.Self()
	if err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]procid.ID{
		"other start time": {PID: self.PID, StartTime: self.StartTime + 1, BootID: self.BootID},
		"other boot":       {PID: self.PID, StartTime: self.StartTime, BootID: "another"},
		"zero":             {},
		"a group":          {PID: -1, StartTime: self.StartTime, BootID: self.BootID},
	} {
		if f, err := id.Open(); !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
		if id.Alive() {
			t.Errorf("%s: alive", name)
		}
	}
}
