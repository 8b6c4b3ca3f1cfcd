package errs_test

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"

	"banger/internal/errs"
)

func TestClassOf(t *testing.T) {
	_, missing := os.Open("/does/not/exist")
	cases := []struct {
		name string
		err  error
		want errs.Class
	}{
		{"given", errs.New(errs.Busy, "x"), errs.Busy},
		{"wrapped", fmt.Errorf("a: %w", errs.New(errs.NotFound, "x")), errs.NotFound},
		{"outermost wins", errs.With(errs.InvalidData, errs.New(errs.NotFound, "x")), errs.InvalidData},
		{"hint keeps the class", errs.Hint(errs.New(errs.Usage, "x"), "do %s", "y"), errs.Usage},
		{"full disk", &os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, errs.Exhausted},
		{"missing file", missing, errs.NotFound},
		{"cancelled", fmt.Errorf("a: %w", context.Canceled), errs.Cancelled},
		{"deadline", context.DeadlineExceeded, errs.Timeout},
		{"plain", fmt.Errorf("x"), errs.Internal},
	}
	for _, c := range cases {
		if got := errs.ClassOf(c.err); got != c.want {
			t.Errorf("%s: class %v, want %v", c.name, got, c.want)
		}
	}
}

// The codes and exit codes are promises to scripts; a change here breaks them.
func TestCodesAreStable(t *testing.T) {
	want := map[errs.Class]struct {
		code string
		exit int
	}{
		errs.Internal: {"internal", 1}, errs.Usage: {"usage", 2}, errs.NotFound: {"not_found", 3},
		errs.AlreadyExists: {"already_exists", 4}, errs.Busy: {"busy", 4},
		errs.Precondition: {"precondition", 5}, errs.Permission: {"permission", 5},
		errs.InvalidData: {"invalid_data", 6}, errs.Exhausted: {"exhausted", 1},
		errs.Unavailable: {"unavailable", 1}, errs.Cancelled: {"cancelled", 7}, errs.Timeout: {"timeout", 8},
	}
	for c, w := range want {
		if c.Code() != w.code || c.ExitCode() != w.exit {
			t.Errorf("%v: %q %d, want %q %d", uint8(c), c.Code(), c.ExitCode(), w.code, w.exit)
		}
		if errs.FromCode(w.code) != c {
			t.Errorf("code %q does not lead back to its class", w.code)
		}
	}
	if errs.FromCode("from the future") != errs.Internal {
		t.Error("an unknown code is not Internal")
	}
}

func TestHint(t *testing.T) {
	err := fmt.Errorf("a: %w", errs.Hint(errs.New(errs.NotFound, "x"), "see %s", "there"))
	if errs.HintOf(err) != "see there" || errs.HintOf(fmt.Errorf("x")) != "" || errs.Hint(nil, "x") != nil {
		t.Error("hint is lost, invented, or put on nil")
	}
}
