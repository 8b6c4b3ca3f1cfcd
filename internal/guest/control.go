package guest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"banger/internal/guestproto"
)

// sendLimit bounds a frame on its way to a guest that reads nothing.
const sendLimit = 5 * time.Second

// Control is the control connection to a guest that is ready. Its methods may be called
// from several goroutines.
type Control struct {
	hello guestproto.Hello
	raw   net.Conn
	conn  *guestproto.Conn
	stop  context.CancelFunc
	done  chan struct{}
	wg    sync.WaitGroup

	mu     sync.Mutex
	ending string
	err    error
}

func newControl(m machine, raw net.Conn, conn *guestproto.Conn, hello guestproto.Hello) *Control {
	ctx, stop := context.WithCancel(context.Background())
	c := &Control{hello: hello, raw: raw, conn: conn, stop: stop, done: make(chan struct{})}
	c.wg.Go(func() { refuse(ctx, m) })
	c.wg.Go(func() {
		err := c.read()
		_ = raw.Close()
		stop()
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
		close(c.done)
	})
	return c
}

// refuse closes every connection that the guest opens beyond its control connection.
func refuse(ctx context.Context, m machine) {
	for {
		conn, err := m.Accept(ctx)
		if err != nil {
			return
		}
		_ = conn.Close()
	}
}

// read takes the guest's frames until the connection ends. Unknown kinds are ignored.
func (c *Control) read() error {
	for {
		kind, payload, err := c.conn.Read()
		if err != nil {
			return err
		}
		if kind != guestproto.KindEnding {
			continue
		}
		var e guestproto.Ending
		if err := guestproto.Decode(kind, payload, &e); err != nil {
			return err
		}
		if !c.setEnding(e.Verb) {
			continue // a guest ends once; more acknowledgements would only fill its queue
		}
		if err := c.send(context.Background(), guestproto.KindEndingAck, nil); err != nil {
			return err
		}
	}
}

func (c *Control) setEnding(verb string) bool {
	switch verb {
	case guestproto.VerbPoweroff, guestproto.VerbHalt, guestproto.VerbReboot:
	default:
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending != "" {
		return false
	}
	c.ending = verb
	return true
}

// send gives up at ctx's deadline or after sendLimit, whichever comes first; the
// connection is of no use after that, because half a frame may have gone out.
func (c *Control) send(ctx context.Context, kind guestproto.Kind, v any) error {
	deadline := time.Now().Add(sendLimit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := c.raw.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if v == nil {
		return c.conn.Write(kind, nil)
	}
	return c.conn.WriteJSON(kind, v)
}

// Hello is the guest's first word, cleaned.
func (c *Control) Hello() guestproto.Hello { return c.hello }

// Shutdown asks the guest to end with verb (one of guestproto's), giving its processes
// graceMS milliseconds between TERM and KILL, and returns when the request was sent. The
// guest then announces its end (see Ending), and resets. It is Unavailable when the
// connection is gone.
func (c *Control) Shutdown(ctx context.Context, verb string, graceMS int64) error {
	if err := c.send(ctx, guestproto.KindShutdown, guestproto.Shutdown{Verb: verb, GraceMS: graceMS}); err != nil {
		return fmt.Errorf("ask the guest to %s: %w", verb, unavailable(err))
	}
	return nil
}

// Ending is the verb with which the guest announced its end, and "" before it did. It
// is set before the guest hears the acknowledgement that it waits for.
func (c *Control) Ending() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending
}

// Done is closed when the connection has ended, which a guest that is well never does.
func (c *Control) Done() <-chan struct{} { return c.done }

// Err tells after Done why the connection ended; io.EOF when the guest just closed it.
func (c *Control) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close closes the connection, upon which the guest resets itself, and waits until the
// Control uses its machine no more. Closing twice is no error.
func (c *Control) Close() error {
	c.stop()
	_ = c.raw.Close() // its only error is that it was closed
	c.wg.Wait()
	return nil
}
