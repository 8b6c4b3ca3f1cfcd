// Package sandbox is what daemon and shim share about one VM: the files of its run
// directory, and the requests on the shim's socket.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/guestproto"
	"banger/internal/paths"
	"banger/internal/procid"
)

// Spec is vm.json: what the shim starts. The daemon writes it before each start.
type Spec struct {
	ID          string        `json:"id"`
	Name        string        `json:"name"`
	Driver      string        `json:"driver"`
	Program     string        `json:"program"` // the VMM; "": found on PATH
	KVM         bool          `json:"kvm"`
	Kernel      string        `json:"kernel"`
	Initrd      string        `json:"initrd"`
	Base        string        `json:"base"`
	CPUs        int           `json:"cpus"`
	MemoryBytes int64         `json:"memory_bytes"`
	MachineID   string        `json:"machine_id"`
	Env         []string      `json:"env"`
	BootTimeout time.Duration `json:"boot_timeout"`
	StopGrace   time.Duration `json:"stop_grace"`
	// Ephemeral VMs are deleted when they stop: their disks need not survive, and
	// ending them needs no clean shutdown.
	Ephemeral bool `json:"ephemeral"`
	// EndWithSession stops the VM when the session of its first ticket ends, or when
	// nobody used that ticket in time.
	EndWithSession bool `json:"end_with_session"`
}

// Handles is handles.json: the processes of one run. It is on disk before anything
// else learns of them.
type Handles struct {
	Shim procid.ID  `json:"shim"`
	VMM  *procid.ID `json:"vmm,omitempty"`
}

// How a run ended.
const (
	EndClean    = "clean"    // the guest said so
	EndKilled   = "killed"   // on request
	EndHang     = "hang"     // it was asked to stop, did not in time, and was killed
	EndPanic    = "panic"    // the guest's kernel says on the console that it panicked
	EndVanished = "vanished" // the VMM ended without a word from the guest
	EndBoot     = "boot"     // it never became ready
	EndShim     = "shim"     // the shim died, and the VMM with it
	EndHost     = "host"     // the host went down
)

// Outcome is outcome.json: how a run ended.
type Outcome struct {
	How   string    `json:"how"`
	Error string    `json:"error,omitempty"` // for a person; empty when nothing went wrong
	At    time.Time `json:"at"`
}

// Failed tells whether the VM failed, as against stopped.
func (o Outcome) Failed() bool {
	return o.How == EndPanic || o.How == EndVanished || o.How == EndBoot || o.How == EndShim
}

// Phases of a run, in their order.
const (
	PhaseStarting = "starting"
	PhaseRunning  = "running"
	PhaseEnded    = "ended"
)

// State is the answer of a shim about its run.
type State struct {
	Phase   string             `json:"phase"`
	PID     int                `json:"pid"` // the VMM's, 0 when there is none
	Error   *ErrorBody         `json:"error,omitempty"`
	Timings Timings            `json:"timings"`
	Outcome *Outcome           `json:"outcome,omitempty"`
	Stages  []guestproto.Stage `json:"stages,omitempty"`
}

// Timings are wall-clock points of the start.
type Timings struct {
	Shim       time.Time     `json:"shim"`  // the shim's main began
	VMM        time.Time     `json:"vmm"`   // the VMM process runs
	Hello      time.Time     `json:"hello"` // the guest's first word arrived
	Ready      time.Time     `json:"ready"`
	KernelBoot time.Duration `json:"kernel_boot"` // guest clock when the agent's main began
}

// TicketRequest asks for a one-time right to run a command.
type TicketRequest struct {
	ID   string          `json:"id"`
	Exec guestproto.Exec `json:"exec"`
	// Final marks the session that EndWithSession waits for.
	Final bool `json:"final"`
}

// Ticket is that right.
type Ticket struct {
	Ticket string `json:"ticket"`
}

// TicketTTL is how long a ticket can be used.
const TicketTTL = 30 * time.Second

// ErrorBody is an error on the shim's socket, with its class.
type ErrorBody struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// ErrorOf is the wire form of err.
func ErrorOf(err error) *ErrorBody {
	return &ErrorBody{errs.ClassOf(err).Code(), err.Error(), errs.HintOf(err)}
}

// Err is the error again.
func (e *ErrorBody) Err() error {
	err := errs.New(errs.FromCode(e.Code), "%s", e.Message)
	if e.Hint != "" {
		err = errs.Hint(err, "%s", e.Hint)
	}
	return err
}

// WriteSpec publishes vm.json.
func WriteSpec(ctx context.Context, seam *effect.Seam, vm paths.VM, s Spec) error {
	return publish(ctx, seam, "vm.spec", vm.Spec(), s)
}

// WriteHandles publishes handles.json.
func WriteHandles(ctx context.Context, seam *effect.Seam, vm paths.VM, h Handles) error {
	return publish(ctx, seam, "vm.handles", vm.Handles(), h)
}

// WriteOutcome publishes outcome.json.
func WriteOutcome(ctx context.Context, seam *effect.Seam, vm paths.VM, o Outcome) error {
	return publish(ctx, seam, "vm.outcome", vm.Outcome(), o)
}

func publish(ctx context.Context, seam *effect.Seam, name, path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return seam.PublishBytes(ctx, name, path, 0o600, b)
}

// ReadSpec reads vm.json.
func ReadSpec(vm paths.VM) (s Spec, err error) { return s, read(vm.Spec(), &s) }

// ReadHandles reads handles.json; NotFound when this run has written none.
func ReadHandles(vm paths.VM) (h Handles, err error) { return h, read(vm.Handles(), &h) }

// ReadOutcome tells how the run ended. One that left no outcome.json ended with its
// shim, or with the host.
func ReadOutcome(vm paths.VM) (Outcome, error) {
	var o Outcome
	err := read(vm.Outcome(), &o)
	if !errors.Is(err, fs.ErrNotExist) {
		return o, err
	}
	boot, err := procid.BootID()
	if err != nil {
		return o, err
	}
	if h, err := ReadHandles(vm); err == nil && h.Shim.BootID != boot {
		return Outcome{How: EndHost, Error: "the host went down"}, nil
	}
	return Outcome{How: EndShim, Error: "the VM's shim died, and the VM with it"}, nil
}

func read(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return errs.New(errs.InvalidData, "read %s: %w", path, err)
	}
	return nil
}

// NewRun removes what the previous run left in the run directory, so that no reader
// takes it for the coming run's. No process of the VM may be left.
func NewRun(ctx context.Context, seam *effect.Seam, vm paths.VM) error {
	if err := ClearTemps(ctx, seam, vm); err != nil {
		return err
	}
	for _, path := range []string{vm.Handles(), vm.Outcome()} {
		if err := seam.Remove(ctx, "vm.run.clear", path); err != nil {
			return fmt.Errorf("clear %s: %w", path, err)
		}
	}
	return nil
}

// ClearTemps removes what crashes left unpublished in the run directory. No process of
// the VM may be left.
func ClearTemps(ctx context.Context, seam *effect.Seam, vm paths.VM) error {
	return seam.ClearTemps(ctx, "vm.temp.clear", vm.Dir)
}
