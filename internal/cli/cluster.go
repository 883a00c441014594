package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"
)

// clusterCommand hands everything to bight-kube, which has Kubernetes in it: a
// program of its own, so that this one stays small and starts in milliseconds.
func (p *Program) clusterCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cluster start|stop|delete|status|kubeconfig",
		Short: "The embedded Kubernetes: real upstream components on this machine",
		Long: `The embedded Kubernetes: real upstream components on this machine, in network,
mount and process namespaces of their own. Nothing of it touches the machine's
network, Docker, or another cluster. It needs Linux and root.

  bight cluster start [--name NAME] [--nodes N] [--egress] [--dual-stack] [--kubeconfig FILE]
  bight cluster stop        its state is kept
  bight cluster delete      nothing is left
  bight cluster status      [-o json]
  bight cluster kubeconfig  prints one`,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
				return c.Help()
			}
			switch args[0] {
			case "start", "stop", "delete", "status", "kubeconfig":
				return p.kube(c.Context(), args)
			}
			return usageError("bight cluster %s: there is start, stop, delete, status and kubeconfig", args[0])
		},
		ValidArgs: []string{"start", "stop", "delete", "status", "kubeconfig"},
	}
}

// kube runs bight-kube and passes its exit code on.
func (p *Program) kube(ctx context.Context, args []string) error {
	program, err := findKube()
	if err != nil {
		return err
	}
	return p.runInstead(ctx, program, args)
}

// findKube returns the path of bight-kube.
func findKube() (string, error) {
	if runtime.GOOS != "linux" {
		return "", fmt.Errorf("the embedded cluster runs on Linux only, this is %s: use a cluster that you have (bight --context NAME: kind, k3d, minikube, Docker Desktop, any other)", runtime.GOOS)
	}
	return findSibling("bight-kube", "make build")
}

// findSibling returns the path of a program that is installed beside this one.
func findSibling(name, build string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("the program %s is not installed beside %s nor on PATH: build it with %s", name, self, build)
}
