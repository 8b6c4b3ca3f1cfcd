// Command init is the first process of the kernel's tests: it says that it runs and
// reboots, or ends, which makes the kernel panic, when its argument says so.
package main

import (
	"fmt"
	"os"
	"slices"
	"syscall"
)

func main() {
	fmt.Println("init: up")
	if slices.Contains(os.Args, "fall-over") {
		return
	}
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Println("init: reboot:", err)
	}
}
