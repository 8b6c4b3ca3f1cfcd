// Package shim runs one VM: it is the VMM's parent, reads its console, talks to the
// guest agent, and serves the VM's sessions. It outlives the daemon; when it dies, the
// VMM dies with it.
package shim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/guest"
	"banger/internal/guestproto"
	"banger/internal/paths"
	"banger/internal/procid"
	"banger/internal/sandbox"
	"banger/internal/vmm"
)

// killGrace is what a guest gets beyond its own grace before a stop becomes a kill.
const killGrace = 5 * time.Second

// Shim is one run of one VM.
type Shim struct {
	seam   *effect.Seam
	log    *slog.Logger
	vm     paths.VM
	spec   sandbox.Spec
	driver vmm.Driver
	lock   *os.File // held by every process of this VM

	console *boundedLog
	vmmLog  *boundedLog

	mu       sync.Mutex
	state    sandbox.State
	changed  chan struct{} // closed and replaced at each change of state
	machine  vmm.Machine
	control  *guest.Control
	end      string // how this run is being ended on request, "" when it is not
	endError string
	tickets  map[string]*ticket
	killed   chan struct{} // closed when the VMM must end now
}

// New prepares the run of spec. lock is the VM's lock, already held.
func New(seam *effect.Seam, log *slog.Logger, vm paths.VM, spec sandbox.Spec, driver vmm.Driver, lock *os.File) *Shim {
	return &Shim{
		seam: seam, log: log, vm: vm, spec: spec, driver: driver, lock: lock,
		console: newBoundedLog(seam, vm.Console()),
		vmmLog:  newBoundedLog(seam, vm.VMMLog()),
		state:   sandbox.State{Phase: sandbox.PhaseStarting, Timings: sandbox.Timings{Shim: time.Now()}},
		changed: make(chan struct{}),
		tickets: map[string]*ticket{},
		killed:  make(chan struct{}),
	}
}

// Run starts the VM and returns when it has ended, with outcome.json written. A guest
// that reboots is started again.
func (s *Shim) Run(ctx context.Context) error {
	outcome := sandbox.Outcome{How: sandbox.EndBoot}
	self, err := procid.Self()
	if err == nil {
		err = sandbox.WriteHandles(ctx, s.seam, s.vm, sandbox.Handles{Shim: self})
	}
	for err == nil {
		var again bool
		outcome, again, err = s.runOnce(ctx, self)
		if !again {
			break
		}
		s.log.Info("the guest rebooted")
	}
	if err != nil {
		outcome.Error = err.Error()
	}
	outcome.At = time.Now()
	writeErr := sandbox.WriteOutcome(context.WithoutCancel(ctx), s.seam, s.vm, outcome)
	s.update(func(st *sandbox.State) {
		st.Phase, st.PID, st.Outcome = sandbox.PhaseEnded, 0, &outcome
		if err != nil {
			st.Error = sandbox.ErrorOf(err)
		}
	})
	return errors.Join(writeErr, s.console.Close(), s.vmmLog.Close())
}

// runOnce is one life of the VMM process, from its start to its end.
func (s *Shim) runOnce(ctx context.Context, self procid.ID) (o sandbox.Outcome, reboot bool, err error) {
	machine, closeOutputs, err := s.startMachine(ctx)
	if err != nil {
		return sandbox.Outcome{How: sandbox.EndBoot}, false, fmt.Errorf("start the VMM: %w", err)
	}
	defer func() { err = errors.Join(err, machine.Close()) }()
	id := machine.Process()
	if err := sandbox.WriteHandles(ctx, s.seam, s.vm, sandbox.Handles{Shim: self, VMM: &id}); err != nil {
		return sandbox.Outcome{How: sandbox.EndBoot}, false, errors.Join(err, machine.Kill(context.WithoutCancel(ctx)))
	}
	s.update(func(st *sandbox.State) { st.PID, st.Timings.VMM = id.PID, time.Now() })
	s.mu.Lock()
	s.machine = machine
	s.mu.Unlock()

	bootErr := s.boot(ctx, machine)
	if bootErr != nil {
		err = machine.Kill(context.WithoutCancel(ctx))
	} else {
		err = s.awaitEnd(ctx, machine)
	}
	if err != nil { // this process ends next, and the kernel ends the VMM with it
		return sandbox.Outcome{How: sandbox.EndKilled}, false, errors.Join(bootErr, fmt.Errorf("kill the VMM: %w", err))
	}
	closeOutputs()
	return s.judge(machine, bootErr)
}

// awaitEnd returns when the machine has ended, and ends it when that is asked for.
func (s *Shim) awaitEnd(ctx context.Context, machine vmm.Machine) error {
	select {
	case <-machine.Done():
		return nil
	case <-s.killed:
		return machine.Kill(context.WithoutCancel(ctx))
	}
}

// startMachine starts the VMM with its console and log going to the bounded files.
func (s *Shim) startMachine(ctx context.Context) (vmm.Machine, func(), error) {
	console, closeConsole, err := s.console.Pipe(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer console.Close()
	log, closeLog, err := s.vmmLog.Pipe(ctx)
	if err != nil {
		closeConsole()
		return nil, nil, err
	}
	defer log.Close()
	disks := []vmm.Disk{
		{Path: s.spec.Base, ReadOnly: true},
		{Path: s.vm.Upper(), Durable: !s.spec.Ephemeral},
		{Path: s.vm.Work(), Durable: !s.spec.Ephemeral},
	}
	machine, err := s.driver.Start(ctx, vmm.Spec{
		Kernel: s.spec.Kernel, Initrd: s.spec.Initrd,
		CPUs: s.spec.CPUs, MemoryBytes: s.spec.MemoryBytes,
		Disks: disks, Console: console, Log: log, Inherit: []*os.File{s.lock},
	})
	if err != nil {
		// The pipes' readers end when the last writer is closed, which is ours.
		_ = console.Close()
		_ = log.Close()
		closeConsole()
		closeLog()
		return nil, nil, err
	}
	return machine, func() { closeConsole(); closeLog() }, nil
}

// boot waits for the guest's agent and configures it.
func (s *Shim) boot(ctx context.Context, machine vmm.Machine) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.spec.BootTimeout,
		errs.New(errs.Timeout, "the guest was not ready within %s", s.spec.BootTimeout))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-machine.Done():
			stop(errs.New(errs.Unavailable, "the VMM ended (%s) before the guest was ready", machine.Exit()))
		case <-s.killed:
			stop(errs.New(errs.Cancelled, "the VM was killed while it started"))
		case <-ctx.Done():
		}
	}()
	seed := make([]byte, 32)
	if _, err := rand.Read(seed); err != nil {
		return err
	}
	work := "/dev/vdc"
	control, ready, err := guest.Boot(ctx, machine, guestproto.BootConfig{
		Version: guestproto.Version, Hostname: s.spec.Name, MachineID: s.spec.MachineID,
		ClockNS: time.Now().UnixNano(), Base: "/dev/vda", Upper: "/dev/vdb", Work: work,
		Env: s.spec.Env, Seed: seed,
	}, s.hello)
	if err != nil {
		var told *guest.BootError
		if errs.Is(err, errs.Unavailable) && !errors.As(err, &told) {
			// The channel has ended; if the VMM did, how that ended tells more.
			select {
			case <-ctx.Done():
			case <-time.After(drainGrace):
			}
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	s.mu.Lock()
	s.control = control
	s.mu.Unlock()
	s.update(func(st *sandbox.State) {
		st.Phase, st.Timings.Ready, st.Stages = sandbox.PhaseRunning, time.Now(), ready.Stages
	})
	return nil
}

func (s *Shim) hello(h guestproto.Hello) {
	s.update(func(st *sandbox.State) {
		st.Timings.Hello, st.Timings.KernelBoot = time.Now(), time.Duration(h.MainNS)
	})
}

// judge tells how the run ended. The VMM's exit status proves nothing, so what counts
// is, in this order: what was asked for, what the guest announced, and silence.
func (s *Shim) judge(machine vmm.Machine, bootErr error) (sandbox.Outcome, bool, error) {
	s.mu.Lock()
	control, end, endError := s.control, s.end, s.endError
	s.control, s.machine = nil, nil
	s.mu.Unlock()
	verb := ""
	if control != nil {
		verb = control.Ending()
		_ = control.Close()
	}
	switch {
	case end == sandbox.EndKilled || end == sandbox.EndHang:
		return sandbox.Outcome{How: end, Error: endError}, false, nil
	case bootErr != nil:
		return sandbox.Outcome{How: sandbox.EndBoot}, false, s.explainBoot(bootErr)
	case verb == guestproto.VerbReboot && end == "":
		s.update(func(st *sandbox.State) { st.Phase = sandbox.PhaseStarting })
		return sandbox.Outcome{}, true, nil
	case verb != "":
		return sandbox.Outcome{How: sandbox.EndClean}, false, nil
	}
	// Guest's root can forge the console's text, which only mislabels its own end.
	if s.console.Has(panicText) {
		return sandbox.Outcome{How: sandbox.EndPanic}, false,
			errs.New(errs.Unavailable, "the guest's kernel panicked%s", s.lastWords())
	}
	return sandbox.Outcome{How: sandbox.EndVanished}, false,
		errs.New(errs.Unavailable, "the guest ended without a word (VMM: %s)%s", machine.Exit(), s.lastWords())
}

const panicText = "Kernel panic - not syncing"

// explainBoot says at which stage a boot ended, with the last lines of output.
func (s *Shim) explainBoot(err error) error {
	stage := "before the kernel reached the agent"
	if s.State().Timings.Hello.After(s.State().Timings.VMM) {
		stage = "after the agent's first word"
	}
	return fmt.Errorf("boot ended %s: %w%s", stage, err, s.lastWords())
}

func (s *Shim) lastWords() string {
	words := ""
	if t := s.console.Tail(); t != "" {
		words += "\nlast lines of the console:\n" + t
	}
	if t := s.vmmLog.Tail(); t != "" {
		words += "\nlast lines of the VMM:\n" + t
	}
	return words
}

// State is a copy of the state now.
func (s *Shim) State() sandbox.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *Shim) update(change func(*sandbox.State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
	close(s.changed)
	s.changed = make(chan struct{})
}

var phaseOrder = map[string]int{sandbox.PhaseStarting: 0, sandbox.PhaseRunning: 1, sandbox.PhaseEnded: 2}

// waitFor blocks until the run has reached phase or a later one.
func (s *Shim) waitFor(ctx context.Context, phase string) (sandbox.State, error) {
	for {
		s.mu.Lock()
		state, changed := s.state, s.changed
		s.mu.Unlock()
		if phaseOrder[state.Phase] >= phaseOrder[phase] {
			return state, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return state, context.Cause(ctx)
		}
	}
}
