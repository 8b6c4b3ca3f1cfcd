package image

import (
	"context"
	"strconv"
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
		Short: "Show an image",
		Args:  app.OneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Name = args[0]
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runShow(cmd.Context(), opts)
		},
		ValidArgsFunction: a.Complete(app.ImageNames, false),
	}
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print the image as JSON")
	return cmd
}

func runShow(ctx context.Context, o *ShowOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	i, err := c.Image(ctx, o.Name)
	if err != nil {
		return app.Suggest(ctx, c, err, "image", o.Name, app.ImageNames)
	}
	s := o.App.IO
	if o.JSON {
		return s.WriteJSON(i)
	}
	return s.WriteFields(fields(s, i))
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
