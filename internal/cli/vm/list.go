package vm

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
		Short:   "List VMs",
		Args:    app.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runList(cmd.Context(), opts)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print the VMs as JSON")
	cmd.Flags().BoolVarP(&opts.Quiet, "quiet", "q", false, "print names only")
	return cmd
}

func runList(ctx context.Context, o *ListOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	all, err := c.VMs(ctx)
	if err != nil {
		return err
	}
	s := o.App.IO
	if o.JSON {
		return s.WriteJSON(all)
	}
	if o.Quiet {
		for _, v := range all {
			if err := s.Println(v.Name); err != nil {
				return err
			}
		}
		return nil
	}
	t := cliio.NewTable("NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "DISK", "CREATED")
	for _, v := range all {
		t.Row(cliio.Text(v.Name), cliio.State(v.State), cliio.Text(v.Image), cliio.Number(int64(v.CPUs)),
			cliio.Memory(v.MemoryBytes), cliio.Memory(v.DiskBytes), s.Time(v.CreatedAt))
	}
	return s.WriteTable(t)
}
