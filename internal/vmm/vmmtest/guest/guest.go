// Package guest is the far side of the VMM conformance suite: what runs behind the
// agent's channel, in a real guest as its init, in the fake VMM directly.
//
// It opens one connection and sends "hello". On each connection that the host opens it
// reads one line and does what that says:
//
//	echo            sends back what follows
//	open N          opens N connections, tells how many were taken
//	console N       writes N bytes to the console, then says "done"
//	disk I          tells size and first 16 bytes of the I-th disk, in hex
//	write I TEXT    writes TEXT to the beginning of the I-th disk and syncs it
//	memory N        touches N bytes of memory, then says "done"
//	spin            keeps every CPU busy with four threads each for a second; tells the
//	                CPUs, and the rounds of the slowest and the fastest thread
//	pings           floods the channel with pings
//	deaf            never reads from the channel again
//	reset           ends the machine as a guest's reboot does
package guest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Guest is what the program may use.
type Guest struct {
	Port    io.ReadWriteCloser
	Console io.Writer
	Disks   []Disk
	Reset   func() // does not return
}

// Disk is a block device, or a file.
type Disk struct {
	Path     string
	ReadOnly bool // it must not be written even where Path could be
}

// Hello is sent on the guest's first connection.
const Hello = "hello\n"

// Serve runs until the channel ends.
func (g Guest) Serve() error {
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.LogOutput = io.Discard
	port := &deafenable{ReadWriteCloser: g.Port, deaf: make(chan struct{})}
	session, err := yamux.Server(port, config)
	if err != nil {
		return err
	}
	control, err := session.Open()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(control, Hello); err != nil {
		return err
	}
	for {
		conn, err := session.Accept()
		if err != nil {
			return err
		}
		go g.do(session, port, conn)
	}
}

func (g Guest) do(session *yamux.Session, port *deafenable, conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if err != nil {
		return
	}
	verb, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	switch verb {
	case "echo":
		_, _ = io.Copy(conn, in)
	case "open":
		fmt.Fprintln(conn, open(session, number(rest)))
	case "console":
		g.flood(number(rest))
		fmt.Fprintln(conn, "done")
	case "disk":
		fmt.Fprintln(conn, g.disk(number(rest)))
	case "write":
		index, text, _ := strings.Cut(rest, " ")
		fmt.Fprintln(conn, g.write(number(index), text))
	case "memory":
		touch(number(rest))
		fmt.Fprintln(conn, "done")
	case "spin":
		fmt.Fprintln(conn, spin(4*runtime.NumCPU()))
	case "pings":
		pings(g.Port)
	case "deaf":
		close(port.deaf)
	case "reset":
		g.Reset()
	default:
		fmt.Fprintln(conn, "unknown verb", verb)
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

// open counts the connections on which the host did not answer with a reset.
func open(session *yamux.Session, n int) int {
	taken := 0
	for range n {
		conn, err := session.Open()
		if err != nil {
			return taken
		}
		_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
		_, _ = io.WriteString(conn, "x")
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, yamux.ErrConnectionReset) {
			taken++
		}
	}
	return taken
}

func (g Guest) flood(n int) {
	line := []byte(strings.Repeat("x", 79) + "\n")
	for n > 0 {
		w, err := g.Console.Write(line[:min(n, len(line))])
		if err != nil {
			return
		}
		n -= w
	}
}

func (g Guest) disk(i int) string {
	if i >= len(g.Disks) {
		return "no such disk"
	}
	f, err := os.Open(g.Disks[i].Path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	begin := make([]byte, 16)
	if _, err := f.ReadAt(begin, 0); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %x", size, begin)
}

func (g Guest) write(i int, text string) string {
	if i >= len(g.Disks) || g.Disks[i].ReadOnly {
		return "not writable"
	}
	f, err := os.OpenFile(g.Disks[i].Path, os.O_WRONLY, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return err.Error()
	}
	if err := f.Sync(); err != nil {
		return err.Error()
	}
	return "done"
}

func touch(n int) {
	memory := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		memory[i] = 1
	}
}

// spin is fair only if the clock interrupts every CPU.
func spin(threads int) string {
	// One processor of the runtime each: the kernel shares the CPUs out, not the runtime.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads))
	rounds := make([]int, threads)
	var all sync.WaitGroup
	for i := range rounds {
		all.Go(func() {
			runtime.LockOSThread()
			for until := time.Now().Add(time.Second); time.Now().Before(until); {
				rounds[i]++
			}
		})
	}
	all.Wait()
	return fmt.Sprintln(runtime.NumCPU(), slices.Min(rounds), slices.Max(rounds))
}

// pings writes frames past the session, which breaks it; a hostile guest does not care.
func pings(w io.Writer) {
	var frame [12]byte
	frame[1] = 2                             // ping
	binary.BigEndian.PutUint16(frame[2:], 1) // SYN: a question
	many := make([]byte, 0, 1000*len(frame))
	for range 1000 {
		many = append(many, frame[:]...)
	}
	for range 1000 {
		if _, err := w.Write(many); err != nil {
			return
		}
	}
}

// deafenable is a port from which reading can be stopped for good.
type deafenable struct {
	io.ReadWriteCloser
	deaf chan struct{}
}

func (d *deafenable) Read(p []byte) (int, error) {
	select {
	case <-d.deaf:
		select {}
	default:
		return d.ReadWriteCloser.Read(p)
	}
}
