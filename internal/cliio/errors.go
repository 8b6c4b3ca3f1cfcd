package cliio

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"banger/api"
	"banger/internal/errs"
)

// WriteError writes err for a person, or with JSON as one object.
func (s *IO) WriteError(err error) {
	s.errMu.Lock()
	defer s.errMu.Unlock()
	s.line.erase()
	hint := errs.HintOf(err)
	if s.JSON {
		raw, jsonErr := marshal(api.ErrorBody{Error: api.Error{
			Code: errs.ClassOf(err).Code(), Message: err.Error(), Hint: hint,
		}}, "")
		if jsonErr == nil {
			_, _ = s.Err.Write(raw)
			return
		}
	}
	colour := s.ErrTTY && !s.NoColor
	_, _ = fmt.Fprintf(s.Err, "%s %s\n", paint(colour, Red, "banger:"), CleanLines(err.Error()))
	if hint != "" {
		_, _ = fmt.Fprintf(s.Err, "%s %s\n", paint(colour, Dim, "hint:"), Clean(hint))
	}
}

// Confirm asks whether to do what it is told, "delete VM \"x\"", on the terminal;
// everything but y and yes is no. Where nobody can be asked it is a Precondition error.
func (s *IO) Confirm(ctx context.Context, what string) error {
	if !s.InTTY || !s.ErrTTY {
		return errs.Hint(errs.New(errs.Precondition, "%s: not confirmed, and there is no terminal to ask on", what),
			"confirm with --yes")
	}
	_, _ = fmt.Fprintf(s.Err, "%s? [y/N] ", Clean(what))
	answers := make(chan string, 1)
	go func() {
		answer, _ := bufio.NewReader(s.In).ReadString('\n') // an end is an empty answer
		answers <- answer
	}()
	var answer string
	select {
	case answer = <-answers:
	case <-ctx.Done():
		_, _ = fmt.Fprintln(s.Err)
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	if !strings.HasSuffix(answer, "\n") {
		_, _ = fmt.Fprintln(s.Err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errs.New(errs.Cancelled, "%s: not confirmed", what)
}
