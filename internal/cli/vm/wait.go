package vm

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/cli/app"
	"banger/internal/errs"
)

// WaitOptions are what wait was called with.
type WaitOptions struct {
	App     *app.App
	Name    string
	For     string
	Timeout time.Duration
	JSON    bool
}

// answerGrace is what the daemon's answer may be later than the timeout it was given.
const answerGrace = 5 * time.Second

// NewWait makes the command wait; runF stands in for the real work in tests.
func NewWait(a *app.App, runF func(context.Context, *WaitOptions) error) *cobra.Command {
	opts := &WaitOptions{App: a}
	events := []string{client.ForRunning, client.ForReady, client.ForStopped, client.ForDeleted}
	cmd := &cobra.Command{
		Use:     "wait NAME --for running|ready|stopped",
		Short:   "Wait until a VM is in a state",
		Example: "  banger vm wait box --for ready --timeout 30s",
		Args:    app.OneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Name = args[0]
			switch {
			case opts.For == "":
				return app.Usage(cmd, "--for is missing")
			case !slices.Contains(events, opts.For):
				return app.Usage(cmd, "--for %q: it is one of %s", opts.For, strings.Join(events, ", "))
			case cmd.Flags().Changed("timeout") && opts.Timeout <= 0:
				return app.Usage(cmd, "--timeout %s: a duration is more than zero", opts.Timeout)
			}
			if runF != nil {
				return runF(cmd.Context(), opts)
			}
			return runWait(cmd.Context(), opts)
		},
		ValidArgsFunction: a.Complete(app.VMNames, false),
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.For, "for", "", "what to wait for: "+strings.Join(events, ", "))
	flags.DurationVar(&opts.Timeout, "timeout", 0, "give up after this time, like 30s or 5m, with exit code 8")
	flags.BoolVar(&opts.JSON, "json", false, "print the VM as JSON")
	if err := cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(events, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a bug that every run meets
	}
	return cmd
}

func runWait(ctx context.Context, o *WaitOptions) error {
	c, err := o.App.Client()
	if err != nil {
		return err
	}
	if o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.Timeout+answerGrace,
			errs.New(errs.Timeout, "not %s within %s", o.For, o.Timeout))
		defer cancel()
	}
	var now api.VM
	err = o.App.Wait("waiting for "+o.Name+" to be "+o.For, func(func(api.Progress)) error {
		now, err = c.WaitVM(ctx, o.Name, o.For, o.Timeout)
		return err
	})
	if err != nil {
		return app.Suggest(ctx, c, err, "vm", o.Name, app.VMNames)
	}
	if o.JSON {
		return o.App.IO.WriteJSON(now)
	}
	return nil
}
