package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// runGate feeds lines of `go test -json` through the gate.
func runGate(t *testing.T, required string, lines ...string) (bool, string) {
	t.Helper()
	path := ""
	if required != "" {
		path = filepath.Join(t.TempDir(), "REQUIRED")
		if err := os.WriteFile(path, []byte(required), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	ok, err := gate(strings.NewReader(strings.Join(lines, "\n")+"\n"), &out, path)
	if err != nil {
		t.Fatal(err)
	}
	return ok, out.String()
}

func lastLine(out string) string {
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	return lines[len(lines)-1]
}

const (
	passA    = `{"Action":"pass","Package":"m/p","Test":"TestA","Elapsed":2.5}`
	skipB    = `{"Action":"output","Package":"m/p","Test":"TestB","Output":"    b_test.go:3: needs KVM\n"}` + "\n" + `{"Action":"skip","Package":"m/p","Test":"TestB"}`
	failC    = `{"Action":"output","Package":"m/p","Test":"TestC","Output":"    c_test.go:9: 1 is not 2\n"}` + "\n" + `{"Action":"fail","Package":"m/p","Test":"TestC"}`
	startD   = `{"Action":"run","Package":"m/p","Test":"TestD"}`
	packOK   = `{"Action":"pass","Package":"m/p","Elapsed":3}`
	packFail = `{"Action":"fail","Package":"m/p","Elapsed":3}`
)

func TestGate(t *testing.T) {
	for _, c := range []struct {
		name     string
		required string
		lines    []string
		ok       bool
		last     string
		says     []string
	}{
		{
			name: "skips are told with their reason", lines: []string{passA, skipB, packOK},
			ok: true, last: "1 passed, 0 failed, 1 skipped", says: []string{"m/p TestB: b_test.go:3: needs KVM", "2.5 s  m/p TestA"},
		},
		{
			name: "a failure is told with its output", lines: []string{passA, failC, packFail},
			last: "1 passed, 1 failed, 0 skipped", says: []string{"FAIL", "1 is not 2", "failed:\n  m/p TestC"},
		},
		{
			name: "a required test was skipped", required: "# why\nm/p TestB # and more\n", lines: []string{passA, skipB, packOK},
			last: "1 passed, 1 failed, 1 skipped", says: []string{"m/p TestB: was skipped: b_test.go:3: needs KVM"},
		},
		{
			name: "a required test did not run", required: "m/q TestZ\n", lines: []string{passA, packOK},
			last: "1 passed, 1 failed, 0 skipped", says: []string{"m/q TestZ: did not run"},
		},
		{
			name: "a required test passed", required: "m/p TestA\n", lines: []string{passA, packOK},
			ok: true, last: "1 passed, 0 failed, 0 skipped",
		},
		{
			name: "a test that never ended", lines: []string{startD, packFail},
			last: "0 passed, 1 failed, 0 skipped", says: []string{"did not finish"},
		},
		{
			name: "go test died", lines: []string{passA},
			last: "1 passed, 1 failed, 0 skipped", says: []string{"ended before this package"},
		},
		{
			name: "a package does not build",
			lines: []string{
				`{"ImportPath":"m/p [m/p.test]","Action":"build-output","Output":"p.go:1: syntax error\n"}`,
				`{"ImportPath":"m/p [m/p.test]","Action":"build-fail"}`,
				`{"Action":"fail","Package":"m/p","Elapsed":0,"FailedBuild":"m/p [m/p.test]"}`,
			},
			last: "0 passed, 1 failed, 0 skipped", says: []string{"p.go:1: syntax error"},
		},
		{
			name: "subtests count in place of their parent",
			lines: []string{
				`{"Action":"pass","Package":"m/p","Test":"TestS/one"}`, `{"Action":"fail","Package":"m/p","Test":"TestS/two"}`,
				`{"Action":"fail","Package":"m/p","Test":"TestS"}`, packFail,
			},
			last: "1 passed, 1 failed, 0 skipped",
		},
		{
			name: "a parent that failed by itself counts",
			lines: []string{
				`{"Action":"pass","Package":"m/p","Test":"TestS/one"}`, `{"Action":"fail","Package":"m/p","Test":"TestS"}`, packFail,
			},
			last: "1 passed, 1 failed, 0 skipped",
		},
		{
			name: "a slash in a subtest's name makes no test",
			lines: []string{
				`{"Action":"run","Package":"m/p","Test":"TestS"}`, `{"Action":"run","Package":"m/p","Test":"TestS/a/b"}`,
				`{"Action":"pass","Package":"m/p","Test":"TestS/a/b"}`, `{"Action":"pass","Package":"m/p","Test":"TestS"}`, packOK,
			},
			ok: true, last: "1 passed, 0 failed, 0 skipped",
		},
		{name: "nothing ran", lines: []string{"not JSON"}, last: "0 passed, 1 failed, 0 skipped", says: []string{"not JSON", "no test ran"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ok, out := runGate(t, c.required, c.lines...)
			if ok != c.ok || lastLine(out) != c.last {
				t.Errorf("passed %v, last line %q; want %v, %q", ok, lastLine(out), c.ok, c.last)
			}
			for _, text := range c.says {
				if !strings.Contains(out, text) {
					t.Errorf("does not say %q:\n%s", text, out)
				}
			}
		})
	}
}

func TestMalformedRequiredListIsRefused(t *testing.T) {
	if _, err := parseRequired(strings.NewReader("m/p TestA extra\n")); err == nil {
		t.Error("three words on a line were accepted")
	}
}
