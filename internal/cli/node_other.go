//go:build !linux

package cli

import (
	"runtime"

	"github.com/spf13/cobra"
)

func (p *Program) nodeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "node",
		Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			return usageError("bight node runs on the nodes of a cluster, which are Linux; this is %s", runtime.GOOS)
		},
	}
}
