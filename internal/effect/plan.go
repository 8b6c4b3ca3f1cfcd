package effect

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// EnvPlan is the environment variable that plans faults in banger's own processes.
// It exists for tests: without it no fault is ever made.
const EnvPlan = "BANGER_FAULTS"

// FromEnv makes the Seam of the process called role ("daemon", "shim") from the value
// of EnvPlan, a space-separated list of
//
//	ROLE:ACTION@WHERE
//
// ACTION is kill (before the effect), kill-after, fail=ERRNO, delay=DURATION, or
// log=FILE (no WHERE: appends a line per effect). WHERE is an ordinal among all
// effects, or NAME#ORDINAL. Other roles' entries are ignored; an empty value makes a
// plain Seam. A malformed value is an error.
func FromEnv(role, value string) (*Seam, error) {
	var plan plan
	for _, entry := range strings.Fields(value) {
		who, what, ok := strings.Cut(entry, ":")
		if !ok {
			return nil, fmt.Errorf("%s: %q: want ROLE:ACTION@WHERE", EnvPlan, entry)
		}
		if who != role {
			continue
		}
		if path, ok := strings.CutPrefix(what, "log="); ok {
			plan.logPath = path
			continue
		}
		f, err := parseFault(what)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", EnvPlan, entry, err)
		}
		plan.faults = append(plan.faults, f)
	}
	if plan.faults == nil && plan.logPath == "" {
		return New(nil), nil
	}
	return New(&plan), nil
}

type fault struct {
	action string
	name   string // "" counts all effects
	at     int
	errno  syscall.Errno
	delay  time.Duration
}

var errnoByName = map[string]syscall.Errno{
	"ENOSPC": syscall.ENOSPC, "EIO": syscall.EIO, "EMFILE": syscall.EMFILE, "EACCES": syscall.EACCES,
}

func parseFault(s string) (fault, error) {
	action, where, hasWhere := strings.Cut(s, "@")
	var f fault
	var arg string
	f.action, arg, _ = strings.Cut(action, "=")
	switch f.action {
	case "kill", "kill-after":
	case "fail":
		no, ok := errnoByName[arg]
		if !ok {
			return f, fmt.Errorf("unknown errno %q", arg)
		}
		f.errno = no
	case "delay":
		d, err := time.ParseDuration(arg)
		if err != nil {
			return f, err
		}
		f.delay = d
	default:
		return f, fmt.Errorf("unknown action %q", f.action)
	}
	if !hasWhere {
		return f, fmt.Errorf("%s needs @WHERE", f.action)
	}
	name, ordinal, named := strings.Cut(where, "#")
	if named {
		f.name = name
	} else {
		ordinal = where
	}
	at, err := strconv.Atoi(ordinal)
	if err != nil || at < 1 {
		return f, fmt.Errorf("ordinal %q: want a number from 1", ordinal)
	}
	f.at = at
	return f, nil
}

type plan struct {
	faults  []fault
	logPath string
	mu      sync.Mutex // orders lines of the log
}

func (f fault) hits(e Event) bool {
	if f.name != "" {
		return f.name == e.Name && f.at == e.K
	}
	return f.at == e.N
}

func (p *plan) Before(ctx context.Context, e Event) error {
	p.log(e)
	for _, f := range p.faults {
		if !f.hits(e) {
			continue
		}
		switch f.action {
		case "kill":
			dieHere()
		case "fail":
			return fmt.Errorf("%s (planned fault): %w", e.Name, f.errno)
		case "delay":
			select {
			case <-time.After(f.delay):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

func (p *plan) After(_ context.Context, e Event, err error) error {
	for _, f := range p.faults {
		if f.action == "kill-after" && f.hits(e) {
			dieHere()
		}
	}
	return err
}

// log must not fail the effect: a test that asked for it notices the missing lines.
func (p *plan) log(e Event) {
	if p.logPath == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	file, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	_, _ = fmt.Fprintf(file, "%d %s\n", e.N, e.Name)
}

// dieHere is kill -9 of this process; no deferred function, no exit handler runs.
func dieHere() {
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}
