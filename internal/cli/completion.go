package cli

import (
	"github.com/spf13/cobra"

	"banger/internal/cli/app"
)

func newCompletion(a *app.App) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print the script that completes commands and names in a shell",
		Example: `  source <(banger completion bash)
  banger completion fish > ~/.config/fish/completions/banger.fish`,
		ValidArgs: shells,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return app.Usage(cmd, "a shell is missing: bash, zsh, fish or powershell")
			}
			return app.OneName(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.IO.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.IO.Out)
			case "fish":
				return root.GenFishCompletion(a.IO.Out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.IO.Out)
			}
			return app.Usage(cmd, "shell %q: it is one of bash, zsh, fish, powershell", args[0])
		},
	}
}
