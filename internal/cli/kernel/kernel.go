// Package kernel holds the commands about guest kernels.
package kernel

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
	"banger/internal/cliio"
)

// New makes the noun kernel with its verbs.
func New(a *app.App) *cobra.Command {
	n := noun()
	return app.Group("kernel", "List and show guest kernels", n.ListCommand(a), n.ShowCommand(a))
}

func noun() app.Noun[api.Kernel] {
	return app.Noun[api.Kernel]{
		Name: "kernel", Text: "kernel", Plural: "kernels", Names: app.KernelNames,
		All: func(ctx context.Context, c *client.Client) ([]api.Kernel, error) { return c.Kernels(ctx) },
		One: func(ctx context.Context, c *client.Client, name string) (api.Kernel, error) {
			return c.Kernel(ctx, name)
		},
		NameOf:  func(k api.Kernel) string { return k.Name },
		Columns: []string{"NAME", "DISTRO", "ARCH", "VERSION", "SIZE", "SOURCE", "IMPORTED"},
		Row: func(s *cliio.IO, k api.Kernel) []cliio.Cell {
			return []cliio.Cell{cliio.Text(k.Name), cliio.Text(k.Distro), cliio.Text(k.Arch), cliio.Text(k.Version),
				cliio.Size(k.SizeBytes), cliio.Text(k.Source), s.Time(k.ImportedAt)}
		},
		Fields: fields,
	}
}

func fields(s *cliio.IO, k api.Kernel) []cliio.Field {
	return []cliio.Field{
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
	}
}
