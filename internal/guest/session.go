package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"banger/internal/errs"
	"banger/internal/guestproto"
)

// Streams are a session's ends on the host. A nil Stdin is an empty one, a nil Stdout or
// Stderr drops what comes. Signals and Resizes may be nil, and need not be closed.
type Streams struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Signals <-chan os.Signal
	Resizes <-chan guestproto.Resize
}

// RunSession carries one session whose Request was already sent on conn, until the
// command's Exit, which is the result, with its text safe to print. All output was
// written by then. It owns conn and closes it.
//
// An error means that the exit code is unknown: ctx's cause when that ended; the error
// of a stream ("write stdout", "read stdin"); Unavailable when the connection was lost,
// InvalidData when the guest does not keep to the protocol. After an error the agent
// ends the session's processes.
//
// A Read of Stdin that is under way when the session ends is interrupted if Stdin has
// read deadlines, and otherwise stays behind until it returns.
func RunSession(ctx context.Context, conn *guestproto.Conn, s Streams) (guestproto.Exit, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &running{conn: conn, s: s, fail: cancel, credit: newCredit(guestproto.StdinWindow)}
	closed := context.AfterFunc(ctx, func() { _ = conn.Close() })
	var senders sync.WaitGroup
	senders.Go(func() { r.sendEvents(ctx) })
	stdinDone := make(chan struct{})
	go func() {
		defer close(stdinDone)
		r.sendStdin()
	}()
	exit, err := r.receive()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if closed() {
		_ = conn.Close()
	}
	cancel(nil)
	r.credit.close()
	interrupt(s.Stdin, stdinDone)
	senders.Wait()
	return exit, err
}

// interrupt ends a pending Read of stdin if it can, and waits for its goroutine then.
func interrupt(stdin io.Reader, done <-chan struct{}) {
	d, ok := stdin.(interface{ SetReadDeadline(time.Time) error })
	if !ok || d.SetReadDeadline(time.Unix(1, 0)) != nil {
		return
	}
	<-done
	_ = d.SetReadDeadline(time.Time{}) // the caller may go on reading
}

type running struct {
	conn   *guestproto.Conn
	s      Streams
	fail   context.CancelCauseFunc
	credit *credit
}

// receive takes the guest's frames up to Exit.
func (r *running) receive() (guestproto.Exit, error) {
	for {
		kind, payload, err := r.conn.Read()
		if err != nil {
			if errs.Is(err, errs.InvalidData) {
				return guestproto.Exit{}, err
			}
			return guestproto.Exit{}, errs.New(errs.Unavailable, "the connection to the guest ended before the command: %w", err)
		}
		switch kind {
		case guestproto.KindStdout:
			err = write(r.s.Stdout, payload, "stdout")
		case guestproto.KindStderr:
			err = write(r.s.Stderr, payload, "stderr")
		case guestproto.KindStdinWindow:
			var c guestproto.Credit
			if err = guestproto.Decode(kind, payload, &c); err == nil {
				err = r.credit.add(c.Bytes)
			}
		case guestproto.KindExit:
			return cleanExit(payload)
		}
		if err != nil {
			return guestproto.Exit{}, err
		}
	}
}

func write(w io.Writer, p []byte, name string) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(p); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func cleanExit(payload []byte) (guestproto.Exit, error) {
	var exit guestproto.Exit
	if err := guestproto.Decode(guestproto.KindExit, payload, &exit); err != nil {
		return guestproto.Exit{}, err
	}
	if exit.Code < 0 || exit.Code > 255 || exit.Signal < 0 || exit.Signal > 64 {
		return guestproto.Exit{}, errs.New(errs.InvalidData, "exit code %d, signal %d", exit.Code, exit.Signal)
	}
	exit.Error = clean(exit.Error, maxText)
	return exit, nil
}

// sendStdin copies the input, never more than the guest gave credit for.
func (r *running) sendStdin() {
	if r.s.Stdin != nil {
		buf := make([]byte, 32<<10)
		for {
			n := r.credit.take(len(buf))
			if n == 0 {
				return
			}
			got, err := r.s.Stdin.Read(buf[:n])
			if r.credit.isClosed() {
				return // the session is over; what was read has no receiver
			}
			if got > 0 && r.conn.Write(guestproto.KindStdin, buf[:got]) != nil {
				return // receive notices
			}
			r.credit.giveBack(n - got)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				r.fail(fmt.Errorf("read stdin: %w", err))
				return
			}
		}
	}
	_ = r.conn.Write(guestproto.KindStdinEOF, nil) // receive notices
}

// sendEvents passes signals and sizes on. A write error ends the connection, which
// receive notices.
func (r *running) sendEvents(ctx context.Context) {
	signals, resizes := r.s.Signals, r.s.Resizes
	for {
		select {
		case <-ctx.Done():
			return
		case sig, ok := <-signals:
			if !ok {
				signals = nil
			} else if number, ok := sig.(syscall.Signal); ok {
				_ = r.conn.WriteJSON(guestproto.KindSignal, guestproto.Signal{Number: int(number)})
			}
		case size, ok := <-resizes:
			if !ok {
				resizes = nil
			} else {
				_ = r.conn.WriteJSON(guestproto.KindResize, size)
			}
		}
	}
}
