package vm

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
)

// NewStop makes the command stop; runF stands in for the real work in tests.
func NewStop(a *app.App, runF func(context.Context, *ChangeOptions) error) *cobra.Command {
	cmd := &cobra.Command{Use: "stop NAME...", Short: "Shut VMs down, and wait until they have stopped"}
	stop := func(ctx context.Context, c *client.Client, name string, _ func(api.Progress)) (api.VM, error) {
		return c.StopVM(ctx, name)
	}
	return newChange(a, cmd, "stopping", stop, runF)
}
