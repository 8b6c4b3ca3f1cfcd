package session

import (
	"os"
	"sync"

	"banger/internal/errs"
	"banger/internal/guestproto"
)

// creditStep is how much input the program must have taken before the client hears of
// it: single keystrokes are not worth a frame each.
const creditStep = guestproto.StdinWindow / 8

// endOfFile is what a person types on a terminal to end the input.
const endOfFile = 4

// input holds what the client sent and the program has not read yet, at most
// guestproto.StdinWindow.
type input struct {
	conn *guestproto.Conn
	f    *os.File
	tty  bool

	mu     sync.Mutex
	cond   *sync.Cond
	queue  []byte
	held   int  // bytes not given back to the client
	eof    bool // nothing comes after the queue
	closed bool
}

func newInput(conn *guestproto.Conn, f *os.File, tty bool) *input {
	in := &input{conn: conn, f: f, tty: tty}
	in.cond = sync.NewCond(&in.mu)
	return in
}

// noInput takes what a client sends for a command that does not run.
func noInput() *input {
	in := newInput(nil, nil, false)
	in.closed = true
	return in
}

// add queues the client's bytes; more than the client had credit for is InvalidData.
func (in *input) add(p []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(p) > guestproto.StdinWindow-in.held {
		return errs.New(errs.InvalidData, "%d bytes of input beyond the window", in.held+len(p)-guestproto.StdinWindow)
	}
	if in.eof || in.closed {
		return nil
	}
	in.held += len(p)
	in.queue = append(in.queue, p...)
	in.cond.Signal()
	return nil
}

// finish ends the input after what is queued.
func (in *input) finish() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.eof = true
	in.cond.Signal()
}

// close ends the input now. On a terminal the file is the output's too, and stays open.
func (in *input) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.cond.Signal()
	if !in.tty && in.f != nil {
		_ = in.f.Close() // a write under way ends
	}
}

// run feeds the program until the input ends or is closed. A program that closed its
// input gets the rest dropped, and the client goes on as if it were read.
func (in *input) run() {
	broken, unpaid := false, 0
	defer in.end()
	for {
		p := in.next()
		if p == nil {
			return
		}
		if !broken {
			_, err := in.f.Write(p)
			broken = err != nil
		}
		unpaid += len(p)
		if unpaid >= creditStep {
			in.mu.Lock()
			in.held -= unpaid
			in.mu.Unlock()
			if in.conn.WriteJSON(guestproto.KindStdinWindow, guestproto.Credit{Bytes: unpaid}) != nil {
				return // the client is gone; its reader notices
			}
			unpaid = 0
		}
	}
}

// end tells the program that its input is over.
func (in *input) end() {
	if !in.tty {
		_ = in.f.Close()
		return
	}
	in.mu.Lock()
	closed := in.closed
	in.mu.Unlock()
	if !closed {
		_, _ = in.f.Write([]byte{endOfFile}) // an error is the terminal's end
	}
}

// next waits for queued bytes; nil when there will be none.
func (in *input) next() []byte {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.queue) == 0 && !in.eof && !in.closed {
		in.cond.Wait()
	}
	if in.closed || len(in.queue) == 0 {
		return nil
	}
	p := in.queue
	in.queue = nil
	return p
}
