// Package keylock gives one lock for each key. Waiting can be cancelled, and an entry
// exists only while somebody holds or wants it.
package keylock

import (
	"context"
	"sync"
)

// Locks is a set of locks by key. The zero value is ready.
type Locks struct {
	mu      sync.Mutex
	entries map[string]*entry
}

type entry struct {
	held  chan struct{} // 1-buffered: full while held
	users int           // holders and waiters
}

// Lock takes the lock of key and gives back what releases it, to be called once. It
// fails only with the cause of ctx's end.
func (l *Locks) Lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	if l.entries == nil {
		l.entries = map[string]*entry{}
	}
	e := l.entries[key]
	if e == nil {
		e = &entry{held: make(chan struct{}, 1)}
		l.entries[key] = e
	}
	e.users++
	l.mu.Unlock()
	select {
	case e.held <- struct{}{}:
		return func() { <-e.held; l.leave(key, e) }, nil
	case <-ctx.Done():
		l.leave(key, e)
		return nil, context.Cause(ctx)
	}
}

func (l *Locks) leave(key string, e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(l.entries, key)
	}
}
