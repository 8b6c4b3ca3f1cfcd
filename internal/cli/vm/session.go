package vm

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
	"banger/internal/errs"
)

const (
	// killGrace is what --timeout leaves a command between TERM and KILL.
	killGrace = 10 * time.Second
	// reapGrace is what a killed command's exit may take to arrive.
	reapGrace = 5 * time.Second
	// twice is how soon a second Ctrl-C closes the session.
	twice = 2 * time.Second

	codeTimedOut    = 124
	codeInterrupted = 130
	codeBrokenPipe  = 141
)

// attacher is the part of the client that a session needs.
type attacher interface {
	Attach(ctx context.Context, s api.Session, streams client.Streams) (client.Exit, error)
}

// session is one command in a VM, seen from this side.
type session struct {
	app            *app.App
	exec           api.Exec
	timeout        time.Duration
	stdout, stderr io.Writer
}

// outcome is how it ended: a code, when the command gave one or was ended here.
type outcome struct {
	code  int
	text  string // why it did not start
	oom   bool
	begin time.Time // of the command
}

var (
	errTwice    = errs.New(errs.Cancelled, "closed by a second interrupt")
	errTimedOut = errs.New(errs.Timeout, "the command did not end")
)

// run attaches to s until the command ends. An error means that there is no code.
func (x *session) run(ctx context.Context, c attacher, s api.Session) (outcome, error) {
	out := outcome{begin: time.Now()}
	ctx, closeSession := context.WithCancelCause(ctx)
	defer closeSession(nil)
	signals := make(chan os.Signal, 8)
	release := x.app.Interrupts.Take(x.forward(signals, closeSession))
	defer release()
	ignorePipe := catchBrokenPipe()
	defer ignorePipe()

	streams := client.Streams{Stdin: x.app.IO.In, Stdout: x.stdout, Stderr: x.stderr, Signals: signals}
	if x.exec.TTY {
		terminal, err := openTerminal(x.app.IO)
		if err != nil {
			return out, err
		}
		defer terminal.restore()
		streams.Sizes = terminal.sizes
	}
	timedOut := x.startClock(signals, closeSession)
	exit, err := c.Attach(ctx, s, streams)
	expired := timedOut()
	if err != nil {
		switch {
		case expired:
			out.code = codeTimedOut
		case errors.Is(err, errTwice):
			out.code = codeInterrupted
		case errors.Is(err, syscall.EPIPE):
			out.code = codeBrokenPipe
		default:
			return out, err
		}
		return out, nil
	}
	if exit.Code == app.CodeOfFailure && exit.Error != "" && !expired {
		return out, errs.New(errs.NotFound, "the guest refused the command: %s", exit.Error)
	}
	out.code, out.text, out.oom = exit.Code, exit.Error, exit.OOM
	if expired {
		out.code = codeTimedOut
	}
	return out, nil
}

// forward sends this process's signals to the command. A second SIGINT soon after the
// first closes the session.
func (x *session) forward(signals chan<- os.Signal, closeSession context.CancelCauseFunc) func(os.Signal) {
	var last time.Time
	return func(sig os.Signal) {
		if sig == syscall.SIGINT {
			if !last.IsZero() && time.Since(last) < twice {
				closeSession(errTwice)
				return
			}
			last = time.Now()
		}
		select {
		case signals <- sig:
		default: // the session takes none: it is ending, or was cut off
		}
	}
}

// startClock ends the command when its time is over: TERM, later KILL, at last the
// session itself. The answer stops the clock and tells whether it had run out.
func (x *session) startClock(signals chan<- os.Signal, closeSession context.CancelCauseFunc) (expired func() bool) {
	if x.timeout <= 0 {
		return func() bool { return false }
	}
	var mu sync.Mutex
	over, quit := false, make(chan struct{})
	sleep := func(d time.Duration) bool {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return true
		case <-quit:
			return false
		}
	}
	send := func(sig syscall.Signal) {
		select {
		case signals <- sig:
		case <-quit:
		}
	}
	go func() {
		if !sleep(x.timeout) {
			return
		}
		mu.Lock()
		over = true
		mu.Unlock()
		send(syscall.SIGTERM)
		if !sleep(killGrace) {
			return
		}
		send(syscall.SIGKILL)
		if sleep(reapGrace) {
			closeSession(errTimedOut)
		}
	}()
	return func() bool {
		close(quit)
		mu.Lock()
		defer mu.Unlock()
		return over
	}
}
