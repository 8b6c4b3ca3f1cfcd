package image

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/cli/app"
)

// PullOptions are what pull was called with.
type PullOptions struct {
	App  *app.App
	Pull api.ImagePull
	JSON bool
}

// NewPull makes the command pull; runF stands in for the real work in tests.
func NewPull(a *app.App, runF func(context.Context, *PullOptions) error) *cobra.Command {
	opts := &PullOptions{App: a}
	cmd := &cobra.Command{
		Use:     "pull REF",
		Short:   "Get an image and make a root filesystem of it",
		Example: "  banger image pull oci:./layout:latest --name mine",
		Args:    app.OneName,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if opts.Pull.Ref, err = app.AbsoluteRef(args[0]); err != nil {
				return err
			}
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runPull(cmd.Context(), opts)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault // a reference may be a path
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Pull.Name, "name", "", "name of the image (default: made from the reference)")
	flags.BoolVarP(&opts.Pull.Force, "force", "f", false, "replace an image of that name")
	flags.BoolVar(&opts.JSON, "json", false, "print the image as JSON")
	return cmd
}

func runPull(ctx context.Context, o *PullOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	var made api.Image
	err = o.App.Wait("pulling "+o.Pull.Ref, func(report func(api.Progress)) error {
		made, err = c.PullImage(ctx, o.Pull, report)
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
