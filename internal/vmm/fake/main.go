package fake

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/agent"
	"banger/internal/vmm/monitor"
	"banger/internal/vmm/vmmtest/guest"
)

// machine is the fake VMM's process, seen from inside.
type machine struct {
	kernel string
	initrd string
	disks  []guest.Disk
	plan   plan
}

// Main is the fake VMM. args are those after Verb; the result is the exit code.
func Main(args []string) int {
	// As QEMU is started: nothing from a terminal reaches it, and its console may go away.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	var m machine
	if err := m.load(args); err != nil {
		fmt.Fprintln(os.Stderr, "fakevmm:", err)
		return 1
	}
	if m.plan.exit != 0 {
		fmt.Fprintf(os.Stderr, "fakevmm: exits with %d, as planned\n", m.plan.exit)
		return m.plan.exit
	}
	// The environment is empty, as QEMU's; the guest's commands need to be found.
	if err := os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		fmt.Fprintln(os.Stderr, "fakevmm:", err)
		return 1
	}
	m.planEnd()
	// Only a non-blocking descriptor can be closed while it is being read.
	if err := unix.SetNonblock(monitor.ChannelFD, true); err != nil {
		fmt.Fprintln(os.Stderr, "fakevmm:", err)
		return 1
	}
	port := os.NewFile(monitor.ChannelFD, "agent")
	if err := m.run(port); err != nil {
		fmt.Fprintln(os.Stderr, "fakevmm:", err)
		// The channel is broken; a machine goes on without its agent.
		for {
			time.Sleep(time.Hour)
		}
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
		time.AfterFunc(d, func() { _ = unix.Kill(os.Getpid(), unix.SIGKILL) })
	}
}

// reset is how a guest ends: the VMM exits with 0.
func reset() { os.Exit(0) }

// run is the guest; it returns nil when the guest has ended.
func (m *machine) run(port *os.File) error {
	if m.plan.conformance {
		return guest.Guest{Port: port, Console: os.Stdout, Disks: m.disks, Reset: reset}.Serve()
	}
	ends := make(chan string, 1)
	if m.plan.endVerb != "" {
		time.AfterFunc(m.plan.endAfter, func() { ends <- m.plan.endVerb })
	}
	return agent.ServeHost(context.Background(), port, agent.HostOptions{
		Console:      os.Stdout,
		ConsoleText:  "fakevmm: console\r\n",
		ConsoleFlood: m.plan.console,
		HelloDelay:   m.plan.boot,
		NeverHello:   m.plan.hang,
		FailStage:    m.plan.bootFailed,
		FailError:    "planned by the fake VMM",
		DieAfter:     m.plan.die,
		Deaf:         m.plan.deaf,
		Ends:         ends,
	})
}
