// Package vm owns the life of virtual machines: create, start, use, stop, delete, and
// what a crash left of them.
//
// Each operation commits one intent (the row's Op and State) before its first outside
// effect and one result after its last. Between the two, everything has names derived
// from the VM's id, so Reconcile finds whatever a crash left without a commit per step.
// Undo, delete and reconcile share the same idempotent removals.
package vm

import (
	"context"
	"os"
	"regexp"
	"time"

	"banger/api"
	"banger/internal/errs"
	"banger/internal/guestproto"
	"banger/internal/image"
	"banger/internal/kernelcat"
	"banger/internal/paths"
	"banger/internal/sandbox"
)

// Operations that may be under way on a VM; its intent.
const (
	OpNone   = ""
	OpCreate = "create"
	OpStart  = "start"
	OpStop   = "stop"
	OpDelete = "delete"
)

// Record is a VM's row.
type Record struct {
	ID          string
	Name        string
	State       string // api.State…
	Op          string // the intent, OpNone when nothing is under way
	ImageID     string
	Image       string // the image's name when the VM was made
	Kernel      string
	CPUs        int
	MemoryBytes int64
	DiskBytes   int64
	RM          bool
	Driver      string // as asked for: "auto", "qemu", …
	LastDriver  string // the one that runs or last ran it
	MachineID   string
	CreatedAt   time.Time
	StartedAt   *time.Time
	Run         int // counts starts
	Error       string
}

// Store keeps records. Each method is one transaction, durable when it returns.
type Store interface {
	InsertVM(ctx context.Context, r Record) error // AlreadyExists when the name is taken
	UpdateVM(ctx context.Context, r Record) error // NotFound
	DeleteVM(ctx context.Context, id string) error
	VM(ctx context.Context, nameOrID string) (Record, error) // NotFound
	VMs(ctx context.Context) ([]Record, error)
}

// Images finds images that VMs are made from.
type Images interface {
	Ensure(ctx context.Context, ref string, progress image.Progress) (image.Image, error)
	ByID(ctx context.Context, id string) (image.Image, error)
}

// Kernels finds kernels; "" is the default one.
type Kernels interface {
	Resolve(ctx context.Context, name string) (kernelcat.Kernel, error)
}

// Disks makes a VM's own disks in its run directory.
type Disks interface {
	Make(ctx context.Context, vm paths.VM, rootBytes int64, durable bool) error
}

// Monitors chooses what runs a VM.
type Monitors interface {
	// Choose turns what was asked for into a driver, its program and whether KVM is used.
	Choose(ctx context.Context, asked string) (Monitor, error)
}

// Monitor is a chosen driver.
type Monitor struct {
	Driver, Program string
	KVM             bool
}

// Shims starts shims.
type Shims interface {
	Launch(ctx context.Context, vm paths.VM, lock *os.File) error
}

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
var digitsOnly = regexp.MustCompile(`^[0-9]+$`)

func checkName(name string) error {
	if !nameRule.MatchString(name) || digitsOnly.MatchString(name) {
		return errs.Hint(errs.New(errs.Usage, "VM name %q: not a valid name", name),
			"1 to 63 of a-z, 0-9 and -, first and last a letter or digit, not digits only")
	}
	return nil
}

// wire is r for a client, with the pid that the run's own file names: it changes when
// the guest reboots.
func (s *Service) wire(r Record) api.VM {
	vm := api.VM{
		ID: r.ID, Name: r.Name, State: r.State, Image: r.Image, Kernel: r.Kernel, CPUs: r.CPUs,
		MemoryBytes: r.MemoryBytes, DiskBytes: r.DiskBytes, CreatedAt: r.CreatedAt, StartedAt: r.StartedAt,
		VMM: r.LastDriver, Ports: []api.Port{}, Error: r.Error, RM: r.RM,
	}
	if r.State == api.StateRunning {
		if h, err := sandbox.ReadHandles(s.Dirs.VM(r.ID)); err == nil && h.VMM != nil {
			vm.PID = h.VMM.PID
		}
	}
	return vm
}

func guestExec(e api.Exec, img image.Image) (guestproto.Exec, error) {
	out := guestproto.Exec{
		Argv: e.Argv, Env: e.Env, Dir: e.Dir, User: e.User, TTY: e.TTY, Rows: e.Rows, Cols: e.Cols,
	}
	if out.User == "" {
		out.User = img.Config.User
	}
	if out.Dir == "" && len(e.Argv) == 0 {
		out.Dir = img.Config.WorkDir
	}
	if len(out.Argv) > 0 {
		return out, nil
	}
	if e.TTY {
		out.Login = true
		return out, nil
	}
	out.Argv = append(append([]string{}, img.Config.Entrypoint...), img.Config.Cmd...)
	if len(out.Argv) == 0 {
		return out, errs.Hint(errs.New(errs.Usage, "image %q names no command", img.Name), "give one: banger run … -- CMD")
	}
	return out, nil
}
