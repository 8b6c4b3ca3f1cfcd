package vm

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/cli/app"
	"banger/internal/errs"
)

// ExecOptions are what exec was called with.
type ExecOptions struct {
	App     *app.App
	Name    string
	Exec    api.Exec
	Timeout time.Duration
	JSON    bool
}

// NewExec makes the command exec; runF stands in for the real work in tests.
func NewExec(a *app.App, runF func(context.Context, *ExecOptions) error) *cobra.Command {
	opts := &ExecOptions{App: a}
	var exec execFlags
	cmd := &cobra.Command{
		Use:   "exec NAME [flags] -- CMD ARG...",
		Short: "Run a command in a running VM",
		Long: `Run CMD in a running VM; on a terminal without CMD, a shell.

The exit code is the command's own; 125 when banger itself failed, 124 when --timeout
ended the command.`,
		Example: "  banger exec box -- make test\n  banger exec box -u nobody -w /tmp -- id",
		Args: func(cmd *cobra.Command, args []string) error {
			before := args[:beforeDash(cmd, args)]
			if len(before) > 1 {
				return errs.Hint(errs.New(errs.Usage, "argument %q is not expected", before[1]),
					"a command comes after two dashes: %s %s -- %s", cmd.CommandPath(), before[0], before[1])
			}
			return app.OneName(cmd, before)
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			opts.Name = args[0]
			argv := args[beforeDash(cmd, args):]
			if cmd.Flags().Changed("timeout") && opts.Timeout <= 0 {
				return app.Usage(cmd, "--timeout %s: a duration is more than zero", opts.Timeout)
			}
			if opts.Exec, err = exec.exec(cmd, a, argv, opts.JSON); err != nil {
				return err
			}
			if len(argv) == 0 && !opts.Exec.TTY {
				return app.Usage(cmd, "a command is missing, and there is no terminal for a shell")
			}
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runExec(cmd.Context(), opts)
		},
		ValidArgsFunction: a.Complete(app.VMNames, false),
	}
	app.GivesGuestCode(cmd)
	exec.add(cmd)
	flags := cmd.Flags()
	flags.DurationVar(&opts.Timeout, "timeout", 0, "end the command after this time, like 30s or 5m")
	flags.BoolVar(&opts.JSON, "json", false, "print one JSON document with exit code and output")
	return cmd
}

func runExec(ctx context.Context, o *ExecOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	var r *result
	if o.JSON {
		vm, err := c.VM(ctx, o.Name)
		if err != nil {
			return app.Suggest(ctx, c, err, "vm", o.Name, app.VMNames)
		}
		r = newResult(vm, nil)
	}
	prepared, err := c.Exec(ctx, o.Name, o.Exec)
	if err != nil {
		return app.Suggest(ctx, c, err, "vm", o.Name, app.VMNames)
	}
	s := session{app: o.App, exec: o.Exec, timeout: o.Timeout, stdout: o.App.IO.Out, stderr: o.App.IO.Err}
	if o.JSON {
		s.stdout, s.stderr = &r.stdout, &r.stderr
	}
	out, err := s.run(ctx, c, prepared)
	if err != nil {
		return explain(ctx, c, api.VM{ID: o.Name, Name: o.Name}, err)
	}
	if !o.JSON {
		return out.report(o.App)
	}
	r.span("command", out.begin)
	r.end(out)
	return r.write(o.App)
}
