package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestOneHolderAKey(t *testing.T) {
	var locks Locks
	var wg sync.WaitGroup
	counts := map[string]*int{"a": new(int), "b": new(int)}
	for key, n := range counts {
		for range 100 {
			wg.Go(func() {
				unlock, err := locks.Lock(t.Context(), key)
				if err != nil {
					t.Error(err)
					return
				}
				*n++ // the race detector judges
				unlock()
			})
		}
	}
	wg.Wait()
	if *counts["a"] != 100 || *counts["b"] != 100 || len(locks.entries) != 0 {
		t.Errorf("counts %d, %d; %d entries left", *counts["a"], *counts["b"], len(locks.entries))
	}
}

func TestWaitingIsCancellable(t *testing.T) {
	var locks Locks
	unlock, err := locks.Lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := locks.Lock(ctx, "a"); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	unlock()
	if len(locks.entries) != 0 {
		t.Errorf("%d entries left", len(locks.entries))
	}
}
