// Package effect is the seam through which every change to the outside world passes:
// files, processes, sockets, locks, SQL transactions. Each effect has a name and is
// counted, so that a test can fail, delay, cancel or kill the process at any one of
// them; a lint forbids such calls elsewhere.
//
// The idea is SQLite's: fail the 1st, 2nd, 3rd… call until a run passes with no fault
// fired (its test/ioerr*.test); the grammar of plans follows containerd's failpoint.
package effect

import (
	"context"
	"sync"
)

// Event is one effect about to happen or just happened.
type Event struct {
	Name string // what is done, for example "vm.dir.make"
	N    int    // ordinal among all effects of the Seam, from 1
	K    int    // ordinal among the effects of this Name, from 1
}

// Hook observes effects and may replace them. Before returning an error makes the
// effect fail with it without being tried; After returning one makes it fail
// although it was done. Hooks run on the goroutine of the effect.
type Hook interface {
	Before(ctx context.Context, e Event) error
	After(ctx context.Context, e Event, err error) error
}

// Seam performs effects. Its methods may be called from several goroutines.
type Seam struct {
	hook Hook

	mu     sync.Mutex
	total  int
	byName map[string]int
}

// New makes a Seam; a nil hook only counts.
func New(hook Hook) *Seam {
	return &Seam{hook: hook, byName: map[string]int{}}
}

// Counts is how often each effect was begun.
func (s *Seam) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := make(map[string]int, len(s.byName))
	for name, n := range s.byName {
		counts[name] = n
	}
	return counts
}

// Do performs f as the effect name. It refuses when ctx is already cancelled, so that
// a cancelled operation stops at its next effect; cleanup passes a detached context.
func (s *Seam) Do(ctx context.Context, name string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	s.total++
	s.byName[name]++
	e := Event{Name: name, N: s.total, K: s.byName[name]}
	s.mu.Unlock()
	if s.hook == nil {
		return f()
	}
	if err := s.hook.Before(ctx, e); err != nil {
		return err
	}
	return s.hook.After(ctx, e, f())
}
