package vmmtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// EnvKernel names the directory that holds the guest kernel, vmlinux, for tests with
// real machines.
const EnvKernel = "BANGER_TEST_KERNEL"

// Kernel is the guest kernel's path; without one the test is skipped.
func Kernel(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(EnvKernel)
	if dir == "" {
		t.Skip(EnvKernel + " is not set: it names a directory with a guest's vmlinux")
	}
	return filepath.Join(dir, "vmlinux")
}

// Initrd builds the suite's guest and packs it as the init of an initramfs.
func Initrd(t testing.TB) string { return pack(t) }

// ResetInitrd is an initramfs whose init resets the machine at once.
func ResetInitrd(t testing.TB) string { return pack(t, "reset") }

// pack makes the initramfs; marks are names of empty files for the init to find.
func pack(t testing.TB, marks ...string) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "init")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "banger/internal/vmm/vmmtest/testinit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest's init: %v\n%s", err, out)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	const directory, device, regular = 0o040755, 0o020600, 0o100755
	entry(&archive, "dev", directory, 0, nil)
	entry(&archive, "dev/console", device, 5<<8|1, nil)
	entry(&archive, "init", regular, 0, content)
	for _, mark := range marks {
		entry(&archive, mark, regular, 0, nil)
	}
	entry(&archive, "TRAILER!!!", 0, 0, nil)
	path := filepath.Join(dir, "initrd")
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// entry appends one file in the kernel's cpio format, "newc".
func entry(w *bytes.Buffer, name string, mode, rdev int, content []byte) {
	fields := []int{0, mode, 0, 0, 1, 0, len(content), 0, 0, rdev >> 8, rdev & 0xff, len(name) + 1, 0}
	w.WriteString("070701")
	for _, field := range fields {
		fmt.Fprintf(w, "%08x", field)
	}
	w.WriteString(name + "\x00")
	pad(w)
	w.Write(content)
	pad(w)
}

func pad(w *bytes.Buffer) {
	for w.Len()%4 != 0 {
		w.WriteByte(0)
	}
}
