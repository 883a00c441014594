package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/cluster/internal/host"
	"github.com/bightdev/bight/cluster/internal/lifecycle"
	"github.com/bightdev/bight/cluster/internal/spec"
)

// clusterCommands are what a person calls, as `bight cluster COMMAND`.
func clusterCommands() []*cobra.Command {
	var name, kubeconfig string
	manager := func() (*lifecycle.Manager, error) {
		root, err := spec.Root()
		if err != nil {
			return nil, err
		}
		machine, err := host.This()
		return &lifecycle.Manager{Root: root, Kubeconfig: kubeconfig, Progress: os.Stderr, Machine: machine}, err
	}
	commands := []*cobra.Command{
		startCommand(manager, &name), stopCommand(manager, &name), deleteCommand(manager, &name),
		statusCommand(manager, &name), kubeconfigCommand(manager, &name),
	}
	for _, c := range commands {
		c.Args = noArguments
		c.Flags().StringVar(&name, "name", "bight", "name of the cluster")
		c.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file to write (default: the one that kubectl uses)")
	}
	return commands
}

type managerFunc func() (*lifecycle.Manager, error)

func startCommand(manager managerFunc, name *string) *cobra.Command {
	var o lifecycle.Options
	c := &cobra.Command{Use: "start", Short: "Start the cluster, making it if there is none",
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := manager()
			if err != nil {
				return err
			}
			o.Name = *name
			_, err = m.Start(c.Context(), o)
			return err
		}}
	c.Flags().IntVar(&o.Nodes, "nodes", 0, "number of nodes of a new cluster (default 1)")
	c.Flags().BoolVar(&o.Egress, "egress", false, "let pods reach the network outside, through a userspace NAT")
	c.Flags().BoolVar(&o.DualStack, "dual-stack", false, "give nodes, pods and Services addresses of IPv6, too")
	return c
}

func stopCommand(manager managerFunc, name *string) *cobra.Command {
	return &cobra.Command{Use: "stop", Short: "Stop the cluster; its state is kept",
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := manager()
			if err != nil {
				return err
			}
			return m.Stop(c.Context(), *name)
		}}
}

func deleteCommand(manager managerFunc, name *string) *cobra.Command {
	return &cobra.Command{Use: "delete", Short: "Stop the cluster and remove everything of it",
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := manager()
			if err != nil {
				return err
			}
			return m.Delete(c.Context(), *name)
		}}
}

func kubeconfigCommand(manager managerFunc, name *string) *cobra.Command {
	return &cobra.Command{Use: "kubeconfig", Short: "Print a kubeconfig for the cluster",
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := manager()
			if err != nil {
				return err
			}
			cluster, err := m.Load(*name)
			if err != nil {
				return err
			}
			b, err := lifecycle.KubeconfigBytes(cluster)
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(b)
			return err
		}}
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return lifecycle.UsageError{Err: fmt.Errorf("bight cluster %s %s: it takes no arguments; a cluster's name goes with --name", c.Name(), args[0])}
	}
	return nil
}

func statusCommand(manager managerFunc, name *string) *cobra.Command {
	var output string
	c := &cobra.Command{Use: "status", Short: "Say how the cluster is; exit code 1 when it does not run well",
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return lifecycle.UsageError{Err: fmt.Errorf("-o %s: use json, or leave it out", output)}
			}
			m, err := manager()
			if err != nil {
				return err
			}
			cluster, err := m.Load(*name)
			if err != nil {
				return err
			}
			status, err := lifecycle.Status(c.Context(), cluster)
			if err != nil {
				status = nil
			} else {
				status.Components = lifecycle.HostPIDs(cluster, status.Components)
			}
			r := lifecycle.MakeReport(cluster, status)
			if err := r.Write(os.Stdout, output); err != nil {
				return err
			}
			return r.Err()
		}}
	c.Flags().StringVarP(&output, "output", "o", "", "json for programs")
	return c
}
