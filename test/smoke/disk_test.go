package smoke_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/test/smoke/host"
)

// insideEnv tells a test binary that it runs in a mount namespace of its own.
const insideEnv = "BANGER_TEST_INSIDE"

// inside runs the test that calls it once more, in mount and user namespaces of its own,
// and is true there.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), insideEnv+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Skipf("no namespaces: %v", err)
	case err != nil:
		t.Errorf("%v", err)
	}
	t.Logf("%s", out)
	if err == nil && !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Skip("skipped inside")
	}
	return false
}

// smallDisk is a host whose state directory is on a disk of its own.
type smallDisk struct{ *host.Host }

func newSmallDisk(t *testing.T, megabytes int) smallDisk {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes)); err != nil {
		t.Fatal(err)
	}
	d := smallDisk{host.At(t, dir)}
	t.Cleanup(func() {
		d.drain()
		d.End()
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d smallDisk) resize(megabytes int) {
	d.Helper()
	if err := unix.Mount("", d.Dir, "", unix.MS_REMOUNT, fmt.Sprintf("size=%dm", megabytes)); err != nil {
		d.Fatal(err)
	}
}

// fill leaves no byte.
func (d smallDisk) fill() {
	d.Helper()
	for i := 0; d.free() > 0; i++ {
		f, err := os.Create(filepath.Join(d.Dir, fmt.Sprintf("ballast%d", i)))
		if err != nil {
			d.Fatal(err)
		}
		if _, err := io.Copy(f, zeros{}); !errors.Is(err, syscall.ENOSPC) {
			d.Fatal(err)
		}
		_ = f.Close()
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (d smallDisk) drain() {
	d.Helper()
	ballast, err := filepath.Glob(filepath.Join(d.Dir, "ballast*"))
	for _, path := range ballast {
		err = errors.Join(err, os.Remove(path))
	}
	if err != nil {
		d.Error(err)
	}
}

func (d smallDisk) free() uint64 {
	d.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(d.Dir, &fs); err != nil {
		d.Fatal(err)
	}
	return fs.Bfree
}

// exhausted holds a command to failing for lack of space, with words and in JSON.
func (d smallDisk) exhausted(code int, args ...string) {
	d.Helper()
	if r := d.Want(code, args...); !strings.Contains(r.Err, d.State+"/") || !strings.Contains(r.Err, "full") && !strings.Contains(r.Err, "no space left") {
		d.Errorf("banger %v: %v", args, r)
	}
	withJSON := args // flags stand before the command of the guest
	for i, arg := range args {
		if arg == "--" {
			withJSON = append(append(append([]string{}, args[:i]...), "--json"), args[i:]...)
			break
		}
		if i == len(args)-1 {
			withJSON = append(append([]string{}, args...), "--json")
		}
	}
	r := d.Want(code, withJSON...)
	var e api.ErrorBody
	if err := json.Unmarshal([]byte(r.Err), &e); err != nil || e.Error.Code != "exhausted" {
		d.Errorf("banger %v: %v", withJSON, r)
	}
}

func (d smallDisk) left(what, under string) {
	d.Helper()
	if left, err := os.ReadDir(filepath.Join(d.State, under)); err != nil || len(left) > 0 {
		d.Errorf("%s left %v (%v)", what, left, err)
	}
}

// A full disk is told as such, leaves nothing half-made, and keeps nobody from looking
// and making room.
func TestFullDisk(t *testing.T) {
	bin, oci := host.Bin(t), host.OCI(t)
	t.Logf("programs in %s", bin)
	if !inside(t) {
		return
	}
	ref := bareImage(t)
	d := newSmallDisk(t, 64)

	// It fills while an image is pulled.
	d.exhausted(1, "image", "pull", oci, "--name", host.Image)
	d.left("the pull", "images")
	if r := d.Want(0, "image", "list", "--json"); strings.TrimSpace(r.Out) != "[]" {
		t.Errorf("images: %v", r)
	}

	// It is full when a VM is to be made, and one that is there to be removed.
	d.resize(128)
	d.Want(0, "image", "pull", ref, "--name", "bare")
	d.Want(5, "run", "--rm", "--image", "bare")
	d.Want(0, "vm", "create", "one", "--image", "bare")
	d.Want(0, "vm", "create", "two", "--image", "bare")
	before := d.free()
	d.fill()
	d.exhausted(125, "run", "--rm", "--image", "bare", "--", "/tool")
	d.exhausted(1, "vm", "create", "three", "--image", "bare")
	if vms := d.VMs(); len(vms) != 2 {
		t.Errorf("VMs: %+v", vms)
	}
	d.Want(0, "vm", "delete", "--yes", "one")
	d.fill()

	// The daemon starts on it, too.
	d.StopDaemon()
	d.fill()
	d.InState("two", api.StateStopped)
	d.Want(0, "vm", "delete", "--yes", "two")
	d.fill()
	d.Want(0, "image", "delete", "--yes", "bare")
	d.left("deleting", "vms")
	d.left("deleting", "images")

	// With room again, all is as before.
	d.drain()
	d.StopDaemon()
	d.Want(0, "image", "pull", ref, "--name", "bare")
	d.Want(5, "run", "--rm", "--image", "bare")
	d.left("run --rm", "vms")
	if after := d.free(); after < before {
		t.Errorf("%d blocks free, %d before", after, before)
	}
}

// A guest that writes more than the host has room for sees an error; it does not stand
// still for ever, and what it synced before is kept.
func TestDiskFillsUnderAGuest(t *testing.T) {
	host.Bin(t)
	if !inside(t) {
		return
	}
	ref := bareImage(t)
	d := newSmallDisk(t, 160)
	d.Want(0, "image", "pull", ref, "--name", "bare")
	r := d.Want(4, "run", "--name", "greedy", "--image", "bare", "--memory", "256M", "--", "/tool", "fill", "/root/big", "512")
	contains(t, "the guest", r.Out, "synced 1\n", "input/output error")
	synced := int64(strings.Count(r.Out, "synced "))
	if vm := d.VM("greedy"); vm.State == api.StateRunning {
		t.Errorf("it runs: %+v", vm)
	}
	d.resize(320)
	d.Want(0, "vm", "start", "greedy")
	r = d.Want(0, "exec", "greedy", "--", "/tool", "size", "/root/big")
	var size int64
	if _, err := fmt.Sscanf(r.Out, "static 2\n%d", &size); err != nil || size < synced<<20 {
		t.Errorf("%d MiB were synced, and then the file has %d bytes (%v)", synced, size, err)
	}
	d.Want(0, "vm", "delete", "--force", "greedy")
}
