package rollback_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"banger/internal/rollback"
)

func TestEveryStepIsUndoneLastFirst(t *testing.T) {
	var order []string
	broken := errors.New("broken")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var s rollback.Stack
	for _, name := range []string{"a", "b", "c"} {
		s.Add(name, func(ctx context.Context) error {
			order = append(order, name)
			if name == "b" {
				return broken
			}
			return ctx.Err()
		})
	}
	err := s.Run(ctx)
	if !slices.Equal(order, []string{"c", "b", "a"}) {
		t.Errorf("order %v", order)
	}
	if !errors.Is(err, broken) || errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := s.Run(t.Context()); err != nil || len(order) != 3 {
		t.Error("a second run did something")
	}
}

func TestKeep(t *testing.T) {
	var s rollback.Stack
	s.Add("a", func(context.Context) error { t.Error("undone"); return nil })
	s.Keep()
	if err := s.Run(t.Context()); err != nil {
		t.Error(err)
	}
}
