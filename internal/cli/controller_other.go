//go:build !linux

package cli

import (
	"runtime"

	"github.com/spf13/cobra"
)

func (p *Program) controllerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "controller",
		Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			return usageError("bight controller runs in a cluster, whose nodes are Linux; this is %s", runtime.GOOS)
		},
	}
}

func (p *Program) gitHookCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "git-hook",
		Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			return usageError("bight git-hook runs in the controller, on Linux; this is %s", runtime.GOOS)
		},
	}
}
