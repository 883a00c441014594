package main

import (
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/cluster/internal/lifecycle"
	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/supervisor"
)

// clusterCommands are what a person calls, as `bight cluster COMMAND`.
func clusterCommands() []*cobra.Command {
	var name, kubeconfig string
	manager := func() (*lifecycle.Manager, error) {
		root, err := spec.Root()
		return &lifecycle.Manager{Root: root, Kubeconfig: kubeconfig, Progress: os.Stderr}, err
	}
	commands := []*cobra.Command{
		startCommand(manager, &name), stopCommand(manager, &name), deleteCommand(manager, &name),
		statusCommand(manager, &name), kubeconfigCommand(manager, &name),
	}
	for _, c := range commands {
		c.Args = cobra.NoArgs
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

// report is the output of status.
type report struct {
	Name          string                  `json:"name"`
	State         string                  `json:"state"` // running, starting, stopped
	Context       string                  `json:"context"`
	Server        string                  `json:"server"`
	Registry      string                  `json:"registry"`
	Directory     string                  `json:"directory"`
	Egress        bool                    `json:"egress"`
	NetworkPolicy string                  `json:"networkPolicy"`
	Stage         string                  `json:"stage,omitempty"`
	Stages        []supervisor.Stage      `json:"stages"`
	Nodes         []supervisor.NodeStatus `json:"nodes"`
	Components    []supervisor.Process    `json:"components"`
}

func statusCommand(manager managerFunc, name *string) *cobra.Command {
	var output string
	c := &cobra.Command{Use: "status", Short: "Say how the cluster is; exit code 1 when it does not run",
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return lifecycle.CodedError{Code: 2, Err: fmt.Errorf("-o %s: use json, or leave it out", output)}
			}
			m, err := manager()
			if err != nil {
				return err
			}
			cluster, err := m.Load(*name)
			if err != nil {
				return err
			}
			r := report{
				Name: cluster.Name, State: "stopped", Context: cluster.Context(), Server: cluster.APIHostURL(),
				Registry: fmt.Sprintf("localhost:%d", cluster.RegistryHostPort), Directory: cluster.Dir, Egress: cluster.Egress,
				NetworkPolicy: "not enforced",
				Stages:        []supervisor.Stage{}, Nodes: []supervisor.NodeStatus{}, Components: []supervisor.Process{},
			}
			if status, err := lifecycle.Status(c.Context(), cluster); err == nil {
				r.State, r.Stage = "starting", status.Stage
				if status.Ready {
					r.State = "running"
				}
				r.Stages, r.Nodes, r.Components = status.Stages, status.Nodes, lifecycle.HostPIDs(cluster, status.Components)
			}
			if output == "json" {
				e := json.NewEncoder(os.Stdout)
				e.SetIndent("", "  ")
				err = e.Encode(r)
			} else {
				err = printReport(r)
			}
			if err == nil && r.State != "running" {
				return lifecycle.CodedError{Code: 1, Err: fmt.Errorf("cluster %s is %s; start it with bight cluster start", r.Name, r.State)}
			}
			return err
		}}
	c.Flags().StringVarP(&output, "output", "o", "", "json for programs")
	return c
}

func printReport(r report) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "cluster\t%s, %s\n", r.Name, r.State)
	fmt.Fprintf(w, "context\t%s\n", r.Context)
	fmt.Fprintf(w, "API server\t%s\n", r.Server)
	fmt.Fprintf(w, "registry\t%s\n", r.Registry)
	fmt.Fprintf(w, "directory\t%s\n", r.Directory)
	fmt.Fprintf(w, "network policy\t%s\n", r.NetworkPolicy)
	for _, n := range r.Nodes {
		state := "ready"
		if !n.Ready {
			state = n.Reason
		}
		fmt.Fprintf(w, "node %s\t%s, %s\n", n.Name, n.Address, state)
	}
	for _, p := range r.Components {
		state := fmt.Sprintf("pid %d", p.PID)
		if p.PID == 0 {
			state = "not running: " + p.Error
		}
		if p.Restarts > 0 {
			state += fmt.Sprintf(", started again %d times", p.Restarts)
		}
		fmt.Fprintf(w, "%s\t%s\n", p.Name, state)
	}
	return w.Flush()
}
