package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/image/programs"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/tree"
	"github.com/bightdev/bight/internal/ui/term"
)

// workerFlags are those of bight install about workers.
func workerFlags(c *cobra.Command, w *install.Workers, resources *string) {
	c.Flags().Int32Var(&w.Count, "workers", 0, "workers in the cluster, which review, build and test; 0: on the machines of those who run bight worker or bight ship")
	c.Flags().StringVar(&w.Image, "worker-image", "", "image with the toolchains that workers need, and git (default: made of this machine's Go and git, and pushed)")
	c.Flags().StringVar(&w.Registry, "worker-registry", "", "registry that workers push to, HOST/PATH (default: the one that the cluster announces)")
	c.Flags().StringVar(&w.Volume, "worker-volume", "", "size of one volume for the caches of all workers, as in 50Gi, which keeps them on one node; none: a cache for each, as long as it lives (default: as it is installed, else none)")
	c.Flags().StringVar(resources, "worker-resources", "", "what each worker is sure of, as in cpu=2,memory=4Gi; of memory it gets no more than that (default: cpu=100m,memory=256Mi, and more where the node has it)")
	c.Flags().StringVar(&w.Secret, "worker-registry-secret", "", "Secret in bight-system, of type kubernetes.io/dockerconfigjson, with which they may")
}

// checkWorkers reads what of workers is text, and refuses what can't be.
func checkWorkers(w *install.Workers, resources string, dryRun bool) (err error) {
	if w.Resources, err = install.ParseResources(resources); err != nil {
		return usageError("--worker-resources: %s", err)
	}
	if w.Volume != "" && w.Volume != install.NoVolume {
		if _, err := install.ParseVolume(w.Volume); err != nil {
			return usageError("--worker-volume: %w", err)
		}
	}
	switch {
	case w.Count < 0 || w.Count > 100:
		return usageError("--workers %d: there are 0 to 100", w.Count)
	case w.Count == 0 && (w.Image != "" || w.Registry != "" || w.Secret != "" || w.Volume != "" || resources != ""):
		return usageError("--worker-image, --worker-registry, --worker-registry-secret, --worker-resources and --worker-volume are about workers: say how many with --workers")
	case w.Count > 0 && dryRun && w.Registry == "":
		return usageError("--dry-run asks no cluster: name the registry that workers push to with --worker-registry")
	}
	return nil
}

// settleRegistry finds what workers push to, where nothing is named.
func settleRegistry(ctx context.Context, cluster *kube.Cluster, w *install.Workers) (err error) {
	if w.Count > 0 && w.Registry == "" {
		w.Registry, w.NodeNetwork, err = workerRegistry(ctx, cluster)
	}
	return err
}

// packToolchain makes an image for workers of this machine's Go and git.
func (p *Program) packToolchain(ctx context.Context, cluster *kube.Cluster) (*parcel, error) {
	arch, err := architecture(ctx, cluster, "push an image with toolchains for all of them and name it with --worker-image")
	if err != nil {
		return nil, err
	}
	system, err := toolchainFor(ctx, arch)
	if err != nil {
		return nil, err
	}
	return &parcel{
		what: "this machine's Go and git", repository: "bight-system/worker", arch: arch,
		artifact: &image.Artifact{Service: "bight-worker", Tree: tree.Tree{}, Command: []string{"/usr/local/bin/go"}},
		options:  image.Options{Title: "bight-worker", Version: p.Version, System: system},
	}, nil
}

// workerRegistry is the registry that a cluster announces, by the name that nodes have
// for it: that is what images are called in pods. A name on the loopback interface is
// the node's, so who pushes there is in the node's network.
func workerRegistry(ctx context.Context, cluster *kube.Cluster) (registry string, nodeNetwork bool, err error) {
	announced, err := cluster.LocalRegistry(ctx)
	if err != nil {
		return "", false, err
	}
	if announced == nil {
		return "", false, usageError("--workers: the cluster announces no registry (ConfigMap kube-public/local-registry-hosting): name one that pods may push to with --worker-registry HOST/PATH, and --worker-registry-secret")
	}
	address, _, _ := strings.Cut(announced.PullHost(), "/")
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip := net.ParseIP(host)
	return announced.PullHost(), host == "localhost" || ip != nil && ip.IsLoopback(), nil
}

// toolchainFor takes this machine's Go and git for an image.
func toolchainFor(ctx context.Context, arch string) (tree.Tree, error) {
	const otherwise = "; name an image with toolchains and git with --worker-image"
	if runtime.GOOS != "linux" || runtime.GOARCH != arch {
		return nil, fmt.Errorf("workers run on linux/%s, and this machine's Go is for %s/%s%s", arch, runtime.GOOS, runtime.GOARCH, otherwise)
	}
	system, err := gitFor(arch)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("find this machine's Go: %w%s", err, otherwise)
	}
	root := strings.TrimSpace(string(out))
	needs, err := programs.Collect(arch, filepath.Join(root, "bin", "go"))
	if err != nil {
		return nil, fmt.Errorf("take Go: %w%s", err, otherwise)
	}
	files, problems, err := tree.ReadDir(ctx, root, tree.Options{Ignore: func(name string, dir bool) bool {
		return dir && (name == "test" || name == "doc" || name == "api" || name == "misc")
	}})
	if err == nil && len(problems) > 0 {
		err = problems[0]
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", root, err)
	}
	for name, e := range needs {
		system[name] = e
	}
	for name, e := range files {
		system[path.Join("usr/local/go", name)] = e
	}
	for _, program := range []string{"go", "gofmt"} {
		system["usr/local/bin/"+program] = tree.Entry{Mode: os.ModeSymlink | 0o777, Link: "/usr/local/go/bin/" + program}
	}
	return system, nil
}

// copyProgramsCommand brings this program into an image that has toolchains.
func (p *Program) copyProgramsCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "copy-programs DIR",
		Short:  "Copy bight-outer and the agent to a directory (run in the pods of bight-worker)",
		Hidden: true,
		Args:   exactlyOne("a directory"),
		RunE: func(_ *cobra.Command, args []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			for _, name := range []string{outerName, "bight-agent"} {
				from := filepath.Join(filepath.Dir(self), name)
				if err := copyProgram(from, filepath.Join(args[0], name)); err != nil {
					return fmt.Errorf("copy %s, which the image of bight install has: %w", from, err)
				}
			}
			return nil
		},
	}
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	// Beside, then renamed: a container that starts anew finds the old one running.
	out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// employer is the cluster and the controller that a worker works for.
func (p *Program) employer(t *target, printer *term.Printer, o workerOptions) (*kube.Cluster, *client.Client, error) {
	if o.controller != "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, nil, usageError("--controller is for workers in a pod: %s", err)
		}
		config.UserAgent = "bight-worker/" + p.Version
		cluster := kube.New(config, "", "")
		to := controllerClient(cluster, install.Namespace)
		to.Address = o.controller
		return cluster, to, nil
	}
	cluster, _, err := t.load(printer)
	if err != nil {
		return nil, nil, err
	}
	namespace := cluster.Namespace
	if len(o.apps) > 0 {
		namespace, _, _ = strings.Cut(o.apps[0], "/")
	}
	return cluster, controllerClient(cluster, namespace), nil
}

// drainTime is how long a worker in a pod that is told to stop has for what it is at:
// less than its pod has.
const drainTime = 19 * time.Minute

// drained returns a context that does not end with the first signal but with the second,
// or when the time is over, and a channel that is closed by the first.
func drained(ctx context.Context) (run context.Context, told <-chan struct{}, stop func()) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	first := make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		select {
		case <-run.Done():
			return
		case <-signals:
			close(first)
		}
		select {
		case <-run.Done():
		case <-signals:
		case <-time.After(drainTime):
		}
		cancel()
	})
	return run, first, func() { signal.Stop(signals); cancel(); tasks.Wait() }
}

// unpushed is what the image of workers is called that nobody has made.
func (p *Program) unpushed() string { return session.Unpushed + "/bight-worker:" + p.Version }
