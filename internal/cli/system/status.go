package system

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/cli/app"
	"banger/internal/cliio"
)

// StatusOptions are what status was called with.
type StatusOptions struct {
	App  *app.App
	JSON bool
}

// NewStatus makes the command status; runF stands in for the real work in tests.
func NewStatus(a *app.App, runF func(context.Context, *StatusOptions) error) *cobra.Command {
	opts := &StatusOptions{App: a}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the daemon and what it can do here",
		Args:  app.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runStatus(cmd.Context(), opts)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print the status as JSON")
	return cmd
}

func runStatus(ctx context.Context, o *StatusOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	var is api.SystemStatus
	err = o.App.Wait("asking the daemon", func(func(api.Progress)) error {
		is, err = c.Status(ctx)
		return err
	})
	if err != nil {
		return err
	}
	s := o.App.IO
	if o.JSON {
		return s.WriteJSON(is)
	}
	kvm := "usable"
	if !is.KVM.Usable {
		kvm = "not usable: " + is.KVM.Reason
	}
	return s.WriteFields([]cliio.Field{
		{Name: "pid", Cell: cliio.Number(int64(is.PID))},
		{Name: "version", Cell: cliio.Text(is.Version)},
		{Name: "state_dir", Cell: cliio.Text(is.StateDir)},
		{Name: "socket", Cell: cliio.Text(is.Socket)},
		{Name: "started", Cell: s.Time(is.StartedAt)},
		{Name: "vms_running", Cell: cliio.Number(int64(is.VMsRunning))},
		{Name: "kvm", Cell: cliio.Text(kvm)},
	})
}
