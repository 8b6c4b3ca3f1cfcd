package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/errs"
	"banger/internal/procid"
	"banger/internal/sandbox"
)

// Stop asks the guest to end and returns when the VM is stopped; a guest that hangs is
// killed. Stopping a VM that does not run is no error. Once begun it goes on without
// the caller.
func (s *Service) Stop(ctx context.Context, name string) (api.VM, error) {
	return s.halt(ctx, name, func(ctx context.Context, c *sandbox.Client) error {
		_, err := c.Stop(ctx)
		return err
	})
}

// Kill ends the VM at once, as if its power was cut.
func (s *Service) Kill(ctx context.Context, name string) (api.VM, error) {
	return s.halt(ctx, name, func(ctx context.Context, c *sandbox.Client) error {
		_, err := c.Kill(ctx)
		return err
	})
}

func (s *Service) halt(ctx context.Context, name string, ask func(context.Context, *sandbox.Client) error) (api.VM, error) {
	r, unlock, err := s.acquire(ctx, name)
	if err != nil {
		return api.VM{}, err
	}
	defer unlock()
	if r.State != api.StateRunning && r.Op != OpStop { // OpStop: an earlier one did not reach its end
		return s.wire(r), nil
	}
	ctx = context.WithoutCancel(ctx)
	r.State, r.Op = api.StateStopping, OpStop
	if err := s.save(ctx, r); err != nil {
		return s.wire(r), err
	}
	if err := ask(ctx, sandbox.Connect(s.Dirs.VM(r.ID))); err != nil {
		s.Log.Warn("ask the shim to end its VM", "vm", r.ID, "error", err)
	}
	r, err = s.settle(ctx, r)
	return s.wire(r), err
}

// settle ends whatever processes a held VM still has, and records how its run ended. A
// VM that was to be deleted when it stops is. After a failure the record says so and
// keeps its intent: Stop, Delete and Reconcile take it up again.
func (s *Service) settle(ctx context.Context, r Record) (Record, error) {
	if r.RM {
		return r, s.remove(ctx, r)
	}
	settled, err := s.recordEnd(ctx, r)
	if err != nil {
		r.State, r.Op, r.Error = api.StateFailed, OpStop, err.Error()
		return r, errors.Join(fmt.Errorf("end VM %q: %w", r.Name, err), s.save(ctx, r))
	}
	return settled, nil
}

func (s *Service) recordEnd(ctx context.Context, r Record) (Record, error) {
	if err := s.endProcesses(ctx, r); err != nil {
		return r, err
	}
	if err := sandbox.ClearTemps(ctx, s.Seam, s.Dirs.VM(r.ID)); err != nil {
		return r, err
	}
	outcome, err := sandbox.ReadOutcome(s.Dirs.VM(r.ID))
	if err != nil {
		return r, err
	}
	r.State, r.Op, r.StartedAt, r.Error = api.StateStopped, OpNone, nil, outcome.Error
	if outcome.Failed() {
		r.State = api.StateFailed
	}
	return r, s.save(ctx, r)
}

const (
	endGrace  = 2 * time.Second        // for a shim that has answered "ended" to exit by itself
	killGrace = 200 * time.Millisecond // for a killed one, before it is looked for again
	endLimit  = 15 * time.Second
)

// endProcesses returns when no process of the VM is left: it waits for a run that has
// ended, and kills the shim of one that has not. The VM's lock tells: every process of
// the VM holds it for its life.
func (s *Service) endProcesses(ctx context.Context, r Record) error {
	dir := s.Dirs.VM(r.ID)
	deadline := time.Now().Add(endLimit)
	var grace time.Duration
	if _, err := os.Stat(dir.Outcome()); err == nil {
		grace = endGrace
	}
	for {
		lock, err := s.Seam.WaitLock(ctx, "vm.lock", dir.Lock(), grace)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // no run directory: nothing ever ran
		case err != nil:
			return err
		case lock != nil:
			return lock.Close()
		case time.Now().After(deadline):
			return errs.New(errs.Busy, "a process of VM %q does not end", r.Name)
		}
		if err := s.killShim(ctx, r); err != nil {
			return err
		}
		grace = killGrace
	}
}

// killShim kills the shim, and so the VMM. A shim so young that it has not written its
// handles yet is found by the next try.
func (s *Service) killShim(ctx context.Context, r Record) error {
	handles, err := sandbox.ReadHandles(s.Dirs.VM(r.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ids := []procid.ID{handles.Shim}
	if handles.VMM != nil {
		ids = append(ids, *handles.VMM)
	}
	for _, id := range ids {
		pidfd, err := id.Open()
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		err = s.Seam.SignalPidfd(ctx, "vm.kill", int(pidfd.Fd()), unix.SIGKILL)
		if err = errors.Join(err, pidfd.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes a VM and its disks. A VM that runs is Precondition unless force.
// Deleting goes on without the caller; after a failure the VM remains, failed, and
// Delete can be repeated.
func (s *Service) Delete(ctx context.Context, name string, force bool) error {
	r, unlock, err := s.acquire(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if r.State == api.StateRunning && !force {
		return errs.Hint(errs.New(errs.Precondition, "VM %q is running", r.Name),
			"stop it first: banger vm stop %s, or delete it with --force", r.Name)
	}
	return s.remove(context.WithoutCancel(ctx), r)
}

// remove deletes a held VM, whatever state it is in: the intent, its processes, its
// directory, the row. It is idempotent, and what undo, delete and reconcile share.
func (s *Service) remove(ctx context.Context, r Record) error {
	r.State, r.Op = api.StateStopping, OpDelete
	if err := s.save(ctx, r); err != nil {
		if errs.Is(err, errs.NotFound) {
			return nil
		}
		// A disk too full to take the intent is what deleting is for: go on without it.
		// The row is still there, so whatever a crash leaves now is found through it.
		if !errs.Is(err, errs.Exhausted) {
			return err
		}
	}
	err := s.removeParts(ctx, r)
	if err == nil {
		s.notify()
		return nil
	}
	r.State, r.Error = api.StateFailed, err.Error()
	return errors.Join(fmt.Errorf("delete VM %q: %w", r.Name, err), s.save(ctx, r))
}

func (s *Service) removeParts(ctx context.Context, r Record) error {
	if err := s.endProcesses(ctx, r); err != nil {
		return err // the disks of something alive stay
	}
	if err := s.Seam.RemoveAll(ctx, "vm.dir.remove", s.Dirs.VM(r.ID).Dir); err != nil {
		return err
	}
	return s.Store.DeleteVM(ctx, r.ID)
}
