package vm

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/term"

	"banger/client"
	"banger/internal/cliio"
)

// terminal is this process's own, in raw mode while a session has it.
type terminal struct {
	sizes chan client.Size

	fd      int // of the input, or -1 when that is no terminal
	before  *term.State
	signals chan os.Signal
	quit    chan struct{}
	once    sync.Once
}

// openTerminal puts the terminal into raw mode, when there is one, and follows its size.
// The caller restores it.
func openTerminal(s *cliio.IO) (*terminal, error) {
	t := &terminal{fd: -1, sizes: make(chan client.Size, 1), signals: make(chan os.Signal, 4), quit: make(chan struct{})}
	if in, ok := s.In.(*os.File); ok && s.InTTY {
		before, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return nil, err
		}
		t.fd, t.before = int(in.Fd()), before
	}
	signal.Notify(t.signals, syscall.SIGWINCH, syscall.SIGCONT)
	go t.follow(s)
	return t, nil
}

func (t *terminal) follow(s *cliio.IO) {
	for {
		if size, ok := terminalSize(s); ok {
			select {
			case <-t.sizes: // an older one that nobody took
			default:
			}
			t.sizes <- size
		}
		select {
		case sig := <-t.signals:
			// A shell that stopped this process and continued it gave the terminal
			// its own mode.
			if sig == syscall.SIGCONT && t.fd >= 0 {
				_, _ = term.MakeRaw(t.fd)
			}
		case <-t.quit:
			return
		}
	}
}

// restore gives the terminal its mode back. It may be called twice.
func (t *terminal) restore() {
	t.once.Do(func() {
		signal.Stop(t.signals)
		close(t.quit)
		if t.fd >= 0 {
			_ = term.Restore(t.fd, t.before)
		}
	})
}

// terminalSize is the size of the first terminal among output and input.
func terminalSize(s *cliio.IO) (client.Size, bool) {
	for _, end := range []any{s.Out, s.In} {
		if f, ok := end.(*os.File); ok {
			if cols, rows, err := term.GetSize(int(f.Fd())); err == nil && cols > 0 && rows > 0 {
				return client.Size{Rows: uint16(min(rows, 1<<16-1)), Cols: uint16(min(cols, 1<<16-1))}, true
			}
		}
	}
	return client.Size{}, false
}

// catchBrokenPipe makes writing to a closed pipe an error in place of a signal that
// would end this process with its terminal raw.
func catchBrokenPipe() (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGPIPE)
	return func() { signal.Stop(signals) }
}
