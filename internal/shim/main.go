package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/effect"
	"banger/internal/paths"
	"banger/internal/sandbox"
	"banger/internal/unixsock"
	"banger/internal/vmm"
)

// Verb is the first argument that makes bangerd a shim.
const Verb = "shim"

// What a shim inherits from the daemon.
const (
	lockFD     = 3 // the VM's lock, held
	listenerFD = 4 // the shim's socket, listening
)

// NewDriver makes the driver that a VM's specification names.
type NewDriver func(seam *effect.Seam, spec sandbox.Spec) (vmm.Driver, error)

// Main is a shim process: arguments are the run directory; lock and listening socket
// are inherited. It returns the process's exit code.
func Main(args []string, newDriver NewDriver) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(args, newDriver, log); err != nil {
		log.Error("shim", "error", err)
		return 1
	}
	return 0
}

func run(args []string, newDriver NewDriver, log *slog.Logger) (err error) {
	if len(args) != 1 {
		return errors.New("usage: bangerd shim DIR")
	}
	vm := paths.VM{Dir: args[0]}
	// A terminal's or a logout's signals are not for a VM that outlives them.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	ctx := context.Background()
	seam, err := effect.FromEnv("shim", os.Getenv(effect.EnvPlan))
	if err != nil {
		return err
	}
	lock := os.NewFile(lockFD, "lock")
	unix.CloseOnExec(lockFD)
	listenerFile := os.NewFile(listenerFD, "socket")
	l, err := net.FileListener(listenerFile)
	if err != nil {
		return fmt.Errorf("inherited socket: %w", err)
	}
	if err := listenerFile.Close(); err != nil {
		return err
	}
	spec, err := sandbox.ReadSpec(vm)
	if err != nil {
		return err
	}
	driver, err := newDriver(seam, spec)
	if err != nil {
		return err
	}
	s := New(seam, log.With("vm", spec.ID), vm, spec, driver, lock)
	return s.serveRun(ctx, unixsock.OwnerOnly(l.(*net.UnixListener)))
}

// serveRun runs the VM while answering on l; SIGTERM ends the VM.
func (s *Shim) serveRun(ctx context.Context, l net.Listener) error {
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	defer signal.Stop(terms)
	go func() {
		if _, ok := <-terms; ok {
			s.requestKill(sandbox.EndKilled, "its shim was told to end")
		}
	}()
	serveCtx, stopServing := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- s.Serve(serveCtx, l) }()
	err := s.Run(ctx)
	stopServing()
	return errors.Join(err, <-served)
}

// Launcher starts shims.
type Launcher struct {
	Seam *effect.Seam
	Exe  string   // bangerd
	Env  []string // of the shim
	Log  *slog.Logger
}

// Launch starts the shim of vm and returns when it runs; its socket can be connected to
// at once. lock is the VM's lock, which the shim inherits and the caller closes. The
// process is reaped when it ends. An error leaves nothing but a dead socket.
func (l Launcher) Launch(ctx context.Context, vm paths.VM, lock *os.File) error {
	var listener *net.UnixListener
	err := l.Seam.Do(ctx, "vm.socket", func() (err error) {
		listener, err = unixsock.Listen(vm.ShimSocket())
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	socket, err := listener.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	log, err := l.Seam.OpenFile(ctx, "vm.shimlog", vm.ShimLog(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// Not CommandContext: the shim outlives the request, and the daemon.
	cmd := exec.Command(l.Exe, Verb, vm.Dir) //nolint:noctx // see above
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = l.Env, "/", log, log
	cmd.ExtraFiles = []*os.File{lock, socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := l.Seam.Start(ctx, "vm.shim", cmd); err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	go func() {
		if err := cmd.Wait(); err != nil {
			l.Log.Warn("shim ended", "dir", vm.Dir, "error", err)
		}
	}()
	return nil
}
