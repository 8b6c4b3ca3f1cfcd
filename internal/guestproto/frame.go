package guestproto

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"banger/internal/errs"
)

// Limits of one frame's payload, in bytes.
const (
	MaxData    = 64 << 10 // kinds that carry bytes
	MaxMessage = 1 << 20  // kinds that carry JSON
)

const headerSize = 5 // kind, then the payload's length as a big-endian uint32

// Conn reads and writes frames. One goroutine may read while several write.
type Conn struct {
	rw   io.ReadWriteCloser
	wmu  sync.Mutex
	wbuf []byte
	rbuf []byte
	head [headerSize]byte
}

// NewConn frames rw, and owns it from then on.
func NewConn(rw io.ReadWriteCloser) *Conn { return &Conn{rw: rw} }

// Close closes the connection below; blocked reads and writes end.
func (c *Conn) Close() error { return c.rw.Close() }

func limit(k Kind) uint32 {
	switch k {
	case KindStdin, KindStdout, KindStderr:
		return MaxData
	}
	return MaxMessage
}

// Read takes the next frame. The payload is valid until the next Read. The end of the
// stream between two frames is io.EOF, within a frame io.ErrUnexpectedEOF; an oversized
// frame is InvalidData, and nothing can be read after it.
func (c *Conn) Read() (Kind, []byte, error) {
	if _, err := io.ReadFull(c.rw, c.head[:]); err != nil {
		return 0, nil, err
	}
	kind, n := Kind(c.head[0]), binary.BigEndian.Uint32(c.head[1:])
	if n > limit(kind) {
		return 0, nil, errs.New(errs.InvalidData, "frame of kind %d: %d bytes, at most %d", kind, n, limit(kind))
	}
	if int(n) > cap(c.rbuf) {
		c.rbuf = make([]byte, max(int(n), 4<<10))
	}
	payload := c.rbuf[:n]
	if _, err := io.ReadFull(c.rw, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, payload, nil
}

// Write sends one frame, whole, in one write below. A payload over the kind's limit is
// InvalidData and sends nothing.
func (c *Conn) Write(k Kind, payload []byte) error {
	if len(payload) > int(limit(k)) {
		return errs.New(errs.InvalidData, "frame of kind %d: %d bytes, at most %d", k, len(payload), limit(k))
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.wbuf = append(c.wbuf[:0], byte(k), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(c.wbuf[1:], uint32(len(payload)))
	c.wbuf = append(c.wbuf, payload...)
	_, err := c.rw.Write(c.wbuf)
	return err
}

// WriteJSON sends one frame with v as its JSON document.
func (c *Conn) WriteJSON(k Kind, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Write(k, payload)
}

// Decode reads a payload's JSON document into v; a malformed one is InvalidData.
func Decode(k Kind, payload []byte, v any) error {
	if err := json.Unmarshal(payload, v); err != nil {
		return errs.New(errs.InvalidData, "frame of kind %d: %w", k, err)
	}
	return nil
}

// ReadJSON takes the next frame, which must be of kind want, into v.
func (c *Conn) ReadJSON(want Kind, v any) error {
	kind, payload, err := c.Read()
	if err != nil {
		return err
	}
	if kind != want {
		return errs.New(errs.InvalidData, "frame of kind %d, want %d", kind, want)
	}
	return Decode(kind, payload, v)
}

// Writer sends every Write as frames of kind k, and nothing for an empty one.
func (c *Conn) Writer(k Kind) io.Writer { return frameWriter{c, k} }

type frameWriter struct {
	c *Conn
	k Kind
}

func (w frameWriter) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n := min(len(p)-sent, MaxData)
		if err := w.c.Write(w.k, p[sent:sent+n]); err != nil {
			return sent, fmt.Errorf("send: %w", err)
		}
		sent += n
	}
	return sent, nil
}
