// Command bight-kube is a Kubernetes cluster in one program: the upstream
// components as subcommands, and the commands that start, stop and delete a
// cluster made of them. `bight cluster` calls it.
package main

import (
	"context"
	"errors"
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
		if component, ok := components[os.Args[1]]; ok {
			os.Exit(runComponent(component()))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "bight-kube",
		Short:         "A Kubernetes cluster in one program",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(clusterCommands()...)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return
	}
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "interrupted")
		os.Exit(130)
	}
	os.Exit(fail(err))
}

// runComponent runs a command as though it were a program of its own.
func runComponent(c *cobra.Command) int {
	c.SetArgs(os.Args[2:])
	return cli.Run(c)
}

// fail reports err and returns the exit code.
func fail(err error) int {
	fmt.Fprintln(os.Stderr, "error:", err)
	var coded lifecycle.CodedError
	if errors.As(err, &coded) {
		return coded.Code
	}
	return 1
}
