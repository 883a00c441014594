package cli

import (
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/nodeagent"
)

// nodeCommand is what the node agents run. People don't.
func (p *Program) nodeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "node",
		Short:  "Serve the Intercepts of this node (run by the DaemonSet of bight install)",
		Hidden: true,
		Args:   atMost(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM)
			defer stop()
			name := os.Getenv("NODE_NAME")
			config, err := rest.InClusterConfig()
			if err != nil || name == "" {
				return usageError("bight node runs in the pods of the DaemonSet that bight install makes, with NODE_NAME and a service account")
			}
			config.UserAgent = "bight-node/" + p.Version
			debug.SetMemoryLimit(128 << 20)
			log := slog.New(slog.NewTextHandler(p.Stderr, nil))
			log.Info("serving the Intercepts of a node", "node", name, "version", p.Version)
			a := &nodeagent.Agent{Cluster: kube.New(config, "", ""), Node: name, Proc: "/proc", Version: p.Version, Log: log}
			return a.Run(ctx)
		},
	}
}
