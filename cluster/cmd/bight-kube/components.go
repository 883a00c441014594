package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"github.com/bightdev/bight/cluster/internal/dns"
	"github.com/bightdev/bight/cluster/internal/etcd"
	"github.com/bightdev/bight/cluster/internal/host"
	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/supervisor"
)

// upstream has the components that are Kubernetes' own, and kubectl, the reference
// of the benchmarks. Each is made only when it is called: they claim the process's
// signals and flags when they are constructed.
func upstream() map[string]func() *cobra.Command {
	return map[string]func() *cobra.Command{
		"kube-apiserver":          apiserver.NewAPIServerCommand,
		"kube-controller-manager": controllers.NewControllerManagerCommand,
		"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
		"kube-proxy":              proxy.NewProxyCommand,
		"kubectl":                 kubectl.NewDefaultKubectlCommand,
	}
}

// ownComponents are those that are ours. Nobody but a supervisor calls them.
func ownComponents() []*cobra.Command {
	commands := []*cobra.Command{etcdCommand(), dnsCommand(), superviseCommand()}
	for _, c := range commands {
		c.Hidden = true
	}
	return commands
}

func etcdCommand() *cobra.Command {
	var dir, socket string
	c := &cobra.Command{Use: "etcd", Short: "The store of the API server", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return etcd.Run(c.Context(), dir, socket)
		}}
	c.Flags().StringVar(&dir, "dir", "", "directory of the data")
	c.Flags().StringVar(&socket, "socket", "", "Unix socket to serve on")
	return c
}

func dnsCommand() *cobra.Command {
	var config dns.Config
	c := &cobra.Command{Use: "dns", Short: "The cluster's name server", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return dns.Run(c.Context(), config)
		}}
	c.Flags().StringVar(&config.Address, "address", "", "IP address to listen on")
	c.Flags().IntVar(&config.Port, "port", 53, "port to listen on")
	c.Flags().StringVar(&config.Domain, "domain", "", "domain of the cluster")
	c.Flags().StringVar(&config.Kubeconfig, "kubeconfig", "", "how to reach the API server")
	c.Flags().StringVar(&config.Upstream, "upstream", "", "name server for all other names")
	return c
}

func superviseCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{Use: "supervise", Short: "Run a cluster; the first process of its namespaces", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cluster, err := spec.Load(dir)
			if err != nil {
				return err
			}
			machine, err := host.This()
			if err != nil {
				return err
			}
			tools, err := machine.Find()
			if err != nil {
				return err
			}
			s := &supervisor.Supervisor{
				Cluster: cluster,
				Tools:   tools,
				Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
			}
			return s.Run(c.Context())
		}}
	c.Flags().StringVar(&dir, "dir", "", "the cluster's directory")
	return c
}
