package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"banger/api"
	"banger/internal/errs"
	"banger/internal/guestproto"
	"banger/internal/unixsock"
)

// Streams are the ends of a session on this side. Nil members are left out.
type Streams struct {
	// Stdin is copied to the command until its end, which the command sees. A Read that
	// blocks when the session ends goes on blocking; what it then reads is lost.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Signals are sent to the command, Sizes set its terminal's size.
	Signals <-chan int
	Sizes   <-chan Size
	// Started is called when the command runs.
	Started func()
}

// Size is a terminal's.
type Size struct{ Rows, Cols uint16 }

// Exit is how a command ended.
type Exit struct {
	// Code is what a shell would report: the exit status, 128+signal, 126 for a command
	// that is not executable, 127 for one that does not exist.
	Code   int
	Signal int
	// OOM: the guest's kernel killed it for memory.
	OOM bool
	// Error says why it did not start.
	Error string
}

// Attach connects to a session that Run or Exec prepared and copies its streams until
// the command ends. Cancelling ctx closes the session: the command gets HUP, and KILL a
// little later. A session that breaks off before the command's exit is Unavailable. The
// daemon is not involved: a session outlives its restart.
func (c *Client) Attach(ctx context.Context, s api.Session, streams Streams) (Exit, error) {
	exit, err := attach(ctx, s, streams)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return exit, fmt.Errorf("session: %w", err)
	}
	return exit, nil
}

func attach(ctx context.Context, s api.Session, streams Streams) (Exit, error) {
	conn, err := unixsock.Dial(ctx, s.Socket)
	if err != nil {
		return Exit{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	frames, err := upgrade(ctx, conn, s.Ticket)
	if err != nil {
		return Exit{}, err
	}
	over := make(chan struct{})
	defer close(over)
	// Each sender has its own goroutine: none may keep another from being heard.
	if streams.Stdin != nil {
		go sendStdin(frames, streams.Stdin)
	}
	go forward(over, streams.Signals, func(n int) error {
		return frames.WriteJSON(guestproto.KindSignal, guestproto.Signal{Number: n})
	})
	go forward(over, streams.Sizes, func(z Size) error {
		return frames.WriteJSON(guestproto.KindResize, guestproto.Resize{Rows: z.Rows, Cols: z.Cols})
	})
	return receive(frames, streams)
}

func receive(frames *guestproto.Conn, streams Streams) (Exit, error) {
	for {
		kind, payload, err := frames.Read()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errs.Is(err, errs.Unavailable) {
				err = errs.New(errs.Unavailable, "it broke off before the command ended")
			}
			return Exit{}, err
		}
		switch kind {
		case guestproto.KindStarted:
			if streams.Started != nil {
				streams.Started()
			}
		case guestproto.KindStdout:
			err = write(streams.Stdout, payload)
		case guestproto.KindStderr:
			err = write(streams.Stderr, payload)
		case guestproto.KindExit:
			var x guestproto.Exit
			err := guestproto.Decode(kind, payload, &x)
			return Exit{Code: x.Code, Signal: x.Signal, OOM: x.OOM, Error: x.Error}, err
		}
		if err != nil {
			return Exit{}, fmt.Errorf("write the command's output: %w", err)
		}
	}
}

func write(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(p)
	return err
}

// sendStdin ends when the input or the connection does. An input that fails ends too,
// so that the command does not wait for more.
func sendStdin(frames *guestproto.Conn, in io.Reader) {
	if _, err := io.CopyBuffer(frames.Writer(guestproto.KindStdin), onlyReader{in}, make([]byte, 32<<10)); err == nil || !errors.Is(err, net.ErrClosed) {
		_ = frames.Write(guestproto.KindStdinEOF, nil)
	}
}

// onlyReader hides WriteTo, whose buffers have the size that it likes.
type onlyReader struct{ io.Reader }

func forward[T any](over <-chan struct{}, from <-chan T, send func(T) error) {
	for {
		select {
		case v, ok := <-from:
			if !ok || send(v) != nil {
				return
			}
		case <-over:
			return
		}
	}
}

// upgrade turns conn into a connection of frames with the ticket's right.
func upgrade(ctx context.Context, conn net.Conn, ticket string) (*guestproto.Conn, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://banger/"+api.Version+"/session", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", api.UpgradeExec)
	req.Header.Set("Authorization", "Bearer "+ticket)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errs.New(errs.Unavailable, "the VM's monitor closed the connection")
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return nil, responseError(resp.StatusCode, resp.Body)
	}
	return guestproto.NewConn(upgraded{Conn: conn, r: r}), nil
}

// upgraded reads first what came with the response.
type upgraded struct {
	net.Conn
	r *bufio.Reader
}

func (u upgraded) Read(p []byte) (int, error) { return u.r.Read(p) }
