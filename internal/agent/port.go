package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/errs"
)

const (
	portLimit = 5 * time.Second // for the kernel to find the port, and for the host to be there
	portStep  = 500 * time.Microsecond
	// maxPortWrite is what the kernel takes in one piece, contiguous in its memory.
	maxPortWrite = 32 << 10
)

// port is the virtio-serial port to the host. It is opened once and never closed: bytes
// that came before an open are lost.
type port struct {
	f        *os.File
	heard    bool // the host has been there
	deadline time.Time
}

// openPort waits for the port called name and opens it. It is Unavailable when there is
// none.
func openPort(name string) (*port, error) {
	deadline := time.Now().Add(portLimit)
	for {
		if device := findPort(name); device != "" {
			// Not blocking, so that Go waits for it without a thread of its own.
			fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err == nil {
				return &port{f: os.NewFile(uintptr(fd), device), deadline: time.Now().Add(portLimit)}, nil
			}
			if !errors.Is(err, unix.ENOENT) || time.Now().After(deadline) { // its node comes a moment later
				return nil, fmt.Errorf("open %s: %w", device, err)
			}
		}
		if time.Now().After(deadline) {
			return nil, errs.New(errs.Unavailable, "channel to the host: no virtio port %q", name)
		}
		time.Sleep(portStep)
	}
}

func findPort(name string) string {
	const class = "/sys/class/virtio-ports"
	entries, err := os.ReadDir(class)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(class, e.Name(), "name"))
		if err == nil && strings.TrimSpace(string(text)) == name {
			return "/dev/" + e.Name()
		}
	}
	return ""
}

// Read takes an end of file before the host's first byte for what it is: the kernel has
// not heard yet that the host is there.
func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := p.f.Read(b)
		if n > 0 {
			p.heard = true
		}
		if n > 0 || p.heard || !errors.Is(err, io.EOF) || time.Now().After(p.deadline) {
			return n, err
		}
		time.Sleep(portStep)
	}
}

// Write waits out a guest that has no memory for the kernel's copy of the bytes.
func (p *port) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		n, err := p.f.Write(b[sent:min(len(b), sent+maxPortWrite)])
		sent += n
		if errors.Is(err, unix.ENOMEM) || errors.Is(err, io.ErrUnexpectedEOF) {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// Close does nothing: the machine is reset instead.
func (p *port) Close() error { return nil }
