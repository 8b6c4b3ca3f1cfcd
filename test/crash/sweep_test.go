// Package crash_test kills and fails banger at every outside effect of its operations,
// and holds it to its promises: nothing leaks, nothing is lost.
package crash_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/client"
	"banger/internal/effect"
	"banger/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	vmName = "victim"
	bystan = "bystander" // stopped, made before every fault: it must survive them all
)

// operation is one thing a user does, and how a state directory is prepared for it.
type operation struct {
	name    string
	running bool // the VM runs before it
	exists  bool // the VM exists before it
	do      func(context.Context, *client.Client) error
	// after checks what an acknowledged operation promised; vm is nil when there is none.
	after func(vm *api.VM) error
}

func spec(rm bool) api.VMSpec {
	return api.VMSpec{Name: vmName, Image: rig.Image, Kernel: rig.Kernel, VMM: "fake", DiskBytes: 64 << 20, RM: rm}
}

func wantState(states ...string) func(*api.VM) error {
	return func(vm *api.VM) error {
		if vm == nil || !slices.Contains(states, vm.State) {
			return fmt.Errorf("acknowledged, but the VM is %+v, want %v", vm, states)
		}
		return nil
	}
}

var operations = []operation{
	{name: "create", do: func(ctx context.Context, c *client.Client) error {
		_, err := c.CreateVM(ctx, spec(false))
		return err
	}, after: wantState(api.StateStopped)},
	{name: "start", exists: true, do: func(ctx context.Context, c *client.Client) error {
		_, err := c.StartVM(ctx, vmName, nil)
		return err
	}, after: wantState(api.StateRunning, api.StateFailed)}, // failed: its shim may be the victim
	{name: "stop", exists: true, running: true, do: func(ctx context.Context, c *client.Client) error {
		_, err := c.StopVM(ctx, vmName)
		return err
	}, after: wantState(api.StateStopped, api.StateFailed)},
	{name: "kill", exists: true, running: true, do: func(ctx context.Context, c *client.Client) error {
		_, err := c.KillVM(ctx, vmName)
		return err
	}, after: wantState(api.StateStopped, api.StateFailed)},
	{name: "delete", exists: true, running: true, do: func(ctx context.Context, c *client.Client) error {
		return c.DeleteVM(ctx, vmName, true)
	}, after: func(vm *api.VM) error {
		if vm != nil {
			return fmt.Errorf("deleted, but still there: %+v", vm)
		}
		return nil
	}},
	{name: "run", do: func(ctx context.Context, c *client.Client) error {
		result, err := c.Run(ctx, api.RunRequest{VM: spec(true), Exec: api.Exec{Argv: []string{"true"}}}, nil)
		if err != nil {
			return err
		}
		if _, err = c.Attach(ctx, result.Session, client.Streams{}); err != nil {
			return err
		}
		_, err = c.WaitVM(ctx, result.VM.ID, client.ForDeleted, 0)
		return err
	}, after: func(vm *api.VM) error {
		if vm != nil {
			return fmt.Errorf("run --rm ended, but the VM is still there: %+v", vm)
		}
		return nil
	}},
}

// TestKillAtEveryEffect is kill -9 of daemon and shim, before and after each effect of
// each operation, one at a time until none fires.
func TestKillAtEveryEffect(t *testing.T) { sweep(t, []string{"kill", "kill-after"}) }

// TestFullDiskAtEveryEffect lets each effect fail as on a full disk.
func TestFullDiskAtEveryEffect(t *testing.T) { sweep(t, []string{"fail=ENOSPC"}) }

func sweep(t *testing.T, actions []string) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			template := prepare(t, op)
			for _, role := range []string{"daemon", "shim"} {
				names := effects(t, template, op, role)
				if role == "daemon" && len(names) == 0 {
					t.Fatal("the operation has no effects")
				}
				for i, name := range names {
					if name == "" {
						continue
					}
					for _, action := range actions {
						label := fmt.Sprintf("%s/%s@%d-%s", role, action, i+1, name)
						t.Run(label, func(t *testing.T) { strike(t, template, op, role, action, i+1) })
					}
				}
			}
		})
	}
}

// prepare makes the state directory that every case of op begins with.
func prepare(t *testing.T, op operation) *rig.Rig {
	r := rig.New(t)
	r.Start("")
	r.PullImage()
	c := r.Client()
	// Once KVM was probed the answer is in the state directory, and no case pays for it.
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := spec(false)
	s.Name = bystan
	if _, err := c.CreateVM(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if op.exists {
		if _, err := c.CreateVM(t.Context(), spec(false)); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	r.Stop()
	return r
}

// startup begins the names of the daemon's own effects, the same before every operation.
var startup = []string{"state.", "daemon."}

// effects names the effects of role in a run of op without faults, in their order. The
// daemon's own start counts for "create"; for the others its names are empty.
func effects(t *testing.T, template *rig.Rig, op operation, role string) []string {
	r := template.Copy(t)
	log := filepath.Join(t.TempDir(), "effects")
	r.Start(begin(t, r, op, role+":log="+log))
	if err := op.do(t.Context(), r.Client()); err != nil {
		t.Fatalf("%s without faults: %v\n%s", op.name, err, r.Log())
	}
	b, err := os.ReadFile(log)
	if err != nil && role == "daemon" {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		_, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if op.name != "create" && slices.ContainsFunc(startup, func(p string) bool { return strings.HasPrefix(name, p) }) {
			name = ""
		}
		names = append(names, name)
	}
	return names
}

// begin brings the VM into the state that op begins with, and gives the faults for the
// daemon that then serves op. A shim's faults must be planned before it starts.
func begin(t *testing.T, r *rig.Rig, op operation, faults string) string {
	if !op.running {
		return faults
	}
	first := ""
	if strings.HasPrefix(faults, "shim:") {
		first = faults
	}
	r.Start(first)
	c := r.Client()
	defer c.Close()
	// A shim that is struck while it starts is the start operation's case.
	_, _ = c.StartVM(t.Context(), vmName, nil)
	r.Stop()
	if first != "" {
		return ""
	}
	return faults
}

// strike is one case: the fault, one reconcile, and what must hold then.
func strike(t *testing.T, template *rig.Rig, op operation, role, action string, at int) {
	r := template.Copy(t)
	faults := begin(t, r, op, fmt.Sprintf("%s:%s@%d", role, action, at))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	acknowledged := false
	if err := r.TryStart(faults); err == nil {
		c := r.Client()
		acknowledged = op.do(ctx, c) == nil
		c.Close()
	}
	if ctx.Err() != nil {
		t.Fatalf("the operation hangs\n%s", r.Log())
	}
	if strings.HasPrefix(action, "fail") && r.Alive() && afterFailure(t, r, op, acknowledged) {
		op.after = wantState(api.StateStopped)
	}
	r.Kill()
	r.Start("") // the one reconcile
	check(t, r, op, acknowledged)
	settled(t, r)
	usable(t, r)
	r.End()
}

// afterFailure holds a daemon that saw an effect fail to having undone what it began,
// or, where it was ending or removing something, to doing so when asked again; the VM
// is then made anew, which is the answer.
func afterFailure(t *testing.T, r *rig.Rig, op operation, acknowledged bool) (remade bool) {
	t.Helper()
	if !op.running && (op.name != "run" || acknowledged) {
		check(t, r, op, acknowledged)
		return false
	}
	c := r.Client()
	defer c.Close()
	if err := c.DeleteVM(t.Context(), vmName, true); err != nil && client.Code(err) != "not_found" {
		t.Errorf("delete after the failure: %v\n%s", err, r.Log())
	}
	if _, err := c.CreateVM(t.Context(), spec(false)); err != nil {
		t.Errorf("use the name after the failure: %v\n%s", err, r.Log())
	}
	return true
}

// check holds the daemon to what it said.
func check(t *testing.T, r *rig.Rig, op operation, acknowledged bool) {
	t.Helper()
	c := r.Client()
	defer c.Close()
	vms, err := c.VMs(t.Context())
	if err != nil {
		t.Fatalf("list: %v\n%s", err, r.Log())
	}
	var victim, bystander *api.VM
	for i, vm := range vms {
		switch vm.Name {
		case vmName:
			victim = &vms[i]
		case bystan:
			bystander = &vms[i]
		default:
			t.Errorf("unknown VM %+v", vm)
		}
		switch vm.State {
		case api.StateStopped, api.StateRunning, api.StateFailed:
		default:
			t.Errorf("VM %s stays %s", vm.Name, vm.State)
		}
	}
	if bystander == nil || bystander.State != api.StateStopped {
		t.Errorf("the bystander is %+v", bystander)
	}
	if op.exists && op.name != "delete" && victim == nil {
		t.Error("the VM is lost")
	}
	if acknowledged {
		if err := op.after(victim); err != nil {
			t.Errorf("%v\n%s", err, r.Log())
		}
	}
	checkHost(t, r, vms)
}

// checkHost compares processes and files with what the daemon lists.
func checkHost(t *testing.T, r *rig.Rig, vms []api.VM) {
	t.Helper()
	dirs := map[string]bool{}
	for _, vm := range vms {
		dirs[vm.ID] = true
		running := len(rig.Processes(filepath.Join(r.State, "vms", vm.ID))) > 0
		if running != (vm.State == api.StateRunning) {
			t.Errorf("VM %s is %s; processes: %v\n%s", vm.Name, vm.State, rig.Processes(vm.ID), r.Log())
		}
	}
	for _, path := range r.Files() {
		if strings.Contains(path, effect.TempPrefix) {
			t.Errorf("left: %s", path)
		}
		if rest, ok := strings.CutPrefix(path, "vms/"); ok {
			id, _, _ := strings.Cut(rest, "/")
			if !dirs[id] {
				t.Errorf("left: %s", path)
			}
			delete(dirs, "")
		}
	}
	for _, vm := range vms {
		if _, err := os.Stat(filepath.Join(r.State, "vms", vm.ID)); err != nil {
			t.Errorf("VM %s has no directory: %v", vm.Name, err)
		}
	}
}

// settled holds a second reconcile to changing nothing.
func settled(t *testing.T, r *rig.Rig) {
	t.Helper()
	r.Kill()
	log := filepath.Join(t.TempDir(), "effects")
	r.Start("daemon:log=" + log)
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{" vm.dir", " vm.kill", " store.vm", " image.dir", " kernel."} {
		if bytes.Contains(b, []byte(name)) {
			t.Errorf("a second reconcile changes something:\n%s", b)
		}
	}
}

// usable starts an existing victim, and makes one anew under the same name.
func usable(t *testing.T, r *rig.Rig) {
	t.Helper()
	c := r.Client()
	defer c.Close()
	if vm, err := c.VM(t.Context(), vmName); err == nil {
		if _, err := c.StartVM(t.Context(), vmName, nil); err != nil {
			t.Errorf("start again (%s): %v\n%s", vm.State, err, r.Log())
		}
		if err := c.DeleteVM(t.Context(), vmName, true); err != nil {
			t.Errorf("delete: %v\n%s", err, r.Log())
		}
	}
	if _, err := c.CreateVM(t.Context(), spec(false)); err != nil {
		t.Errorf("use the name again: %v\n%s", err, r.Log())
	}
}
