package qemu_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/leakcheck"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
	"banger/internal/vmm/vmmtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 4 && os.Args[1] == "orphan" {
		fmt.Fprintln(os.Stderr, vmmtest.RunOrphan(config(os.Args[2], os.Args[3]), os.Args[4]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func config(kernel, initrd string) vmmtest.Config {
	return vmmtest.Config{
		Driver: qemu.New(effect.New(nil), "", false),
		Kernel: kernel, Initrd: initrd, Boot: time.Minute,
		OrphanArgs: []string{"orphan", kernel, initrd},
	}
}

func TestConformance(t *testing.T) {
	kernel := vmmtest.Kernel(t)
	vmmtest.Run(t, config(kernel, vmmtest.Initrd(t)))
}

// script makes a program in place of QEMU.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProbe(t *testing.T) {
	cases := []struct {
		name, path, version string
		hint                bool
	}{
		{name: "Debian's", path: script(t, "echo 'QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)'"), version: "7.2.22"},
		{name: "newer", path: script(t, "echo 'QEMU emulator version 10.0.0'"), version: "10.0.0"},
		{name: "too old", path: script(t, "echo 'QEMU emulator version 6.2.0'"), hint: true},
		{name: "missing", path: filepath.Join(t.TempDir(), "none"), hint: true},
		{name: "another program", path: script(t, "echo hello")},
		{name: "broken", path: script(t, "exit 1")},
	}
	for _, c := range cases {
		info, err := qemu.New(effect.New(nil), c.path, true).Probe(t.Context())
		if c.version != "" {
			if err != nil || info.Version != c.version || info.Path != c.path || info.Accelerator != "kvm" {
				t.Errorf("%s: %+v, %v", c.name, info, err)
			}
			continue
		}
		if !errs.Is(err, errs.Unavailable) || (errs.HintOf(err) != "") != c.hint {
			t.Errorf("%s: %v, hint %q", c.name, err, errs.HintOf(err))
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := qemu.New(effect.New(nil), "", false).Probe(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("no QEMU on PATH: %v", err)
	}
}

// A panic is readable on the console despite "quiet", and ends the VMM with status 0.
func TestPanicIsReadable(t *testing.T) {
	kernel := vmmtest.Kernel(t)
	dir := t.TempDir()
	leakcheck.Check(t, leakcheck.Options{Dirs: []string{dir}, Ignore: []string{"console"}})
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	m, err := qemu.New(effect.New(nil), "", false).Start(t.Context(), vmm.Spec{
		Kernel: kernel, CPUs: 1, MemoryBytes: 128 << 20, Console: console, Log: os.Stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	select {
	case <-m.Done():
	case <-time.After(time.Minute):
		t.Fatalf("the VMM does not end: %v", m.Kill(t.Context()))
	}
	text, _ := os.ReadFile(console.Name())
	if !strings.Contains(string(text), "Kernel panic - not syncing: VFS: Unable to mount root fs") {
		t.Errorf("console: %s", text)
	}
	if m.Exit() != "exit status 0" {
		t.Errorf("exit %q", m.Exit())
	}
}
