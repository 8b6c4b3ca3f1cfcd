package session

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guestproto"
)

// drainTime is how long output is still awaited after the command ended, when processes
// that it left behind hold its streams open.
const drainTime = 100 * time.Millisecond

// outputChunk and a frame's header make a round number: the guest's port takes 32 KiB at
// a time, and a few bytes more would cost another turn.
const outputChunk = guestproto.MaxData - 5

// output is one stream of the command on its way to the client.
type output struct {
	conn  *guestproto.Conn
	kind  guestproto.Kind
	f     *os.File
	ended bool // nobody can write into it any more
}

// copyOutput returns when all streams ended, or had their last call.
func (s *session) copyOutput() {
	var wg sync.WaitGroup
	for _, o := range s.outputs {
		wg.Go(o.copy)
	}
	wg.Wait()
}

func (o *output) copy() {
	buf := make([]byte, outputChunk)
	for {
		n, err := o.f.Read(buf)
		if n > 0 && o.conn.Write(o.kind, buf[:n]) != nil {
			return // the client is gone; its reader notices
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			o.rest(buf)
			return
		}
		if err != nil {
			o.ended = true // EOF, or EIO from a terminal that nobody holds
			return
		}
	}
}

// lastCall ends the wait for more output after drainTime.
func (o *output) lastCall() {
	_ = o.f.SetReadDeadline(time.Now().Add(drainTime)) // a closed one has ended
}

// rest sends what a stream holds after the last call, whoever wrote it. The client may
// have been slow, so this can be the command's own last words. It is bounded, since a
// process left behind may write without end.
func (o *output) rest(buf []byte) {
	if o.f.SetReadDeadline(time.Time{}) != nil {
		return
	}
	raw, err := o.f.SyscallConn()
	if err != nil {
		return
	}
	const bound = 1 << 20 // the largest pipe an ordinary user makes
	for total := 0; total < bound; {
		var n int
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			n, readErr = unix.Read(int(fd), buf)
			return true // do not wait
		})
		if err != nil || readErr == unix.EAGAIN {
			return
		}
		if readErr == unix.EINTR {
			continue
		}
		if n <= 0 {
			o.ended = true
			return
		}
		total += n
		if o.conn.Write(o.kind, buf[:n]) != nil {
			return
		}
	}
}

// abandonOutput reads streams that are still open to nowhere: a server that was started
// in the background must not die of SIGPIPE at its next line.
func (s *session) abandonOutput() {
	for _, o := range s.outputs {
		if o.ended || s.tty {
			_ = o.f.Close()
			continue
		}
		s.r.serving.Go(func() {
			defer o.f.Close()
			_, _ = io.Copy(io.Discard, o.f)
		})
	}
}
