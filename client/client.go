// Package client is the Go client of banger's daemon, and what the command line uses.
//
// A Client speaks HTTP on the daemon's unix socket, which it finds through daemon.json
// in the state directory; when nobody listens there it starts bangerd. Every method
// takes a context, and cancelling it closes the connection, which cancels the work in
// the daemon too. An error that the daemon sent keeps its class: see Code and Hint.
package client

import (
	"context"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/paths"
)

// Options choose a daemon and how to reach it. The zero value is the user's own daemon,
// started when it does not run.
type Options struct {
	// StateDir names the daemon; empty: as the environment says.
	StateDir string
	// Getenv is where BANGER_* and XDG_* variables are read; nil: os.Getenv.
	Getenv func(string) string
	// Daemon is the bangerd program; empty: $BANGER_DAEMON, beside this program, on PATH.
	Daemon string
	// NoStart makes a daemon that does not run an Unavailable error.
	NoStart bool
	// Version is the caller's own. OnVersion is called at most once, when the daemon's
	// differs.
	Version   string
	OnVersion func(daemon string)
}

// Client talks to one daemon. Its methods may be called from several goroutines.
type Client struct {
	opts Options
	dirs paths.Dirs
	seam *effect.Seam
	http *http.Client

	startMu     sync.Mutex // one start at a time
	versionOnce sync.Once
}

// New makes a Client. It reads the environment but touches nothing; the daemon is
// dialled by the first call.
func New(opts Options) (*Client, error) {
	if opts.Getenv == nil {
		opts.Getenv = os.Getenv
	}
	getenv := opts.Getenv
	if opts.StateDir != "" {
		getenv = func(name string) string {
			if name == "BANGER_STATE_DIR" {
				return opts.StateDir
			}
			return opts.Getenv(name)
		}
	}
	dirs, err := paths.FromEnv(getenv)
	if err != nil {
		return nil, err
	}
	seam, err := effect.FromEnv("client", opts.Getenv(effect.EnvPlan))
	if err != nil {
		return nil, errs.With(errs.Usage, err)
	}
	c := &Client{opts: opts, dirs: dirs, seam: seam}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableCompression: true,
		MaxIdleConns:       2,
		IdleConnTimeout:    time.Minute,
	}}
	return c, nil
}

// StateDir is the state directory that names the daemon.
func (c *Client) StateDir() string { return c.dirs.State }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Code is the class of an error from this package, as it is on the wire: "not_found",
// "busy"… It is "internal" when nothing better is known, and "" for nil.
func Code(err error) string {
	if err == nil {
		return ""
	}
	return errs.ClassOf(err).Code()
}

// Hint is what err suggests to do next, or "".
func Hint(err error) string { return errs.HintOf(err) }
