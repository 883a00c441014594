package cli

import (
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/change/repo"
)

// controllerCommand is what the controllers run. People don't.
func (p *Program) controllerCommand() *cobra.Command {
	s := ControllerSettings{Version: p.Version, Log: slog.New(slog.NewTextHandler(p.Stderr, nil))}
	c := &cobra.Command{
		Use:    "controller",
		Short:  "Take changes from a push to the environments (run by the StatefulSet of bight install)",
		Hidden: true,
		Args:   atMost(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			if p.Outer == nil {
				return p.becomeOuter()
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			s.Hook = []string{filepath.Join(filepath.Dir(self), "bight"), "git-hook"}
			return p.Outer.Control(c.Context(), s)
		},
	}
	c.Flags().StringVar(&s.Dir, "dir", "/data", "where repositories, logs and results are kept")
	c.Flags().StringVar(&s.Listen, "listen", ":8080", "address to serve HTTP at")
	c.Flags().StringVar(&s.Prometheus, "prometheus", "", "URL of who answers the guards of releases")
	c.Flags().StringVar(&s.Metrics, "metrics", ":8081", "address to serve metrics at, \"\" for none")
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
