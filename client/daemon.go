package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"banger/api"
	"banger/internal/errs"
	"banger/internal/procid"
	"banger/internal/unixsock"
)

const (
	// busyWait is how long a daemon that somebody else is starting may take.
	busyWait = 10 * time.Second
	// restart is how often another start is tried meanwhile.
	restart = 500 * time.Millisecond
	poll    = 20 * time.Millisecond
	// readyFD is the pipe on which a started daemon says how it went.
	readyFD = "BANGER_READY_FD=3"

	ready = "ready" // it listens
	busy  = "busy"  // another one has the state directory
)

// dial connects to the daemon, starting it when nobody listens.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := c.dialRunning(ctx)
	if err == nil || c.opts.NoStart || !errs.Is(err, errs.Unavailable) {
		return conn, err
	}
	c.startMu.Lock()
	defer c.startMu.Unlock()
	if conn, err := c.dialRunning(ctx); err == nil {
		return conn, nil
	}
	for deadline := time.Now().Add(busyWait); ; {
		word, err := c.start(ctx)
		if err != nil {
			return nil, fmt.Errorf("start the daemon: %w", err)
		}
		conn, err := c.dialSoon(ctx)
		if err == nil || !errs.Is(err, errs.Unavailable) {
			return conn, err
		}
		// Whoever has the lock is about to listen, or about to end: then this one's
		// place is free.
		if word == ready || time.Now().After(deadline) {
			return nil, errs.Hint(err, "see %s", c.dirs.DaemonLog())
		}
	}
}

// dialSoon connects to a daemon that is there or about to be.
func (c *Client) dialSoon(ctx context.Context) (net.Conn, error) {
	for deadline := time.Now().Add(restart); ; {
		conn, err := c.dialRunning(ctx)
		if err == nil || !errs.Is(err, errs.Unavailable) || time.Now().After(deadline) {
			return conn, err
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// dialRunning connects to the daemon that daemon.json names; Unavailable: there is none.
func (c *Client) dialRunning(ctx context.Context) (net.Conn, error) {
	file, err := c.daemonFile()
	if err != nil {
		return nil, err
	}
	conn, err := unixsock.Dial(ctx, file.Socket)
	if errs.Is(err, errs.Unavailable) {
		return nil, errs.With(errs.Unavailable, fmt.Errorf("%w: %w", errNotRunning, err))
	}
	return conn, err
}

var errNotRunning = errors.New("the daemon does not run")

// NotRunning tells whether a call failed because there is no daemon.
func NotRunning(err error) bool { return errors.Is(err, errNotRunning) }

func (c *Client) daemonFile() (api.DaemonFile, error) {
	var file api.DaemonFile
	raw, err := os.ReadFile(c.dirs.DaemonFile())
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return file, errs.Hint(errs.With(errs.Unavailable, errNotRunning), "start it: banger system start")
	}
	if err != nil {
		return file, err
	}
	if err := json.Unmarshal(raw, &file); err != nil || file.Socket == "" {
		return file, errs.New(errs.Unavailable, "read %s: no socket in it", c.dirs.DaemonFile())
	}
	return file, nil
}

// start runs bangerd and waits for its word, ready or busy.
func (c *Client) start(ctx context.Context) (string, error) {
	program, err := c.program()
	if err != nil {
		return "", err
	}
	if err := c.seam.MkdirAll(ctx, "client.state.make", c.dirs.State, 0o700); err != nil {
		return "", err
	}
	log, err := c.seam.OpenFile(ctx, "client.log.open", c.dirs.DaemonLog(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return "", err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.Command(program, "serve") //nolint:noctx // it outlives this process
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	// The daemon's own directory is another: what was relative must not be.
	cmd.Env = append(os.Environ(), readyFD, "BANGER_STATE_DIR="+c.dirs.State,
		"BANGER_RUNTIME_DIR="+c.dirs.Runtime, "BANGER_CACHE_DIR="+c.dirs.Cache)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	logged := size(log)
	err = errors.Join(c.seam.Start(ctx, "client.daemon.start", cmd), w.Close())
	if err != nil {
		return "", err
	}
	return c.verdict(ctx, cmd, r, logged)
}

// verdict reads the one line that a starting daemon writes.
func (c *Client) verdict(ctx context.Context, cmd *exec.Cmd, r *os.File, logged int64) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(r, 1<<20)).ReadString('\n')
	if ctx.Err() != nil {
		go func() { _ = cmd.Wait() }() // it goes on starting; only its zombie is ours
		return "", context.Cause(ctx)
	}
	word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	switch {
	case err == nil && word == ready:
		go func() { _ = cmd.Wait() }()
		return ready, nil
	case err == nil && word == busy:
		_ = cmd.Wait()
		return busy, nil
	case err == nil && word == "error":
		_ = cmd.Wait()
		var wire api.Error
		if json.Unmarshal([]byte(rest), &wire) == nil && wire.Message != "" {
			return "", fromWire(wire)
		}
	}
	how := "it said nothing it should"
	if err != nil {
		how = "it ended"
		if waitErr := cmd.Wait(); waitErr != nil {
			how = "it ended with " + waitErr.Error()
		}
	} else {
		go func() { _ = cmd.Wait() }()
	}
	if tail := c.logTail(logged); tail != "" {
		how += "; its last words:\n" + tail
	}
	return "", errs.Hint(errs.New(errs.Unavailable, "%s: %s", cmd.Path, how), "see %s", c.dirs.DaemonLog())
}

// program finds bangerd.
func (c *Client) program() (string, error) {
	chosen := c.opts.Daemon
	if chosen == "" {
		chosen = c.opts.Getenv("BANGER_DAEMON")
	}
	if chosen != "" {
		return filepath.Abs(chosen)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "bangerd")
		if info, err := os.Stat(beside); err == nil && info.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	found, err := exec.LookPath("bangerd")
	if err != nil {
		return "", errs.Hint(errs.New(errs.Unavailable, "bangerd: not found"),
			"put it beside banger or on PATH, or set BANGER_DAEMON")
	}
	return filepath.Abs(found)
}

func size(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// logTail is the end of what the daemon logged since from.
func (c *Client) logTail(from int64) string {
	const most, lines = 4 << 10, 10
	f, err := os.Open(c.dirs.DaemonLog())
	if err != nil {
		return ""
	}
	defer f.Close()
	from = max(from, size(f)-most)
	raw, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Stop ends the daemon and returns when it is gone; VMs go on running. A daemon that
// does not run is Unavailable, and is not started.
func (c *Client) Stop(ctx context.Context) error {
	was, err := c.daemonFile()
	if err != nil {
		return err
	}
	if conn, err := c.dialRunning(ctx); err != nil {
		return err
	} else if err := conn.Close(); err != nil {
		return err
	}
	if _, err := do[struct{}](ctx, c, call{what: "stop the daemon", method: http.MethodPost, path: "/system/stop"}); err != nil {
		return err
	}
	c.Close()
	process := procid.ID{PID: was.PID, StartTime: was.StartTime, BootID: was.BootID}
	for process.Alive() {
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return fmt.Errorf("stop the daemon: %w", context.Cause(ctx))
		}
	}
	return nil
}
