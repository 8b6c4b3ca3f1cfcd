package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	Test        string
	Elapsed     float64
	Output      string
	ImportPath  string // of build-output events
	FailedBuild string // the ImportPath whose build failed, in a package's fail event
}

// testID names a test or subtest; with an empty name, its package as a whole.
type testID struct{ pkg, name string }

func (id testID) String() string { return strings.TrimSuffix(id.pkg+" "+id.name, " ") }

type status string

const (
	running status = "running"
	passed  status = "passed"
	failed  status = "failed"
	skipped status = "skipped"
)

type test struct {
	id      testID
	status  status
	seconds float64
	output  strings.Builder
	began   bool
	parent  bool // has subtests: they are counted in its place
}

type pkg struct {
	path    string
	status  status
	seconds float64
	output  strings.Builder // of the package itself: build errors, TestMain, panics
	tests   map[string]*test
}

// run is everything known of one `go test`.
type run struct {
	packages map[string]*pkg
	builds   map[string]*strings.Builder
}

func newRun() *run {
	return &run{packages: map[string]*pkg{}, builds: map[string]*strings.Builder{}}
}

// add takes in one event, and returns the package when it was the package's last.
func (r *run) add(e event) *pkg {
	if e.Action == "build-output" {
		if r.builds[e.ImportPath] == nil {
			r.builds[e.ImportPath] = &strings.Builder{}
		}
		r.builds[e.ImportPath].WriteString(e.Output)
	}
	if e.Package == "" {
		return nil
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &pkg{path: e.Package, status: running, tests: map[string]*test{}}
		r.packages[e.Package] = p
	}
	if e.Test != "" {
		p.test(e.Test).add(e)
		return nil
	}
	switch e.Action {
	case "output":
		p.output.WriteString(e.Output)
		return nil
	case "pass":
		p.end(passed, e.Elapsed)
	case "skip": // a package without tests
		p.end(skipped, e.Elapsed)
	case "fail":
		if build := r.builds[e.FailedBuild]; build != nil {
			p.output.WriteString(build.String())
		}
		p.end(failed, e.Elapsed)
	default:
		return nil
	}
	return p
}

func (p *pkg) test(name string) *test {
	t := p.tests[name]
	if t == nil {
		t = &test{id: testID{p.path, name}, status: running}
		p.tests[name] = t
		if i := strings.LastIndexByte(name, '/'); i >= 0 {
			p.test(name[:i]).parent = true
		}
	}
	return t
}

func (t *test) add(e event) {
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
	case "pass":
		t.status = passed
	case "fail":
		t.status = failed
	case "skip":
		t.status = skipped
	case "run":
		t.began = true
		return
	default:
		return
	}
	t.seconds = e.Elapsed
}

// end closes the package. A test that began and never ended is what killed it; one that
// never began is only part of the name of subtests with a slash in theirs.
func (p *pkg) end(s status, seconds float64) {
	p.status, p.seconds = s, seconds
	for name, t := range p.tests {
		if !t.began && t.status == running {
			delete(p.tests, name)
		} else if t.status == running {
			t.status = failed
			t.output.WriteString("did not finish\n")
		}
	}
}

// finish closes and returns the packages whose end never came: go test died.
func (r *run) finish() []*pkg {
	var cut []*pkg
	for _, p := range r.sorted() {
		if p.status == running {
			p.output.WriteString("go test ended before this package did\n")
			p.end(failed, 0)
			cut = append(cut, p)
		}
	}
	return cut
}

func (r *run) sorted() []*pkg {
	return slices.SortedFunc(maps.Values(r.packages), func(a, b *pkg) int { return cmp.Compare(a.path, b.path) })
}

// counted are the package's tests in order, without those that subtests stand for.
// A parent that failed while no subtest did stays: its own code failed.
func (p *pkg) counted() []*test {
	var tests []*test
	for _, t := range p.tests {
		if !t.parent || t.status == failed && !p.subtestFailed(t.id.name) {
			tests = append(tests, t)
		}
	}
	slices.SortFunc(tests, func(a, b *test) int { return cmp.Compare(a.id.name, b.id.name) })
	return tests
}

func (p *pkg) subtestFailed(parent string) bool {
	for name, t := range p.tests {
		if t.status == failed && strings.HasPrefix(name, parent+"/") {
			return true
		}
	}
	return false
}

func (p *pkg) with(s status) []*test {
	var tests []*test
	for _, t := range p.counted() {
		if t.status == s {
			tests = append(tests, t)
		}
	}
	return tests
}

// brokenAsAWhole tells a package that failed although none of its tests did: it does
// not build, or exited by itself.
func (p *pkg) brokenAsAWhole() bool {
	return p.status == failed && len(p.with(failed)) == 0
}

// running names what has not ended.
func (r *run) running() string {
	var names []string
	for _, p := range r.sorted() {
		if p.status != running {
			continue
		}
		active := p.with(running)
		if len(active) == 0 {
			names = append(names, p.path)
		}
		for _, t := range active {
			names = append(names, t.id.String())
		}
	}
	if len(names) == 0 {
		return "compiling"
	}
	const most = 4
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// missing says, of each required test that did not run to its end, why.
func (r *run) missing(required []testID) []string {
	var lines []string
	for _, id := range required {
		p := r.packages[id.pkg]
		if p == nil || p.tests[id.name] == nil {
			lines = append(lines, id.String()+": did not run")
		} else if t := p.tests[id.name]; t.status == skipped {
			lines = append(lines, id.String()+": was skipped: "+t.skipReason())
		}
	}
	return lines
}

// skipReason is what the test said before it ended, without go test's own lines.
func (t *test) skipReason() string {
	var said []string
	for line := range strings.Lines(t.output.String()) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		said = append(said, line)
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}

// parseRequired reads the list: one "package TestName" a line, # begins a comment.
func parseRequired(in io.Reader) ([]testID, error) {
	var ids []testID
	scanner := bufio.NewScanner(in)
	for n := 1; scanner.Scan(); n++ {
		text, _, _ := strings.Cut(scanner.Text(), "#")
		switch fields := strings.Fields(text); len(fields) {
		case 0:
		case 2:
			ids = append(ids, testID{fields[0], fields[1]})
		default:
			return nil, fmt.Errorf("line %d: want \"package TestName\", got %q", n, text)
		}
	}
	return ids, scanner.Err()
}
