package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"banger/api"
	"banger/internal/errs"
	"banger/internal/image"
	"banger/internal/rollback"
	"banger/internal/sandbox"
)

// Start starts a stopped or failed VM and returns when its agent answers; starting one
// that runs is no error. An error, and a cancelled ctx, leave no process of the VM.
func (s *Service) Start(ctx context.Context, name string) (api.StartResult, error) {
	r, unlock, err := s.acquire(ctx, name)
	if err != nil {
		return api.StartResult{}, err
	}
	defer unlock()
	t := newTrace()
	if r.State == api.StateRunning {
		return api.StartResult{VM: s.wire(r), Trace: []api.Span{}}, nil
	}
	r, err = s.start(ctx, r, false, t)
	return api.StartResult{VM: s.wire(r), Trace: t.spans}, err
}

// Run makes, starts and enters a VM. The VM ends with its session unless KeepRunning,
// also when the caller or the daemon is gone by then: the shim sees to it. An error
// leaves nothing.
func (s *Service) Run(ctx context.Context, req api.RunRequest, progress image.Progress) (api.RunResult, error) {
	t := newTrace()
	r, unlock, err := s.create(ctx, req.VM, progress, t)
	if err != nil {
		return api.RunResult{}, err
	}
	defer unlock()
	var undo rollback.Stack
	undo.Add("VM "+r.Name, func(ctx context.Context) error { return s.remove(ctx, r) })
	session, err := s.enter(ctx, &r, req, t)
	if err != nil {
		return api.RunResult{}, rolledBack(err, undo.Run(ctx))
	}
	return api.RunResult{VM: s.wire(r), Session: session, Trace: t.spans}, nil
}

func (s *Service) enter(ctx context.Context, r *Record, req api.RunRequest, t *trace) (api.Session, error) {
	started, err := s.start(ctx, *r, !req.KeepRunning, t)
	*r = started
	if err != nil {
		return api.Session{}, err
	}
	return s.ticket(ctx, *r, req.Exec, true)
}

// start runs a held VM. After an error the record says failed, or stopped when it was
// the caller who gave up.
func (s *Service) start(ctx context.Context, r Record, endWithSession bool, t *trace) (Record, error) {
	done := t.begin("prepare")
	spec, err := s.runSpec(ctx, &r, endWithSession)
	if err != nil {
		return r, fmt.Errorf("start VM %q: %w", r.Name, err)
	}
	r.State, r.Op, r.Error, r.StartedAt = api.StateStarting, OpStart, "", nil
	r.Run++
	if err := s.save(ctx, r); err != nil {
		return r, err
	}
	done()
	launched := time.Now()
	state, err := s.launch(ctx, r, spec)
	if err != nil {
		return s.startFailed(ctx, r, err)
	}
	now := time.Now().UTC()
	r.State, r.Op, r.StartedAt = api.StateRunning, OpNone, &now
	if err := s.save(ctx, r); err != nil {
		return s.startFailed(ctx, r, err)
	}
	t.addBoot(launched, state.Timings)
	s.watch(r)
	return r, nil
}

func (s *Service) runSpec(ctx context.Context, r *Record, endWithSession bool) (sandbox.Spec, error) {
	img, err := s.Images.ByID(ctx, r.ImageID)
	if err != nil {
		return sandbox.Spec{}, err
	}
	kernel, err := s.Kernels.Resolve(ctx, r.Kernel)
	if err != nil {
		return sandbox.Spec{}, err
	}
	initrd, err := s.Initramfs(ctx)
	if err != nil {
		return sandbox.Spec{}, err
	}
	monitor, err := s.Monitors.Choose(ctx, r.Driver)
	if err != nil {
		return sandbox.Spec{}, err
	}
	r.LastDriver = monitor.Driver
	return sandbox.Spec{
		ID: r.ID, Name: r.Name, Driver: monitor.Driver, Program: monitor.Program, KVM: monitor.KVM,
		Kernel: kernel.Path, Initrd: initrd, Base: img.RootfsPath, CPUs: r.CPUs, MemoryBytes: r.MemoryBytes,
		MachineID: r.MachineID, Env: img.Config.Env, BootTimeout: bootTimeout, StopGrace: stopGrace,
		Ephemeral: r.RM, EndWithSession: endWithSession,
	}, nil
}

// launch starts the shim and waits until the guest is ready. After an error the shim
// may still run.
func (s *Service) launch(ctx context.Context, r Record, spec sandbox.Spec) (sandbox.State, error) {
	dir := s.Dirs.VM(r.ID)
	lock, err := s.Seam.TryLock(ctx, "vm.lock", dir.Lock())
	if err != nil {
		return sandbox.State{}, err
	}
	if lock == nil {
		return sandbox.State{}, errs.New(errs.Busy, "a process of an earlier run is still there")
	}
	// The shim holds the lock from its start; this copy must not outlive it.
	err = errors.Join(s.launchLocked(ctx, r, spec, lock), lock.Close())
	if err != nil {
		return sandbox.State{}, err
	}
	state, err := sandbox.Connect(dir).State(ctx, sandbox.PhaseRunning)
	if err != nil {
		return state, err
	}
	if state.Phase == sandbox.PhaseEnded {
		if state.Error != nil {
			return state, state.Error.Err()
		}
		return state, errs.New(errs.Unavailable, "the VM ended as soon as it ran")
	}
	return state, nil
}

func (s *Service) launchLocked(ctx context.Context, r Record, spec sandbox.Spec, lock *os.File) error {
	dir := s.Dirs.VM(r.ID)
	if err := sandbox.NewRun(ctx, s.Seam, dir); err != nil {
		return err
	}
	if err := sandbox.WriteSpec(ctx, s.Seam, dir, spec); err != nil {
		return err
	}
	return s.Shims.Launch(ctx, dir, lock)
}

func (s *Service) startFailed(ctx context.Context, r Record, cause error) (Record, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollback.Limit)
	defer cancel()
	endErr := s.endProcesses(ctx, r)
	r.State = api.StateFailed
	if errs.Is(cause, errs.Cancelled) {
		r.State = api.StateStopped
	} else {
		r.Error = cause.Error()
	}
	if endErr == nil {
		r.Op = OpNone
	}
	err := rolledBack(fmt.Errorf("start VM %q: %w", r.Name, cause), endErr)
	return r, rolledBack(err, s.save(ctx, r))
}
