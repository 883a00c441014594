package cli

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/image/programs"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/release/guard"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/tree"
)

func (p *Program) installCommand() *cobra.Command {
	var t target
	var dryRun bool
	var resources string // of workers
	var s install.Settings
	c := &cobra.Command{
		Use:   "install",
		Short: "Install what a team shares into a cluster: node agents and the controller",
		Long: `Install what a whole team shares into a cluster, into namespace bight-system:

- the node agents (a DaemonSet), with which bight run, intercept and env work with any
  workload, also those that Bight did not deploy;
- the controller (a StatefulSet with a volume), which takes changes from a push to the
  environments: bight ship.

- with --workers N, workers (a Deployment), which review, build and test changes with the
  toolchains of --worker-image or of this machine, so that nobody's laptop has to.

For bight up nothing of this is needed.

The image is made from this very program, bight-outer beside it, and this machine's git,
and pushed to the cluster's registry, unless --image names one. It takes the rights of
a cluster's administrator. Who may edit a namespace may have Intercepts and Apps there
afterwards. Installing again brings the cluster to this version; bight uninstall leaves
nothing.`,
		Example: `  bight install
  bight install --replicas 2
  bight install --workers 3 --worker-image registry.example.com/toolchains:v7
  bight install --prometheus http://prometheus.monitoring:9090
  bight install --dry-run --image registry.example.com/bight:v1 > bight.yaml`,
		Args: atMost(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			s.Version = p.version()
			if s.Replicas < 1 || s.Replicas > 9 {
				return usageError("--replicas %d: there are 1 to 9 controllers, of which one acts", s.Replicas)
			}
			if err := install.CheckCollector(s.Collector); err != nil {
				return usageError("--otlp: %w", err)
			}
			if s.Volume != "" {
				if _, err := install.ParseVolume(s.Volume); err != nil {
					return usageError("--volume: %w", err)
				}
			}
			if err := checkWorkers(&s.Workers, resources, dryRun); err != nil {
				return err
			}
			if s.Prometheus != "" {
				if err := guard.CheckURL(s.Prometheus); err != nil {
					return usageError("--prometheus: %w", err)
				}
			}
			if dryRun && s.Workers.Count > 0 && s.Workers.Image == "" {
				s.Workers.Image = p.unpushed()
			}
			if dryRun && s.Image == "" {
				s.Image = session.Unpushed + "/bight:" + p.Version
			}
			if dryRun {
				return p.printInstall(s)
			}
			return p.install(c.Context(), &t, s)
		},
	}
	t.flags(c)
	t.registryFlag(c)
	c.Flags().StringVar(&s.Image, "image", "", "image with bight, bight-outer and git (default: made of this machine's and pushed)")
	c.Flags().Int32Var(&s.Replicas, "replicas", 1, "controllers; one acts, and another takes over when it is lost")
	c.Flags().StringVar(&s.Volume, "volume", "", "size of the controller's volume, which can grow where the cluster allows that (default: as it is installed, else 10Gi)")
	c.Flags().StringVar(&s.Prometheus, "prometheus", "", "URL of a Prometheus that the controller reaches, for the guards of releases (default: releases have none)")
	c.Flags().StringVar(&s.Collector, "otlp", "", "URL of an OpenTelemetry collector that gets a trace of each change and release (OTLP over HTTP)")
	workerFlags(c, &s.Workers, &resources)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only print the objects, as YAML")
	return c
}

// version is this program's as a label's value may have it.
func (p *Program) version() string {
	if len(p.Version) > 63 {
		return p.Version[:63]
	}
	return p.Version
}

func (p *Program) printInstall(s install.Settings) error {
	all, err := install.Render(s)
	if err != nil {
		return err
	}
	text, err := install.YAML(all)
	if err != nil {
		return err
	}
	_, err = p.Stdout.Write(text)
	return err
}

func (p *Program) install(ctx context.Context, t *target, s install.Settings) error {
	if err := t.check(); err != nil {
		return err
	}
	printer := p.printer(false, nil)
	defer printer.Close()
	cluster, _, err := t.load(printer)
	if err != nil {
		return err
	}
	i := &install.Installer{Cluster: cluster, Say: func(text string) { printer.Note("", text) }}
	if err := i.Check(ctx); err != nil {
		return err
	}
	if err := i.Volumes(ctx, &s); err != nil {
		return err
	}
	if err := settleRegistry(ctx, cluster, &s.Workers); err != nil {
		return err
	}
	// Nothing is pushed before all of it could be.
	var self, toolchain *parcel
	if s.Image == "" {
		if self, err = p.packSelf(ctx, cluster, s.Workers.Count > 0); err != nil {
			return err
		}
	}
	if s.Workers.Count > 0 && s.Workers.Image == "" {
		if toolchain, err = p.packToolchain(ctx, cluster); err != nil {
			return err
		}
	}
	if self != nil {
		if s.Image, err = p.push(ctx, t, cluster, printer, *self); err != nil {
			return err
		}
	}
	if toolchain != nil {
		if s.Workers.Image, err = p.push(ctx, t, cluster, printer, *toolchain); err != nil {
			return err
		}
	}
	return i.Install(ctx, s)
}

// packSelf makes an image of this program, of the one for the nodes' architecture.
// Workers want the agent beside it.
func (p *Program) packSelf(ctx context.Context, cluster *kube.Cluster, agent bool) (*parcel, error) {
	arch, err := architecture(ctx, cluster, "push an image for all of them and name it with --image")
	if err != nil {
		return nil, err
	}
	self, err := selfFor(arch)
	if err != nil {
		return nil, err
	}
	outer, err := outerFor(arch)
	if err != nil {
		return nil, err
	}
	programs := map[string]string{"bight": self, outerName: outer}
	if agent {
		if programs["bight-agent"], err = agentFor(arch); err != nil {
			return nil, err
		}
	}
	art := &image.Artifact{Service: "bight", Tree: tree.Tree{}, Command: []string{"./bight"}}
	for name, file := range programs {
		var hashes *tree.Cache
		entry, err := hashes.Stat(file)
		if err != nil {
			return nil, fmt.Errorf("read the program %s: %w", name, err)
		}
		entry.Mode = 0o755
		art.Tree[name] = entry
	}
	system, err := gitFor(arch)
	if err != nil {
		return nil, err
	}
	return &parcel{
		what: "bight and bight-outer", repository: "bight-system/bight", arch: arch, artifact: art,
		options: image.Options{Title: "bight", Version: p.Version, System: system},
	}, nil
}

// gitFor takes this machine's git for an image: what serves repositories, what fetches
// from others, and the shell that git's hooks want.
func gitFor(arch string) (tree.Tree, error) {
	const otherwise = "; name an image that has this program and git with --image"
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("the controller runs git, and this machine's is for %s%s", runtime.GOOS, otherwise)
	}
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("the controller runs git, and this machine has none: install it%s", otherwise)
	}
	out, err := exec.Command(git, "--exec-path").Output()
	if err != nil {
		return nil, fmt.Errorf("ask git where its programs are: %w", err)
	}
	dir := strings.TrimSpace(string(out))
	wanted := []string{git, filepath.Join(dir, "git"), filepath.Join(dir, "git-http-backend"), filepath.Join(dir, "git-remote-http"), filepath.Join(dir, "git-remote-https"), "/bin/sh"}
	system, err := programs.Collect(arch, wanted...)
	if err != nil {
		return nil, fmt.Errorf("take git for the controller's image: %w%s", err, otherwise)
	}
	return system, nil
}

// architecture is that of the cluster's nodes; otherwise says what to do where they
// have several.
func architecture(ctx context.Context, cluster *kube.Cluster, otherwise string) (string, error) {
	client, err := cluster.Typed()
	if err != nil {
		return "", err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, meta.ListOptions{})
	if err != nil {
		return "", fmt.Errorf("ask what the nodes are: %w", cluster.Explain(err))
	}
	found := ""
	for _, n := range nodes.Items {
		is := n.Status.NodeInfo.Architecture
		if found != "" && is != found {
			return "", fmt.Errorf("the nodes are of several architectures (%s and %s): %s", found, is, otherwise)
		}
		found = is
	}
	if found == "" {
		return "", errors.New("the cluster has no nodes yet: try again when it has")
	}
	return found, nil
}

// selfFor returns this program for a node: this very one, or the one built for that
// architecture beside it.
func selfFor(arch string) (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != arch {
		return builtFor(arch, "bight")
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	return static(self, arch, "bight")
}

// outerFor returns bight-outer for a node.
func outerFor(arch string) (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != arch {
		return builtFor(arch, outerName)
	}
	program, err := findOuter()
	if err != nil {
		return "", err
	}
	return static(program, arch, outerName)
}

// builtFor returns a program that was built for nodes of an architecture.
func builtFor(arch, name string) (string, error) {
	is := name + "-linux-" + arch
	return findSibling(is, fmt.Sprintf("CGO_ENABLED=0 GOOS=linux GOARCH=%s go build -o %s ./cmd/%s", arch, is, name))
}

// static returns a program that runs in any image: this one, or if it wants a C library
// the one that was built for nodes.
func static(program, arch, name string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", fmt.Errorf("read the program %s: %w", name, err)
	}
	defer f.Close()
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			return builtFor(arch, name)
		}
	}
	return program, nil
}

func (p *Program) uninstallCommand() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove from a cluster what bight install has put there",
		Long: `Remove what bight install has put into a cluster, and all Intercepts: nothing is
left. Applications go on as they are, and what bight up has deployed stays.`,
		Args: atMost(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			printer := p.printer(false, nil)
			defer printer.Close()
			cluster, _, err := t.load(printer)
			if err != nil {
				return err
			}
			i := &install.Installer{Cluster: cluster, Say: func(text string) { printer.Note("", text) }}
			return i.Uninstall(c.Context())
		},
	}
	t.flags(c)
	return c
}
