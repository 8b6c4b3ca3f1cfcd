package app

import (
	"context"
	"os"
	"syscall"
	"testing"

	"banger/internal/errs"
)

func TestNearest(t *testing.T) {
	known := []string{"list", "delete", "debian-6.1", "slim", "swift-fox"}
	for typed, want := range map[string]string{
		"lst": "list", "lsit": "list", "debin-6.1": "debian-6.1", "deb": "debian-6.1", "x": "", "": "", "quite-different": "", "SLIM": "slim", "swiftfox": "swift-fox",
	} {
		if got := Nearest(typed, known); got != want {
			t.Errorf("%q: %q, want %q", typed, got, want)
		}
	}
}

func TestAbsoluteRef(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"debian-12": "debian-12", "debian:12": "debian:12", "oci:d": "oci:" + here + "/d", "oci:./d:t": "oci:" + here + "/d:t",
		"oci:/a:b/c": "oci:/a:b/c", "oci:/a/b:t": "oci:/a/b:t", "oci-archive:x.tar": "oci-archive:" + here + "/x.tar", "": "", "oci:": "oci:",
	} {
		if got, err := AbsoluteRef(ref); err != nil || got != want {
			t.Errorf("%q: %q, %v", ref, got, err)
		}
	}
}

// The first signal cancels, the second ends the process, and a session has them all.
func TestInterrupts(t *testing.T) {
	died := 0
	i, ctx := NewInterrupts(t.Context())
	i.Die = func(code int) { died = code }
	var taken []os.Signal
	release := i.Take(func(sig os.Signal) { taken = append(taken, sig) })
	i.Deliver(syscall.SIGINT)
	i.Deliver(syscall.SIGINT)
	release()
	if len(taken) != 2 || ctx.Err() != nil || died != 0 {
		t.Fatalf("taken %v, %v, died %d", taken, ctx.Err(), died)
	}
	i.Deliver(syscall.SIGINT)
	if ctx.Err() == nil || died != 0 || ExitCode(nil, context.Cause(ctx)) != 130 {
		t.Fatalf("%v, died %d", ctx.Err(), died)
	}
	i.Deliver(syscall.SIGTERM)
	if died != 143 {
		t.Errorf("died %d", died)
	}
	j, ctx := NewInterrupts(t.Context())
	j.Deliver(syscall.SIGTERM)
	if err := context.Cause(ctx); ExitCode(nil, err) != 7 || !errs.Is(err, errs.Cancelled) {
		t.Errorf("after SIGTERM: %v", err)
	}
}
