package vm

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
	"banger/internal/errs"
)

// abandonWithin bounds how long a failed run is held up by its VM.
const abandonWithin = 30 * time.Second

// RunOptions are what run was called with.
type RunOptions struct {
	App     *app.App
	Spec    api.VMSpec
	Exec    api.Exec
	Timeout time.Duration
	Detach  bool
	Keep    bool // running
	Trace   bool
	JSON    bool
}

// NewRun makes the command run; runF stands in for the real work in tests.
func NewRun(a *app.App, runF func(context.Context, *RunOptions) error) *cobra.Command {
	opts := &RunOptions{App: a}
	var spec specFlags
	var exec execFlags
	cmd := &cobra.Command{
		Use:   "run [flags] [-- CMD ARG...]",
		Short: "Make a VM and run a command in it",
		Long: `Make a VM and run CMD in it; without CMD a shell on a terminal, else the image's own
command. A missing image is pulled. When the command ends, the VM is stopped and kept.

The exit code is the command's own; 125 when banger itself failed, 124 when --timeout
ended the command.`,
		Example: `  banger run --rm -- uname -a
  banger run --name box --memory 4GiB
  echo 'print(6*7)' | banger run --rm --image oci:./python -- python3 -`,
		Args: func(cmd *cobra.Command, args []string) error {
			return noPath(cmd, args[:beforeDash(cmd, args)])
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			argv := args[beforeDash(cmd, args):]
			if opts.Detach && opts.Keep {
				return app.Usage(cmd, "--detach and --keep-running exclude each other")
			}
			if opts.Detach && len(argv) > 0 {
				return app.Usage(cmd, "--detach with a command is not available in this version; use --keep-running")
			}
			if cmd.Flags().Changed("timeout") && opts.Timeout <= 0 {
				return app.Usage(cmd, "--timeout %s: a duration is more than zero", opts.Timeout)
			}
			if opts.Spec, err = spec.spec(cmd, a.Getenv); err != nil {
				return err
			}
			if opts.Exec, err = exec.exec(cmd, a, argv, opts.JSON); err != nil {
				return err
			}
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runRun(cmd.Context(), opts)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	app.GivesGuestCode(cmd)
	spec.add(a, cmd)
	exec.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&spec.Name, "name", "", "name of the VM (default: one is made up)")
	flags.BoolVarP(&opts.Detach, "detach", "d", false, "start the VM, print its name and leave it running")
	flags.BoolVar(&opts.Keep, "keep-running", false, "leave the VM running when the command ends")
	flags.DurationVar(&opts.Timeout, "timeout", 0, "end the command after this time, like 30s or 5m")
	flags.BoolVar(&opts.Trace, "trace", false, "print how long each step took")
	flags.BoolVar(&opts.JSON, "json", false, "print one JSON document with exit code and output")
	return cmd
}

// beforeDash is how many arguments stand before "--".
func beforeDash(cmd *cobra.Command, args []string) int {
	if n := cmd.ArgsLenAtDash(); n >= 0 {
		return n
	}
	return len(args)
}

func noPath(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := errs.New(errs.Usage, "run %q: bringing a directory in is not available in this version", args[0])
	return errs.Hint(err, "a command comes after two dashes: %s -- %s", cmd.CommandPath(), args[0])
}

func runRun(ctx context.Context, o *RunOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	var made api.RunResult
	err = o.App.Wait("starting a VM", func(report func(api.Progress)) (err error) {
		made, err = c.Run(ctx, api.RunRequest{VM: o.Spec, Exec: o.Exec, KeepRunning: o.Keep || o.Detach}, report)
		return err
	})
	if err != nil {
		return err
	}
	r := newResult(made.VM, made.Trace)
	if o.Detach {
		return o.finish(r, func() error { return o.App.IO.Println(made.VM.Name) })
	}
	s := session{app: o.App, exec: o.Exec, timeout: o.Timeout, stdout: o.App.IO.Out, stderr: o.App.IO.Err}
	if o.JSON {
		s.stdout, s.stderr = &r.stdout, &r.stderr
	}
	out, err := s.run(ctx, c, made.Session)
	r.span("command", out.begin)
	if err != nil {
		err = explain(ctx, c, made.VM, err)
		o.abandon(ctx, c, made.VM)
	}
	// The VM ends by itself now. What was asked for is only true when it has.
	if endErr := o.awaitEnd(ctx, c, r); err == nil {
		err = endErr
	}
	if err != nil {
		return err
	}
	r.end(out)
	return o.finish(r, func() error { return out.report(o.App) })
}

// finish prints what run answers, and gives the command's code.
func (o *RunOptions) finish(r *result, print func() error) error {
	if o.Trace {
		o.App.IO.WriteTrace(r.Trace)
	}
	if o.JSON {
		return r.write(o.App)
	}
	return print()
}

// awaitEnd waits until the VM is stopped or gone, and tells how to get at it again.
func (o *RunOptions) awaitEnd(ctx context.Context, c *client.Client, r *result) error {
	if o.Keep {
		if !o.JSON {
			o.App.IO.Warn("running as %s; banger exec %[1]s -- CMD, banger rm -f %[1]s", r.VM.Name)
		}
		return nil
	}
	what, doing := client.ForStopped, "stopping "
	if o.Spec.RM {
		what, doing = client.ForDeleted, "deleting "
	}
	from := time.Now()
	err := o.App.Wait(doing+r.VM.Name, func(func(api.Progress)) error {
		now, err := c.WaitVM(ctx, r.VM.ID, what, 0)
		if err == nil && now.ID != "" {
			r.VM = now
		}
		return err
	})
	r.span("stop", from)
	if o.Spec.RM {
		if errs.Is(err, errs.NotFound) {
			return nil
		}
		return err
	}
	if !o.JSON && !errs.Is(err, errs.NotFound) {
		o.App.IO.Warn("kept as %s; banger vm start %[1]s, banger rm %[1]s", r.VM.Name)
	}
	return err
}

// abandon ends a VM whose session gave no code, perhaps because it never began: the
// daemon would notice only when the ticket runs out. What fails here, awaitEnd tells.
func (o *RunOptions) abandon(ctx context.Context, c *client.Client, vm api.VM) {
	if o.Keep {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonWithin)
	defer cancel()
	if o.Spec.RM {
		_ = c.DeleteVM(ctx, vm.ID, true)
		return
	}
	_, _ = c.StopVM(ctx, vm.ID)
}

// explain says why a session broke off, if its VM knows.
func explain(ctx context.Context, c *client.Client, vm api.VM, err error) error {
	if !errs.Is(err, errs.Unavailable) {
		return err
	}
	now, vmErr := c.VM(ctx, vm.ID)
	if vmErr == nil && now.Error != "" {
		return errs.Hint(errs.New(errs.Unavailable, "%w: VM %q: %s", err, vm.Name, now.Error),
			"see: banger vm show %s", vm.Name)
	}
	return err
}

// report says what a person must know about the end, and gives the code.
func (out outcome) report(a *app.App) error {
	if out.text != "" {
		a.IO.WriteError(errs.New(errs.NotFound, "run %s", out.text))
	}
	if out.oom {
		a.IO.Warn("banger: the guest ran out of memory and ended the command; more: --memory")
	}
	if out.code != 0 {
		return &app.Exit{Code: out.code}
	}
	return nil
}
