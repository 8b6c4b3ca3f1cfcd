package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"banger/api"
	"banger/internal/errs"
	"banger/internal/guest"
	"banger/internal/guestproto"
	"banger/internal/unixsock"
)

// Streams are the ends of a session on this side. Nil members are left out.
type Streams struct {
	// Stdin is copied to the command until its end, which the command sees. A Read that
	// blocks when the session ends is interrupted if Stdin has read deadlines, and
	// otherwise goes on blocking; what it then reads is lost.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Signals are sent to the command, Sizes set its terminal's size.
	Signals <-chan os.Signal
	Sizes   <-chan Size
}

// Size is a terminal's, in Rows and Cols.
type Size = guestproto.Resize

// Exit is how a command ended. Its Code is what a shell would report: the exit status,
// 128+Signal, 126 for a command that is not executable, 127 for one that does not exist,
// 125 with an Error for one that was never tried.
type Exit = guestproto.Exit

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
	defer conn.Close()
	frames, err := upgrade(ctx, conn, s.Ticket)
	if err != nil {
		return Exit{}, err
	}
	return guest.RunSession(ctx, frames, guest.Streams{
		Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
		Signals: streams.Signals, Resizes: streams.Sizes,
	})
}

// upgrade turns conn into a connection of frames with the ticket's right.
func upgrade(ctx context.Context, conn net.Conn, ticket string) (*guestproto.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://banger/"+api.Version+"/session", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", api.UpgradeExec)
	req.Header.Set("Authorization", "Bearer "+ticket)
	if err := req.Write(conn); err != nil {
		return nil, errs.With(errs.Unavailable, err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the VM's monitor closed the connection")
		}
		return nil, errs.With(errs.Unavailable, err)
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
