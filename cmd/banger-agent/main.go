// The banger-agent command is PID 1 of a banger guest.
package main

import (
	"os"

	"banger/internal/agent"
)

func main() { os.Exit(agent.Main(os.Args)) }
