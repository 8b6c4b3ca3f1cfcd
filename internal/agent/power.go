package agent

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guestproto"
)

const (
	// killWait bounds the wait for killed processes: one that hangs in the kernel never
	// goes.
	killWait = 2 * time.Second
	// syncWait bounds a sync before a reset that nobody asked for.
	syncWait = 2 * time.Second
)

// end ends every process and leaves the disks clean. It waits for nothing that is not
// there.
func (g *guest) end(order guestproto.Shutdown) {
	g.runner.Close()
	_ = syscall.Kill(-1, syscall.SIGTERM) // ESRCH: there is nobody else
	_ = syscall.Kill(-1, syscall.SIGCONT)
	if !g.allGone(graceOf(order), 0) {
		g.allGone(killWait, syscall.SIGKILL)
	}
	g.runner.Wait(clientGrace)
	g.disks.makeReadOnly()
}

// allGone waits until no process is left but this one, and sends sig, if not 0, to all
// again and again meanwhile: some fork. PID 1 has no child exactly when there is no
// other process, since orphans become its children.
func (g *guest) allGone(limit time.Duration, sig syscall.Signal) bool {
	deadline := time.Now().Add(limit)
	for g.reaper.Reap() {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		if sig != 0 {
			_ = syscall.Kill(-1, sig)
			left = min(left, 10*time.Millisecond)
		}
		select {
		case <-g.reaper.Changed():
		case <-time.After(left):
		}
	}
	return true
}

// makeReadOnly writes everything out and marks the file systems clean. What fails is
// told on the console: the journal covers it.
func (d *disks) makeReadOnly() {
	unix.Sync()
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		complain(fmt.Errorf("make the root read-only: %w", err))
	}
	for _, dir := range []int{d.upper, d.work} {
		if dir < 0 {
			continue
		}
		if err := remountReadOnly(dir); err != nil {
			complain(fmt.Errorf("make a disk read-only: %w", err))
		}
	}
}

// remountReadOnly works on a descriptor, because no path leads to these mounts any more.
func remountReadOnly(dir int) error {
	fs, err := unix.Fspick(dir, "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
		return err
	}
	return unix.FsconfigReconfigure(fs)
}

func syncBriefly() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		unix.Sync()
	}()
	select {
	case <-done:
	case <-time.After(syncWait):
	}
}

// reset ends the machine. A VMM ends at a reset, and at nothing else: after a power-off
// it would run on.
func reset() {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {} // it cannot fail for PID 1; returning would be a panic
}
