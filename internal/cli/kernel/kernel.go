// Package kernel holds the commands about guest kernels: one file a verb, each with its
// options, the function that makes the command and the one that does the work.
package kernel

import (
	"github.com/spf13/cobra"

	"banger/internal/cli/app"
)

// New makes the noun kernel with its verbs.
func New(a *app.App) *cobra.Command {
	return app.Group("kernel", "List and show guest kernels", NewList(a, nil), NewShow(a, nil))
}
