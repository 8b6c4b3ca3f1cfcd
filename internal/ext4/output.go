package ext4

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

const (
	outBufSize = 1 << 20
	outBufs    = 6
)

// output gathers writes that follow one another into buffers and writes the
// buffers from one other goroutine, which starts with the first buffer.
type output struct {
	f    *os.File
	buf  []byte
	n    int   // bytes of buf in use
	off  int64 // file offset of buf[0]
	made int   // buffers allocated

	queue chan chunk
	pool  chan []byte
	wg    sync.WaitGroup
	err   atomic.Pointer[error] // first failure of the goroutine
	once  sync.Once
}

type chunk struct {
	b   []byte
	off int64
}

func newOutput(f *os.File) *output {
	return &output{f: f, pool: make(chan []byte, outBufs)}
}

// at makes off the offset of the next byte.
func (o *output) at(off int64) error {
	if off == o.off+int64(o.n) {
		return nil
	}
	if err := o.send(); err != nil {
		return err
	}
	o.off = off
	return nil
}

// space is room for the next bytes, at least a block and at most max; what the
// caller puts there becomes part of the file only by advance.
func (o *output) space(max int) ([]byte, error) {
	if o.buf != nil && len(o.buf)-o.n < blockSize {
		if err := o.send(); err != nil {
			return nil, err
		}
	}
	if o.buf == nil {
		o.buf = o.take()
	}
	return o.buf[o.n:min(len(o.buf), o.n+max)], nil
}

// advance accepts n bytes of space.
func (o *output) advance(n int) { o.n += n }

// write puts b at off; b is whole blocks unless it ends the use of that place.
func (o *output) write(b []byte, off int64) error {
	if err := o.at(off); err != nil {
		return err
	}
	for len(b) > 0 {
		s, err := o.space(len(b))
		if err != nil {
			return err
		}
		n := copy(s, b)
		o.advance(n)
		b = b[n:]
	}
	return nil
}

func (o *output) take() []byte {
	select {
	case b := <-o.pool:
		return b
	default:
	}
	if o.made < outBufs {
		o.made++
		return make([]byte, outBufSize)
	}
	return <-o.pool
}

// send hands the buffer to the goroutine.
func (o *output) send() error {
	if p := o.err.Load(); p != nil {
		return *p
	}
	if o.n == 0 {
		return nil
	}
	if o.n < outBufSize/4 && o.queue == nil { // an empty disk is a few small writes
		if _, err := o.f.WriteAt(o.buf[:o.n], o.off); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
	} else {
		o.start()
		o.queue <- chunk{o.buf[:o.n], o.off}
		o.buf = nil
	}
	o.off += int64(o.n)
	o.n = 0
	return nil
}

func (o *output) start() {
	if o.queue != nil {
		return
	}
	o.queue = make(chan chunk, outBufs)
	o.wg.Go(func() {
		for c := range o.queue {
			if o.err.Load() == nil {
				if _, err := o.f.WriteAt(c.b, c.off); err != nil {
					err = fmt.Errorf("write image: %w", err)
					o.err.Store(&err)
				}
			}
			o.pool <- c.b[:cap(c.b)]
		}
	})
}

// finish writes what is left and waits for the goroutine.
func (o *output) finish() error {
	err := o.send()
	o.stop()
	if p := o.err.Load(); p != nil {
		return *p
	}
	return err
}

// stop ends the goroutine after what was handed to it; idempotent.
func (o *output) stop() {
	o.once.Do(func() {
		if o.queue != nil {
			close(o.queue)
		}
		o.wg.Wait()
		o.buf, o.n = nil, 0
	})
}

// fillFrom reads len(b) bytes; a stream that ends early is io.ErrUnexpectedEOF.
func fillFrom(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// allZero tells whether b has only zero bytes.
func allZero(b []byte) bool {
	for len(b) >= 8 {
		if le.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
