package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"banger/internal/errs"
)

const (
	verifyBufSize = 256 << 10
	verifyBufs    = 6
)

// verifier reads ahead of its reader and hashes what it read in a goroutine of
// its own, so that neither waits for the other. It ends with io.EOF only when
// size and digest are right. The buffers are shared, not copied.
type verifier struct {
	out  chan *block
	done chan struct{}
	stop sync.Once
	wg   sync.WaitGroup

	cur  *block
	rest []byte
	err  error

	pool chan *block
}

// block is a buffer in use by the hash and by the reader; both let go of it.
type block struct {
	b    []byte
	n    int
	refs atomic.Int32
	err  error // ends the stream, after n bytes
}

// newVerifier starts reading r, which must stay open until close. want is the
// digest, size the length (-1: any), limit the most bytes that are read.
func newVerifier(r io.Reader, want string, size, limit int64) *verifier {
	v := &verifier{
		out: make(chan *block, verifyBufs), done: make(chan struct{}), pool: make(chan *block, verifyBufs),
	}
	hashed := make(chan *block, verifyBufs)
	sum := make(chan string, 1)
	v.wg.Go(func() {
		h := sha256.New()
		for b := range hashed {
			h.Write(b.b[:b.n])
			v.release(b)
		}
		sum <- digestPrefix + hex.EncodeToString(h.Sum(nil))
	})
	v.wg.Go(func() {
		defer close(v.out)
		total, err := v.pump(r, limit, hashed)
		close(hashed)
		got := <-sum
		switch {
		case !errors.Is(err, io.EOF):
		case size >= 0 && total != size:
			err = errs.New(errs.InvalidData, "%d bytes instead of %d", total, size)
		case got != want:
			err = errs.New(errs.InvalidData, "the content has the digest %s instead of %s", got, want)
		}
		select {
		case v.out <- &block{err: err}:
		case <-v.done:
		}
	})
	return v
}

// pump reads until an error, which it returns; io.EOF is the proper end.
func (v *verifier) pump(r io.Reader, limit int64, hashed chan<- *block) (int64, error) {
	var total int64
	for made := 0; ; {
		var b *block
		select {
		case b = <-v.pool:
		default:
			if made < verifyBufs {
				made++
				b = &block{b: make([]byte, verifyBufSize)}
				break
			}
			select {
			case b = <-v.pool:
			case <-v.done:
				return total, io.ErrClosedPipe
			}
		}
		var n int
		var err error
		for n < len(b.b) && err == nil { // io.ReadFull would hide a cut stream behind its own error
			var k int
			k, err = r.Read(b.b[n:])
			n += k
		}
		if total += int64(n); total > limit {
			return total, errs.New(errs.InvalidData, "the stream is over %d bytes", limit)
		}
		if n > 0 {
			b.n = n
			b.refs.Store(2)
			hashed <- b
			select {
			case v.out <- b:
			case <-v.done:
				return total, io.ErrClosedPipe
			}
		}
		if err != nil {
			return total, err
		}
	}
}

func (v *verifier) release(b *block) {
	if b.refs.Add(-1) == 0 {
		v.pool <- b // never blocks: it has room for all there are
	}
}

func (v *verifier) Read(p []byte) (int, error) {
	for len(v.rest) == 0 {
		if v.err != nil {
			return 0, v.err
		}
		if v.cur != nil {
			v.release(v.cur)
			v.cur = nil
		}
		b, ok := <-v.out
		switch {
		case !ok:
			v.err = io.ErrClosedPipe
		case b.err != nil:
			v.err = b.err
		default:
			v.cur, v.rest = b, b.b[:b.n]
		}
	}
	n := copy(p, v.rest)
	v.rest = v.rest[n:]
	return n, nil
}

// abort makes everything that waits in v, or for it, return.
func (v *verifier) abort() { v.stop.Do(func() { close(v.done) }) }

// close stops reading ahead and waits until nothing uses r any more.
func (v *verifier) close() {
	v.abort()
	v.wg.Wait()
}
