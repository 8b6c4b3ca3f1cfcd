// The banger command makes and uses VMs; see package cli.
package main

import (
	"os"

	"banger/internal/cli"
)

var version = "dev" // set by the linker

func main() { os.Exit(cli.Main(os.Args[1:], version)) }
