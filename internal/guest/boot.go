// Package guest is the host's side of the agent protocol: the handshake that boots a
// guest, the control connection after it, and one session of a command. The guest is
// hostile: what it sends is bounded, checked and made safe to print here.
package guest

import (
	"context"
	"fmt"
	"net"
	"time"

	"banger/internal/errs"
	"banger/internal/guestproto"
)

const (
	maxStages   = 64
	maxWarnings = 16
	maxWord     = 128  // a name or version that the guest gives
	maxText     = 1024 // an explanation that the guest gives
)

// machine is what Boot needs of a vmm.Machine.
type machine interface {
	Accept(ctx context.Context) (net.Conn, error)
}

// Boot waits for the guest's agent, configures it and waits until it is ready. Where
// config has no Version or no ClockNS, Boot fills them in when it sends it. onHello, if
// not nil, is called once with the guest's first word. All text of the guest in hello,
// Ready and errors is safe to print and bounded.
//
// ctx bounds the boot, not the Control. Boot is Unavailable when the guest reports that
// its boot failed or goes away, InvalidData when it does not keep to the protocol, and
// ctx's cause when that ended first. After an error the guest's connection is closed;
// the guest resets itself then.
func Boot(ctx context.Context, m machine, config guestproto.BootConfig, onHello func(guestproto.Hello)) (*Control, guestproto.Ready, error) {
	raw, err := m.Accept(ctx)
	if err != nil {
		return nil, guestproto.Ready{}, cause(ctx, fmt.Errorf("wait for the guest's agent: %w", unavailable(err)))
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn := guestproto.NewConn(raw)
	ready, hello, err := handshake(conn, config, onHello)
	if !stop() && err == nil {
		err = context.Cause(ctx) // the connection is closed, or about to be
	}
	if err != nil {
		_ = raw.Close()
		return nil, guestproto.Ready{}, cause(ctx, err)
	}
	return newControl(m, raw, conn, hello), ready, nil
}

// cause prefers why ctx ended over what that broke.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// unavailable gives err a class unless it has one that says more.
func unavailable(err error) error {
	if errs.Is(err, errs.Internal) {
		return errs.With(errs.Unavailable, err)
	}
	return err
}

func handshake(conn *guestproto.Conn, config guestproto.BootConfig, onHello func(guestproto.Hello)) (guestproto.Ready, guestproto.Hello, error) {
	var hello guestproto.Hello
	if err := conn.ReadJSON(guestproto.KindHello, &hello); err != nil {
		return guestproto.Ready{}, hello, fmt.Errorf("read the agent's hello: %w", unavailable(err))
	}
	// A newer agent only knows more than this host.
	if hello.Version < 1 {
		return guestproto.Ready{}, hello, errs.New(errs.InvalidData, "agent speaks protocol version %d, want at least 1", hello.Version)
	}
	hello.BootID, hello.Generation, hello.Kernel =
		clean(hello.BootID, maxWord), clean(hello.Generation, maxWord), clean(hello.Kernel, maxWord)
	if onHello != nil {
		onHello(hello)
	}
	if config.Version == 0 {
		config.Version = guestproto.Version
	}
	if config.ClockNS == 0 {
		config.ClockNS = time.Now().UnixNano()
	}
	if err := conn.WriteJSON(guestproto.KindBootConfig, config); err != nil {
		return guestproto.Ready{}, hello, fmt.Errorf("send the boot configuration: %w", unavailable(err))
	}
	ready, err := readReady(conn)
	return ready, hello, err
}

// readReady skips kinds that this host does not know.
func readReady(conn *guestproto.Conn) (guestproto.Ready, error) {
	for {
		kind, payload, err := conn.Read()
		if err != nil {
			return guestproto.Ready{}, fmt.Errorf("wait until the guest is ready: %w", unavailable(err))
		}
		switch kind {
		case guestproto.KindReady:
			var ready guestproto.Ready
			if err := guestproto.Decode(kind, payload, &ready); err != nil {
				return ready, err
			}
			return cleanReady(ready), nil
		case guestproto.KindBootFailed:
			var failed guestproto.BootFailed
			if err := guestproto.Decode(kind, payload, &failed); err != nil {
				return guestproto.Ready{}, err
			}
			return guestproto.Ready{}, errs.With(errs.Unavailable, &BootError{clean(failed.Stage, maxWord), clean(failed.Error, maxText)})
		}
	}
}

func cleanReady(r guestproto.Ready) guestproto.Ready {
	r.Stages = r.Stages[:min(len(r.Stages), maxStages)]
	for i := range r.Stages {
		r.Stages[i].Name = clean(r.Stages[i].Name, maxWord)
	}
	r.Warnings = r.Warnings[:min(len(r.Warnings), maxWarnings)]
	for i := range r.Warnings {
		r.Warnings[i] = clean(r.Warnings[i], maxText)
	}
	return r
}

// BootError is a boot that the guest itself said has failed.
type BootError struct{ Stage, Reason string }

func (e *BootError) Error() string { return "guest boot at " + e.Stage + ": " + e.Reason }
