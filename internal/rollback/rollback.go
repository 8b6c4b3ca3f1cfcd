// Package rollback undoes the steps of an operation that did not reach its end.
package rollback

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Limit bounds one rollback. It is long because a rollback may wait for a process.
const Limit = 30 * time.Second

// Stack collects undo functions. The zero value is ready; it is not for several goroutines.
type Stack struct{ steps []step }

type step struct {
	what string
	undo func(context.Context) error
}

// Add registers what undoes a step; what names it in errors. Undo functions are
// idempotent, and are run whether or not the step completed.
func (s *Stack) Add(what string, undo func(context.Context) error) {
	s.steps = append(s.steps, step{what, undo})
}

// Keep forgets every step: the operation succeeded.
func (s *Stack) Keep() { s.steps = nil }

// Run undoes all steps, last first, each of them whatever happened before, on a context
// that outlives the cancelled one which may have caused this. The errors are joined.
func (s *Stack) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Limit)
	defer cancel()
	var all []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		if err := s.steps[i].undo(ctx); err != nil {
			all = append(all, fmt.Errorf("undo %s: %w", s.steps[i].what, err))
		}
	}
	s.steps = nil
	return errors.Join(all...)
}
