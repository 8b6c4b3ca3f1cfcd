package session

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openPTY makes a terminal of the given size that belongs to uid. The master is
// non-blocking, for Go's poller. The user's end is opened through the master, not by a
// path that the guest may have changed.
func openPTY(rows, cols uint16, uid, gid int) (master, user *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	opened := os.NewFile(uintptr(fd), "ptmx")
	defer func() {
		if err != nil {
			_ = opened.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock terminal: %w", err)
	}
	userFD, err := peer(fd, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("open the user's end of the terminal: %w", err)
	}
	user = os.NewFile(uintptr(userFD), "pts")
	if uid >= 0 {
		_ = unix.Fchown(userFD, uid, gid) // a read-only or foreign devpts is no reason to fail
		_ = unix.Fchmod(userFD, 0o620)
	}
	if rows != 0 || cols != 0 {
		_ = resize(opened, rows, cols)
	}
	return opened, user, nil
}

func resize(master *os.File, rows, cols uint16) error {
	return control(master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

// foreground is the terminal's foreground process group, 0 when it has none.
func foreground(master *os.File) int {
	group := 0
	_ = control(master, func(fd int) (err error) {
		group, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	return group
}

// control uses the descriptor without taking it from the poller, as Fd would.
func control(f *os.File, use func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var useErr error
	if err := raw.Control(func(fd uintptr) { useErr = use(int(fd)) }); err != nil {
		return err
	}
	return useErr
}

// peer is the TIOCGPTPEER ioctl, whose result is a descriptor.
func peer(fd, flags int) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, uintptr(flags))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
