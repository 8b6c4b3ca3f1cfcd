package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/client"
	"banger/internal/errs"
)

// Nearest is the known word that typed most likely meant, or "".
func Nearest(typed string, known []string) string {
	best, at := "", max(1, min(3, len(typed)/3))+1
	for _, word := range known {
		d := distance(strings.ToLower(typed), strings.ToLower(word))
		if typed != "" && d > 1 && strings.HasPrefix(word, typed) {
			d = 1
		}
		if d < at {
			best, at = word, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of neighbours that
// make b of a.
func distance(a, b string) int {
	before, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, prev[j]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev = prev, row
	}
	return prev[len(b)]
}

// completeWithin bounds what a person waits after the tab key.
const completeWithin = time.Second

// Names of one noun, for suggestions and completion.
type lister func(ctx context.Context, c *client.Client) ([]string, error)

// VMNames lists the names of VMs.
func VMNames(ctx context.Context, c *client.Client) ([]string, error) {
	all, err := c.VMs(ctx)
	return namesOf(len(all), func(i int) string { return all[i].Name }), err
}

// ImageNames lists the names of images.
func ImageNames(ctx context.Context, c *client.Client) ([]string, error) {
	all, err := c.Images(ctx)
	return namesOf(len(all), func(i int) string { return all[i].Name }), err
}

// KernelNames lists the names of kernels.
func KernelNames(ctx context.Context, c *client.Client) ([]string, error) {
	all, err := c.Kernels(ctx)
	return namesOf(len(all), func(i int) string { return all[i].Name }), err
}

func namesOf(n int, name func(int) string) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = name(i)
	}
	return names
}

// Suggest adds to a NotFound error without a hint what the name may have meant.
func Suggest(ctx context.Context, c *client.Client, err error, noun, name string, list lister) error {
	if !errs.Is(err, errs.NotFound) || errs.HintOf(err) != "" {
		return err
	}
	see := fmt.Sprintf("see: banger %s list", noun)
	names, listErr := list(ctx, c)
	if near := Nearest(name, names); listErr == nil && near != "" {
		return errs.Hint(err, "did you mean %q? %s", near, see)
	}
	return errs.Hint(err, "%s", see)
}

// Complete offers the names of one noun to the shell; it starts no daemon and gives up
// soon. With many it goes on after the first argument, without repeating one.
func (a *App) Complete(list lister, many bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && !many {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		c, err := a.RunningClient()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := list(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var offered []string
		for _, name := range names {
			if !contains(args, name) {
				offered = append(offered, name)
			}
		}
		return offered, cobra.ShellCompDirectiveNoFileComp
	}
}

// CompleteFlag offers the names of one noun as a flag's value.
func (a *App) CompleteFlag(cmd *cobra.Command, flag string, list lister) {
	complete := a.Complete(list, true)
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return complete(cmd, nil, typed)
	})
	if err != nil {
		panic(err) // the flag does not exist: a bug that every run meets
	}
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}
