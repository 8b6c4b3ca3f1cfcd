// Package cliio is everything that the command line reads from and writes to a person or
// a pipe: streams, tables, JSON documents, progress, questions, errors. No other package
// prints.
//
// The answer goes to Out and nothing else does; progress, warnings and errors go to Err.
// A terminal gets what a person reads, a pipe what a program reads. Text that came from
// elsewhere passes Clean before it is printed.
package cliio

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// IO is where one process reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
	// Which of them are terminals.
	InTTY, OutTTY, ErrTTY bool
	// NoColor forbids colour on terminals too.
	NoColor bool
	// JSON makes errors one JSON object.
	JSON bool
	// Now tells the time that ages are counted from.
	Now func() time.Time
	// Columns is the width of the terminal.
	Columns func() int

	errMu sync.Mutex // orders progress and warnings
	line  *Progress  // what is on Err's last line now
}

// System is the IO of this process.
func System(getenv func(string) string) *IO {
	s := &IO{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InTTY: isTerminal(os.Stdin), OutTTY: isTerminal(os.Stdout), ErrTTY: isTerminal(os.Stderr),
		NoColor: getenv("NO_COLOR") != "" || getenv("TERM") == "dumb",
		Now:     time.Now,
	}
	s.Columns = func() int {
		for _, f := range []*os.File{os.Stdout, os.Stderr} {
			if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
				return w
			}
		}
		return 80
	}
	return s
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// Println writes one line of the answer.
func (s *IO) Println(text string) error {
	_, err := fmt.Fprintln(s.Out, Clean(text))
	return err
}

// Warn writes one line for a person.
func (s *IO) Warn(format string, args ...any) {
	s.errMu.Lock()
	defer s.errMu.Unlock()
	s.line.erase()
	_, _ = fmt.Fprintf(s.Err, "%s\n", Clean(fmt.Sprintf(format, args...)))
}

// Colours of text on terminals.
const (
	Red    = "31"
	Green  = "32"
	Yellow = "33"
	Dim    = "2"
	Bold   = "1"
)

func paint(on bool, colour, text string) string {
	if !on || colour == "" || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// Clean makes text harmless: control characters, direction overrides and invalid UTF-8
// become escapes. Newlines go too.
func Clean(text string) string {
	if !strings.ContainsFunc(text, harmful) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := decodeRune(text[i:])
		switch {
		case r < 0:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case !harmful(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return b.String()
}

// CleanLines is Clean that keeps newlines.
func CleanLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = Clean(lines[i])
	}
	return strings.Join(lines, "\n")
}
