package agent

import (
	"time"

	"banger/internal/guestproto"
)

const (
	// endGrace is between TERM and KILL when the guest ends by itself.
	endGrace = 5 * time.Second
	// maxGrace bounds what the host may ask for, against nonsense.
	maxGrace = time.Hour
	// clientGrace is what clients get to take the exit codes of commands that the
	// shutdown ended.
	clientGrace = 200 * time.Millisecond
)

func graceOf(order guestproto.Shutdown) time.Duration {
	return min(max(0, time.Duration(order.GraceMS)*time.Millisecond), maxGrace)
}

// verbOf reads an unknown verb as poweroff: a guest that was asked to end ends.
func verbOf(order guestproto.Shutdown) string {
	switch order.Verb {
	case guestproto.VerbHalt, guestproto.VerbReboot:
		return order.Verb
	}
	return guestproto.VerbPoweroff
}
