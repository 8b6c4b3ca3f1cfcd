package vm

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
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
		Short: "Show a VM",
		Args:  app.OneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Name = args[0]
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runShow(cmd.Context(), opts)
		},
		ValidArgsFunction: a.Complete(app.VMNames, false),
	}
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print the VM as JSON")
	return cmd
}

func runShow(ctx context.Context, o *ShowOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	v, err := c.VM(ctx, o.Name)
	if err != nil {
		return app.Suggest(ctx, c, err, "vm", o.Name, app.VMNames)
	}
	s := o.App.IO
	if o.JSON {
		return s.WriteJSON(v)
	}
	return s.WriteFields(fields(s, v))
}

func fields(s *cliio.IO, v api.VM) []cliio.Field {
	f := []cliio.Field{
		{Name: "name", Cell: cliio.Text(v.Name)},
		{Name: "id", Cell: cliio.Text(v.ID)},
		{Name: "state", Cell: cliio.State(v.State)},
		{Name: "error", Cell: cliio.Text(v.Error)},
		{Name: "image", Cell: cliio.Text(v.Image)},
		{Name: "kernel", Cell: cliio.Text(v.Kernel)},
		{Name: "cpus", Cell: cliio.Number(int64(v.CPUs))},
		{Name: "memory", Cell: cliio.Memory(v.MemoryBytes)},
		{Name: "disk", Cell: cliio.Memory(v.DiskBytes)},
		{Name: "ip", Cell: cliio.Text(v.IP)},
		{Name: "ports", Cell: cliio.Text(ports(v.Ports))},
		{Name: "workspace", Cell: cliio.Text(v.Workspace)},
		{Name: "vmm", Cell: cliio.Text(v.VMM)},
	}
	if v.PID != 0 {
		f = append(f, cliio.Field{Name: "pid", Cell: cliio.Number(int64(v.PID))})
	}
	f = append(f, cliio.Field{Name: "created", Cell: s.Time(v.CreatedAt)})
	if v.StartedAt != nil {
		f = append(f, cliio.Field{Name: "started", Cell: s.Time(*v.StartedAt)})
	}
	if v.RM {
		f = append(f, cliio.Field{Name: "rm", Cell: cliio.Text("deleted when it stops")})
	}
	return f
}

func ports(all []api.Port) string {
	texts := make([]string, len(all))
	for i, p := range all {
		texts[i] = fmt.Sprintf("%s:%d/%s", p.Host, p.Guest, p.Proto)
	}
	return strings.Join(texts, ", ")
}
