package shim

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/effect"
)

const (
	logHalf   = 4 << 20 // bytes of one file; with the rotated one a log takes twice that at most
	tailBytes = 4 << 10
	tailLines = 20
	// drainGrace bounds the wait for output that was on its way when the writer ended:
	// a descendant of a hostile VMM might hold the pipe open for ever.
	drainGrace = time.Second
)

// boundedLog keeps the newest output of a writer nobody trusts in a file and its
// rotated predecessor. It never blocks the writer on a full disk: output is then lost.
type boundedLog struct {
	seam *effect.Seam
	path string

	mu   sync.Mutex
	file *os.File
	size int64
	tail []byte
}

func newBoundedLog(seam *effect.Seam, path string) *boundedLog {
	return &boundedLog{seam: seam, path: path}
}

// Pipe gives a write end for a child process, and what ends the reading after the child
// has ended. The caller closes its copy of the write end.
func (l *boundedLog) Pipe(ctx context.Context) (w *os.File, closeReader func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		if l.file, err = l.seam.OpenFile(ctx, "vm.log.open", l.path, flags, 0o600); err != nil {
			return nil, nil, err
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				l.add(context.WithoutCancel(ctx), buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	return w, func() {
		_ = r.SetReadDeadline(time.Now().Add(drainGrace))
		<-done
		_ = r.Close()
	}, nil
}

func (l *boundedLog) add(ctx context.Context, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if over := len(l.tail) - tailBytes; over > 0 {
		l.tail = append(l.tail[:0], l.tail[over:]...)
	}
	if l.file == nil {
		return
	}
	if l.size+int64(len(p)) > logHalf {
		l.rotate(ctx)
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
}

// rotate keeps writing to the old file when a new one cannot be had, from its start.
func (l *boundedLog) rotate(ctx context.Context) {
	l.size = 0
	err := l.seam.Do(ctx, "vm.log.rotate", func() error {
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return err
		}
		next, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		_ = l.file.Close()
		l.file = next
		return nil
	})
	if err != nil {
		_ = l.file.Truncate(0)
		_, _ = l.file.Seek(0, 0)
	}
}

// Has tells whether the last few kilobytes have the text.
func (l *boundedLog) Has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.tail, []byte(text))
}

// Tail is the last lines, with control characters made harmless.
func (l *boundedLog) Tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(l.tail), []byte("\n"))
	if over := len(lines) - tailLines; over > 0 {
		lines = lines[over:]
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0):
			return -1
		}
		return r
	}, string(bytes.ToValidUTF8(bytes.Join(lines, []byte("\n")), []byte("?"))))
}

// Close ends the log; output that still comes is only kept in the tail.
func (l *boundedLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return errors.Join(err)
}
