// Package rig lets a test binary be bangerd with the fake VMM, and gives tests state
// directories with an image and a kernel in them. A test package that uses it begins
//
//	func TestMain(m *testing.M) { rig.Main(m) }
package rig

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/client"
	"banger/internal/daemon"
	"banger/internal/effect"
	"banger/internal/embedded"
	"banger/internal/kernelcat"
	"banger/internal/oci/ocitest"
	"banger/internal/sandbox"
	"banger/internal/vmm"
	"banger/internal/vmm/fake"
)

// Image and Kernel are in every state directory that New makes.
const (
	Image  = "tiny"
	Kernel = "fake"
)

// daemonVerbs make the test binary bangerd.
var daemonVerbs = []string{"serve", "shim", "kvm-probe", fake.Verb}

// Main runs the tests, or is bangerd when it was started as that.
func Main(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains(daemonVerbs, os.Args[1]) {
		os.Exit(Daemon(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// Daemon is bangerd with the fake VMM besides the real ones.
func Daemon(args []string) int {
	if len(args) > 0 && args[0] == fake.Verb {
		return fake.Main(args[1:])
	}
	return daemon.Main(args, "test", daemon.Drivers{
		"fake": func(seam *effect.Seam, _ sandbox.Spec) (vmm.Driver, error) { return fake.New(seam), nil },
	})
}

// Rig is one state directory and the daemon that serves it.
type Rig struct {
	t     testing.TB
	State string
	Env   []string // added to the daemon's environment
	cmd   *exec.Cmd
}

// New makes a state directory with Image and Kernel. At the test's end its VMs are
// killed, its daemon is stopped and the directory removed.
func New(t testing.TB) *Rig {
	t.Helper()
	if _, err := embedded.Agent(); err != nil {
		t.Skip(err)
	}
	r := &Rig{t: t, State: t.TempDir()}
	r.AddKernel(Kernel, "")
	t.Cleanup(r.End)
	return r
}

// Copy is another state directory like r's, which must have no daemon.
func (r *Rig) Copy(t testing.TB) *Rig {
	t.Helper()
	c := &Rig{t: t, State: t.TempDir(), Env: slices.Clone(r.Env)}
	if err := os.CopyFS(c.State, os.DirFS(r.State)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.End)
	return c
}

// AddKernel puts a kernel whose fake guest follows plan (see fake.Magic) in the state
// directory.
func (r *Rig) AddKernel(name, plan string) {
	r.t.Helper()
	dir := filepath.Join(r.State, "kernels", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.t.Fatal(err)
	}
	content := []byte(strings.TrimSpace(fake.Magic+" "+plan) + "\n")
	sum := sha256.Sum256(content)
	manifest, err := json.Marshal(kernelcat.Manifest{
		Name: name, Arch: "x86_64", Version: "0", SHA256: hex.EncodeToString(sum[:]), Source: "import:test",
	})
	if err != nil {
		r.t.Fatal(err)
	}
	for file, b := range map[string][]byte{"vmlinux": content, "manifest.json": manifest} {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
}

// PullImage puts Image in the state directory, through the daemon.
func (r *Rig) PullImage() {
	r.t.Helper()
	layout := r.t.TempDir()
	WriteLayout(r.t, layout)
	_, err := r.Client().PullImage(r.t.Context(), api.ImagePull{Ref: "oci:" + layout, Name: Image}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
}

// Start starts the daemon and waits until it serves. faults is a plan of package effect.
func (r *Rig) Start(faults string) {
	r.t.Helper()
	if err := r.TryStart(faults); err != nil {
		r.t.Fatalf("start the daemon: %v\n%s", err, r.Log())
	}
}

// TryStart is Start for a daemon that may not come up.
func (r *Rig) TryStart(faults string) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	log, err := os.OpenFile(r.State+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	r.cmd = exec.Command(exe, "serve")
	r.cmd.Env = append(os.Environ(), "BANGER_STATE_DIR="+r.State, daemon.EnvReadyFD+"=3", effect.EnvPlan+"="+faults)
	r.cmd.Env = append(r.cmd.Env, r.Env...)
	r.cmd.Stdout, r.cmd.Stderr, r.cmd.ExtraFiles = log, log, []*os.File{write}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	_ = write.Close()
	answer := make([]byte, 4096)
	n, _ := read.Read(answer)
	if line := strings.TrimSpace(string(answer[:n])); line != "ready" {
		_ = r.cmd.Wait()
		r.cmd = nil
		return fmt.Errorf("the daemon said %q", line)
	}
	return nil
}

// Died waits until the daemon has ended by itself.
func (r *Rig) Died() {
	_ = r.cmd.Wait()
	r.cmd = nil
}

// Alive tells whether the daemon runs.
func (r *Rig) Alive() bool {
	return r.cmd != nil && r.cmd.ProcessState == nil && syscall.Kill(r.cmd.Process.Pid, 0) == nil && !zombie(r.cmd.Process.Pid)
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(rest, []byte("Z"))
}

// Kill is kill -9 of the daemon.
func (r *Rig) Kill() { r.end(syscall.SIGKILL) }

// Stop ends the daemon as a service manager would.
func (r *Rig) Stop() { r.end(syscall.SIGTERM) }

func (r *Rig) end(sig syscall.Signal) {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Signal(sig)
	_ = r.cmd.Wait()
	r.cmd = nil
}

// End kills every VM and stops the daemon.
func (r *Rig) End() {
	if r.cmd != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c := r.Client()
		vms, err := c.VMs(ctx)
		if err != nil && r.Alive() {
			r.t.Errorf("list VMs at the end: %v", err)
		}
		for _, vm := range vms {
			if err := c.DeleteVM(ctx, vm.ID, true); err != nil && client.Code(err) != "not_found" {
				r.t.Errorf("delete VM %s at the end: %v", vm.Name, err)
			}
		}
		c.Close()
		r.Stop()
	}
	if left := Processes(r.State); len(left) > 0 {
		r.t.Errorf("processes left:\n%s", strings.Join(left, "\n"))
	}
}

// Client talks to the daemon, and does not start one.
func (r *Rig) Client() *client.Client {
	r.t.Helper()
	c, err := client.New(client.Options{StateDir: r.State, NoStart: true, Version: "test"})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// Log is what the daemons of this rig said.
func (r *Rig) Log() string {
	b, _ := os.ReadFile(r.State + ".log")
	return string(b)
}

// Processes lists the processes, zombies aside, that name dir in their arguments.
func Processes(dir string) []string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		args, err := os.ReadFile(path)
		if err == nil && bytes.Contains(args, []byte(dir)) {
			pid := filepath.Base(filepath.Dir(path))
			found = append(found, pid+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return found
}

// Files lists what is under the state directory, by path.
func (r *Rig) Files() []string {
	var all []string
	_ = filepath.WalkDir(r.State, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != r.State {
			all = append(all, strings.TrimPrefix(path, r.State+"/"))
		}
		return nil
	})
	return all
}

// WriteLayout writes an OCI layout with one small layer.
func WriteLayout(t testing.TB, dir string) {
	t.Helper()
	ocitest.WriteLayout(t, dir)
}
