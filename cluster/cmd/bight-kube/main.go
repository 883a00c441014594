// Command bight-kube is a Kubernetes cluster in one program: the upstream
// components as subcommands, and the commands that start, stop and delete a
// cluster made of them. `bight cluster` calls it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"

	"github.com/bightdev/bight/cluster/internal/lifecycle"
)

func main() {
	if len(os.Args) > 1 {
		if component, ok := upstream()[os.Args[1]]; ok {
			os.Exit(runUpstream(component()))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := rootCommand().ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	os.Exit(lifecycle.ExitCode(err))
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "bight-kube",
		Short:         "A Kubernetes cluster in one program",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return lifecycle.UsageError{Err: fmt.Errorf("bight-kube %s: there is no such command; bight-kube --help lists them", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return lifecycle.UsageError{Err: err} })
	root.AddCommand(clusterCommands()...)
	root.AddCommand(ownComponents()...)
	return root
}

// runUpstream runs one of Kubernetes' own commands as though it were a program of
// its own. That sends the standard logger's lines to klog; our own components must
// not be run so: the name server sends klog's to the standard logger, and its
// first word would wait for itself for ever.
func runUpstream(c *cobra.Command) int {
	c.SetArgs(os.Args[2:])
	return cli.Run(c)
}
