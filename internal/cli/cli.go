// Package cli is the command line: it puts the nouns together, runs one command and
// turns its end into an exit code.
package cli

import (
	"context"
	"errors"
	"math"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"banger/internal/cli/app"
	"banger/internal/cli/image"
	"banger/internal/cli/kernel"
	"banger/internal/cli/system"
	"banger/internal/cli/vm"
	"banger/internal/cliio"
)

// Main runs the command line of this process and returns its exit code.
func Main(args []string, version string) int {
	// What a shell left open here, a lock for example, must not live on in the daemon.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) // kernels before 5.11 cannot
	interrupts, ctx := app.NewInterrupts(context.Background())
	defer interrupts.Watch()()
	a := &app.App{
		IO: cliio.System(os.Getenv), Getenv: os.Getenv, Version: version, Interrupts: interrupts,
	}
	return Run(ctx, a, args)
}

// Run runs one command line and returns its exit code.
func Run(ctx context.Context, a *app.App, args []string) int {
	a.IO.JSON = wantsJSON(args)
	root := New(a)
	root.SetArgs(append([]string{}, args...)) // nil would be the test binary's own
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var silent *app.Exit
	if !errors.As(err, &silent) {
		a.IO.WriteError(err)
	}
	return app.ExitCode(cmd, err)
}

// wantsJSON looks ahead: an error in the command line itself is JSON too.
func wantsJSON(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}

// New makes the whole tree of commands.
func New(a *app.App) *cobra.Command {
	root := app.Group("banger", "Instant Linux VMs for developers",
		vm.New(a), image.New(a), kernel.New(a), system.New(a), newVersion(a), newCompletion(a))
	root.Long = `banger gives a developer, or a developer's coding agent, a Linux machine of its own:
full root, its own kernel, nothing of the host within reach.

  banger run --rm -- uname -a`
	shortcuts := &cobra.Group{ID: "shortcuts", Title: "Most used, and the same under banger vm:"}
	root.AddGroup(shortcuts)
	for _, cmd := range vm.Shortcuts(a) {
		cmd.GroupID = shortcuts.ID
		root.AddCommand(cmd)
	}
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(app.FlagError)
	root.SetIn(a.IO.In)
	root.SetOut(a.IO.Out)
	root.SetErr(a.IO.Err)
	root.PersistentFlags().BoolFunc("no-color", "no colour on terminals; NO_COLOR does the same", func(string) error {
		a.IO.NoColor = true
		return nil
	})
	root.SetHelpCommand(newHelp(root))
	return root
}
