package cli

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/install"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/tree"
	"github.com/bightdev/bight/internal/ui/term"
)

func (p *Program) installCommand() *cobra.Command {
	var t target
	var dryRun bool
	var ref string
	c := &cobra.Command{
		Use:   "install",
		Short: "Install the node agents into a cluster, for everybody who works there",
		Long: `Install what a whole team shares into a cluster: the node agents (a DaemonSet in
namespace bight-system), the kind Intercept, and who may make one. With it, bight run,
intercept and env work with any workload, also those that Bight did not deploy; for
what bight up deploys nothing of this is needed.

The image is made from this very program and pushed to the cluster's registry, unless
--image names one. It takes the rights of a cluster's administrator. Who may edit a
namespace may make Intercepts there afterwards. Installing again brings the cluster to
this version; bight uninstall leaves nothing.`,
		Example: `  bight install
  bight install --dry-run --image registry.example.com/bight:v1 > bight.yaml`,
		Args: atMost(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			if dryRun && ref == "" {
				ref = session.Unpushed + "/bight:" + p.Version
			}
			if dryRun {
				return p.printInstall(install.Settings{Image: ref, Version: p.version()})
			}
			return p.install(c.Context(), &t, ref)
		},
	}
	t.flags(c)
	t.registryFlag(c)
	c.Flags().StringVar(&ref, "image", "", "image with this program (default: made of this program and pushed)")
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

func (p *Program) install(ctx context.Context, t *target, ref string) error {
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
	if ref == "" {
		if ref, err = p.pushSelf(ctx, t, cluster, printer); err != nil {
			return err
		}
	}
	return i.Install(ctx, install.Settings{Image: ref, Version: p.version()})
}

// pushSelf makes an image of this program, for each architecture of the nodes the one
// of that architecture, and returns its reference.
func (p *Program) pushSelf(ctx context.Context, t *target, cluster *kube.Cluster, printer *term.Printer) (string, error) {
	arch, err := architecture(ctx, cluster, "push an image for all of them and name it with --image")
	if err != nil {
		return "", err
	}
	program, err := selfFor(arch)
	if err != nil {
		return "", err
	}
	var hashes *tree.Cache
	entry, err := hashes.Stat(program)
	if err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	entry.Mode = 0o755
	art := &image.Artifact{Service: "bight", Tree: tree.Tree{"bight": entry}, Command: []string{"./bight"}}
	return p.push(ctx, t, cluster, printer, parcel{
		what: "this program", repository: "bight-system/bight", arch: arch, artifact: art, options: image.Options{Title: "bight", Version: p.Version},
	})
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
	build := fmt.Sprintf("CGO_ENABLED=0 GOOS=linux GOARCH=%s go build -o bight-linux-%[1]s ./cmd/bight", arch)
	if runtime.GOOS != "linux" || runtime.GOARCH != arch {
		return findSibling("bight-linux-"+arch, build)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	f, err := elf.Open(self)
	if err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	defer f.Close()
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			return findSibling("bight-linux-"+arch, build) // this one wants a C library
		}
	}
	return self, nil
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
