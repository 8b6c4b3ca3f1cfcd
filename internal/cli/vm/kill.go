package vm

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
)

// NewKill makes the command kill; runF stands in for the real work in tests.
func NewKill(a *app.App, runF func(context.Context, *ChangeOptions) error) *cobra.Command {
	cmd := &cobra.Command{Use: "kill NAME...", Short: "End VMs at once, without asking their guests"}
	kill := func(ctx context.Context, c *client.Client, name string, _ func(api.Progress)) (api.VM, error) {
		return c.KillVM(ctx, name)
	}
	return newChange(a, cmd, "killing", kill, runF)
}
