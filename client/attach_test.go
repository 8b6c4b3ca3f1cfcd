package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/client"
	"banger/client/clienttest"
	"banger/internal/errs"
	"banger/internal/guestproto"
)

func TestAttachCopiesBothWays(t *testing.T) {
	d := clienttest.Start(t)
	s := d.Session(t, func(conn *guestproto.Conn) {
		_ = conn.WriteJSON(guestproto.KindStarted, guestproto.Started{PID: 7})
		for {
			kind, payload, err := conn.Read()
			if err != nil || kind == guestproto.KindStdinEOF {
				break
			}
			_ = conn.Write(guestproto.KindStdout, bytes.ToUpper(payload))
		}
		_ = conn.Write(guestproto.KindStderr, []byte("done"))
		_ = conn.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: 130, Signal: 2})
	})
	var out, errOut bytes.Buffer
	exit, err := connect(t, d).Attach(t.Context(), s, client.Streams{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errOut})
	if err != nil || exit.Code != 130 || exit.Signal != 2 || out.String() != "HELLO" || errOut.String() != "done" {
		t.Errorf("%+v, %v, %q, %q", exit, err, &out, &errOut)
	}
}

func TestAttachSendsSignalsAndSizes(t *testing.T) {
	d := clienttest.Start(t)
	s := d.Session(t, func(conn *guestproto.Conn) {
		var size guestproto.Resize
		var sig guestproto.Signal
		for size.Cols == 0 || sig.Number == 0 {
			kind, payload, err := conn.Read()
			if err != nil {
				return
			}
			switch kind {
			case guestproto.KindResize:
				_ = guestproto.Decode(kind, payload, &size)
			case guestproto.KindSignal:
				_ = guestproto.Decode(kind, payload, &sig)
			}
		}
		_ = conn.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: int(size.Cols) + sig.Number})
	})
	signals, sizes := make(chan os.Signal, 1), make(chan client.Size, 1)
	signals <- syscall.SIGTERM
	sizes <- client.Size{Rows: 24, Cols: 80}
	exit, err := connect(t, d).Attach(t.Context(), s, client.Streams{Signals: signals, Sizes: sizes})
	if err != nil || exit.Code != 95 {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestAttachThatFails(t *testing.T) {
	d := clienttest.Start(t)
	c := connect(t, d)
	refused := d.Session(t, func(*guestproto.Conn) {})
	refused.Ticket = "another"
	if _, err := c.Attach(t.Context(), refused, client.Streams{}); !errs.Is(err, errs.Permission) || client.Hint(err) != "ask again" {
		t.Errorf("refused: %v", err)
	}
	cut := d.Session(t, func(conn *guestproto.Conn) {
		_ = conn.WriteJSON(guestproto.KindStarted, guestproto.Started{})
		_ = conn.Close()
	})
	if _, err := c.Attach(t.Context(), cut, client.Streams{}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("cut: %v", err)
	}
	if _, err := c.Attach(t.Context(), api.Session{Socket: d.Dir + "/none"}, client.Streams{}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("no shim: %v", err)
	}
}

// Cancelling must reach the guest as the end of the connection, whatever is under way.
func TestAttachIsCancelled(t *testing.T) {
	d := clienttest.Start(t)
	closed := make(chan bool, 1)
	s := d.Session(t, func(conn *guestproto.Conn) {
		_ = conn.WriteJSON(guestproto.KindStarted, guestproto.Started{})
		_ = conn.Write(guestproto.KindStdout, []byte("x"))
		for {
			if _, _, err := conn.Read(); err != nil {
				closed <- true
				return
			}
		}
	})
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	silent, w := io.Pipe()
	defer w.Close()
	_, err := connect(t, d).Attach(ctx, s, client.Streams{Stdin: silent, Stdout: writer(func() { cancel(why) })})
	if !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the guest did not notice")
	}
}

type writer func()

func (f writer) Write(p []byte) (int, error) { f(); return len(p), nil }
