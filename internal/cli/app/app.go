// Package app is what every command shares: the process's streams, environment and
// signals, the connection to the daemon, and the rules of CLI.md about arguments,
// questions and exit codes.
package app

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/api"
	"banger/client"
	"banger/internal/cliio"
	"banger/internal/errs"
)

// App is one run of the command line.
type App struct {
	IO         *cliio.IO
	Getenv     func(string) string
	Version    string
	Interrupts *Interrupts

	client *client.Client
}

// Client is the connection to the daemon, which the first call on it starts if needed.
func (a *App) Client() (*client.Client, error) {
	if a.client == nil {
		c, err := client.New(a.options())
		if err != nil {
			return nil, err
		}
		a.client = c
	}
	return a.client, nil
}

// RunningClient is a connection that never starts a daemon.
func (a *App) RunningClient() (*client.Client, error) {
	o := a.options()
	o.NoStart, o.OnVersion = true, nil
	return client.New(o)
}

func (a *App) options() client.Options {
	return client.Options{Getenv: a.Getenv, Version: a.Version, OnVersion: func(daemon string) {
		if a.IO.ErrTTY && !a.IO.JSON {
			a.IO.Warn("warning: the daemon has version %s, this program %s; to renew it: banger system stop", daemon, a.Version)
		}
	}}
}

// Wait runs f while a terminal shows what is being done. f may report how far it is.
func (a *App) Wait(what string, f func(report func(api.Progress)) error) error {
	p := a.IO.Progress(what)
	defer p.Stop()
	return f(func(e api.Progress) { p.Update(e.Step, e.Done, e.Total) })
}

// Each runs f for every name and goes on after errors. All are reported; the exit code
// is that of the first.
func (a *App) Each(ctx context.Context, names []string, f func(name string) error) error {
	var first error
	for _, name := range names {
		err := f(name)
		if ctx.Err() != nil {
			return err
		}
		if err == nil {
			continue
		}
		if first == nil {
			first = err
			continue
		}
		a.IO.WriteError(err)
	}
	return first
}

// AnswerDeleted ends a command that deleted things: with json their names are the answer.
func (a *App) AnswerDeleted(json bool, names []string, err error) error {
	if json && (err == nil || len(names) > 0) {
		type deleted struct {
			Deleted []string `json:"deleted"`
		}
		if jsonErr := a.IO.WriteJSON(deleted{names}); err == nil {
			err = jsonErr
		}
	}
	return err
}

// Exit ends the process with a code and says nothing.
type Exit struct{ Code int }

func (e *Exit) Error() string { return "exit" }

// guestCodes marks commands whose exit code is that of a command in the guest.
const guestCodes = "guest-codes"

// GivesGuestCode makes 125 the exit code of every failure of banger itself in cmd.
func GivesGuestCode(cmd *cobra.Command) {
	cmd.Annotations = map[string]string{guestCodes: "yes"}
}

// CodeOfFailure is the code of a failure of banger itself where the code otherwise is
// the guest command's.
const CodeOfFailure = 125

// ExitCode is the exit code for the error that cmd ended with.
func ExitCode(cmd *cobra.Command, err error) int {
	var exit *Exit
	var interrupted *Interrupted
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &interrupted) && interrupted.Signal == os.Interrupt:
		return 130
	case cmd != nil && cmd.Annotations[guestCodes] != "":
		return CodeOfFailure
	}
	return errs.ClassOf(err).ExitCode()
}

// Usage is an error about the command line of cmd.
func Usage(cmd *cobra.Command, format string, args ...any) error {
	return errs.Hint(errs.New(errs.Usage, format, args...), "see: %s --help", cmd.CommandPath())
}

// FlagError makes usage errors of what cobra finds wrong with flags.
func FlagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		name := unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() == "" {
			var known []string
			cmd.Flags().VisitAll(func(f *pflag.Flag) {
				if !f.Hidden {
					known = append(known, f.Name)
				}
			})
			if near := Nearest(name, known); near != "" {
				return errs.Hint(errs.New(errs.Usage, "unknown flag --%s", name),
					"did you mean --%s? see: %s --help", near, cmd.CommandPath())
			}
			return Usage(cmd, "unknown flag --%s", name)
		}
		return Usage(cmd, "unknown flag -%s", name)
	}
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return Usage(cmd, "--%s: %w", invalid.GetFlag().Name, invalid.Unwrap())
	}
	return Usage(cmd, "%w", err)
}

// NoArgs refuses arguments.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usage(cmd, "argument %q is not expected", args[0])
	}
	return nil
}

// OneName wants exactly one argument.
func OneName(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return Usage(cmd, "a name is missing")
	case len(args) > 1:
		return Usage(cmd, "argument %q is not expected", args[1])
	}
	return nil
}

// Names wants at least one argument.
func Names(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return Usage(cmd, "a name is missing")
	}
	return nil
}

// Group makes the command of a noun, which does nothing but hold its verbs.
func Group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: RunGroup}
	cmd.AddCommand(verbs...)
	return cmd
}

// RunGroup shows a group's help, or says what an unknown verb may have meant.
func RunGroup(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var known []string
	for _, verb := range cmd.Commands() {
		if verb.IsAvailableCommand() {
			known = append(append(known, verb.Name()), verb.Aliases...)
		}
	}
	err := errs.New(errs.Usage, "unknown command %q", strings.TrimSpace(cmd.CommandPath()+" "+args[0]))
	if near := Nearest(args[0], known); near != "" {
		return errs.Hint(err, "did you mean %q? see: %s --help", near, cmd.CommandPath())
	}
	return errs.Hint(err, "see: %s --help", cmd.CommandPath())
}
