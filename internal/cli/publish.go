package cli

import (
	"context"
	"log/slog"
	"path/filepath"
	"runtime"

	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/tree"
	"github.com/bightdev/bight/internal/ui/term"
)

// parcel is an image of one of our own programs.
type parcel struct {
	what       string // for people
	repository string
	arch       string
	artifact   *image.Artifact
	options    image.Options
}

// push makes an image, pushes it to the cluster's registry and returns its reference.
func (p *Program) push(ctx context.Context, t *target, cluster *kube.Cluster, printer *term.Printer, parcel parcel) (string, error) {
	registry, err := session.FindRegistry(ctx, cluster, t.registry)
	if err != nil {
		return "", err
	}
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	publisher := &image.Publisher{Store: image.OpenStore(filepath.Join(dir, "store")), Arch: parcel.arch, Log: slog.New(slog.DiscardHandler)}
	made, err := publisher.Image(ctx, parcel.artifact, parcel.options)
	if err != nil {
		return "", err
	}
	task := printer.Task(term.Push, "", "pushing "+parcel.what+" to "+registry.Push)
	pushed, err := publisher.Push(ctx, registry, image.Target{Repository: parcel.repository, Image: made})
	if err != nil {
		task.Drop()
		return "", err
	}
	if pushed[0].Bytes == 0 {
		task.Drop() // it was there
		return pushed[0].Ref, nil
	}
	task.Done(term.Event{Text: "pushed " + parcel.what, Why: "to " + registry.Push, Bytes: pushed[0].Bytes})
	return pushed[0].Ref, nil
}

// pushAgent pushes an image with the agent and nothing else.
func (p *Program) pushAgent(ctx context.Context, t *target, cluster *kube.Cluster, printer *term.Printer) (string, error) {
	arch, err := architecture(ctx, cluster, "bight install has an image for them all put on each node with --image")
	if kube.KindOf(err) == kube.Forbidden {
		arch, err = runtime.GOARCH, nil // the nodes are nothing that this user may see
	}
	if err != nil {
		return "", err
	}
	program, err := agentFor(arch)
	if err != nil {
		return "", err
	}
	art := &image.Artifact{Service: "bight-agent", Tree: tree.Tree{}, Command: []string{image.AgentPath}}
	return p.push(ctx, t, cluster, printer, parcel{
		what: "the agent", repository: "bight-system/agent", arch: arch, artifact: art,
		options: image.Options{Agent: program, Title: "bight-agent", Version: p.Version},
	})
}

// agentFor returns the agent for nodes of an architecture.
func agentFor(arch string) (string, error) {
	if arch == runtime.GOARCH {
		return agentProgram()
	}
	return builtFor(arch, "bight-agent")
}
