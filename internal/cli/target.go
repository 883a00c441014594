package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

// target is what most commands are about: a directory of source and a place in a
// cluster.
type target struct {
	kubeconfig, context, namespace string
	allow                          []string
	registry, container            string
	verbose, takeOver              bool
}

// flags adds the flags that choose a cluster, as kubectl has them.
func (t *target) flags(c *cobra.Command) {
	t.clusterFlags(c)
	t.namespaceFlag(c)
}

// clusterFlags are those of a command that is about no namespace.
func (t *target) clusterFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&t.kubeconfig, "kubeconfig", "", "kubeconfig file (default: as kubectl)")
	f.StringVar(&t.context, "context", "", "kubeconfig context (default: the current one)")
	f.StringArrayVar(&t.allow, "allow-context", nil, "use this context although it does not look like a development cluster")
	f.BoolVarP(&t.verbose, "verbose", "v", false, "say on stderr what is done in detail")
	t.completeContexts(c)
}

// namespaceFlag adds -n.
func (t *target) namespaceFlag(c *cobra.Command) {
	c.Flags().StringVarP(&t.namespace, "namespace", "n", "", "namespace of the environment (default: <app>-<user>)")
	t.completeNamespaces(c)
}

// registryFlag adds --registry.
func (t *target) registryFlag(c *cobra.Command) {
	c.Flags().StringVar(&t.registry, "registry", "", "registry to push to, HOST or HOST/PATH (default: the one that the cluster announces)")
}

// check refuses flags that name what cannot be.
func (t *target) check() error {
	if t.namespace != "" && len(content.IsDNS1123Label(t.namespace)) > 0 {
		return usageError("-n %s: a namespace's name has a-z, 0-9 and dashes, no dash first or last, and at most 63 characters (this one has %d)",
			t.namespace, len(t.namespace))
	}
	if strings.Contains(t.registry, "://") || strings.ContainsFunc(t.registry, unicode.IsSpace) {
		return usageError("--registry %s: write HOST or HOST/PATH, such as localhost:5000 or registry.example.com/team", t.registry)
	}
	return nil
}

// environment is the namespace that the flags mean for an app.
func (t *target) environment(appName string) string {
	if t.namespace != "" {
		return t.namespace
	}
	return session.Environment(appName, userName())
}

// load reads the kubeconfig and refuses a context that does not look like a
// development cluster.
func (t *target) load(printer *term.Printer) (*kube.Cluster, []string, error) {
	allowed, err := t.allowed()
	if err != nil {
		return nil, nil, err
	}
	cluster, err := kube.Load(kube.Options{
		Kubeconfig: t.kubeconfig, Context: t.context, Namespace: t.namespace, PodsVia: os.Getenv("BIGHT_PODS_VIA"),
		Warn: func(text string) { printer.Warn("", "the cluster says: "+text, "") },
	})
	if err != nil {
		return nil, allowed, err
	}
	return cluster, allowed, cluster.Guard(allowed)
}

// allowed returns the contexts that may be used whatever they look like: those of
// the flag and of the user's configuration.
func (t *target) allowed() ([]string, error) {
	file, err := userConfigFile()
	if err != nil {
		return t.allow, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return t.allow, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the user configuration: %w", err)
	}
	var config struct {
		AllowContexts []string `json:"allowContexts"`
	}
	if err := yaml.UnmarshalStrict(b, &config); err != nil {
		return nil, usageError("user configuration %s: %s; it knows allowContexts, a list of names", file, oneLine("%v", err))
	}
	return append(config.AllowContexts, t.allow...), nil
}

// log returns where details go.
func (t *target) log(errs io.Writer) *slog.Logger {
	if !t.verbose {
		return slog.New(slog.DiscardHandler)
	}
	log := slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	klog.SetSlogLogger(log.With("from", "client-go"))
	return log
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
	if name = app.Label(name); name == "" {
		name = "dev"
	}
	return name
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
	real, err := filepath.EvalSymlinks(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", codedError{code: exitNotFound, err: fmt.Errorf("there is no directory %s: name the directory of the source", abs)}
	case err != nil:
		return "", fmt.Errorf("source directory %s: %w", abs, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", fmt.Errorf("source directory: %w", err)
	}
	if !info.IsDir() {
		return "", usageError("%s is a file: name the directory of the source", abs)
	}
	return real, nil
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
