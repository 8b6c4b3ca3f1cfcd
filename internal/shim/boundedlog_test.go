package shim

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/effect"
)

// noRotation is a disk that has no room for a new file.
type noRotation struct{}

func (noRotation) Before(_ context.Context, e effect.Event) error {
	if e.Name == "vm.log.rotate" {
		return syscall.ENOSPC
	}
	return nil
}

func (noRotation) After(_ context.Context, _ effect.Event, err error) error { return err }

// write sends content through a pipe of l, as a VMM does, and ends it.
func write(t *testing.T, l *boundedLog, content []byte) {
	t.Helper()
	w, closeReader, err := l.Pipe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Error(err)
	}
	w.Close()
	closeReader()
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// numbered is n bytes of which no two stretches are alike.
func numbered(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d\n", i)
	}
	return b.Bytes()[:n]
}

func TestLogKeepsTheNewestAndIsBounded(t *testing.T) {
	l := newBoundedLog(effect.New(nil), filepath.Join(t.TempDir(), "log"))
	if err := os.WriteFile(l.path, []byte("of an earlier run"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := numbered(2*logHalf + logHalf/2)
	write(t, l, all[:100])
	if got := read(t, l.path); !bytes.Equal(got, all[:100]) {
		t.Errorf("small: %q", got)
	}
	write(t, l, all[100:]) // the guest rebooted: the log goes on
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	older, newer := read(t, l.path+".1"), read(t, l.path)
	if len(older) > logHalf || len(newer) > logHalf || len(older)+len(newer) < logHalf {
		t.Errorf("%d and %d bytes", len(older), len(newer))
	}
	if !bytes.HasSuffix(all, append(older, newer...)) {
		t.Error("not the newest output, whole")
	}
}

func TestLogOnAFullDiskDoesNotBlockTheWriter(t *testing.T) {
	l := newBoundedLog(effect.New(noRotation{}), filepath.Join(t.TempDir(), "log"))
	all := numbered(2*logHalf + 100)
	write(t, l, all)
	if got := read(t, l.path); len(got) > logHalf || len(got) == 0 || !bytes.HasSuffix(all, got) {
		t.Errorf("no new file: %d bytes are kept", len(got))
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.file.Close()
	l.file = full
	write(t, l, []byte("last words"))
	if !strings.HasSuffix(l.Tail(), "last words") {
		t.Errorf("no room at all: tail %q", l.Tail())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestLogTail(t *testing.T) {
	lines := strings.Repeat("line\n", 100)
	for name, c := range map[string]struct{ in, want string }{
		"nothing":       {"", ""},
		"blank ends":    {"\n a\n\n", "a"},
		"last lines":    {lines + "end\n", strings.Repeat("line\n", tailLines-1) + "end"},
		"controls":      {"a\x1b[31mb\r\x00\x7f\tc\u009b2Jd", "a[31mb\tc2Jd"},
		"invalid UTF-8": {"a\xff\xfe\x9bb", "a?b"},
		"a long line":   {strings.Repeat("x", 3*tailBytes), strings.Repeat("x", tailBytes)},
	} {
		l := newBoundedLog(effect.New(nil), filepath.Join(t.TempDir(), "log"))
		write(t, l, []byte(c.in))
		if got := l.Tail(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLogDoesNotWaitForWhoHoldsThePipe(t *testing.T) {
	l := newBoundedLog(effect.New(nil), filepath.Join(t.TempDir(), "log"))
	held, closeReader, err := l.Pipe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	closeReader() // although held may still be written to
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
