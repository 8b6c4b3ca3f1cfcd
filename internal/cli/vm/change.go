package vm

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
)

// ChangeOptions are what start, stop or kill was called with.
type ChangeOptions struct {
	App   *app.App
	Names []string
	JSON  bool

	doing  string
	change change
}

// change does one verb to one VM.
type change func(ctx context.Context, c *client.Client, name string, report func(api.Progress)) (api.VM, error)

// newChange makes the command of a verb that changes the state of VMs. It answers with
// their names, or with --json with the VMs.
func newChange(a *app.App, cmd *cobra.Command, doing string, f change, runF func(context.Context, *ChangeOptions) error) *cobra.Command {
	opts := &ChangeOptions{App: a, doing: doing, change: f}
	cmd.Args = app.Names
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opts.Names = args
		if runF != nil {
			return runF(cmd.Context(), opts)
		}
		return runChange(cmd.Context(), opts)
	}
	cmd.ValidArgsFunction = a.Complete(app.VMNames, true)
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print the VMs as JSON")
	return cmd
}

func runChange(ctx context.Context, o *ChangeOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	var changed []api.VM
	err = o.App.Each(ctx, o.Names, func(name string) error {
		var now api.VM
		err := o.App.Wait(o.doing+" "+name, func(report func(api.Progress)) (err error) {
			now, err = o.change(ctx, c, name, report)
			return err
		})
		if err != nil {
			return app.Suggest(ctx, c, err, "vm", name, app.VMNames)
		}
		changed = append(changed, now)
		if o.JSON {
			return nil
		}
		return o.App.IO.Println(now.Name)
	})
	if o.JSON && (err == nil || len(changed) > 0) {
		if jsonErr := o.App.IO.WriteJSON(changed); err == nil {
			err = jsonErr
		}
	}
	return err
}
