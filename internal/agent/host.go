package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"banger/internal/agent/passwd"
	"banger/internal/agent/session"
	"banger/internal/guestproto"
)

// HostOptions say how a guest that is none behaves. The zero value behaves well.
type HostOptions struct {
	Console      io.Writer // receives ConsoleText and ConsoleFlood bytes first; may be nil
	ConsoleText  string
	ConsoleFlood int64

	HelloDelay time.Duration // before the first word
	NeverHello bool          // no word ever
	FailStage  string        // report that the boot failed there, when not ""
	FailError  string
	DieAfter   time.Duration // after Ready, when not 0: everything ends without a word
	Deaf       bool          // hear Shutdown and do nothing
	// Ends receives a verb when the guest is to end by itself, as when somebody in it
	// runs "reboot". May be nil.
	Ends <-chan string
}

// ServeHost is the agent without a guest: the same protocol and the same sessions on
// port, run on this host as an ordinary process, without mounts, control groups or
// another user. Commands run as the current user, by default in the current directory.
//
// It returns nil when the guest has ended, of itself or on request; and an error when
// the channel broke, or ctx ended first (its cause). In every case port is closed and
// the sessions' processes are gone, except one that left its session and cleared its
// environment.
func ServeHost(ctx context.Context, port io.ReadWriteCloser, o HostOptions) error {
	mainNS := sinceBoot()
	if err := o.writeConsole(); err != nil {
		_ = port.Close()
		return fmt.Errorf("write the console: %w", err)
	}
	if o.NeverHello || !sleep(ctx, o.HelloDelay) {
		<-ctx.Done()
		_ = port.Close()
		return context.Cause(ctx)
	}
	l, err := dial(port)
	if err != nil {
		return err
	}
	defer l.mux.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.mux.Close() })
	defer stop()
	if err = o.serve(ctx, l, mainNS); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (o HostOptions) writeConsole() error {
	if o.Console == nil {
		return nil
	}
	if _, err := io.WriteString(o.Console, o.ConsoleText); err != nil {
		return err
	}
	line := append(bytes.Repeat([]byte("x"), 79), '\n')
	for left := o.ConsoleFlood; left > 0; left -= int64(len(line)) {
		if _, err := o.Console.Write(line[:min(left, int64(len(line)))]); err != nil {
			return err
		}
	}
	return nil
}

// sleep is false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (o HostOptions) serve(ctx context.Context, l *link, mainNS int64) error {
	config, err := l.greet(mainNS)
	if err != nil {
		return err
	}
	if o.FailStage != "" {
		if err := l.control.WriteJSON(guestproto.KindBootFailed, guestproto.BootFailed{Stage: o.FailStage, Error: o.FailError}); err != nil {
			return fmt.Errorf("report the boot's failure: %w", err)
		}
		// A guest resets then; its host closes the connection, or ends the machine.
		_, _, _ = l.control.Read()
		return nil
	}
	runner, spawner, err := hostRunner(config)
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer spawner.Close()
	defer runner.Kill()
	defer l.mux.Close() // first: sessions wait for their clients to go
	if err := l.control.WriteJSON(guestproto.KindReady, guestproto.Ready{Stages: []guestproto.Stage{{Name: "ready", AtNS: sinceBoot()}}}); err != nil {
		return fmt.Errorf("say ready: %w", err)
	}
	serving.Go(func() { l.serveRequests(runner) })
	broken := make(chan error, 1)
	serving.Go(func() { broken <- l.serveControl() })
	return o.untilEnd(ctx, l, runner, broken)
}

func hostRunner(config guestproto.BootConfig) (*session.Runner, *session.Spawner, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, nil, err
	}
	env := config.Env
	if path := os.Getenv("PATH"); path != "" {
		env = append([]string{"PATH=" + path}, env...)
	}
	spawner := session.NewSpawner()
	return session.New(session.Config{
		Starter: spawner, Env: env, Dir: dir,
		Users: passwd.DB{Passwd: "/etc/passwd", Group: "/etc/group"},
	}), spawner, nil
}

func (o HostOptions) untilEnd(ctx context.Context, l *link, runner *session.Runner, broken <-chan error) error {
	var death <-chan time.Time
	if o.DieAfter > 0 {
		death = time.After(o.DieAfter)
	}
	shutdowns := l.shutdowns
	if o.Deaf {
		shutdowns = nil
	}
	order := guestproto.Shutdown{GraceMS: endGrace.Milliseconds()}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-broken:
		return err
	case <-death:
		return nil
	case order = <-shutdowns:
	case order.Verb = <-o.Ends:
	}
	runner.Close()
	runner.Terminate(graceOf(order))
	runner.Wait(clientGrace)
	l.announce(verbOf(order))
	return nil
}
