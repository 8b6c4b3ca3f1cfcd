package system

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/cli/app"
)

// StartOptions are what start was called with.
type StartOptions struct{ App *app.App }

// NewStart makes the command start; runF stands in for the real work in tests.
func NewStart(a *app.App, runF func(context.Context, *StartOptions) error) *cobra.Command {
	opts := &StartOptions{App: a}
	return &cobra.Command{
		Use:   "start",
		Short: "Start the daemon, which every command does that needs it",
		Args:  app.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runStart(cmd.Context(), opts)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func runStart(ctx context.Context, o *StartOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	return o.App.Wait("starting the daemon", func(func(api.Progress)) error {
		_, err := c.Status(ctx)
		return err
	})
}
