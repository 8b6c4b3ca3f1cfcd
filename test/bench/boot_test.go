// Package bench compares what banger does with the bare VMM, in one run and on one
// machine: absolute times on a shared one mean little.
//
//	BANGER_TEST_BIN=$PWD/bin BANGER_TEST_OCI=DIR go test -run '^$' -bench . -benchtime 10x ./test/bench
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/internal/effect"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
	"banger/internal/vmm/vmmtest"
)

const (
	envBin = "BANGER_TEST_BIN" // directory with banger, bangerd, banger-agent
	envOCI = "BANGER_TEST_OCI" // OCI layout of the image
	image  = "bench"
)

// site is a state directory of its own with a running daemon and the image in it.
type site struct {
	b     *testing.B
	bin   string
	state string
	env   []string
}

func newSite(b *testing.B) site {
	b.Helper()
	bin, oci := os.Getenv(envBin), os.Getenv(envOCI)
	if bin == "" || oci == "" {
		b.Skipf("%s (directory of the built programs) or %s (OCI layout of the image) is not set", envBin, envOCI)
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		b.Fatal(err)
	}
	state := b.TempDir()
	s := site{b: b, bin: bin, state: state}
	s.env = append(os.Environ(),
		"BANGER_STATE_DIR="+state, "BANGER_RUNTIME_DIR="+state, "BANGER_CACHE_DIR="+filepath.Join(state, "cache"))
	s.banger("image", "pull", "oci:"+oci, "--name", image)
	b.Cleanup(func() {
		cmd := s.command(context.Background(), "system", "stop")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Errorf("stop the daemon: %v\n%s", err, out)
		}
	})
	return s
}

func (s site) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "banger"), args...)
	cmd.Env = s.env
	return cmd
}

// banger runs the program and gives its standard output.
func (s site) banger(args ...string) []byte {
	s.b.Helper()
	cmd := s.command(s.b.Context(), args...)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		s.b.Fatalf("banger %s: %v\n%s", strings.Join(args, " "), err, &problems)
	}
	return out
}

// answer is banger's --json answer.
func answer[T any](s site, args ...string) (v T) {
	s.b.Helper()
	if err := json.Unmarshal(s.banger(append(args, "--json")...), &v); err != nil {
		s.b.Fatalf("banger %s: %v", strings.Join(args, " "), err)
	}
	return v
}

func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// BenchmarkRun compares the bare VMM (same kernel, same command line, same disks, an
// init that resets at once) with "banger run --rm -- true", alternating.
func BenchmarkRun(b *testing.B) {
	s := newSite(b)
	run := []string{"run", "--rm", "--image", image, "--", "true"}
	s.banger(run...) // the first one makes what all others share
	status := answer[api.SystemStatus](s, "system", "status")
	kernels := answer[[]api.Kernel](s, "kernel", "list")
	rootfs := answer[api.Image](s, "image", "show", image).RootfsPath
	if len(kernels) == 0 {
		b.Fatal("no kernel")
	}
	upper := filepath.Join(b.TempDir(), "upper")
	if err := os.WriteFile(upper, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(upper, 20<<30); err != nil {
		b.Fatal(err)
	}
	spec := vmm.Spec{
		Kernel: kernels[0].KernelPath, Initrd: vmmtest.ResetInitrd(b), CPUs: 2, MemoryBytes: 2 << 30,
		Disks: []vmm.Disk{{Path: rootfs, ReadOnly: true}, {Path: upper}},
	}
	driver := qemu.New(effect.New(nil), os.Getenv("BANGER_QEMU"), status.KVM.Usable)
	var bare, whole []time.Duration
	for b.Loop() {
		bare = append(bare, timed(func() { boot(b, driver, spec) }))
		whole = append(whole, timed(func() { s.banger(run...) }))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(milliseconds(median(bare)), "bare-ms")
	b.ReportMetric(milliseconds(median(whole)), "run-ms")
	b.ReportMetric(milliseconds(median(whole)-median(bare)), "difference-ms")
}

// boot runs a machine until it ends by itself.
func boot(b *testing.B, driver vmm.Driver, spec vmm.Spec) {
	b.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	spec.Console, spec.Log = null, null
	m, err := driver.Start(b.Context(), spec)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	select {
	case <-m.Done():
	case <-time.After(time.Minute):
		b.Fatalf("the bare machine does not end: %v", m.Kill(context.Background()))
	}
}

// BenchmarkCommands times whole processes of commands that a shell's prompt or
// completion may run.
func BenchmarkCommands(b *testing.B) {
	s := newSite(b)
	for _, args := range [][]string{{"version"}, {"vm", "list"}} {
		b.Run(strings.Join(args, " "), func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				took = append(took, timed(func() { s.banger(args...) }))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(milliseconds(median(took)), "median-ms")
			b.ReportMetric(milliseconds(took[0]), "best-ms") // median sorts
		})
	}
}

// BenchmarkSize reports the agent's size and the memory that belongs to one shim.
func BenchmarkSize(b *testing.B) {
	s := newSite(b)
	info, err := os.Stat(filepath.Join(s.bin, "banger-agent"))
	if err != nil {
		b.Fatal(err)
	}
	s.banger("run", "--keep-running", "--name", "size", "--image", image, "--", "true")
	defer s.banger("vm", "delete", "--force", "size")
	var shim int
	for _, vm := range answer[[]api.VM](s, "vm", "list") {
		shim = parent(b, vm.PID)
	}
	var pss int64
	for b.Loop() {
		pss = shimPSS(b, shim)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(info.Size())/1e6, "agent-MB")
	b.ReportMetric(float64(pss)/1e6, "shim-PSS-MB")
}

func parent(b *testing.B, pid int) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\nPPid:")
	line, _, _ := strings.Cut(rest, "\n")
	ppid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || ppid <= 1 || syscall.Kill(ppid, 0) != nil {
		b.Fatalf("parent of VMM %d: %q, %v", pid, line, err)
	}
	return ppid
}

// shimPSS is the process's memory in bytes, pages shared with others counted by share.
func shimPSS(b *testing.B, pid int) int64 {
	b.Helper()
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, line := range strings.Split(string(rollup), "\n") {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "Pss:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib << 10
		}
	}
	b.Fatalf("no Pss in smaps_rollup of %d", pid)
	return 0
}
