package agent

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/guestproto"
)

// watchSignals takes every signal: Go's runtime would end the process, and with PID 1
// the machine, at some that it is not told to pass on.
func (g *guest) watchSignals() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			g.reaper.Collect()
		}
	}()
	g.signals = make(chan os.Signal, 8)
	dropped := make(chan os.Signal, 1)
	for n := syscall.Signal(1); n <= 64; n++ {
		switch n {
		case syscall.SIGCHLD, syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGURG: // SIGURG is the runtime's own
		case syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGUSR2:
			signal.Notify(g.signals, n)
		default:
			signal.Notify(dropped, n)
		}
	}
	complain(ignoreUnnotified())
	// Ctrl-Alt-Del is SIGINT from here on, not a reset.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
}

func verbOfSignal(sig os.Signal) string {
	for verb, s := range verbSignals {
		if s == sig {
			return verb
		}
	}
	return guestproto.VerbReboot // SIGINT
}

// ignoreUnnotified ignores the signals that os/signal leaves alone. The kernel normally
// spares an init that has no handler for a signal; but when one comes while the first
// thread is in another signal's handler, it ends even PID 1, and the machine panics
// (complete_signal in kernel/signal.c). C libraries keep these two for themselves and
// set them up when they need them, so it is no harm that commands inherit this.
func ignoreUnnotified() error {
	action := struct {
		handler  uintptr
		flags    uint64
		restorer uintptr
		mask     uint64
	}{handler: 1} // SIG_IGN
	for _, number := range []uintptr{32, 34} {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, number, uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
		if errno != 0 {
			return fmt.Errorf("ignore signal %d: %w", number, errno)
		}
	}
	return nil
}
