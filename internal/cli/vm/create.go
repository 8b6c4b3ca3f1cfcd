package vm

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/cli/app"
)

// CreateOptions are what create was called with.
type CreateOptions struct {
	App  *app.App
	Spec api.VMSpec
	JSON bool
}

// NewCreate makes the command create; runF stands in for the real work in tests.
func NewCreate(a *app.App, runF func(context.Context, *CreateOptions) error) *cobra.Command {
	opts := &CreateOptions{App: a}
	var spec specFlags
	cmd := &cobra.Command{
		Use:     "create NAME [flags]",
		Short:   "Make a VM and leave it stopped",
		Example: "  banger vm create box --cpus 4 --memory 8GiB",
		Args:    app.OneName,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			spec.Name = args[0]
			if opts.Spec, err = spec.spec(cmd, a.Getenv); err != nil {
				return err
			}
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runCreate(cmd.Context(), opts)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	spec.add(a, cmd)
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print the VM as JSON")
	return cmd
}

func runCreate(ctx context.Context, o *CreateOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	var made api.VM
	err = o.App.Wait("creating "+o.Spec.Name, func(func(api.Progress)) error {
		made, err = c.CreateVM(ctx, o.Spec)
		return err
	})
	if err != nil {
		return err
	}
	if o.JSON {
		return o.App.IO.WriteJSON(made)
	}
	return o.App.IO.Println(made.Name)
}
