package vm

import (
	"context"
	"fmt"
	"strings"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
	"banger/internal/cliio"
)

func noun() app.Noun[api.VM] {
	return app.Noun[api.VM]{
		Name: "vm", Text: "VM", Plural: "VMs", Names: app.VMNames,
		All:     func(ctx context.Context, c *client.Client) ([]api.VM, error) { return c.VMs(ctx) },
		One:     func(ctx context.Context, c *client.Client, name string) (api.VM, error) { return c.VM(ctx, name) },
		NameOf:  func(v api.VM) string { return v.Name },
		Columns: []string{"NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "DISK", "CREATED"},
		Row: func(s *cliio.IO, v api.VM) []cliio.Cell {
			return []cliio.Cell{cliio.Text(v.Name), cliio.State(v.State), cliio.Text(v.Image), cliio.Number(int64(v.CPUs)),
				cliio.Memory(v.MemoryBytes), cliio.Memory(v.DiskBytes), s.Time(v.CreatedAt)}
		},
		Fields: fields,
		Delete: func(ctx context.Context, c *client.Client, name string, force bool) error {
			return c.DeleteVM(ctx, name, force)
		},
		Doomed: " with all its disks",
		Forced: "VMs that run",
	}
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
