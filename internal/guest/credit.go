package guest

import (
	"sync"

	"banger/internal/errs"
	"banger/internal/guestproto"
)

// credit counts the bytes of input that may be sent.
type credit struct {
	mu     sync.Mutex
	cond   *sync.Cond
	left   int
	closed bool
}

func newCredit(n int) *credit {
	c := &credit{left: n}
	c.cond = sync.NewCond(&c.mu)
	return c
}

// take waits for credit and takes up to n of it; 0 when closed.
func (c *credit) take(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.left == 0 && !c.closed {
		c.cond.Wait()
	}
	if c.closed {
		return 0
	}
	n = min(n, c.left)
	c.left -= n
	return n
}

func (c *credit) giveBack(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left += n
	c.cond.Signal()
}

// add is the guest's word, so it is checked.
func (c *credit) add(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n < 0 || n > guestproto.StdinWindow-c.left {
		return errs.New(errs.InvalidData, "guest gives %d bytes of input credit on top of %d", n, c.left)
	}
	c.left += n
	c.cond.Signal()
	return nil
}

func (c *credit) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *credit) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.cond.Broadcast()
}
