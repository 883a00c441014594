package cli

import (
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/internal/change/controller"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/kube"
)

// controllerCommand is what the controllers run. People don't.
func (p *Program) controllerCommand() *cobra.Command {
	var dir, listen string
	c := &cobra.Command{
		Use:    "controller",
		Short:  "Take changes from a push to the environments (run by the StatefulSet of bight install)",
		Hidden: true,
		Args:   atMost(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM)
			defer stop()
			pod, namespace := os.Getenv("POD_NAME"), os.Getenv("POD_NAMESPACE")
			config, err := rest.InClusterConfig()
			if err != nil || pod == "" || namespace == "" {
				return usageError("bight controller runs in the pods of the StatefulSet that bight install makes, with POD_NAME, POD_NAMESPACE and a service account")
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			config.UserAgent = "bight-controller/" + p.Version
			config.QPS = -1 // one app's first deployment is a burst
			debug.SetMemoryLimit(512 << 20)
			log := slog.New(slog.NewTextHandler(p.Stderr, nil))
			log.Info("controller starts", "version", p.Version, "pod", pod)
			return (&controller.Controller{
				Cluster: kube.New(config, "", ""), Dir: dir, Listen: listen, Pod: pod, Namespace: namespace,
				HookCommand: []string{self, "git-hook"}, Version: p.Version, Log: log,
			}).Run(ctx)
		},
	}
	c.Flags().StringVar(&dir, "dir", "/data", "where repositories, logs and results are kept")
	c.Flags().StringVar(&listen, "listen", ":8080", "address to serve HTTP at")
	return c
}

// gitHookCommand is what git calls in the controller when somebody pushes.
func (p *Program) gitHookCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "git-hook NAME",
		Short:  "Answer a hook of git (run by git in the controller)",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := repo.Hook(c.Context(), args[0], p.Stdin, p.Stdout, p.Stderr, os.Environ()); err != nil {
				return codedError{code: exitFailed, err: err, silent: true}
			}
			return nil
		},
	}
}
