// Package image holds the commands about images.
package image

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
	"banger/internal/cliio"
)

// New makes the noun image with its verbs.
func New(a *app.App) *cobra.Command {
	n := noun()
	return app.Group("image", "Get, show and remove root filesystems",
		n.ListCommand(a), n.ShowCommand(a), NewPull(a, nil), n.DeleteCommand(a))
}

func noun() app.Noun[api.Image] {
	return app.Noun[api.Image]{
		Name: "image", Text: "image", Plural: "images", Names: app.ImageNames,
		All:     func(ctx context.Context, c *client.Client) ([]api.Image, error) { return c.Images(ctx) },
		One:     func(ctx context.Context, c *client.Client, name string) (api.Image, error) { return c.Image(ctx, name) },
		NameOf:  func(i api.Image) string { return i.Name },
		Columns: []string{"NAME", "ARCH", "SIZE", "DISK", "SOURCE", "CREATED"},
		Row: func(s *cliio.IO, i api.Image) []cliio.Cell {
			return []cliio.Cell{cliio.Text(i.Name), cliio.Text(i.Arch), cliio.Size(i.SizeBytes), cliio.Size(i.DiskBytes),
				cliio.Text(i.Source), s.Time(i.CreatedAt)}
		},
		Fields: fields,
		Delete: func(ctx context.Context, c *client.Client, name string, force bool) error {
			return c.DeleteImage(ctx, name, force)
		},
		Forced: "protected images",
	}
}

func fields(s *cliio.IO, i api.Image) []cliio.Field {
	return []cliio.Field{
		{Name: "name", Cell: cliio.Text(i.Name)},
		{Name: "id", Cell: cliio.Text(i.ID)},
		{Name: "source", Cell: cliio.Text(i.Source)},
		{Name: "digest", Cell: cliio.Text(i.Digest)},
		{Name: "managed", Cell: cliio.Text(strconv.FormatBool(i.Managed))},
		{Name: "arch", Cell: cliio.Text(i.Arch)},
		{Name: "rootfs", Cell: cliio.Text(i.RootfsPath)},
		{Name: "work_seed", Cell: cliio.Text(i.WorkSeedPath)},
		{Name: "kernel", Cell: cliio.Text(i.Kernel)},
		{Name: "size", Cell: cliio.Size(i.SizeBytes)},
		{Name: "disk", Cell: cliio.Size(i.DiskBytes)},
		{Name: "user", Cell: cliio.Text(i.Config.User)},
		{Name: "workdir", Cell: cliio.Text(i.Config.Workdir)},
		{Name: "entrypoint", Cell: cliio.Text(words(i.Config.Entrypoint))},
		{Name: "cmd", Cell: cliio.Text(words(i.Config.Cmd))},
		{Name: "env", Cell: cliio.Text(words(i.Config.Env))},
		{Name: "exposed_ports", Cell: cliio.Text(strings.Join(i.Config.ExposedPorts, " "))},
		{Name: "layers", Cell: cliio.Number(int64(len(i.Layers)))},
		{Name: "used_by", Cell: cliio.Text(strings.Join(i.UsedBy, " "))},
		{Name: "created", Cell: s.Time(i.CreatedAt)},
	}
}

// words joins arguments so that one with spaces can be told from several.
func words(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		if quoted[i] = a; a == "" || strings.ContainsAny(a, " \t\n\"'") {
			quoted[i] = strconv.Quote(a)
		}
	}
	return strings.Join(quoted, " ")
}
