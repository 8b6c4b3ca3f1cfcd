package cli

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"banger/internal/cli/app"
)

// build is what this program was made from.
type build struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// VersionOptions are what version was called with.
type VersionOptions struct {
	App  *app.App
	JSON bool
}

func newVersion(a *app.App) *cobra.Command {
	opts := &VersionOptions{App: a}
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		Args:  app.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runVersion(cmd.Context(), opts)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print the version as JSON")
	return cmd
}

func runVersion(_ context.Context, o *VersionOptions) error {
	b := build{Version: o.App.Version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if o.JSON {
		return o.App.IO.WriteJSON(b)
	}
	return o.App.IO.Println(fmt.Sprintf("banger %s (%s, %s/%s)", b.Version, b.Go, b.OS, b.Arch))
}
