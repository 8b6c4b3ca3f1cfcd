package kvmprobe_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/kvmprobe"
	"banger/internal/leakcheck"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == kvmprobe.Verb {
		os.Exit(kvmprobe.Main())
	}
	os.Exit(m.Run())
}

// Whatever this host's KVM is like, there is an answer in time, with a reason, and the
// second question costs no probe.
func TestAnswerAndCache(t *testing.T) {
	leakcheck.Check(t, leakcheck.Options{})
	seam, path := effect.New(nil), filepath.Join(t.TempDir(), "kvm.json")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	first, err := kvmprobe.Cached(t.Context(), seam, exe, path)
	if err != nil || first.Reason == "" {
		t.Fatalf("%+v, %v", first, err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the probe took %v", took)
	}
	t.Logf("%+v, in %v", first, time.Since(begin))
	probes := seam.Counts()["kvm.probe"]
	second, err := kvmprobe.Cached(t.Context(), seam, "/does/not/exist", path)
	if err != nil || second != first || seam.Counts()["kvm.probe"] != probes {
		t.Errorf("again: %+v, %v, %v", second, err, seam.Counts())
	}
}

func needDevice(t *testing.T) {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		t.Skip(err)
	} else {
		_ = f.Close()
	}
}

func TestStaleCacheIsNotBelieved(t *testing.T) {
	needDevice(t)
	exe, _ := os.Executable()
	for name, content := range map[string]string{
		"another boot": `{"boot_id":"x","usable":true,"reason":"stale"}`,
		"garbage":      "{",
		"empty":        "",
	} {
		path := filepath.Join(t.TempDir(), "kvm.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := kvmprobe.Cached(t.Context(), effect.New(nil), exe, path)
		if err != nil || r.Reason == "stale" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if b, _ := os.ReadFile(path); !json.Valid(b) || strings.Contains(string(b), "stale") {
			t.Errorf("%s: the file holds %q", name, b)
		}
	}
}

func child(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "child")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestChildren(t *testing.T) {
	needDevice(t)
	leakcheck.Check(t, leakcheck.Options{})
	if r, err := kvmprobe.Probe(t.Context(), effect.New(nil), child(t, "exec sleep 60")); err != nil || r.Usable || !strings.Contains(r.Reason, "within 2s") {
		t.Errorf("stuck: %+v, %v", r, err)
	}
	for name, exe := range map[string]string{
		"missing": "/does/not/exist", "failing": child(t, "exit 1"), "babbling": child(t, "echo yes"),
	} {
		if r, err := kvmprobe.Probe(t.Context(), effect.New(nil), exe); err == nil || r.Usable {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kvmprobe.Probe(ctx, effect.New(nil), child(t, "sleep 60")); !errs.Is(err, errs.Cancelled) {
		t.Errorf("cancelled: %v", err)
	}
}
