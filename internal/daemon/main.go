// Package daemon is bangerd: it builds the services from concrete types, serves the
// API on a unix socket, and is the only place that does so. The same program is also
// each VM's shim.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/kvmprobe"
	"banger/internal/paths"
	"banger/internal/sandbox"
	"banger/internal/shim"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

// EnvReadyFD names the descriptor on which a starting daemon tells its starter one line:
// "ready", "busy" (another daemon has the state directory) or "error {JSON}".
const EnvReadyFD = "BANGER_READY_FD"

// Drivers makes VMM drivers by name.
type Drivers map[string]shim.NewDriver

// Main is the program bangerd. extra drivers are offered besides the built-in ones, and
// only to those who ask for them by name. It returns the process's exit code.
func Main(args []string, version string, extra Drivers) int {
	drivers := Drivers{"qemu": func(seam *effect.Seam, spec sandbox.Spec) (vmm.Driver, error) {
		return qemu.New(seam, spec.Program, spec.KVM), nil
	}}
	for name, d := range extra {
		drivers[name] = d
	}
	unix.Umask(0o077) // what libraries create is nobody else's business either
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	switch verb {
	case "serve":
		return serveMain(version, drivers)
	case shim.Verb:
		return shim.Main(args[1:], drivers.forSpec)
	case kvmprobe.Verb:
		return kvmprobe.Main()
	case "version":
		_, _ = io.WriteString(os.Stdout, version+"\n")
		return 0
	}
	_, _ = io.WriteString(os.Stderr, "usage: bangerd serve\n\nbanger starts it when it is needed; BANGER_STATE_DIR names its state.\n")
	return errs.Usage.ExitCode()
}

func (d Drivers) forSpec(seam *effect.Seam, spec sandbox.Spec) (vmm.Driver, error) {
	f := d[spec.Driver]
	if f == nil {
		return nil, errs.New(errs.Unavailable, "VMM driver %q: not in this build", spec.Driver)
	}
	return f(seam, spec)
}

func serveMain(version string, drivers Drivers) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ready := readyPipe(os.Getenv)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := serve(ctx, log, version, drivers, ready)
	if errors.Is(err, errBusy) {
		if ready == nil { // a person started it; for a client, this is no error
			log.Error("daemon", "error", err)
		}
		ready.say("busy")
		return errs.Busy.ExitCode()
	}
	if err != nil {
		log.Error("daemon", "error", err)
		body, jsonErr := json.Marshal(wireError(err))
		if jsonErr == nil {
			ready.say("error " + string(body))
		}
		return errs.ClassOf(err).ExitCode()
	}
	return 0
}

func serve(ctx context.Context, log *slog.Logger, version string, drivers Drivers, ready *readyLine) error {
	dirs, err := paths.FromEnv(os.Getenv)
	if err != nil {
		return err
	}
	seam, err := effect.FromEnv("daemon", os.Getenv(effect.EnvPlan))
	if err != nil {
		return err
	}
	d, err := open(ctx, seam, log, dirs, version, drivers)
	if err != nil {
		return err
	}
	defer func() {
		if err := d.close(context.WithoutCancel(ctx)); err != nil {
			log.Error("close", "error", err)
		}
	}()
	listener, err := d.listen(ctx)
	if err != nil {
		return err
	}
	ready.say("ready")
	log.Info("serving", "state", dirs.State, "version", version)
	return d.serve(ctx, listener)
}

// readyLine is the starter's pipe; a nil one says nothing.
type readyLine struct{ pipe *os.File }

func readyPipe(getenv func(string) string) *readyLine {
	fd, err := strconv.Atoi(getenv(EnvReadyFD))
	if err != nil || fd < 3 {
		return nil
	}
	unix.CloseOnExec(fd) // a shim must not keep the starter waiting
	return &readyLine{os.NewFile(uintptr(fd), "ready")}
}

func (r *readyLine) say(line string) {
	if r == nil || r.pipe == nil {
		return
	}
	_, _ = fmt.Fprintln(r.pipe, line) // a starter that has gone needs no answer
	_ = r.pipe.Close()
	r.pipe = nil
}

func wireError(err error) api.Error {
	return api.Error{Code: errs.ClassOf(err).Code(), Message: err.Error(), Hint: errs.HintOf(err)}
}
