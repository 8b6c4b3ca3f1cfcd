// Command growinit is the first process of a guest that grows the filesystem on
// its first disk while it is mounted, step by step, to the sizes (bytes) that the
// kernel command line names as grow=N,N. It says "grown" on the console when all went well.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const resizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS

func main() {
	if err := run(); err != nil {
		fmt.Println("grow:", err)
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func run() error {
	for _, d := range []string{"/dev", "/proc", "/mnt"} {
		os.MkdirAll(d, 0o755)
	}
	if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	_, sizes, _ := strings.Cut(string(line), "grow=")
	sizes = strings.Fields(sizes)[0]
	if err := unix.Mount("/dev/vda", "/mnt", "ext4", 0, "errors=panic"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	for i, s := range strings.Split(sizes, ",") {
		if err := grow(i, s); err != nil {
			return fmt.Errorf("to %s: %w", s, err)
		}
	}
	if err := unix.Unmount("/mnt", 0); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	fmt.Println("grown")
	return nil
}

func grow(step int, s string) error {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return err
	}
	d, err := os.Open("/mnt")
	if err != nil {
		return err
	}
	defer d.Close()
	blocks := n / 4096
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, d.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); no != 0 {
		return no
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/mnt", &st); err != nil {
		return err
	}
	if have := st.Blocks * 4096; have < n-n/16-80<<20 {
		return fmt.Errorf("the filesystem has %d bytes", have)
	}
	dir := filepath.Join("/mnt", fmt.Sprint("step", step))
	for i := range 40 {
		sub := filepath.Join(dir, fmt.Sprint(i)) // directories spread over the groups
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(sub, "f"), bytes.Repeat([]byte{byte(i)}, 50000), 0o644); err != nil {
			return err
		}
	}
	unix.Sync()
	return nil
}
