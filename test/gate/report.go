package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// printPackage prints one line for a package, and the output of what failed in it.
func printPackage(out io.Writer, p *pkg) {
	if p.status == skipped || p.status == passed && len(p.tests) == 0 {
		return // has no tests
	}
	word := "ok"
	if p.status == failed {
		word = "FAIL"
	}
	counts := fmt.Sprintf("%d passed", len(p.with(passed)))
	for _, s := range []status{failed, skipped} {
		if n := len(p.with(s)); n > 0 {
			counts += fmt.Sprintf(", %d %s", n, s)
		}
	}
	fmt.Fprintf(out, "%-4s %6.1f s  %s  (%s)\n", word, p.seconds, p.path, counts)
	if p.status != failed {
		return
	}
	for _, t := range p.with(failed) {
		fmt.Fprintf(out, "---- %s (%.1f s)\n%s", t.id, t.seconds, indent(t.output.String()))
	}
	fmt.Fprint(out, indent(p.output.String()))
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("     " + strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}

// printSummary prints what is worth knowing after the last package and returns
// whether the run passed. Its last line is one that machines read too.
func printSummary(out io.Writer, r *run, missing []string) bool {
	counts := map[status]int{}
	var all, skips []*test
	for _, p := range r.sorted() {
		for _, t := range p.counted() {
			counts[t.status]++
			all = append(all, t)
		}
		skips = append(skips, p.with(skipped)...)
		if p.brokenAsAWhole() {
			counts[failed]++
		}
	}
	printSlowest(out, all)
	if len(skips) > 0 {
		fmt.Fprintln(out, "\nskipped:")
		for _, t := range skips {
			fmt.Fprintf(out, "  %s: %s\n", t.id, t.skipReason())
		}
	}
	printFailures(out, r)
	if len(missing) > 0 {
		fmt.Fprintln(out, "\nrequired, and did not pass:")
		for _, line := range missing {
			fmt.Fprintln(out, "  "+line)
		}
		counts[failed] += len(missing)
	}
	if len(all) == 0 && counts[failed] == 0 {
		fmt.Fprintln(out, "\nno test ran")
		counts[failed]++
	}
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped\n", counts[passed], counts[failed], counts[skipped])
	return counts[failed] == 0
}

// printFailures names again what failed: its output may be far up.
func printFailures(out io.Writer, r *run) {
	var names []string
	for _, p := range r.sorted() {
		for _, t := range p.with(failed) {
			names = append(names, t.id.String())
		}
		if p.brokenAsAWhole() {
			names = append(names, p.path)
		}
	}
	if len(names) > 0 {
		fmt.Fprintf(out, "\nfailed:\n  %s\n", strings.Join(names, "\n  "))
	}
}

func printSlowest(out io.Writer, tests []*test) {
	const most, notable = 10, 1.0 // entries, seconds
	slowest := slices.SortedFunc(slices.Values(tests), func(a, b *test) int { return cmp.Compare(b.seconds, a.seconds) })
	for i, t := range slowest {
		if i == most || t.seconds < notable {
			break
		}
		if i == 0 {
			fmt.Fprintln(out, "\nslowest:")
		}
		fmt.Fprintf(out, "  %6.1f s  %s\n", t.seconds, t.id)
	}
}
