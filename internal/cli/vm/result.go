package vm

import (
	"encoding/base64"
	"time"
	"unicode/utf8"

	"banger/api"
	"banger/internal/cli/app"
)

// captureLimit is how much of each stream --json keeps.
const captureLimit = 1 << 20

// capture keeps the first bytes of a stream and counts the rest away.
type capture struct {
	kept []byte
	cut  bool
}

func (c *capture) Write(p []byte) (int, error) {
	room := min(captureLimit-len(c.kept), len(p))
	c.kept = append(c.kept, p[:room]...)
	c.cut = c.cut || room < len(p)
	return len(p), nil
}

// strings is what was kept, as text or else as base64. The cut may have split the last
// character, which is dropped then.
func (c *capture) strings() (text, encoded *string) {
	kept := c.kept
	if c.cut {
		for n := 1; n < utf8.UTFMax && n <= len(kept); n++ {
			if utf8.RuneStart(kept[len(kept)-n]) {
				if !utf8.FullRune(kept[len(kept)-n:]) {
					kept = kept[:len(kept)-n]
				}
				break
			}
		}
	}
	if utf8.Valid(kept) {
		s := string(kept)
		return &s, nil
	}
	s := base64.StdEncoding.EncodeToString(c.kept)
	return nil, &s
}

// result is what run and exec answer with.
type result struct {
	VM             api.VM
	Trace          []api.Span
	stdout, stderr capture
	origin         time.Time // where the spans count from
	code           *int
	text           string
}

// document is the answer of --json.
type document struct {
	VM           api.VM     `json:"vm"`
	ExitCode     *int       `json:"exit_code"` // null: no command was run
	Stdout       *string    `json:"stdout,omitempty"`
	StdoutBase64 *string    `json:"stdout_base64,omitempty"`
	Stderr       *string    `json:"stderr,omitempty"`
	StderrBase64 *string    `json:"stderr_base64,omitempty"`
	Truncated    bool       `json:"truncated"`
	Trace        []api.Span `json:"trace"`
	Error        string     `json:"error,omitempty"` // why the command did not start
}

func (r *result) end(out outcome) { r.code, r.text = &out.code, out.text }

func (r *result) document() document {
	d := document{VM: r.VM, ExitCode: r.code, Trace: r.Trace, Truncated: r.stdout.cut || r.stderr.cut, Error: r.text}
	d.Stdout, d.StdoutBase64 = r.stdout.strings()
	d.Stderr, d.StderrBase64 = r.stderr.strings()
	return d
}

// write prints the document, and gives the command's code.
func (r *result) write(a *app.App) error {
	if err := a.IO.WriteJSON(r.document()); err != nil {
		return err
	}
	if r.code != nil && *r.code != 0 {
		return &app.Exit{Code: *r.code}
	}
	return nil
}

// newResult begins with the daemon's spans, which ended just now.
func newResult(vm api.VM, trace []api.Span) *result {
	var last int64
	for _, span := range trace {
		last = max(last, span.StartNS+span.DurationNS)
	}
	return &result{VM: vm, Trace: trace, origin: time.Now().Add(-time.Duration(last))}
}

// span adds a step that this side saw, and that ended just now.
func (r *result) span(name string, from time.Time) {
	r.Trace = append(r.Trace, api.Span{Name: name, StartNS: from.Sub(r.origin).Nanoseconds(), DurationNS: time.Since(from).Nanoseconds()})
}
