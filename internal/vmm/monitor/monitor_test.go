package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/leakcheck"
)

type hook struct{ before, after error }

func (h hook) Before(context.Context, effect.Event) error { return h.before }
func (h hook) After(_ context.Context, _ effect.Event, err error) error {
	return errors.Join(err, h.after)
}

// However a start fails, also after the process was made, no process, descriptor or
// goroutine is left.
func TestFailedStartLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		path string
		hook effect.Hook
		want error
	}{
		"missing program":    {path: "/does/not/exist", want: os.ErrNotExist},
		"not a program":      {path: "/etc/passwd", want: syscall.EACCES},
		"fails before":       {path: "/bin/sleep", hook: hook{before: syscall.EMFILE}, want: syscall.EMFILE},
		"fails when it runs": {path: "/bin/sleep", hook: hook{after: syscall.EIO}, want: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			leakcheck.Check(t, leakcheck.Options{})
			m, err := Start(t.Context(), effect.New(c.hook), Command{Path: c.path, Args: []string{"60"}})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, %v, want %v", m, err, c.want)
			}
		})
	}
}

// The process and its channel live and end on their own terms.
func TestProcessWithoutAGuest(t *testing.T) {
	leakcheck.Check(t, leakcheck.Options{})
	m, err := Start(t.Context(), effect.New(nil), Command{Path: "/bin/sh", Args: []string{"-c", "exit 5"}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	<-m.Done()
	if m.Exit() != "exit status 5" {
		t.Errorf("exit %q", m.Exit())
	}
	if _, err := m.Accept(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("accept: %v", err)
	}
}

func frame(kind byte, length int, body int) []byte {
	b := make([]byte, headerSize+body)
	b[1] = kind
	binary.BigEndian.PutUint32(b[8:], uint32(length))
	return b
}

// The guard finds the pings wherever the stream is cut, and nowhere in data.
func TestGuardFollowsFrames(t *testing.T) {
	var stream []byte
	for range 5 {
		stream = append(stream, frame(typeData, 100, 100)...)
		stream = append(stream, frame(typePing, 7, 0)...) // its length field is a number, and no body follows
		stream = append(stream, frame(1, 1<<30, 0)...)    // neither after a window update
		stream = append(stream, frame(typeData, 0, 0)...)
	}
	for _, cut := range []int{1, 5, 11, 12, 13, 113, len(stream)} {
		g := &guard{since: time.Now()}
		for rest := stream; len(rest) > 0; {
			n := min(cut, len(rest))
			if err := g.follow(rest[:n]); err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			rest = rest[n:]
		}
		if g.pings != 5 || g.body != 0 || g.have != 0 {
			t.Errorf("cut at %d: %d pings, %d of a body, %d of a header", cut, g.pings, g.body, g.have)
		}
	}
}

func TestGuardAllowsAFewPings(t *testing.T) {
	g := &guard{}
	now := time.Now()
	for i := range 1000 { // one a second, for ever
		if err := g.ping(now.Add(time.Duration(i) * time.Second)); err != nil {
			t.Fatalf("ping %d: %v", i, err)
		}
	}
	var err error
	n := 0
	for ; err == nil; n++ {
		err = g.ping(now.Add(1000 * time.Second))
	}
	if !errs.Is(err, errs.InvalidData) || n > pingBurst+1 {
		t.Errorf("after %d at once: %v", n, err)
	}
}

// Whatever bytes the far end sends end at worst the channel.
func FuzzChannel(f *testing.F) {
	f.Add(frame(typePing, 1, 0))
	f.Add([]byte("\x00\x01\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		ch, far, err := NewChannel()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = far.Write(in)
		_ = far.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for {
			conn, err := ch.Accept(ctx)
			if err != nil {
				break
			}
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
		if err := ctx.Err(); err != nil {
			t.Fatal("the channel does not end")
		}
		if err := ch.Close(); err != nil && !strings.Contains(fmt.Sprint(err), "closed") {
			t.Fatal(err)
		}
	})
}
