package fake

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/vmm/monitor"
	"banger/internal/vmm/vmmtest/guest"
)

// machine is the fake VMM's process, seen from inside.
type machine struct {
	kernel string
	initrd string
	disks  []guest.Disk
	plan   plan
	start  time.Time
}

// Main is the fake VMM. args are those after Verb; the result is the exit code.
func Main(args []string) int {
	// As QEMU is started: nothing from a terminal reaches it, and its console may go away.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	m := machine{start: time.Now()}
	if err := m.load(args); err != nil {
		fmt.Fprintln(os.Stderr, "fakevmm:", err)
		return 1
	}
	if m.plan.exit != 0 {
		fmt.Fprintf(os.Stderr, "fakevmm: exits with %d, as planned\n", m.plan.exit)
		return m.plan.exit
	}
	m.planEnd()
	port := os.NewFile(monitor.ChannelFD, "agent")
	if err := m.run(port); err != nil {
		fmt.Fprintln(os.Stderr, "fakevmm:", err)
		// The guest's end of the channel is broken; a machine goes on without an agent.
		select {}
	}
	return 0
}

// load checks and opens everything that a VMM does before it runs a guest.
func (m *machine) load(args []string) error {
	flags := flag.NewFlagSet(Verb, flag.ContinueOnError)
	flags.StringVar(&m.kernel, "kernel", "", "")
	flags.StringVar(&m.initrd, "initrd", "", "")
	flags.Int("cpus", 1, "")
	flags.Int64("memory", 0, "")
	// Disks stay open and locked until the process ends.
	flags.Func("ro", "", func(path string) error { return m.disk(path, os.O_RDONLY) })
	flags.Func("rw", "", func(path string) error { return m.disk(path, os.O_RDWR) })
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if m.plan, err = readPlan(m.kernel); err != nil {
		return fmt.Errorf("load kernel: %w", err)
	}
	if m.initrd != "" {
		if _, err := os.Stat(m.initrd); err != nil {
			return fmt.Errorf("load initrd: %w", err)
		}
	}
	return nil
}

// disk opens a disk as QEMU does: a writable one is locked against a second user.
func (m *machine) disk(path string, flag int) error {
	fd, err := unix.Open(path, flag|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open disk %s: %w", path, err)
	}
	if flag == os.O_RDWR {
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lock); err != nil {
			return fmt.Errorf("lock disk %s: %w", path, err)
		}
	}
	// Opened again through /proc, the file is the one that was locked.
	m.disks = append(m.disks, guest.Disk{Path: fmt.Sprintf("/proc/self/fd/%d", fd), ReadOnly: flag == os.O_RDONLY})
	return nil
}

// planEnd arranges for the ends that come by themselves.
func (m *machine) planEnd() {
	if d := m.plan.panics; d > 0 {
		time.AfterFunc(d, func() {
			fmt.Fprint(os.Stdout, "[    0.5] Kernel panic - not syncing: fake\r\n[    0.5] ---[ end Kernel panic - not syncing: fake ]---\r\n")
			os.Exit(0)
		})
	}
	if d := m.plan.reset; d > 0 {
		time.AfterFunc(d, reset)
	}
	if d := m.plan.crash; d > 0 {
		time.AfterFunc(d, func() {
			signal.Reset(syscall.SIGABRT)
			_ = unix.Kill(os.Getpid(), unix.SIGABRT)
		})
	}
}

// reset is how a guest ends: the VMM exits with 0.
func reset() { os.Exit(0) }

func (m *machine) run(port *os.File) error {
	fmt.Fprint(os.Stdout, "fakevmm: console\r\n")
	if m.plan.console > 0 {
		flood := bytes.NewReader([]byte(strings.Repeat("x", 79) + "\n"))
		for left := m.plan.console; left > 0; left -= 80 {
			_, _ = flood.Seek(0, io.SeekStart)
			_, _ = io.CopyN(os.Stdout, flood, int64(min(left, 80)))
		}
	}
	if m.plan.hang {
		select {}
	}
	time.Sleep(m.plan.boot)
	switch {
	case m.plan.conformance:
		return guest.Guest{Port: port, Console: os.Stdout, Disks: m.disks, Reset: reset}.Serve()
	case m.plan.bootFailed != "":
		return failBoot(port, m.plan.bootFailed)
	}
	return m.serve(context.Background(), port)
}
