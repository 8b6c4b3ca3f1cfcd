// Package image holds the commands about images: one file a verb, each with its options,
// the function that makes the command and the one that does the work.
package image

import (
	"github.com/spf13/cobra"

	"banger/internal/cli/app"
)

// New makes the noun image with its verbs.
func New(a *app.App) *cobra.Command {
	return app.Group("image", "Get, show and remove root filesystems",
		NewList(a, nil), NewShow(a, nil), NewPull(a, nil), NewDelete(a, nil))
}
