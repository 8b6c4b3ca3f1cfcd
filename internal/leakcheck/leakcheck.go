// Package leakcheck takes an inventory of what a process and its children hold on the
// host, so that a test can say that nothing was left behind: processes, descriptors,
// goroutines, mounts, namespaces, loop devices, network links, sockets, files, rows.
package leakcheck

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Options tell what belongs to the thing under test.
type Options struct {
	// Dirs are its directories (state, runtime, cache): every file below them is listed,
	// and so is every process that mentions one in its arguments, environment, working
	// directory or open files. All absolute; a missing one is no error.
	Dirs []string
	// Ignore are patterns (path.Match, of the path below its directory or of the file's
	// name) of files that are not listed; of a directory, nothing below it is.
	Ignore []string
	// Volatile are patterns of files whose size may change.
	Volatile []string
	// Rows counts the rows of each table; nil lists none.
	Rows func() (map[string]int, error)
	// SystemWide lists every mount, namespace, loop device and network link of the host,
	// not only what mentions Dirs or belongs to listed processes. For a test that has the
	// host for itself.
	SystemWide bool
	// Deep lists the descriptors of the listed processes too: those of a daemon that lives
	// on must not grow with what it does.
	Deep bool
	// Grace is how long Check waits for the inventory to become what it was; 0: 5 s.
	// The end of goroutines and the kernel's cleanup are not immediate.
	Grace time.Duration
}

// Inventory is what there was at one time. Equal inventories have equal Strings.
type Inventory struct {
	count  map[string]int
	detail map[string]string // an explanation, not compared
}

func (inv *Inventory) add(format string, args ...any) string {
	line := fmt.Sprintf(format, args...)
	inv.count[line]++
	return line
}

// Take makes the inventory of this process, its descendants and Options.Dirs.
func Take(o Options) (Inventory, error) {
	// The runtime makes its poller's descriptors with the first pollable file.
	if r, w, err := os.Pipe(); err == nil {
		_, _ = r.Close(), w.Close()
	}
	inv := Inventory{count: map[string]int{}, detail: map[string]string{}}
	procs, err := listProcesses(o)
	if err != nil {
		return inv, fmt.Errorf("list processes: %w", err)
	}
	return inv, errors.Join(
		inv.processes(o, procs),
		inv.descriptors(),
		inv.goroutines(),
		inv.sockets(o, procs),
		inv.namespaces(o, procs),
		inv.mounts(o),
		inv.loops(o),
		inv.links(o),
		inv.files(o),
		inv.rows(o),
	)
}

func (inv *Inventory) rows(o Options) error {
	if o.Rows == nil {
		return nil
	}
	counts, err := o.Rows()
	for table, n := range counts {
		inv.count["row "+table] += n
	}
	return err
}

// String is the whole inventory, one line for each thing.
func (inv Inventory) String() string {
	var b strings.Builder
	for _, line := range inv.sorted() {
		fmt.Fprintf(&b, "%d %s\n", inv.count[line], line)
	}
	return b.String()
}

func (inv Inventory) sorted() []string {
	lines := make([]string, 0, len(inv.count))
	for line := range inv.count {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// Diff names what later has and inv has not ("+ …") and the other way round ("- …");
// it is empty when both are equal.
func (inv Inventory) Diff(later Inventory) []string {
	var diff []string
	for _, line := range later.sorted() {
		if n := later.count[line] - inv.count[line]; n > 0 {
			diff = append(diff, describe("+", n, line, later.detail[line]))
		}
	}
	for _, line := range inv.sorted() {
		if n := inv.count[line] - later.count[line]; n > 0 {
			diff = append(diff, describe("-", n, line, inv.detail[line]))
		}
	}
	return diff
}

func describe(sign string, n int, line, detail string) string {
	s := sign + " " + line
	if n > 1 {
		s = fmt.Sprintf("%s (%d times)", s, n)
	}
	if detail != "" {
		s += "\n    " + strings.ReplaceAll(detail, "\n", "\n    ")
	}
	return s
}

// Wait takes inventories until one equals inv or the grace is over, and gives the last
// difference.
func (inv Inventory) Wait(o Options) ([]string, error) {
	grace := o.Grace
	if grace == 0 {
		grace = 5 * time.Second
	}
	deadline := time.Now().Add(grace)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		now, err := Take(o)
		diff := inv.Diff(now)
		if err == nil && len(diff) == 0 || time.Now().After(deadline) {
			return diff, err
		}
		time.Sleep(pause)
	}
}

// Check takes the inventory now and again when the test has cleaned up all that it
// registers after this call; a difference fails the test.
func Check(t testing.TB, o Options) {
	t.Helper()
	before, err := Take(o)
	if err != nil {
		t.Fatalf("inventory before: %v", err)
	}
	t.Cleanup(func() {
		diff, err := before.Wait(o)
		if err != nil {
			t.Errorf("inventory after: %v", err)
		}
		if len(diff) > 0 {
			t.Errorf("the test leaves the host changed:\n%s", strings.Join(diff, "\n"))
		}
	})
}
