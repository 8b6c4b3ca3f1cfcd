// Command bangerd is banger's daemon, and each VM's shim.
package main

import (
	"os"

	"banger/internal/daemon"
)

var version = "dev" // set by the linker

func main() { os.Exit(daemon.Main(os.Args[1:], version, nil)) }
