package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/ui/term"
)

// target is what most commands are about: a directory of source and a place in a
// cluster.
type target struct {
	kubeconfig, context, namespace string
	allow                          []string
	registry                       string
	verbose, takeOver              bool
}

// flags adds the flags that choose a cluster, as kubectl has them.
func (t *target) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&t.kubeconfig, "kubeconfig", "", "kubeconfig file (default: as kubectl)")
	f.StringVar(&t.context, "context", "", "kubeconfig context (default: the current one)")
	f.StringVarP(&t.namespace, "namespace", "n", "", "namespace of the environment (default: <app>-<user>)")
	f.StringArrayVar(&t.allow, "allow-context", nil, "use this context although it does not look like a development cluster")
	f.BoolVarP(&t.verbose, "verbose", "v", false, "say on stderr what is done in detail")
}

// cluster loads the cluster that the flags name.
func (t *target) cluster() (*kube.Cluster, error) {
	return kube.Load(kube.Options{Kubeconfig: t.kubeconfig, Context: t.context, Namespace: t.namespace})
}

// allowed returns the contexts that may be used whatever they look like: those of
// the flag and of the user's configuration.
func (t *target) allowed() ([]string, error) {
	file, err := userConfigFile()
	if err != nil {
		return t.allow, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return t.allow, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the user configuration: %w", err)
	}
	var config struct {
		AllowContexts []string `json:"allowContexts"`
	}
	if err := yaml.UnmarshalStrict(b, &config); err != nil {
		return nil, usageError("user configuration %s: %w; it knows allowContexts, a list of names", file, err)
	}
	return append(config.AllowContexts, t.allow...), nil
}

// log returns where details go.
func (t *target) log(errs io.Writer) *slog.Logger {
	if !t.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func userConfigFile() (string, error) {
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "bight", "config.yaml"), err
}

func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w; set XDG_CACHE_HOME", err)
	}
	return filepath.Join(dir, "bight"), nil
}

// userName is who an environment is for, as a part of a name.
func userName() string {
	name := os.Getenv("BIGHT_USER")
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username[strings.LastIndexAny(u.Username, `\/`)+1:]
		}
	}
	if name == "" {
		name = "dev"
	}
	return app.Label(name)
}

// directory returns the absolute path of the one optional argument.
func directory(args []string) (string, error) {
	dir := "."
	if len(args) > 0 {
		dir = args[0]
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", fmt.Errorf("source directory: %w", err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", usageError("%s is a file: name the directory of the source", abs)
	}
	return abs, nil
}

// printer returns how this run talks.
func (p *Program) printer(asJSON bool, events io.Writer) *term.Printer {
	out, okOut := p.Stdout.(*os.File)
	errs, okErr := p.Stderr.(*os.File)
	config := term.Config{Out: term.Stream{W: p.Stdout}, Err: term.Stream{W: p.Stderr}}
	if okOut && okErr {
		config = term.Detect(out, errs, os.Getenv)
	}
	config.JSON, config.Events = asJSON, events
	return term.New(config)
}

// agentProgram returns the agent for the cluster's nodes.
func agentProgram() (string, error) {
	if runtime.GOOS == "linux" {
		return findSibling("bight-agent", "make build")
	}
	return findSibling("bight-agent-linux-"+runtime.GOARCH, "GOOS=linux go build -o bight-agent-linux-"+runtime.GOARCH+" ./cmd/bight-agent")
}
