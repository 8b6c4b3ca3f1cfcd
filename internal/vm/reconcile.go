package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"banger/api"
	"banger/internal/errs"
	"banger/internal/sandbox"
)

// Reconcile makes records and host agree after the daemon was away, however it ended.
// What was acknowledged stays: VMs that run are adopted, VMs that ended meanwhile are
// recorded as they ended. What was not acknowledged is undone: half-made VMs are
// removed, half-started ones ended. Then everything under the VM directory that no
// record names is removed. A VM that cannot be settled is marked failed and joins the
// error; the others are not held up by it. A second run changes nothing.
func (s *Service) Reconcile(ctx context.Context) error {
	records, err := s.Store.VMs(ctx)
	if err != nil {
		return err
	}
	var all []error
	known := map[string]bool{}
	for _, r := range records {
		known[r.ID] = true
		if err := s.reconcileOne(ctx, r); err != nil {
			all = append(all, fmt.Errorf("reconcile VM %q: %w", r.Name, err))
		}
	}
	entries, err := os.ReadDir(s.Dirs.VMs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		all = append(all, err)
	}
	for _, e := range entries {
		if known[e.Name()] {
			continue
		}
		s.Log.Warn("remove what no record names", "dir", e.Name())
		if err := s.removeOrphan(ctx, Record{ID: e.Name(), Name: e.Name()}); err != nil {
			all = append(all, fmt.Errorf("remove orphan %s: %w", e.Name(), err))
		}
	}
	return errors.Join(all...)
}

func (s *Service) removeOrphan(ctx context.Context, r Record) error {
	if err := s.endProcesses(ctx, r); err != nil {
		return err
	}
	return s.Seam.RemoveAll(ctx, "vm.dir.remove", s.Dirs.VM(r.ID).Dir)
}

func (s *Service) reconcileOne(ctx context.Context, r Record) error {
	unlock, err := s.locks.Lock(ctx, r.ID)
	if err != nil {
		return err
	}
	defer unlock()
	switch {
	case r.Op == OpCreate || r.Op == OpDelete:
		return s.remove(ctx, r)
	case r.Op == OpStart:
		return s.undoStart(ctx, r)
	case r.Op == OpStop:
		return s.finishStop(ctx, r)
	case r.State == api.StateRunning:
		return s.adopt(ctx, r)
	case r.RM: // it never ran, or its removal was never begun
		return s.remove(ctx, r)
	}
	return sandbox.ClearTemps(ctx, s.Seam, s.Dirs.VM(r.ID))
}

// stopLimit is what a shim may take to end a guest that hangs, and some more.
const stopLimit = stopGrace + 10*time.Second

// finishStop goes on with a stop. The order is given again, because the first one may
// not have reached the shim and the guest still has things to write.
func (s *Service) finishStop(ctx context.Context, r Record) error {
	if !r.RM {
		askCtx, cancel := context.WithTimeout(ctx, stopLimit)
		defer cancel()
		if _, err := sandbox.Connect(s.Dirs.VM(r.ID)).Stop(askCtx); err != nil && !errs.Is(err, errs.Unavailable) {
			s.Log.Warn("ask the shim to end its VM", "vm", r.ID, "error", err)
		}
	}
	_, err := s.settle(ctx, r)
	return err
}

// undoStart ends a start that nobody was told of.
func (s *Service) undoStart(ctx context.Context, r Record) error {
	if r.RM {
		return s.remove(ctx, r)
	}
	if err := s.endProcesses(ctx, r); err != nil {
		return err
	}
	if err := sandbox.ClearTemps(ctx, s.Seam, s.Dirs.VM(r.ID)); err != nil {
		return err
	}
	r.State, r.Op = api.StateStopped, OpNone
	return s.save(ctx, r)
}

// adopt takes a running VM over, or records how it ended while nobody looked.
func (s *Service) adopt(ctx context.Context, r Record) error {
	state, err := sandbox.Connect(s.Dirs.VM(r.ID)).State(ctx, "")
	if err != nil && !errs.Is(err, errs.Unavailable) {
		return err
	}
	if err != nil || state.Phase == sandbox.PhaseEnded {
		_, err := s.settle(ctx, r)
		return err
	}
	s.watch(r)
	return nil
}

// watch follows a run of a VM in the background until it ends, and settles it then.
func (s *Service) watch(r Record) {
	s.watchers.Go(func() {
		ctx := s.background
		// Unavailable is an end as well: the shim is gone.
		_, err := sandbox.Connect(s.Dirs.VM(r.ID)).State(ctx, sandbox.PhaseEnded)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errs.Is(err, errs.Unavailable) {
			s.Log.Error("watch", "vm", r.ID, "error", err)
			return
		}
		if err := s.ended(ctx, r.ID, r.Run); err != nil {
			s.Log.Error("settle", "vm", r.ID, "error", err)
		}
	})
}

// ended settles a VM whose run ended by itself. Whoever stopped it has settled it
// already, and may have started it again.
func (s *Service) ended(ctx context.Context, id string, run int) error {
	r, unlock, err := s.acquire(ctx, id)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if r.State != api.StateRunning || r.Run != run {
		return nil
	}
	_, err = s.settle(ctx, r)
	return err
}
