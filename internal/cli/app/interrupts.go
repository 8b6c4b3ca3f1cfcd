package app

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/errs"
)

// Interrupted is the cause of a context that a signal cancelled.
type Interrupted struct{ Signal os.Signal }

func (e *Interrupted) Error() string {
	if n, ok := e.Signal.(syscall.Signal); ok && n != syscall.SIGINT {
		return "interrupted by " + unix.SignalName(n)
	}
	return "interrupted"
}

// Interrupts hands the process's signals to whoever cares. Without anybody, the first
// one cancels the context and the second ends the process: work that does not stop must
// not hold a person.
type Interrupts struct {
	// Die ends the process at once.
	Die func(code int)

	mu     sync.Mutex
	cancel context.CancelCauseFunc
	take   func(os.Signal)
	seen   int
}

// NewInterrupts makes a context that the first signal cancels.
func NewInterrupts(ctx context.Context) (*Interrupts, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Interrupts{cancel: cancel, Die: os.Exit}, ctx
}

// Watch delivers this process's signals until stop is called.
func (i *Interrupts) Watch() (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	if !signal.Ignored(syscall.SIGHUP) { // under nohup it is
		signal.Notify(signals, syscall.SIGHUP)
	}
	quit := make(chan struct{})
	go func() {
		for {
			select {
			case sig := <-signals:
				i.Deliver(sig)
			case <-quit:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(quit)
	}
}

// Deliver acts on one signal.
func (i *Interrupts) Deliver(sig os.Signal) {
	i.mu.Lock()
	take := i.take
	if take == nil {
		i.seen++
	}
	seen := i.seen
	i.mu.Unlock()
	switch {
	case take != nil:
		take(sig)
	case seen == 1:
		i.cancel(errs.With(errs.Cancelled, &Interrupted{sig}))
	default:
		code := 128
		if n, ok := sig.(syscall.Signal); ok {
			code += int(n)
		}
		i.Die(code)
	}
}

// Take gives signals to f, on another goroutine, until release is called.
func (i *Interrupts) Take(f func(os.Signal)) (release func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	before := i.take
	i.take = f
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.take = before
	}
}
