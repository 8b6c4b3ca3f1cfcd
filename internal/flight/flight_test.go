package flight_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"banger/internal/errs"
	"banger/internal/flight"
)

func TestOneRunForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		var runs atomic.Int32
		open := make(chan struct{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				v, err := g.Do(t.Context(), "k", func(context.Context) (int, error) {
					runs.Add(1)
					<-open
					return 7, nil
				})
				if v != 7 || err != nil {
					t.Errorf("%d, %v", v, err)
				}
			})
		}
		synctest.Wait()
		close(open)
		wg.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d runs", runs.Load())
		}
	})
}

func TestCancelledWhenTheLastLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		ended := make(chan error, 1)
		f := func(ctx context.Context) (int, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return 0, ctx.Err()
		}
		first, leaveFirst := context.WithCancel(t.Context())
		second, leaveSecond := context.WithCancel(t.Context())
		for _, ctx := range []context.Context{first, second} {
			go func() { _, _ = g.Do(ctx, "k", f) }()
		}
		synctest.Wait()
		leaveFirst()
		synctest.Wait()
		if len(ended) != 0 {
			t.Fatal("cancelled while somebody waits")
		}
		leaveSecond()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

func TestPanicIsAnErrorOfEveryCaller(t *testing.T) {
	var g flight.Group[int]
	_, err := g.Do(t.Context(), "k", func(context.Context) (int, error) { panic("a bug") })
	if !errs.Is(err, errs.Internal) || !strings.Contains(err.Error(), "a bug") || !strings.Contains(err.Error(), "flight_test.go") {
		t.Errorf("error %v", err)
	}
	if v, err := g.Do(t.Context(), "k", func(context.Context) (int, error) { return 7, nil }); v != 7 || err != nil {
		t.Errorf("the next run: %d, %v", v, err)
	}
}
