package kernel

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/cli/app"
	"banger/internal/cliio"
)

// ShowOptions are what show was called with.
type ShowOptions struct {
	App  *app.App
	Name string
	JSON bool
}

// NewShow makes the command show; runF stands in for the real work in tests.
func NewShow(a *app.App, runF func(context.Context, *ShowOptions) error) *cobra.Command {
	opts := &ShowOptions{App: a}
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a kernel",
		Args:  app.OneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Name = args[0]
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runShow(cmd.Context(), opts)
		},
		ValidArgsFunction: a.Complete(app.KernelNames, false),
	}
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print the kernel as JSON")
	return cmd
}

func runShow(ctx context.Context, o *ShowOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	k, err := c.Kernel(ctx, o.Name)
	if err != nil {
		return app.Suggest(ctx, c, err, "kernel", o.Name, app.KernelNames)
	}
	s := o.App.IO
	if o.JSON {
		return s.WriteJSON(k)
	}
	return s.WriteFields([]cliio.Field{
		{Name: "name", Cell: cliio.Text(k.Name)},
		{Name: "distro", Cell: cliio.Text(k.Distro)},
		{Name: "arch", Cell: cliio.Text(k.Arch)},
		{Name: "version", Cell: cliio.Text(k.Version)},
		{Name: "sha256", Cell: cliio.Text(k.SHA256)},
		{Name: "source", Cell: cliio.Text(k.Source)},
		{Name: "imported", Cell: s.Time(k.ImportedAt)},
		{Name: "kernel", Cell: cliio.Text(k.KernelPath)},
		{Name: "initrd", Cell: cliio.Text(k.InitrdPath)},
		{Name: "modules", Cell: cliio.Text(k.ModulesDir)},
		{Name: "size", Cell: cliio.Size(k.SizeBytes)},
	})
}
