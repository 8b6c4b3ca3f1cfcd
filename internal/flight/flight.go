// Package flight shares one run of an operation among all who ask for it at the same
// time. Unlike x/sync/singleflight, the run is cancelled when the last of them gives up,
// and only then.
package flight

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"

	"banger/internal/errs"
)

// Group shares runs by key. The zero value is ready.
type Group[T any] struct {
	mu    sync.Mutex
	calls map[string]*call[T]
}

type call[T any] struct {
	done    chan struct{}
	waiting int
	cancel  context.CancelCauseFunc
	value   T
	err     error
}

var errAbandoned = errors.New("every caller gave up")

// Do runs f for key, or joins the run that is under way. It returns f's results, or the
// cause of ctx's end, which leaves the run to the others. A panic of f, which is on no
// caller's goroutine, is an Internal error with its stack.
func (g *Group[T]) Do(ctx context.Context, key string, f func(context.Context) (T, error)) (T, error) {
	g.mu.Lock()
	if g.calls == nil {
		g.calls = map[string]*call[T]{}
	}
	c := g.calls[key]
	if c == nil {
		runCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		c = &call[T]{done: make(chan struct{}), cancel: cancel}
		g.calls[key] = c
		go g.run(runCtx, key, c, f)
	}
	c.waiting++
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		g.leave(key, c)
		var zero T
		return zero, context.Cause(ctx)
	}
}

func (g *Group[T]) run(ctx context.Context, key string, c *call[T], f func(context.Context) (T, error)) {
	defer func() {
		if p := recover(); p != nil {
			c.err = errs.New(errs.Internal, "panic: %v\n%s", p, debug.Stack())
		}
		g.mu.Lock()
		if g.calls[key] == c {
			delete(g.calls, key)
		}
		g.mu.Unlock()
		c.cancel(nil)
		close(c.done)
	}()
	c.value, c.err = f(ctx)
}

// leave forgets an abandoned run at once: who asks next starts a new one instead of
// joining one that is ending.
func (g *Group[T]) leave(key string, c *call[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.waiting--; c.waiting == 0 {
		c.cancel(errAbandoned)
		if g.calls[key] == c {
			delete(g.calls, key)
		}
	}
}
