//go:build linux && amd64

// Command testinit is the init of the VMM conformance suite's real guests.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"banger/internal/vmm/vmmtest/guest"
)

func main() {
	if _, err := os.Stat("/reset"); err == nil { // a bare boot, to be timed or counted
		fmt.Println("testinit: tsc", tsc(), "cpus", runtime.NumCPU())
		reset()
	}
	fmt.Println("testinit:", run())
	reset()
}

// run serves as the conformance guest; it returns only when it cannot go on.
func run() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	fmt.Fprintln(console, "testinit: up")
	ports, err := filepath.Glob("/dev/vport*p*")
	if err != nil || len(ports) != 1 {
		return fmt.Errorf("ports: %v, %w", ports, err)
	}
	port, err := os.OpenFile(ports[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	disks, err := filepath.Glob("/dev/vd?")
	if err != nil {
		return err
	}
	g := guest.Guest{Port: port, Console: console, Reset: reset}
	for _, path := range disks {
		g.Disks = append(g.Disks, guest.Disk{Path: path})
	}
	return g.Serve()
}

func reset() {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}
