package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// gitRemote is the name by which git calls this program for URLs that begin with
// bight://.
const gitRemote = "git-remote-bight"

// asked returns the arguments for what a program of that name was called with: git
// calls a remote helper by its name alone.
func asked(program string, args []string) []string {
	if strings.TrimSuffix(filepath.Base(program), ".exe") == gitRemote {
		return append([]string{"git-remote"}, args...)
	}
	return args
}

// gitRemoteCommand is what git runs for a remote bight://NAMESPACE/APP: git's own
// helper for HTTP, at the end of a way to the controller.
func (p *Program) gitRemoteCommand() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use:    "git-remote REMOTE URL",
		Short:  "Lead git to the repository of an app (run by git for bight:// URLs)",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return p.gitRemote(c.Context(), &t, args[0], args[1])
		},
	}
	t.flags(c)
	return c
}

func (p *Program) gitRemote(ctx context.Context, t *target, remote, url string) error {
	place, ok := strings.CutPrefix(url, "bight://")
	namespace, app, two := strings.Cut(strings.TrimSuffix(place, "/"), "/")
	if !ok || !two || namespace == "" || app == "" || strings.Contains(app, "/") {
		return usageError("%s: the repository of an app is bight://NAMESPACE/APP", url)
	}
	printer := p.printer(false, nil)
	defer printer.Close()
	cluster, _, err := t.load(printer)
	if err != nil {
		return err
	}
	to := controllerClient(cluster, namespace)
	if err := to.Open(ctx); err != nil {
		return err
	}
	defer to.Close()
	way, err := to.Remote(ctx, namespace, app)
	if err != nil {
		return err
	}
	defer way.Close()
	cmd := exec.CommandContext(ctx, "git", "remote-http", remote, way.URL)
	cmd.Env = append(os.Environ(), way.Env()...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return codedError{code: exit.ExitCode(), err: err, silent: true} // git has told
	}
	return err
}
