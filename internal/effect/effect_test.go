package effect_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/effect"
)

type hookFunc func(e effect.Event) error

func (h hookFunc) Before(_ context.Context, e effect.Event) error           { return h(e) }
func (h hookFunc) After(_ context.Context, _ effect.Event, err error) error { return err }

// Failing the i-th effect for i = 1, 2, … must leave either the old content or the new,
// and never a temporary file.
func TestPublishIsAllOrNothing(t *testing.T) {
	for i := 1; ; i++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		fired := false
		seam := effect.New(hookFunc(func(e effect.Event) error {
			if e.N == i {
				fired = true
				return syscall.EIO
			}
			return nil
		}))
		err := seam.PublishBytes(t.Context(), "f", path, 0o640, []byte("new"))
		got, readErr := os.ReadFile(path)
		if readErr != nil || (string(got) != "old" && string(got) != "new") {
			t.Fatalf("fault %d: content %q, %v", i, got, readErr)
		}
		names, _ := filepath.Glob(filepath.Join(dir, effect.TempPrefix+"*"))
		if len(names) > 0 {
			t.Fatalf("fault %d: left %v", i, names)
		}
		if !fired {
			if err != nil || string(got) != "new" {
				t.Fatalf("no fault: %q, %v", got, err)
			}
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("fault %d: error %v", i, err)
		}
	}
}

func TestCancelledContextStopsAtTheNextEffect(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	seam := effect.New(nil)
	err := seam.Do(ctx, "x", func() error { t.Error("the effect ran"); return nil })
	if !errors.Is(err, why) || len(seam.Counts()) != 0 {
		t.Fatalf("error %v, counts %v", err, seam.Counts())
	}
}

func TestPlan(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	seam, err := effect.FromEnv("daemon", "shim:kill@1 daemon:fail=ENOSPC@b#2 daemon:log="+log)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, name := range []string{"a", "b", "b", "b"} {
		if err := seam.Do(t.Context(), name, func() error { return nil }); errors.Is(err, syscall.ENOSPC) {
			got = append(got, "full")
		} else if err != nil {
			t.Fatal(err)
		} else {
			got = append(got, "done")
		}
	}
	if s := strings.Join(got, " "); s != "done done full done" {
		t.Errorf("outcomes: %s", s)
	}
	lines, _ := os.ReadFile(log)
	if string(lines) != "1 a\n2 b\n3 b\n4 b\n" {
		t.Errorf("log: %q", lines)
	}
}

func TestMalformedPlansAreRefused(t *testing.T) {
	for _, s := range []string{"x", "daemon:kill", "daemon:kill@0", "daemon:explode@1", "daemon:fail=EWHAT@1", "daemon:delay=x@1"} {
		if _, err := effect.FromEnv("daemon", s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func TestTryLock(t *testing.T) {
	seam, path := effect.New(nil), filepath.Join(t.TempDir(), "lock")
	first, err := seam.TryLock(t.Context(), "lock", path)
	if err != nil || first == nil {
		t.Fatalf("first: %v, %v", first, err)
	}
	second, err := seam.TryLock(t.Context(), "lock", path)
	if err != nil || second != nil {
		t.Fatalf("second: %v, %v", second, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := seam.TryLock(t.Context(), "lock", path)
	if err != nil || third == nil {
		t.Fatalf("after the first ended: %v, %v", third, err)
	}
	third.Close()
}
