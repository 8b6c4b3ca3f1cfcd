package vm

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/cli/app"
)

// DeleteOptions are what delete was called with.
type DeleteOptions struct {
	App        *app.App
	Names      []string
	Yes, Force bool
	JSON       bool
}

// NewDelete makes the command delete; runF stands in for the real work in tests.
func NewDelete(a *app.App, runF func(context.Context, *DeleteOptions) error) *cobra.Command {
	opts := &DeleteOptions{App: a}
	cmd := &cobra.Command{
		Use:     "delete NAME...",
		Aliases: []string{"rm"},
		Short:   "Delete VMs and their disks",
		Args:    app.Names,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Names = args
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runDelete(cmd.Context(), opts)
		},
		ValidArgsFunction: a.Complete(app.VMNames, true),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&opts.Yes, "yes", "y", false, "do not ask")
	flags.BoolVarP(&opts.Force, "force", "f", false, "also VMs that run; do not ask")
	flags.BoolVar(&opts.JSON, "json", false, "print the deleted names as JSON")
	return cmd
}

func runDelete(ctx context.Context, o *DeleteOptions) error {
	if !o.Yes && !o.Force {
		if err := o.App.IO.Confirm(ctx, "delete VM "+quotedList(o.Names)+" with all its disks"); err != nil {
			return err
		}
	}
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	var deleted []string
	err = o.App.Each(ctx, o.Names, func(name string) error {
		err := o.App.Wait("deleting "+name, func(func(api.Progress)) error {
			return c.DeleteVM(ctx, name, o.Force)
		})
		if err != nil {
			return app.Suggest(ctx, c, err, "vm", name, app.VMNames)
		}
		deleted = append(deleted, name)
		if o.JSON {
			return nil
		}
		return o.App.IO.Println(name)
	})
	return o.App.AnswerDeleted(o.JSON, deleted, err)
}
