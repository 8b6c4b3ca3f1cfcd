package app

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/cliio"
)

// Noun is what the verbs that every noun has, list, show and delete, need to know of one.
type Noun[T any] struct {
	Name   string // as typed, "vm"
	Text   string // in sentences, "VM"
	Plural string // "VMs"
	All    func(context.Context, *client.Client) ([]T, error)
	One    func(context.Context, *client.Client, string) (T, error)
	Names  lister // for completion and suggestions
	NameOf func(T) string

	Columns []string
	Row     func(*cliio.IO, T) []cliio.Cell
	Fields  func(*cliio.IO, T) []cliio.Field

	Delete func(ctx context.Context, c *client.Client, name string, force bool) error
	Doomed string // what else is deleted, for the question: " with all its disks"
	Forced string // what --force also deletes: "VMs that run"
}

// ListCommand makes the command list.
func (n Noun[T]) ListCommand(a *App) *cobra.Command {
	var json, quiet bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List " + n.Plural, Args: NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return n.list(cmd.Context(), a, json, quiet) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&json, "json", false, "print the "+n.Plural+" as JSON")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	return cmd
}

func (n Noun[T]) list(ctx context.Context, a *App, json, quiet bool) error {
	c, err := a.Client()
	if err != nil {
		return err
	}
	all, err := n.All(ctx, c)
	if err != nil {
		return err
	}
	if json {
		return a.IO.WriteJSON(all)
	}
	if quiet {
		for _, v := range all {
			if err := a.IO.Println(n.NameOf(v)); err != nil {
				return err
			}
		}
		return nil
	}
	t := cliio.NewTable(n.Columns...)
	for _, v := range all {
		t.Row(n.Row(a.IO, v)...)
	}
	return a.IO.WriteTable(t)
}

// ShowCommand makes the command show.
func (n Noun[T]) ShowCommand(a *App) *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show " + article(n.Text), Args: OneName,
		RunE:              func(cmd *cobra.Command, args []string) error { return n.show(cmd.Context(), a, args[0], json) },
		ValidArgsFunction: a.Complete(n.Names, false),
	}
	cmd.Flags().BoolVar(&json, "json", false, "print the "+n.Text+" as JSON")
	return cmd
}

func article(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

func (n Noun[T]) show(ctx context.Context, a *App, name string, json bool) error {
	c, err := a.Client()
	if err != nil {
		return err
	}
	v, err := n.One(ctx, c, name)
	if err != nil {
		return Suggest(ctx, c, err, n.Name, name, n.Names)
	}
	if json {
		return a.IO.WriteJSON(v)
	}
	return a.IO.WriteFields(n.Fields(a.IO, v))
}

// DeleteCommand makes the command delete.
func (n Noun[T]) DeleteCommand(a *App) *cobra.Command {
	var yes, force, json bool
	cmd := &cobra.Command{
		Use: "delete NAME...", Aliases: []string{"rm"}, Short: "Delete " + n.Plural, Args: Names,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes && !force {
				if err := a.IO.Confirm(cmd.Context(), "delete "+n.Text+" "+quoted(args)+n.Doomed); err != nil {
					return err
				}
			}
			return n.delete(cmd.Context(), a, args, force, json)
		},
		ValidArgsFunction: a.Complete(n.Names, true),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&yes, "yes", "y", false, "do not ask")
	flags.BoolVarP(&force, "force", "f", false, "also "+n.Forced+"; do not ask")
	flags.BoolVar(&json, "json", false, "print the deleted names as JSON")
	return cmd
}

func quoted(names []string) string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = strconv.Quote(name)
	}
	return strings.Join(all, ", ")
}

func (n Noun[T]) delete(ctx context.Context, a *App, names []string, force, json bool) error {
	c, err := a.Client()
	if err != nil {
		return err
	}
	var deleted []string
	err = a.Each(ctx, names, func(name string) error {
		err := a.Wait("deleting "+name, func(func(api.Progress)) error { return n.Delete(ctx, c, name, force) })
		if err != nil {
			return Suggest(ctx, c, err, n.Name, name, n.Names)
		}
		deleted = append(deleted, name)
		if json {
			return nil
		}
		return a.IO.Println(name)
	})
	return a.AnswerDeleted(json, deleted, err)
}
