// Command fakevmm is bangerd with one more driver, "fake": its VMs have no guest, so a
// whole life costs milliseconds.
package main

import (
	"os"

	"banger/test/rig"
)

func main() { os.Exit(rig.Daemon(os.Args[1:])) }
