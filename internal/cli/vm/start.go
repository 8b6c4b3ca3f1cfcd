package vm

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
)

// NewStart makes the command start; runF stands in for the real work in tests.
func NewStart(a *app.App, runF func(context.Context, *ChangeOptions) error) *cobra.Command {
	cmd := &cobra.Command{Use: "start NAME...", Short: "Start VMs, and wait until they are ready"}
	trace := cmd.Flags().Bool("trace", false, "print how long each step took")
	start := func(ctx context.Context, c *client.Client, name string, report func(api.Progress)) (api.VM, error) {
		started, err := c.StartVM(ctx, name, report)
		if err == nil && *trace {
			a.IO.WriteTrace(started.Trace)
		}
		return started.VM, err
	}
	return newChange(a, cmd, "starting", start, runF)
}
