package kernels

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"banger/internal/cpio"
)

// kernelDir is the kernel that `make kernel` staged.
func kernelDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("BANGER_TEST_KERNEL")
	if dir == "" {
		t.Skip("BANGER_TEST_KERNEL names no staged kernel (make test sets it)")
	}
	return dir
}

func TestBundleIsTheStagedKernel(t *testing.T) {
	dir := kernelDir(t)
	var metadata struct {
		Name          string `json:"name"`
		Distro        string `json:"distro"`
		Arch          string `json:"arch"`
		KernelVersion string `json:"kernel_version"`
		SHA256        string `json:"sha256"`
	}
	manifest := metadata
	raw, err := os.ReadFile(filepath.Join(dir, "metadata.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &metadata); err != nil {
		t.Fatal(err)
	}
	vmlinux, err := os.ReadFile(filepath.Join(dir, "vmlinux"))
	if err != nil {
		t.Fatal(err)
	}
	if sum := digest(vmlinux); sum != metadata.SHA256 {
		t.Errorf("vmlinux has SHA-256 %s, metadata.json says %s", sum, metadata.SHA256)
	}

	files := unpack(t, filepath.Join(dir, "kernel.tar.zst"))
	if len(files) != 2 || !bytes.Equal(files["vmlinux"], vmlinux) {
		t.Errorf("the bundle's %d files are not manifest.json and the staged vmlinux", len(files))
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if manifest != metadata {
		t.Errorf("manifest %+v differs from metadata %+v", manifest, metadata)
	}
	var origin struct {
		Source     string    `json:"source"`
		ImportedAt time.Time `json:"imported_at"`
	}
	if err := json.Unmarshal(files["manifest.json"], &origin); err != nil {
		t.Fatal(err)
	}
	if origin.Source != "embedded" || origin.ImportedAt.IsZero() {
		t.Errorf("manifest says %+v", origin)
	}
}

func unpack(t *testing.T, bundle string) map[string][]byte {
	t.Helper()
	file, err := os.Open(bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	decoder, err := zstd.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	files := map[string][]byte{}
	for reader := tar.NewReader(decoder); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files
		} else if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(reader); err != nil {
			t.Fatal(err)
		}
	}
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// The command line that was found fastest under emulation.
const commandLine = "console=ttyS0 reboot=t panic=-1 quiet acpi=off nolapic_timer lpj=1000000 no_timer_check"

// boot runs the kernel with the test's init until QEMU ends, and returns the console.
// The machine counts instructions for time: one is one nanosecond, whatever else the
// host does meanwhile.
func boot(t *testing.T, commandLine string) string {
	t.Helper()
	dir := kernelDir(t)
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no QEMU: ", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-M", "microvm,acpi=off,isa-serial=on,rtc=on",
		"-accel", "tcg", "-icount", "shift=0", "-cpu", "max", "-m", "256",
		"-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot",
		"-kernel", filepath.Join(dir, "vmlinux"), "-initrd", initramfs(t), "-append", commandLine)
	console, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("QEMU: %v\n%s", err, console)
	}
	return string(console)
}

func initramfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w",
		"-o", filepath.Join(dir, "init"), "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initramfs")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := cpio.Initramfs(file, program); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestKernelReachesInitCheaply(t *testing.T) {
	console := boot(t, commandLine)
	if !strings.Contains(console, "init: up") {
		t.Fatalf("init did not run:\n%s", console)
	}
	end := regexp.MustCompile(`\[ *(\d+)\.(\d{6})\] reboot: Restarting system`).FindStringSubmatch(console)
	if end == nil {
		t.Fatalf("the kernel did not say when it restarted:\n%s", console)
	}
	microseconds, err := strconv.Atoi(end[1] + end[2])
	if err != nil {
		t.Fatal(err)
	}
	// Measured 57 when this was written. One option of the kernel can cost more than
	// that again (the LAPIC timer's calibration did), unseen on a fast machine.
	const most = 80
	millions := microseconds / 1000
	t.Logf("%d million instructions from power on to the end of init", millions)
	if millions > most {
		t.Errorf("booting takes %d million instructions, more than %d", millions, most)
	}
}

func TestPanicStaysReadableWhenQuiet(t *testing.T) {
	console := boot(t, commandLine+" fall-over")
	for _, text := range []string{"init: up", "Kernel panic - not syncing: Attempted to kill init!", "Call Trace:", "do_exit"} {
		if !strings.Contains(console, text) {
			t.Errorf("the console does not say %q", text)
		}
	}
	if t.Failed() {
		t.Log(console)
	}
}
