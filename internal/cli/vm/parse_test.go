package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/internal/cli/app"
	"banger/internal/cliio"
	"banger/internal/errs"
)

var errParsed = errors.New("parsed")

// parseRun is what run would be asked to do.
func parseRun(t *testing.T, terminal bool, args ...string) (*RunOptions, error) {
	t.Helper()
	var out bytes.Buffer
	a := &app.App{IO: &cliio.IO{Out: &out, Err: &out, InTTY: terminal, OutTTY: terminal}, Getenv: func(name string) string {
		return map[string]string{"TERM": "xterm", "BANGER_VMM": "qemu", "PASSED": "on"}[name]
	}}
	var got *RunOptions
	cmd := NewRun(a, func(_ context.Context, o *RunOptions) error { got = o; return errParsed })
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetFlagErrorFunc(app.FlagError)
	cmd.SetArgs(append([]string{}, args...))
	err := cmd.ExecuteContext(t.Context())
	if errors.Is(err, errParsed) {
		err = nil
	}
	return got, err
}

func TestRunIsParsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("# comment\n\nF=1 2\r\n  PASSED\nMISSING\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		args     string
		terminal bool
		want     RunOptions
	}{
		{"", false, RunOptions{}},
		{"", true, RunOptions{Exec: api.Exec{TTY: true, Env: []string{"TERM=xterm"}}}},
		{"-T", true, RunOptions{}},
		{"-t", false, RunOptions{Exec: api.Exec{TTY: true, Env: []string{"TERM=xterm"}}}},
		{"-it -- sh", true, RunOptions{Exec: api.Exec{Argv: []string{"sh"}, TTY: true, Env: []string{"TERM=xterm"}}}},
		{"--json", true, RunOptions{JSON: true}},
		{
			"--name n --image oci:dir:tag --kernel k --cpus 4 --memory 512M --disk 1GiB --rm --timeout 1m30s --trace -- a --rm -- b", false,
			RunOptions{
				Spec:    api.VMSpec{Name: "n", Image: "oci:" + here + "/dir:tag", Kernel: "k", CPUs: 4, MemoryBytes: 512 << 20, DiskBytes: 1 << 30, RM: true},
				Exec:    api.Exec{Argv: []string{"a", "--rm", "--", "b"}},
				Timeout: 90 * time.Second, Trace: true,
			},
		},
		{
			"-w /d -u u:g -e A=b=c -e PASSED -e MISSING --env-file " + file + " -- x", false,
			RunOptions{Exec: api.Exec{Argv: []string{"x"}, Dir: "/d", User: "u:g", Env: []string{"F=1 2", "PASSED=on", "A=b=c", "PASSED=on"}}},
		},
		{"--keep-running -- x", false, RunOptions{Keep: true, Exec: api.Exec{Argv: []string{"x"}}}},
		{"-d", false, RunOptions{Detach: true}},
	}
	for _, c := range cases {
		got, err := parseRun(t, c.terminal, strings.Fields(c.args)...)
		if err != nil {
			t.Errorf("run %s: %v", c.args, err)
			continue
		}
		c.want.App, c.want.Spec.VMM = got.App, "qemu"
		if !reflect.DeepEqual(*got, c.want) && (len(got.Exec.Argv) > 0 || len(c.want.Exec.Argv) > 0) || !reflect.DeepEqual(got.Spec, c.want.Spec) {
			t.Errorf("run %s:\ngot  %+v\nwant %+v", c.args, *got, c.want)
		}
		if got.Exec.TTY != c.want.Exec.TTY || got.Detach != c.want.Detach || got.JSON != c.want.JSON {
			t.Errorf("run %s: %+v", c.args, *got)
		}
	}
}

func TestEnvFilesThatAreWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("A=b\n=c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := parseRun(t, false, "--env-file", file); !errs.Is(err, errs.Usage) || !strings.Contains(err.Error(), "env:2:") {
		t.Errorf("%v", err)
	}
	if _, err := parseRun(t, false, "--env-file", file+"x"); !errs.Is(err, errs.Usage) {
		t.Errorf("%v", err)
	}
}

func TestCaptureKeepsWholeCharacters(t *testing.T) {
	for _, c := range []struct {
		in      string
		text    bool
		dropped int
	}{
		{strings.Repeat("x", captureLimit+5), true, 0},
		{strings.Repeat("x", captureLimit-1) + "é", true, 1},
		{strings.Repeat("x", captureLimit-3) + "😀", true, 3},
		{strings.Repeat("x", captureLimit-1) + "\xff\xff", false, 0},
		{"\xc3", false, 0},
	} {
		var got capture
		for rest := c.in; rest != ""; {
			n := min(len(rest), 1000)
			_, _ = got.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		text, encoded := got.strings()
		if (text != nil) != c.text || (encoded != nil) == c.text {
			t.Errorf("%d bytes: text %t", len(c.in), text != nil)
		}
		if text != nil && len(*text) != captureLimit-c.dropped {
			t.Errorf("%d bytes: kept %d", len(c.in), len(*text))
		}
	}
}
