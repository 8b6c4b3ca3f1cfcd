package vm

import (
	"context"
	"fmt"
	"time"

	"banger/api"
	"banger/internal/errs"
	"banger/internal/image"
	"banger/internal/rollback"
)

// Create makes a VM from spec, stopped. An image that has to be pulled first tells
// progress. An error leaves nothing of the VM.
func (s *Service) Create(ctx context.Context, spec api.VMSpec, progress image.Progress) (api.VM, error) {
	r, unlock, err := s.create(ctx, spec, progress, newTrace())
	if err != nil {
		return api.VM{}, err
	}
	unlock()
	return s.wire(r), nil
}

// create makes the VM and holds it: the caller unlocks.
func (s *Service) create(ctx context.Context, spec api.VMSpec, progress image.Progress, trace *trace) (Record, func(), error) {
	done := trace.begin("resolve")
	r, err := s.resolve(ctx, spec, progress)
	if err != nil {
		return r, nil, err
	}
	unlock, err := s.locks.Lock(ctx, r.ID)
	if err != nil {
		return r, nil, err
	}
	if r, err = s.createHeld(ctx, r, spec.Name == "", trace, done); err != nil {
		unlock()
		return r, nil, err
	}
	return r, unlock, nil
}

func (s *Service) createHeld(ctx context.Context, r Record, chooseName bool, trace *trace, resolved func()) (Record, error) {
	r, err := s.reserve(ctx, r, chooseName)
	if err != nil {
		return r, err
	}
	s.notify()
	resolved()
	var undo rollback.Stack
	undo.Add("VM "+r.Name, func(ctx context.Context) error { return s.remove(ctx, r) })
	done := trace.begin("disk")
	if err = s.makeDir(ctx, r); err == nil {
		r.State, r.Op = api.StateStopped, OpNone
		err = s.save(ctx, r)
	}
	if err != nil {
		return r, rolledBack(fmt.Errorf("create VM %q: %w", r.Name, err), undo.Run(ctx))
	}
	done()
	return r, nil
}

// resolve checks spec and fills in the defaults. It changes nothing but what images and
// kernels are here.
func (s *Service) resolve(ctx context.Context, spec api.VMSpec, progress image.Progress) (Record, error) {
	r := Record{
		Name: spec.Name, State: api.StateCreating, Op: OpCreate, CPUs: spec.CPUs, MemoryBytes: spec.MemoryBytes,
		DiskBytes: spec.DiskBytes, RM: spec.RM, Driver: spec.VMM, CreatedAt: time.Now().UTC(),
	}
	if r.Name != "" {
		if err := checkName(r.Name); err != nil {
			return r, err
		}
	}
	for _, d := range []struct {
		field    *int64
		what     string
		def, min int64
	}{
		{&r.MemoryBytes, "memory", DefaultMemory, minMemory},
		{&r.DiskBytes, "disk", DefaultDisk, minDisk},
	} {
		if *d.field == 0 {
			*d.field = d.def
		}
		if *d.field < d.min {
			return r, errs.New(errs.Usage, "%s of %d MiB: at least %d MiB are needed", d.what, *d.field>>20, d.min>>20)
		}
	}
	if r.CPUs == 0 {
		r.CPUs = DefaultCPUs
	}
	if r.CPUs < 1 || r.CPUs > maxCPUs {
		return r, errs.New(errs.Usage, "%d CPUs: want 1 to %d", r.CPUs, maxCPUs)
	}
	ref := spec.Image
	if ref == "" {
		ref = DefaultImage
	}
	img, err := s.Images.Ensure(ctx, ref, progress)
	if err != nil {
		return r, err
	}
	r.ImageID, r.Image = img.ID, img.Name
	kernel := spec.Kernel
	if kernel == "" {
		kernel = img.Kernel
	}
	k, err := s.Kernels.Resolve(ctx, kernel)
	if err != nil {
		return r, err
	}
	r.Kernel = k.Name
	if r.ID, err = randomHex(6); err != nil {
		return r, err
	}
	r.MachineID, err = randomHex(16)
	return r, err
}

// reserve commits the intent, and with it the name: the given one, or the next free.
func (s *Service) reserve(ctx context.Context, r Record, choose bool) (Record, error) {
	for n := 1; ; n++ {
		if choose {
			r.Name = fmt.Sprintf("vm-%d", n)
		}
		err := s.Store.InsertVM(ctx, r)
		switch {
		case err == nil:
			return r, nil
		case !errs.Is(err, errs.AlreadyExists):
			// The commit may have happened although it reported an error.
			return r, rolledBack(err, s.Store.DeleteVM(context.WithoutCancel(ctx), r.ID))
		case !choose:
			return r, err
		}
	}
}

// makeDir makes the run directory and the disks in it.
func (s *Service) makeDir(ctx context.Context, r Record) error {
	dir := s.Dirs.VM(r.ID)
	if err := s.Seam.Mkdir(ctx, "vm.dir.make", dir.Dir, 0o700); err != nil {
		return err
	}
	if err := s.Disks.Make(ctx, dir, r.DiskBytes, !r.RM); err != nil {
		return err
	}
	if r.RM { // it does not survive a power cut anyway: no VM of that boot runs then
		return nil
	}
	if err := s.Seam.SyncDir(ctx, "vm.dir.sync", dir.Dir); err != nil {
		return err
	}
	return s.Seam.SyncDir(ctx, "vm.dir.sync", s.Dirs.VMs())
}
