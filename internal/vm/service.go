package vm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"banger/api"
	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/keylock"
	"banger/internal/paths"
	"banger/internal/sandbox"
)

// Defaults of a VM that names no size, as CLI.md says.
const (
	DefaultCPUs   = 2
	DefaultMemory = 2 << 30
	DefaultDisk   = 20 << 30
	DefaultImage  = "debian-12"

	minMemory   = 128 << 20
	minDisk     = 64 << 20
	maxCPUs     = 32 // what the guest kernel was built for
	bootTimeout = 90 * time.Second
	stopGrace   = 10 * time.Second
)

// Config is what a Service is made of.
type Config struct {
	Seam      *effect.Seam
	Log       *slog.Logger
	Dirs      paths.Dirs
	Store     Store
	Images    Images
	Kernels   Kernels
	Disks     Disks
	Monitors  Monitors
	Shims     Shims
	Initramfs func(context.Context) (path string, err error)
}

// Service performs operations on VMs. Its methods may be called from several
// goroutines; one operation at a time holds a VM.
type Service struct {
	Config
	locks keylock.Locks

	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever a record changes

	watchers   sync.WaitGroup
	background context.Context // of watchers; ends with Close
	stop       context.CancelFunc
}

// New makes a Service. Call Reconcile before anything else, and Close at the end.
func New(c Config) *Service {
	ctx, stop := context.WithCancel(context.Background())
	return &Service{Config: c, changed: make(chan struct{}), background: ctx, stop: stop}
}

// Close stops watching. VMs go on.
func (s *Service) Close() {
	s.stop()
	s.watchers.Wait()
}

// List is every VM, oldest first.
func (s *Service) List(ctx context.Context) ([]api.VM, error) {
	records, err := s.Store.VMs(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]api.VM, 0, len(records))
	for _, r := range records {
		list = append(list, s.wire(r))
	}
	return list, nil
}

// Show is one VM, by name or id.
func (s *Service) Show(ctx context.Context, name string) (api.VM, error) {
	r, err := s.find(ctx, name)
	return s.wire(r), err
}

func (s *Service) find(ctx context.Context, name string) (Record, error) {
	r, err := s.Store.VM(ctx, name)
	if errs.Is(err, errs.NotFound) {
		return r, errs.Hint(err, "%s", s.suggest(ctx, name))
	}
	return r, err
}

func (s *Service) suggest(ctx context.Context, name string) string {
	records, err := s.Store.VMs(ctx)
	if err == nil {
		for _, r := range records {
			if strings.HasPrefix(r.Name, name) || strings.HasPrefix(name, r.Name) {
				return fmt.Sprintf("did you mean %q? see: banger vm list", r.Name)
			}
		}
	}
	return "see: banger vm list"
}

// acquire holds the VM against other operations and reads it anew under the lock.
func (s *Service) acquire(ctx context.Context, name string) (Record, func(), error) {
	r, err := s.find(ctx, name)
	if err != nil {
		return r, nil, err
	}
	unlock, err := s.locks.Lock(ctx, r.ID)
	if err != nil {
		return r, nil, err
	}
	if r, err = s.find(ctx, r.ID); err != nil {
		unlock()
		return r, nil, err
	}
	return r, unlock, nil
}

// save commits r and tells who waits for a change.
func (s *Service) save(ctx context.Context, r Record) error {
	if err := s.Store.UpdateVM(ctx, r); err != nil {
		return fmt.Errorf("record VM %q: %w", r.Name, err)
	}
	s.notify()
	return nil
}

func (s *Service) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Service) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// WaitDeleted is the state that Wait takes for a VM that is gone.
const WaitDeleted = "deleted"

// Wait blocks until the VM is in the wanted state: running, ready (the same here: a VM
// runs once its agent answers), stopped (or failed) or deleted. It is Precondition when
// that cannot happen any more, NotFound when the VM is gone.
func (s *Service) Wait(ctx context.Context, name, want string) (api.VM, error) {
	switch want {
	case api.StateRunning, "ready", api.StateStopped, WaitDeleted:
	default:
		return api.VM{}, errs.New(errs.Usage, "wait for %q: want running, ready, stopped or deleted", want)
	}
	var last api.VM
	for {
		changed := s.changes()
		r, err := s.find(ctx, name)
		if errs.Is(err, errs.NotFound) && want == WaitDeleted {
			return last, nil
		}
		if err != nil {
			return last, err
		}
		last, name = s.wire(r), r.ID // a new VM of the same name is not the one waited for
		done, err := reached(r, want)
		if done || err != nil {
			return last, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
	}
}

func reached(r Record, want string) (bool, error) {
	switch want {
	case api.StateStopped:
		return r.State == api.StateStopped || r.State == api.StateFailed, nil
	case WaitDeleted:
		if r.State == api.StateFailed && r.Op == OpDelete {
			return false, errs.New(errs.Precondition, "VM %q was not deleted: %s", r.Name, r.Error)
		}
		return false, nil
	}
	if r.State == api.StateFailed {
		return false, errs.New(errs.Precondition, "VM %q failed: %s", r.Name, r.Error)
	}
	return r.State == api.StateRunning, nil
}

// Exec records nothing: it asks the VM's shim for a ticket to run e.
func (s *Service) Exec(ctx context.Context, name string, e api.Exec) (api.Session, error) {
	r, err := s.find(ctx, name)
	if err != nil {
		return api.Session{}, err
	}
	if r.State != api.StateRunning {
		return api.Session{}, errs.Hint(errs.New(errs.Precondition, "VM %q is %s", r.Name, r.State),
			"start it: banger vm start %s", r.Name)
	}
	return s.ticket(ctx, r, e, false)
}

func (s *Service) ticket(ctx context.Context, r Record, e api.Exec, final bool) (api.Session, error) {
	img, err := s.Images.ByID(ctx, r.ImageID)
	if err != nil {
		return api.Session{}, err
	}
	ge, err := guestExec(e, img)
	if err != nil {
		return api.Session{}, err
	}
	id, err := randomHex(8)
	if err != nil {
		return api.Session{}, err
	}
	dir := s.Dirs.VM(r.ID)
	t, err := sandbox.Connect(dir).Ticket(ctx, sandbox.TicketRequest{ID: id, Exec: ge, Final: final})
	if err != nil {
		return api.Session{}, err
	}
	return api.Session{Socket: dir.ShimSocket(), Ticket: t.Ticket}, nil
}

// Running counts the VMs that run.
func (s *Service) Running(ctx context.Context) (int, error) {
	records, err := s.Store.VMs(ctx)
	n := 0
	for _, r := range records {
		if r.State == api.StateRunning {
			n++
		}
	}
	return n, err
}

func randomHex(bytes int) (string, error) {
	b := make([]byte, bytes)
	_, err := rand.Read(b)
	return hex.EncodeToString(b), err
}

// rolledBack joins what went wrong with what went wrong while undoing it.
func rolledBack(cause, undo error) error {
	if undo == nil {
		return cause
	}
	return errs.With(errs.ClassOf(cause), errors.Join(cause, undo))
}
