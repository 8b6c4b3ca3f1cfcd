// Package system holds the commands about the daemon: one file a verb, each with its
// options, the function that makes the command and the one that does the work.
package system

import (
	"github.com/spf13/cobra"

	"banger/internal/cli/app"
)

// New makes the noun system with its verbs.
func New(a *app.App) *cobra.Command {
	return app.Group("system", "Look after the daemon", NewStatus(a, nil), NewStart(a, nil), NewStop(a, nil))
}
