package guest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/internal/errs"
	"banger/internal/guest"
	"banger/internal/guestproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostile is a machine whose guest does what the test says.
type hostile chan net.Conn

func (h hostile) Accept(ctx context.Context) (net.Conn, error) {
	select {
	case c, ok := <-h:
		if !ok {
			return nil, io.EOF
		}
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// connect gives the guest's end of a connection that the host will accept.
func (h hostile) connect() net.Conn {
	near, far := net.Pipe()
	h <- near
	return far
}

func frame(k guestproto.Kind, payload string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{byte(k)}, uint32(len(payload))), payload...)
}

func TestBootOfHostileGuests(t *testing.T) {
	hello := frame(guestproto.KindHello, `{"version":1}`)
	cases := []struct {
		name  string
		sends []byte
		class errs.Class
		text  string
	}{
		{"says nothing and goes", nil, errs.Unavailable, "hello"},
		{"garbage", []byte("GET / HTTP/1.1\r\n\r\n"), errs.InvalidData, ""},
		{"huge frame", []byte{1, 0xff, 0xff, 0xff, 0xff}, errs.InvalidData, "at most"},
		{"no JSON", frame(guestproto.KindHello, `{`), errs.InvalidData, ""},
		{"another frame first", frame(guestproto.KindReady, `{}`), errs.InvalidData, ""},
		{"no version", frame(guestproto.KindHello, `{}`), errs.InvalidData, "version 0"},
		{"goes after hello", hello, errs.Unavailable, ""},
		{"fails", append(bytes.Clone(hello), frame(guestproto.KindBootFailed, `{"stage":"disks","error":"a\u001b[2Jb\u202e"}`)...), errs.Unavailable, `guest boot at disks: a\x1b[2Jb\u202e`},
		{"malformed ready", append(bytes.Clone(hello), frame(guestproto.KindReady, `[]`)...), errs.InvalidData, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := make(hostile, 4)
			far := h.connect()
			go io.Copy(io.Discard, far)
			go func() {
				_, _ = far.Write(c.sends)
				_ = far.Close()
			}()
			control, _, err := guest.Boot(t.Context(), h, guestproto.BootConfig{}, nil)
			if control != nil || !errs.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v (class %v), want class %v, text %q", err, errs.ClassOf(err), c.class, c.text)
			}
		})
	}
}

func TestBootAndControl(t *testing.T) {
	h := make(hostile, 4)
	far := guestproto.NewConn(h.connect())
	configs := make(chan guestproto.BootConfig, 1)
	go func() {
		_ = far.WriteJSON(guestproto.KindHello, guestproto.Hello{Version: 99, BootID: strings.Repeat("x", 1000), Kernel: "6.1\n"})
		var config guestproto.BootConfig
		_ = far.ReadJSON(guestproto.KindBootConfig, &config)
		configs <- config
		_ = far.Write(200, []byte("a kind of the future"))
		_ = far.WriteJSON(guestproto.KindReady, guestproto.Ready{Stages: make([]guestproto.Stage, 1000), Warnings: []string{"\x07"}})
	}()
	var hello guestproto.Hello
	control, ready, err := guest.Boot(t.Context(), h, guestproto.BootConfig{Hostname: "x"}, func(h guestproto.Hello) { hello = h })
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if config := <-configs; config.Version != guestproto.Version || config.Hostname != "x" || time.Since(time.Unix(0, config.ClockNS)).Abs() > time.Minute {
		t.Errorf("config %+v", config)
	}
	if len(hello.BootID) > 128 || hello.Kernel != `6.1\n` || control.Hello() != hello || len(ready.Stages) > 64 || ready.Warnings[0] != `\a` {
		t.Errorf("hello %+v, %d stages, warnings %q", hello, len(ready.Stages), ready.Warnings)
	}
	// A second control connection is refused.
	second := h.connect()
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("second connection: %v", err)
	}
	go control.Shutdown(context.Background(), guestproto.VerbReboot, 1234)
	var order guestproto.Shutdown
	if err := far.ReadJSON(guestproto.KindShutdown, &order); err != nil || order != (guestproto.Shutdown{Verb: guestproto.VerbReboot, GraceMS: 1234}) {
		t.Errorf("%+v, %v", order, err)
	}
	// Nonsense is no ending, the first one counts, and only that is acknowledged.
	for _, verb := range []string{"explode", guestproto.VerbHalt} {
		if err := far.WriteJSON(guestproto.KindEnding, guestproto.Ending{Verb: verb}); err != nil {
			t.Fatal(err)
		}
	}
	if kind, _, err := far.Read(); kind != guestproto.KindEndingAck || err != nil || control.Ending() != guestproto.VerbHalt {
		t.Errorf("kind %d, %v, ending %q", kind, err, control.Ending())
	}
	for range 100 {
		if err := far.WriteJSON(guestproto.KindEnding, guestproto.Ending{Verb: guestproto.VerbReboot}); err != nil {
			t.Fatal(err)
		}
	}
	_ = far.Close()
	<-control.Done()
	if control.Ending() != guestproto.VerbHalt || !errors.Is(control.Err(), io.EOF) {
		t.Errorf("ending %q, %v", control.Ending(), control.Err())
	}
	if err := control.Shutdown(t.Context(), guestproto.VerbReboot, 0); !errs.Is(err, errs.Unavailable) {
		t.Errorf("shutdown of a guest that is gone: %v", err)
	}
}

func TestBootGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errs.New(errs.Timeout, "the guest was not ready")
	time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
	h := make(hostile, 4)
	far := h.connect() // says nothing
	if _, _, err := guest.Boot(ctx, h, guestproto.BootConfig{}, nil); !errors.Is(err, why) {
		t.Error(err)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is open: %v", err)
	}
}

func TestSessionOfHostileGuests(t *testing.T) {
	cases := []struct {
		name  string
		sends []byte
		class errs.Class
	}{
		{"goes", frame(guestproto.KindStarted, `{}`), errs.Unavailable},
		{"cut frame", []byte{20, 0, 0, 1, 0, 'x'}, errs.Unavailable},
		{"huge output frame", []byte{20, 0, 1, 0, 1}, errs.InvalidData},
		{"code out of range", frame(guestproto.KindExit, `{"code":256}`), errs.InvalidData},
		{"negative code", frame(guestproto.KindExit, `{"code":-1}`), errs.InvalidData},
		{"no code", frame(guestproto.KindExit, `7`), errs.InvalidData},
		{"too much credit", frame(guestproto.KindStdinWindow, `{"bytes":262145}`), errs.InvalidData},
		{"overflowing credit", frame(guestproto.KindStdinWindow, `{"bytes":9223372036854775807}`), errs.InvalidData},
		{"negative credit", frame(guestproto.KindStdinWindow, `{"bytes":-1}`), errs.InvalidData},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			near, far := net.Pipe()
			go io.Copy(io.Discard, far)
			go func() {
				_, _ = far.Write(c.sends)
				_ = far.Close()
			}()
			stdin, w := io.Pipe()
			defer w.Close()
			_, err := guest.RunSession(t.Context(), guestproto.NewConn(near), guest.Streams{Stdin: stdin})
			if !errs.Is(err, c.class) {
				t.Errorf("%v (class %v), want %v", err, errs.ClassOf(err), c.class)
			}
		})
	}
	near, far := net.Pipe()
	go io.Copy(io.Discard, far)
	go far.Write(frame(guestproto.KindExit, `{"code":125,"error":"\u001b]0;title\u0007`+strings.Repeat("x", 5000)+`"}`))
	exit, err := guest.RunSession(t.Context(), guestproto.NewConn(near), guest.Streams{})
	if err != nil || len(exit.Error) > 1024 || !strings.HasPrefix(exit.Error, `\x1b]0;title\axxx`) || !strings.HasSuffix(exit.Error, "…") {
		t.Errorf("%q, %v", exit.Error, err)
	}
	_ = far.Close()
}

// A guest that takes no input gets no more of it than the window.
func TestInputIsBounded(t *testing.T) {
	near, far := net.Pipe()
	conn := guestproto.NewConn(far)
	go guest.RunSession(context.Background(), guestproto.NewConn(near), guest.Streams{Stdin: zeros{}})
	got := 0
	_ = far.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	for {
		kind, payload, err := conn.Read()
		if err != nil {
			break
		}
		if kind == guestproto.KindStdin {
			got += len(payload)
		}
	}
	if got != guestproto.StdinWindow {
		t.Errorf("%d bytes, want %d", got, guestproto.StdinWindow)
	}
	_ = conn.Close()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
