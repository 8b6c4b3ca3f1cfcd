// Package e2e_test tries banger as a person does, from the command line: scripts under
// fake/ against the real daemon and shim with VMs that have no guest, scripts under real/
// with the built programs and real guests.
package e2e_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/client"
	"banger/internal/cli"
	"banger/test/rig"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "banger" && len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		rig.Main(m) // this is bangerd
	}
	testscript.Main(m, map[string]func(){"banger": func() { os.Exit(cli.Main(os.Args[1:], "test")) }})
}

// code runs a command that must end with the exit code: code 7 banger run …
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	ts.Logf("%s%s", ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// end deletes all VMs of a state directory and stops its daemon.
func end(t *testing.T, state string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.New(client.Options{StateDir: state, NoStart: true})
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	vms, err := c.VMs(ctx)
	for _, vm := range vms {
		if err := c.DeleteVM(ctx, vm.ID, true); err != nil && client.Code(err) != "not_found" {
			t.Errorf("delete VM %s at the end: %v", vm.Name, err)
		}
	}
	if err == nil {
		err = c.Stop(ctx)
	}
	if err != nil && !client.NotRunning(err) {
		t.Errorf("at the end: %v", err)
	}
}

// Every script has a state directory of its own, with the image and the kernel of package
// rig in it, and no daemon yet.
func TestFake(t *testing.T) {
	base := rig.New(t)
	base.Start("")
	base.PullImage()
	base.Stop()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "fake",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"code": code},
		Setup: func(env *testscript.Env) error {
			r := base.Copy(t)
			layout := filepath.Join(env.WorkDir, "layout")
			rig.WriteLayout(t, layout)
			env.Vars = append(env.Vars, "BANGER_STATE_DIR="+r.State, "BANGER_DAEMON="+self, "BANGER_VMM=fake")
			env.Defer(func() { end(t, r.State) })
			return nil
		},
	})
}

// The programs as they are built, a real kernel and a real image.
func TestReal(t *testing.T) {
	bin, oci := os.Getenv("BANGER_TEST_BIN"), os.Getenv("BANGER_TEST_OCI")
	if bin == "" || oci == "" {
		t.Skip("BANGER_TEST_BIN and BANGER_TEST_OCI do not say where the programs and the image are")
	}
	state := t.TempDir()
	t.Cleanup(func() {
		end(t, state)
		if left := rig.Processes(state); len(left) > 0 {
			t.Errorf("processes left:\n%s", strings.Join(left, "\n"))
		}
	})
	testscript.Run(t, testscript.Params{
		Dir:                 "real",
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"code": code},
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Vars = append(env.Vars, "BANGER_STATE_DIR="+state, "OCI="+oci)
			return nil
		},
	})
}
