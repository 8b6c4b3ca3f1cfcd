package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk/overlay"
	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/image"
	"banger/internal/kernelcat"
	"banger/internal/paths"
	"banger/internal/procid"
	"banger/internal/shim"
	"banger/internal/store"
	"banger/internal/unixsock"
	"banger/internal/vm"
)

var errBusy = errs.New(errs.Busy, "another daemon has this state directory")

// errStopping is the cause that requests under way see.
var errStopping = errs.New(errs.Unavailable, "the daemon is stopping")

const (
	shutdownGrace = 30 * time.Second // for requests under way to undo themselves
	headerLimit   = 10 * time.Second
	lockGrace     = 250 * time.Millisecond
	// reserveBytes are given back on a full disk, so that deleting still works.
	reserveBytes = 16 << 20
	maxLog       = 4 << 20
)

// daemon is one serving bangerd.
type daemon struct {
	seam    *effect.Seam
	log     *slog.Logger
	dirs    paths.Dirs
	version string
	started time.Time

	lock    *os.File
	store   *store.Store
	images  *image.Service
	kernels *kernelcat.Catalog
	vms     *vm.Service
	kvm     *kvmState
	stop    context.CancelCauseFunc // ends serve
}

// open takes the state directory, builds every service and reconciles. An error leaves
// the directory free.
func open(ctx context.Context, seam *effect.Seam, log *slog.Logger, dirs paths.Dirs, version string, drivers Drivers) (_ *daemon, err error) {
	for _, dir := range []string{dirs.State, dirs.Runtime, dirs.Kernels(), dirs.Images(), dirs.Initramfs(), dirs.VMs()} {
		if err := seam.MkdirAll(ctx, "state.mkdir", dir, 0o700); err != nil {
			return nil, fmt.Errorf("make %s: %w", dir, err)
		}
	}
	d := &daemon{seam: seam, log: log, dirs: dirs, version: version, started: time.Now().UTC()}
	// A process that a killed daemon was just about to start has its lock until it execs.
	if d.lock, err = seam.WaitLock(ctx, "state.lock", dirs.Lock(), lockGrace); err != nil {
		return nil, err
	}
	if d.lock == nil {
		return nil, fmt.Errorf("%s: %w", dirs.State, errBusy)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close(context.WithoutCancel(ctx)))
		}
	}()
	for _, dir := range []string{dirs.State, dirs.Kernels(), dirs.Initramfs()} {
		if err := seam.ClearTemps(ctx, "state.temp.clear", dir); err != nil {
			return nil, err
		}
	}
	d.trimLog(ctx, os.Stderr)
	d.reserve(ctx)
	err = d.sparing(ctx, func() error {
		d.store, err = store.Open(ctx, seam, dirs.Database())
		return err
	})
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d.kvm = newKVMState(ctx, seam, log, exe, dirs.KVMProbe())
	d.images = image.New(seam, log, dirs.Images(), spaceSaver{d.store, d})
	d.kernels = kernelcat.New(seam, dirs.Kernels())
	d.vms = vm.New(vm.Config{
		Seam: seam, Log: log, Dirs: dirs, Store: spaceSaver{d.store, d}, Images: d.images,
		Kernels: d.kernels, Disks: overlay.Driver{Seam: seam},
		Monitors:  monitors{drivers, d.kvm},
		Shims:     shim.Launcher{Seam: seam, Exe: exe, Env: os.Environ(), Log: log},
		Initramfs: newInitramfs(seam, dirs.Initramfs()).path,
	})
	// What cannot be settled is marked on its VM and must not keep the others away.
	if err := d.vms.Reconcile(ctx); err != nil {
		log.Error("reconcile", "error", err)
	}
	if err := d.images.Reconcile(ctx); err != nil {
		log.Error("reconcile", "error", err)
	}
	return d, nil
}

// close ends what open began; VMs and their shims go on.
func (d *daemon) close(ctx context.Context) error {
	var all []error
	if d.vms != nil {
		d.vms.Close()
	}
	if d.kvm != nil {
		d.kvm.close()
	}
	if d.store != nil {
		all = append(all, d.store.Close())
	}
	all = append(all, d.seam.Remove(ctx, "daemon.socket.remove", d.dirs.Socket()),
		d.seam.Remove(ctx, "daemon.file.remove", d.dirs.DaemonFile()))
	if d.lock != nil {
		all = append(all, d.lock.Close()) // last: the next daemon may begin now
	}
	return errors.Join(all...)
}

// listen binds the socket and tells clients of it.
func (d *daemon) listen(ctx context.Context) (net.Listener, error) {
	var l *net.UnixListener
	err := d.seam.Do(ctx, "daemon.socket", func() (err error) {
		l, err = unixsock.Listen(d.dirs.Socket())
		return err
	})
	if err != nil {
		return nil, err
	}
	self, err := procid.Self()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	content, err := json.Marshal(api.DaemonFile{
		Socket: d.dirs.Socket(), PID: self.PID, StartTime: self.StartTime, BootID: self.BootID,
		StartedAt: d.started, Version: d.version,
	})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	err = d.sparing(ctx, func() error {
		return d.seam.PublishBytes(ctx, "daemon.file", d.dirs.DaemonFile(), 0o600, content)
	})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return unixsock.OwnerOnly(l), nil
}

// serve answers requests until ctx ends or somebody asks the daemon to stop. Requests
// under way then are cancelled, and waited for while they undo themselves.
func (d *daemon) serve(ctx context.Context, l net.Listener) error {
	told := ctx
	ctx, d.stop = context.WithCancelCause(context.WithoutCancel(told))
	defer context.AfterFunc(told, func() { d.stop(errStopping) })()
	defer d.stop(nil)
	handler, err := d.handler()
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           localOnly(handler),
		ReadHeaderTimeout: headerLimit,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelError),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	d.log.Info("stopping", "why", context.Cause(ctx))
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	return server.Shutdown(grace)
}

// localOnly refuses what a browser would send on behalf of a web page. The socket keeps
// other users out; this keeps out pages that reach it through a helper that forwards.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(r.Host, ":")
		if r.Header.Get("Origin") != "" || r.Header.Get("Referer") != "" || (host != "banger" && host != "localhost") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(api.ErrorBody{Error: wireError(
				errs.New(errs.Permission, "request with a foreign Host, or from a browser"))})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// trimLog empties a log that has grown over all daemons that wrote it. Whoever starts
// daemons opens it for appending.
func (d *daemon) trimLog(ctx context.Context, f *os.File) {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() < maxLog {
		return
	}
	if err := d.seam.Do(ctx, "state.log.trim", func() error { return f.Truncate(0) }); err != nil {
		d.log.Warn("empty the log", "error", err)
	}
}

// reserve keeps space back while there is some; without it the daemon still runs.
func (d *daemon) reserve(ctx context.Context) {
	f, err := d.seam.OpenFile(ctx, "state.reserve", d.dirs.Reserve(), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = d.seam.Do(ctx, "state.reserve.fill", func() error { return unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes) })
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		d.log.Warn("keep reserve space", "error", err)
	}
}

// release gives the reserve back. It answers whether there was one.
func (d *daemon) release(ctx context.Context) bool {
	if info, err := os.Stat(d.dirs.Reserve()); err != nil || info.Size() == 0 {
		return false
	}
	return d.seam.Remove(ctx, "state.reserve.release", d.dirs.Reserve()) == nil
}

// sparing does f again with the space of the reserve when the disk was too full for it.
func (d *daemon) sparing(ctx context.Context, f func() error) error {
	err := f()
	if errs.Is(err, errs.Exhausted) && d.release(ctx) {
		err = f()
	}
	return err
}

// spaceSaver gives the reserve back when the database finds the disk full, so that
// deleting works then.
type spaceSaver struct {
	*store.Store
	d *daemon
}

func (s spaceSaver) UpdateVM(ctx context.Context, r vm.Record) error {
	return s.d.sparing(ctx, func() error { return s.Store.UpdateVM(ctx, r) })
}

func (s spaceSaver) DeleteVM(ctx context.Context, id string) error {
	err := s.d.sparing(ctx, func() error { return s.Store.DeleteVM(ctx, id) })
	if err == nil {
		s.d.reserve(ctx)
	}
	return err
}

func (s spaceSaver) DeleteImage(ctx context.Context, id string) error {
	return s.d.sparing(ctx, func() error { return s.Store.DeleteImage(ctx, id) })
}
