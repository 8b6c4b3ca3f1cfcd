package guestproto

import (
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// MuxServer is the guest's end of a byte stream that carries many connections; the
// host's is in package vmm/monitor, with limits against a hostile guest. It owns the
// stream: closing the session closes it. Neither end sends anything before it opens a
// connection, so the guest can speak first.
func MuxServer(port io.ReadWriteCloser) (*yamux.Session, error) {
	return yamux.Server(port, muxConfig())
}

func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard // what matters comes back as an error
	// A host that was suspended, or stopped in a debugger, is no reason to give a guest
	// up: nothing here may be decided by a clock.
	c.EnableKeepAlive = false
	c.StreamOpenTimeout = 0
	c.ConnectionWriteTimeout = 24 * time.Hour
	// One stream has at most this much on its way to a reader that does not read, and
	// costs a hostile guest's host no more.
	c.MaxStreamWindowSize = 512 << 10
	return c
}
