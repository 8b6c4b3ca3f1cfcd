// Package vm holds the commands about virtual machines: one file a verb of its own, each
// with its options, the function that makes the command and the one that does the work.
package vm

import (
	"github.com/spf13/cobra"

	"banger/internal/cli/app"
)

// New makes the noun vm with its verbs.
func New(a *app.App) *cobra.Command {
	n := noun()
	return app.Group("vm", "Make, use and remove virtual machines",
		NewRun(a, nil), NewCreate(a, nil), NewStart(a, nil), NewStop(a, nil), NewKill(a, nil),
		n.DeleteCommand(a), n.ListCommand(a), n.ShowCommand(a), NewExec(a, nil), NewWait(a, nil))
}

// Shortcuts makes the verbs that also exist without the noun.
func Shortcuts(a *app.App) []*cobra.Command {
	ps, rm := noun().ListCommand(a), noun().DeleteCommand(a)
	ps.Use, ps.Aliases = "ps", nil
	rm.Use, rm.Aliases = "rm NAME...", nil
	return []*cobra.Command{NewRun(a, nil), NewExec(a, nil), ps, rm}
}
