// Package procid identifies processes by pid, start time and boot id, never by name or
// bare pid: a pid alone may belong to somebody else by the time it is used.
package procid

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/errs"
)

// ID names one process for good.
type ID struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks after boot, field 22 of /proc/PID/stat
	BootID    string `json:"boot_id"`
}

// Self is the calling process.
func Self() (ID, error) { return Of(os.Getpid()) }

// Of is the process that has pid now; NotFound when there is none.
func Of(pid int) (ID, error) {
	start, err := startTime(pid)
	if err != nil {
		return ID{}, err
	}
	boot, err := BootID()
	if err != nil {
		return ID{}, err
	}
	return ID{PID: pid, StartTime: start, BootID: boot}, nil
}

// BootID is this boot of the host.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, errs.New(errs.NotFound, "process %d: %w", pid, fs.ErrNotExist)
	}
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold blanks and parentheses; fields resume after the last one.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const startTimeField = 22 - 3 // fields count from 1, and the first after the name is the 3rd
	if len(fields) <= startTimeField {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields after the name", pid, len(fields))
	}
	return strconv.ParseUint(fields[startTimeField], 10, 64)
}

// Open gives a pidfd for the process, which stays its own whatever happens to the pid.
// It is NotFound when the process is gone, its pid belongs to another one, or the host
// was booted since. A zombie counts as there.
func (id ID) Open() (*os.File, error) {
	gone := errs.New(errs.NotFound, "process %d: gone", id.PID)
	boot, err := BootID()
	if err != nil {
		return nil, err
	}
	if id.PID <= 0 || boot != id.BootID {
		return nil, gone
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, gone
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd of %d: %w", id.PID, err)
	}
	// Looked up after the pidfd was opened: equal start times now prove that the pidfd
	// is of the process that was meant.
	if start, err := startTime(id.PID); err != nil || start != id.StartTime {
		_ = unix.Close(fd)
		return nil, gone
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", id.PID)), nil
}

// Alive tells whether the process is there and not a zombie.
func (id ID) Alive() bool {
	f, err := id.Open()
	if err != nil {
		return false
	}
	defer f.Close()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}, 0)
	return err == nil && n == 0 // a pidfd becomes readable when its process ends
}
