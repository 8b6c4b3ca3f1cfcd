package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"banger/internal/errs"
)

const (
	// backlog is how many connections the guest may have opened and we not accepted;
	// it is reset for any more.
	backlog = 8
	// acceptLimit is how many connections of the guest are ever accepted: there is only
	// the agent's control connection.
	acceptLimit = 4
	// writeTimeout is how long a frame may wait for the guest to take it before the
	// connection's writer is given an error. A guest on an overloaded host may
	// stand still for long, but a writer must not hang for as long as a dead guest's VMM
	// lives: yamux honours no deadline while the socket below is full.
	writeTimeout = time.Minute
	// closeTimeout is how long a connection that we closed is remembered when the guest
	// does not close it too.
	closeTimeout = 30 * time.Second
)

// Channel multiplexes connections over one stream socket whose other end the VMM
// connects to the guest. The guest at the far end is hostile: whatever it sends ends at
// worst this channel. Its methods may be called from several goroutines.
type Channel struct {
	session *yamux.Session
	spoke   <-chan struct{} // closed with the guest's first byte
	accepts chan struct{}   // one token for each connection that may still be accepted
	close   sync.Once
}

// NewChannel makes a channel; far is the end that the VMM inherits, and the caller
// closes it.
func NewChannel() (ch *Channel, far *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the agent's socket pair: %w", err)
	}
	near := os.NewFile(uintptr(pair[0]), "agent")
	far = os.NewFile(uintptr(pair[1]), "agent, the VMM's end")
	defer near.Close() // FileConn duplicates it
	conn, err := net.FileConn(near)
	if err != nil {
		_ = far.Close()
		return nil, nil, fmt.Errorf("use the agent's socket: %w", err)
	}
	guarded := newGuard(conn)
	session, err := yamux.Client(guarded, &yamux.Config{
		AcceptBacklog:          backlog,
		KeepAliveInterval:      time.Second, // must be set; keep-alive is off: a paused guest is no dead guest
		ConnectionWriteTimeout: writeTimeout,
		MaxStreamWindowSize:    256 << 10,
		StreamCloseTimeout:     closeTimeout,
		// StreamOpenTimeout stays 0: it would end the session because one request was
		// not taken in time.
		Logger: silent{},
	})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start the agent's session: %w", err), conn.Close(), far.Close())
	}
	ch = &Channel{session: session, spoke: guarded.spoke, accepts: make(chan struct{}, acceptLimit)}
	for range acceptLimit {
		ch.accepts <- struct{}{}
	}
	return ch, far, nil
}

// Accept waits for the next connection that the guest opens. It is Unavailable when the
// channel has ended. Beyond the first few it waits for ever: they were reset.
func (c *Channel) Accept(ctx context.Context) (net.Conn, error) {
	const op = "accept the agent's connection"
	select {
	case <-c.accepts:
	case <-c.session.CloseChan():
		return nil, ended(op)
	case <-ctx.Done():
		return nil, gaveUp(ctx, op)
	}
	stream, err := c.session.AcceptStreamWithContext(ctx)
	if err == nil {
		return &conn{Stream: stream}, nil
	}
	c.accepts <- struct{}{}
	if ctx.Err() != nil {
		return nil, gaveUp(ctx, op)
	}
	return nil, ended(op)
}

// Open opens a connection to the guest. Nothing is sent before the guest has spoken:
// bytes that wait in a virtio-serial port while the guest boots are not reliably
// delivered (measured). It is Unavailable when the channel has ended or the guest does
// not answer before ctx's deadline.
func (c *Channel) Open(ctx context.Context) (net.Conn, error) {
	const op = "open a connection to the agent"
	select {
	case <-c.spoke:
	case <-c.session.CloseChan():
		return nil, ended(op)
	case <-ctx.Done():
		return nil, gaveUp(ctx, op)
	}
	type result struct {
		stream *yamux.Stream
		err    error
	}
	opened := make(chan result, 1)
	// OpenStream knows no context, and blocks while the guest takes nothing.
	go func() {
		stream, err := c.session.OpenStream()
		opened <- result{stream, err}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, errs.New(errs.Unavailable, op+": %w", r.err)
		}
		return &conn{Stream: r.stream}, nil
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				_ = r.stream.Close()
			}
		}()
		return nil, gaveUp(ctx, op)
	}
}

// Close ends the channel and every connection in it. It may be called again.
func (c *Channel) Close() error {
	var err error
	c.close.Do(func() { err = c.session.Close() })
	return err
}

func ended(op string) error {
	return errs.New(errs.Unavailable, "%s: the guest's channel has ended", op)
}

// gaveUp tells a caller who no longer wants the answer from a guest that gives none.
func gaveUp(ctx context.Context, op string) error {
	err := fmt.Errorf("%s: %w", op, context.Cause(ctx))
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errs.New(errs.Unavailable, "the guest does not answer: %w", err)
	}
	return err
}

// conn makes a stream a net.Conn that keeps the interface's word: Close ends a Read
// that is blocked, and errors after it are net.ErrClosed. A stream by itself goes on
// reading until the guest has closed its half too, which a hostile one never does.
type conn struct {
	*yamux.Stream
	closed onceFlag
}

func (c *conn) Read(p []byte) (int, error) {
	if c.closed.isSet() {
		return 0, net.ErrClosed
	}
	n, err := c.Stream.Read(p)
	if err != nil && c.closed.isSet() {
		err = net.ErrClosed
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Stream.Write(p)
	if err != nil && c.closed.isSet() {
		err = net.ErrClosed
	}
	return n, err
}

// Close may be called again. It ends a blocked Read at once, and a blocked Write no later
// than writeTimeout. The guest sees the end of the stream when it next takes anything;
// Close does not wait long for that.
func (c *conn) Close() error {
	if !c.closed.set() {
		return nil
	}
	_ = c.SetDeadline(time.Unix(1, 0)) // a time that has passed ends blocked calls
	told := make(chan struct{})
	go func() {
		defer close(told)
		_ = c.Stream.Close() // gives up after writeTimeout
	}()
	select {
	case <-told:
	case <-time.After(time.Second):
	}
	return nil
}

// silent discards yamux's messages, unformatted: the guest decides how many there are.
type silent struct{}

func (silent) Print(...any)          {}
func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}
