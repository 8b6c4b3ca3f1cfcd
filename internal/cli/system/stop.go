package system

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
	"banger/internal/errs"
)

// StopOptions are what stop was called with.
type StopOptions struct{ App *app.App }

// NewStop makes the command stop; runF stands in for the real work in tests.
func NewStop(a *app.App, runF func(context.Context, *StopOptions) error) *cobra.Command {
	opts := &StopOptions{App: a}
	return &cobra.Command{
		Use:   "stop",
		Short: "Stop the daemon; VMs go on running",
		Args:  app.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runStop(cmd.Context(), opts)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// runStop is content with a daemon that does not run: what was asked for is so.
func runStop(ctx context.Context, o *StopOptions) error {
	c, err := o.App.RunningClient()
	if err != nil {
		return err
	}
	err = o.App.Wait("stopping the daemon", func(func(api.Progress)) error { return c.Stop(ctx) })
	if errs.Is(err, errs.Unavailable) && client.NotRunning(err) {
		o.App.IO.Warn("the daemon does not run")
		return nil
	}
	return err
}
