package image

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/cli/app"
	"banger/internal/cliio"
)

// ListOptions are what list was called with.
type ListOptions struct {
	App   *app.App
	JSON  bool
	Quiet bool
}

// NewList makes the command list; runF stands in for the real work in tests.
func NewList(a *app.App, runF func(context.Context, *ListOptions) error) *cobra.Command {
	opts := &ListOptions{App: a}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List images",
		Args:    app.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runList(cmd.Context(), opts)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print the images as JSON")
	cmd.Flags().BoolVarP(&opts.Quiet, "quiet", "q", false, "print names only")
	return cmd
}

func runList(ctx context.Context, o *ListOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	all, err := c.Images(ctx)
	if err != nil {
		return err
	}
	s := o.App.IO
	if o.JSON {
		return s.WriteJSON(all)
	}
	if o.Quiet {
		for _, i := range all {
			if err := s.Println(i.Name); err != nil {
				return err
			}
		}
		return nil
	}
	t := cliio.NewTable("NAME", "ARCH", "SIZE", "DISK", "SOURCE", "CREATED")
	for _, i := range all {
		t.Row(cliio.Text(i.Name), cliio.Text(i.Arch), cliio.Size(i.SizeBytes), cliio.Size(i.DiskBytes),
			cliio.Text(i.Source), s.Time(i.CreatedAt))
	}
	return s.WriteTable(t)
}
