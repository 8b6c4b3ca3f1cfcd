package monitor

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"banger/internal/errs"
)

// Parts of a yamux frame's header, from its specification: version, type, flags (2),
// stream (4), length (4); only a data frame has a body.
const (
	headerSize = 12
	typeData   = 0
	typePing   = 2
)

const (
	pingBurst    = 16
	pingInterval = time.Second
)

// guard watches what the guest sends. yamux answers each ping on a goroutine of its
// own, which waits for as long as the guest does not read: a guest that only sends
// pings would take all of our memory. Pings above one a second end the session.
type guard struct {
	net.Conn
	spoke     chan struct{}
	firstByte sync.Once

	// Used by the one reader, yamux's receive loop.
	header [headerSize]byte
	have   int    // bytes of header seen
	body   uint32 // bytes of the current frame's body still to come
	pings  int
	since  time.Time // pings are counted from here
}

func newGuard(c net.Conn) *guard {
	return &guard{Conn: c, spoke: make(chan struct{})}
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if n > 0 {
		g.firstByte.Do(func() { close(g.spoke) })
		if bad := g.follow(p[:n]); bad != nil {
			return 0, bad
		}
	}
	return n, err
}

// follow walks over frames without buffering them.
func (g *guard) follow(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			skip := min(uint32(len(p)), g.body)
			g.body -= skip
			p = p[skip:]
			continue
		}
		n := copy(g.header[g.have:], p)
		g.have += n
		p = p[n:]
		if g.have < headerSize {
			return nil
		}
		g.have = 0
		switch g.header[1] {
		case typeData:
			g.body = binary.BigEndian.Uint32(g.header[8:])
		case typePing:
			if err := g.ping(time.Now()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *guard) ping(now time.Time) error {
	if allowed := int(now.Sub(g.since) / pingInterval); allowed > 0 {
		g.pings = max(0, g.pings-allowed)
		g.since = now
	}
	if g.pings++; g.pings > pingBurst {
		return errs.New(errs.InvalidData, "the guest floods its channel with pings")
	}
	return nil
}

// onceFlag goes from unset to set once.
type onceFlag struct{ v atomic.Bool }

func (f *onceFlag) isSet() bool { return f.v.Load() }

// set tells whether this call set it.
func (f *onceFlag) set() bool { return f.v.CompareAndSwap(false, true) }
