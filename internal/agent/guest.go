package agent

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/agent/passwd"
	"banger/internal/agent/session"
	"banger/internal/guestproto"
)

// Main is banger-agent. As PID 1 it never returns; called as poweroff, halt or reboot it
// asks PID 1 for that.
func Main(args []string) int {
	mainNS := sinceBoot()
	if os.Getpid() == 1 {
		g := &guest{mainNS: mainNS}
		g.run()
	}
	name := ""
	if len(args) > 0 {
		name = filepath.Base(args[0])
	}
	sig, ok := verbSignals[name]
	if !ok {
		fmt.Fprintln(os.Stderr, "banger-agent: runs as PID 1 of a banger guest only")
		return 2
	}
	if err := syscall.Kill(1, sig); err != nil {
		fmt.Fprintf(os.Stderr, "%s: signal PID 1: %v\n", name, err)
		return 1
	}
	return 0
}

// verbSignals are what busybox init understands.
var verbSignals = map[string]syscall.Signal{
	guestproto.VerbPoweroff: syscall.SIGUSR2,
	guestproto.VerbHalt:     syscall.SIGUSR1,
	guestproto.VerbReboot:   syscall.SIGTERM,
}

// guest is the agent as PID 1.
type guest struct {
	mainNS   int64
	link     *link
	stages   []guestproto.Stage
	warnings []string

	reaper  *session.Reaper
	runner  *session.Runner
	disks   disks
	signals chan os.Signal // those that end the guest
}

// run is the guest's whole life.
func (g *guest) run() {
	g.reaper = session.NewReaper()
	g.watchSignals()
	if err := g.connect(); err != nil {
		complain(err)
		reset()
	}
	if stage, err := g.boot(); err != nil {
		complain(fmt.Errorf("%s: %w", stage, err))
		_ = g.link.control.WriteJSON(guestproto.KindBootFailed, guestproto.BootFailed{Stage: stage, Error: err.Error()})
		g.awaitHost(ackLimit)
		reset()
	}
	broken := make(chan error, 1)
	go func() { broken <- g.link.serveControl() }()
	go g.link.serveRequests(g.runner)
	if err := g.link.control.WriteJSON(guestproto.KindReady, guestproto.Ready{Stages: g.stages, Warnings: g.warnings}); err != nil {
		complain(fmt.Errorf("say ready: %w", err))
		reset()
	}
	order := guestproto.Shutdown{GraceMS: endGrace.Milliseconds()}
	select {
	case err := <-broken:
		complain(err)
		syncBriefly()
		reset()
	case order = <-g.link.shutdowns:
	case sig := <-g.signals:
		order.Verb = verbOfSignal(sig)
	}
	g.end(order)
	g.link.announce(verbOf(order))
	reset()
}

// connect reaches the host: the kernel's file systems, the channel, the host's
// configuration of the channel's other end.
func (g *guest) connect() error {
	if err := mountKernel(); err != nil {
		return err
	}
	g.mark("kernel")
	port, err := openPort(guestproto.PortName)
	if err != nil {
		return err
	}
	g.mark("channel")
	g.link, err = dial(port)
	return err
}

func (g *guest) mark(name string) {
	g.stages = append(g.stages, guestproto.Stage{Name: name, AtNS: sinceBoot()})
}

// boot makes the machine. An error comes with the stage that it happened in.
func (g *guest) boot() (stage string, err error) {
	config, err := g.link.greet(g.mainNS)
	if err != nil {
		return "configuration", err
	}
	g.mark("configuration")
	steps := []struct {
		name string
		do   func() error
	}{
		{"clock", func() error { return g.setClock(config) }},
		{"disks", func() error { return g.disks.mount(config) }},
		{"overlay", g.disks.overlay},
		{"root", switchRoot},
		{"devices", g.mountDevices},
		{"directories", func() error { g.bindDirectories(); return nil }},
		{"home", g.disks.home},
		{"identity", func() error { return g.identity(config) }},
		{"control groups", func() error { g.makeRunner(config); return nil }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return step.name, err
		}
		g.mark(step.name)
	}
	return "", nil
}

// warn is for a step whose failure the guest can live with.
func (g *guest) warn(err error) {
	if err != nil {
		g.warnings = append(g.warnings, err.Error())
	}
}

func (g *guest) makeRunner(config guestproto.BootConfig) {
	groups, err := makeCgroups()
	g.warn(err)
	g.runner = session.New(session.Config{
		Starter: g.reaper, Cgroups: groups, SwitchUser: true, Env: config.Env,
		PathTail: powerDir, Users: passwd.DB{Passwd: "/etc/passwd", Group: "/etc/group"},
	})
}

// awaitHost gives the host time to read what was sent last.
func (g *guest) awaitHost(limit time.Duration) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		for {
			if _, _, err := g.link.control.Read(); err != nil {
				return
			}
		}
	}()
	select {
	case <-closed:
	case <-time.After(limit):
	}
}

// complain writes to the console, which nobody reads as long as all goes well.
func complain(err error) {
	if err == nil {
		return
	}
	console, openErr := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if openErr != nil {
		return
	}
	defer console.Close()
	_, _ = io.WriteString(console, "banger-agent: "+err.Error()+"\r\n")
}
