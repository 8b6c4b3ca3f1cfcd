package agent

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"banger/internal/agent/session"
	"banger/internal/errs"
	"banger/internal/guestproto"
)

// ackLimit is how long the end of the guest waits for the host to have heard of it.
const ackLimit = time.Second

// link is the agent's end of the channel to the host.
type link struct {
	mux       *yamux.Session
	control   *guestproto.Conn
	shutdowns chan guestproto.Shutdown // the first one that was asked for
	acks      chan struct{}
}

// dial opens the control connection. It owns port from then on, also after an error.
func dial(port io.ReadWriteCloser) (*link, error) {
	mux, err := guestproto.MuxServer(port)
	if err != nil {
		_ = port.Close()
		return nil, fmt.Errorf("multiplex the channel: %w", err)
	}
	stream, err := mux.OpenStream()
	if err != nil {
		_ = mux.Close()
		return nil, fmt.Errorf("open the control connection: %w", err)
	}
	return &link{
		mux: mux, control: guestproto.NewConn(stream),
		shutdowns: make(chan guestproto.Shutdown, 1), acks: make(chan struct{}, 1),
	}, nil
}

// greet says hello and waits, without limit, to be told what this guest is.
func (l *link) greet(mainNS int64) (guestproto.BootConfig, error) {
	var config guestproto.BootConfig
	hello := guestproto.Hello{
		Version: guestproto.Version, BootID: bootID(), Kernel: kernelRelease(),
		MainNS: mainNS, HelloNS: sinceBoot(),
	}
	if err := l.control.WriteJSON(guestproto.KindHello, hello); err != nil {
		return config, fmt.Errorf("say hello: %w", err)
	}
	if err := l.control.ReadJSON(guestproto.KindBootConfig, &config); err != nil {
		return config, fmt.Errorf("read the boot configuration: %w", err)
	}
	return config, nil
}

// serveControl obeys the host until the connection ends, and tells why it did.
func (l *link) serveControl() error {
	for {
		kind, payload, err := l.control.Read()
		if err != nil {
			return fmt.Errorf("control connection: %w", err)
		}
		switch kind {
		case guestproto.KindShutdown:
			var order guestproto.Shutdown
			if err := guestproto.Decode(kind, payload, &order); err != nil {
				return err
			}
			select {
			case l.shutdowns <- order:
			default: // a second one changes nothing
			}
		case guestproto.KindEndingAck:
			select {
			case l.acks <- struct{}{}:
			default:
			}
		}
	}
}

// announce tells the host how the guest ends, and waits shortly until it has heard.
func (l *link) announce(verb string) {
	if l.control.WriteJSON(guestproto.KindEnding, guestproto.Ending{Verb: verb}) != nil {
		return // nobody is there to hear it
	}
	select {
	case <-l.acks:
	case <-l.mux.CloseChan():
	case <-time.After(ackLimit):
	}
}

// serveRequests answers the host's requests until the channel ends.
func (l *link) serveRequests(runner *session.Runner) {
	seen := &requestIDs{known: map[string]bool{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		stream, err := l.mux.AcceptStream()
		if err != nil {
			return
		}
		wg.Go(func() { serveRequest(guestproto.NewConn(stream), runner, seen) })
	}
}

func serveRequest(conn *guestproto.Conn, runner *session.Runner, seen *requestIDs) {
	var req guestproto.Request
	err := conn.ReadJSON(guestproto.KindRequest, &req)
	switch {
	case err != nil:
	case req.Verb != guestproto.VerbExec || req.Exec == nil:
		err = errs.New(errs.Usage, "request %q: this agent does not know it", req.Verb)
	case !seen.first(req.ID):
		err = errs.New(errs.AlreadyExists, "request %s: it was executed before", req.ID)
	default:
		runner.Serve(conn, *req.Exec)
		return
	}
	defer conn.Close()
	if conn.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: guestproto.CodeRefused, Error: err.Error()}) != nil {
		return
	}
	for {
		if _, _, err := conn.Read(); err != nil {
			return
		}
	}
}

// maxRequestIDs is how many requests a repeat is recognized for.
const maxRequestIDs = 4096

// requestIDs remembers the latest requests.
type requestIDs struct {
	mu    sync.Mutex
	known map[string]bool
	order []string
}

// first tells whether id was not seen before; "" never was.
func (r *requestIDs) first(id string) bool {
	if id == "" {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[id] {
		return false
	}
	if len(r.order) == maxRequestIDs {
		delete(r.known, r.order[0])
		r.order = r.order[1:]
	}
	r.known[id] = true
	r.order = append(r.order, id)
	return true
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// sinceBoot is CLOCK_BOOTTIME in nanoseconds.
func sinceBoot() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // fails only for unknown clocks
	return ts.Nano()
}
