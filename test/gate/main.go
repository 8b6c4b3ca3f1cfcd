// The gate command reads `go test -json` on standard input and says what a person
// needs to know: one line a package, failures with their output, what was skipped
// and why, the slowest tests. It fails when a test failed or did not finish, and
// when a test that is required was skipped or never ran.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

func main() {
	requiredPath := flag.String("required", "", "`file` that lists tests that must run and pass, one \"package TestName\" a line")
	flag.Parse()
	ok, err := gate(os.Stdin, os.Stdout, *requiredPath)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

// gate reports the run on out and whether it passed.
func gate(in io.Reader, out io.Writer, requiredPath string) (bool, error) {
	var required []testID
	if requiredPath != "" {
		file, err := os.Open(requiredPath)
		if err != nil {
			return false, err
		}
		defer file.Close()
		if required, err = parseRequired(file); err != nil {
			return false, fmt.Errorf("%s: %w", requiredPath, err)
		}
	}
	r := newRun()
	if err := follow(in, out, r); err != nil {
		return false, err
	}
	for _, p := range r.finish() {
		printPackage(out, p)
	}
	return printSummary(out, r, r.missing(required)), nil
}

// silence is how long nothing is printed before the gate says what runs.
const silence = 20 * time.Second

// follow feeds the run from in, prints each package as it ends, and says from time
// to time what is still running.
func follow(in io.Reader, out io.Writer, r *run) error {
	lines := make(chan string)
	readError := make(chan error, 1)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, 16<<20)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
		readError <- scanner.Err()
	}()
	quiet := time.NewTicker(silence)
	defer quiet.Stop()
	start := time.Now()
	for {
		select {
		case line, more := <-lines:
			if !more {
				return <-readError
			}
			var e event
			if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil {
				// Not go test's own: a tool that printed beside it.
				fmt.Fprintln(out, line)
				continue
			}
			if p := r.add(e); p != nil {
				printPackage(out, p)
				quiet.Reset(silence)
			}
		case <-quiet.C:
			fmt.Fprintf(out, "…    %.0f s, running: %s\n", time.Since(start).Seconds(), r.running())
		}
	}
}
