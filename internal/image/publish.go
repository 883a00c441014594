package image

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	ggcr "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/bightdev/bight/internal/tree"
)

// Publisher makes images of artifacts and brings them to a registry. It is safe
// for concurrent use; set its fields before the first one.
type Publisher struct {
	// Store remembers layers.
	Store *Store
	// Zones is the Go toolchain's lib/time/zoneinfo.zip. Without it images have
	// no time zones.
	Zones string
	// Base is an image from a registry to build on instead of our own base.
	Base string
	// Arch is the GOARCH of the nodes; "" is this machine's.
	Arch string
	// Compression of layers. Plain is best for a registry on this machine.
	Compression Compression
	// Keychain finds credentials for registries; nil is the user's Docker
	// configuration.
	Keychain authn.Keychain
	// Log gets what is moved, at level debug. Nil is silence.
	Log *slog.Logger

	mu    sync.Mutex
	base  v1.Image // once made
	http  http.RoundTripper
	blobs map[blobAt]*upload
}

// Options say what else goes into an image.
type Options struct {
	// Agent is the path of the agent's program for the image's platform. With it
	// the image has a layer with the agent at [AgentPath]. Whether the agent runs
	// is up to who starts the container: the image's own command is the service.
	Agent string
	// System is what the image has besides, by path below its root: programs that the
	// service runs, and the libraries that they want.
	System tree.Tree
	// Title, Version and Source become the standard labels of an image.
	Title, Version, Source string
	// Labels are further labels.
	Labels map[string]string
}

// Image puts the artifact's tree, and the agent where it is wanted, on the base.
// The same artifact and options give the same digest at any time and place.
func (p *Publisher) Image(ctx context.Context, art *Artifact, opts Options) (v1.Image, error) {
	img, err := p.image(ctx, art, opts)
	if err != nil {
		return nil, fmt.Errorf("make the image of service %s: %w", art.Service, err)
	}
	return img, nil
}

func (p *Publisher) image(ctx context.Context, art *Artifact, opts Options) (v1.Image, error) {
	if art.NeedsAgent && opts.Agent == "" {
		return nil, fmt.Errorf("it is served by the agent, whose program was not given")
	}
	if len(art.Command) == 0 {
		return nil, fmt.Errorf("it has no command")
	}
	base, err := p.baseImage(ctx)
	if err != nil {
		return nil, err
	}
	var adds []mutate.Addendum
	if opts.Agent != "" {
		l, err := p.agentLayer(opts.Agent)
		if err != nil {
			return nil, err
		}
		adds = append(adds, addendum(l, "the agent"))
	}
	if len(opts.System) > 0 {
		l, err := p.treeLayer(opts.System, "", 0)
		if err != nil {
			return nil, err
		}
		adds = append(adds, addendum(l, "programs"))
	}
	l, err := p.treeLayer(art.Tree, Root[1:], User)
	if err != nil {
		return nil, err
	}
	adds = append(adds, addendum(l, "service "+art.Service))
	img, err := mutate.Append(base, adds...)
	if err != nil {
		return nil, err
	}
	return p.configure(img, art, opts)
}

func addendum(l v1.Layer, what string) mutate.Addendum {
	return mutate.Addendum{Layer: l, History: v1.History{
		Created: v1.Time{Time: time.Unix(0, 0).UTC()}, CreatedBy: "bight: " + what,
	}}
}

// configure says how the image is started.
func (p *Publisher) configure(img v1.Image, art *Artifact, opts Options) (v1.Image, error) {
	old, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file := old.DeepCopy()
	file.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Author, file.Container = "", ""
	file.Architecture, file.OS = p.arch(), "linux"
	c := &file.Config
	c.User = fmt.Sprintf("%d:%d", User, User)
	c.WorkingDir = Root
	c.Entrypoint = append([]string(nil), art.Command...)
	if strings.HasPrefix(c.Entrypoint[0], "./") {
		c.Entrypoint[0] = path.Join(Root, c.Entrypoint[0])
	}
	c.Cmd = nil
	if c.Env == nil {
		c.Env = []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"HOME=/home/nonroot",
		}
	}
	labels := maps.Clone(c.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, opts.Labels)
	for k, v := range map[string]string{
		"org.opencontainers.image.title":   cmp.Or(opts.Title, art.Service),
		"org.opencontainers.image.version": opts.Version,
		"org.opencontainers.image.source":  opts.Source,
		"dev.bight.tree":                   art.TreeDigest().String(),
	} {
		if v != "" {
			labels[k] = v
		}
	}
	c.Labels = labels
	return mutate.ConfigFile(img, file)
}

func (p *Publisher) arch() string { return cmp.Or(p.Arch, runtime.GOARCH) }

// treeLayer makes a layer of a tree.
func (p *Publisher) treeLayer(t tree.Tree, root string, owner int) (v1.Layer, error) {
	a, err := packTree(t, root, owner)
	if err != nil {
		return nil, err
	}
	b := t.Digest()
	key := append(b[:], root...)
	return p.Store.layer(a, hashOf(binary.AppendUvarint(key, uint64(owner))), p.Compression)
}

func (p *Publisher) agentLayer(file string) (v1.Layer, error) {
	e, err := p.Store.hashes.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read the agent's program: %w", err)
	}
	if !e.Mode.IsRegular() {
		return nil, fmt.Errorf("read the agent's program: %s is not a file", file)
	}
	e.Mode = 0o755
	return p.treeLayer(tree.Tree{path.Base(AgentPath): e}, path.Dir(AgentPath)[1:], 0)
}

// baseImage makes or fetches the base once.
func (p *Publisher) baseImage(ctx context.Context) (v1.Image, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.base != nil {
		return p.base, nil
	}
	get := p.ownBase
	if p.Base != "" {
		get = p.foreignBase
	}
	img, err := get(ctx)
	if err != nil {
		return nil, err
	}
	p.base = img
	return img, nil
}

// BaseDigest identifies the base: the same artifact on the same base is the same image.
func (p *Publisher) BaseDigest(ctx context.Context) (v1.Hash, error) {
	base, err := p.baseImage(ctx)
	if err != nil {
		return v1.Hash{}, err
	}
	return base.Digest()
}

func (p *Publisher) ownBase(context.Context) (v1.Image, error) {
	a, key, err := packBase(p.Zones)
	if err != nil {
		return nil, err
	}
	l, err := p.Store.layer(a, key, p.Compression)
	if err != nil {
		return nil, err
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	return mutate.Append(img, addendum(l, "certificates, time zones, users"))
}

func (p *Publisher) foreignBase(ctx context.Context) (v1.Image, error) {
	ref, err := ggcr.ParseReference(p.Base)
	if err != nil {
		return nil, fmt.Errorf("the base image %q: %w", p.Base, err)
	}
	img, err := remote.Image(ref,
		// The image outlives this call: its layers are read when it is pushed.
		remote.WithContext(context.WithoutCancel(ctx)),
		remote.WithAuthFromKeychain(p.keychain()),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: p.arch()}))
	if err != nil {
		return nil, fmt.Errorf("fetch the base image %s: %w", p.Base, explain(ref.Context().RegistryStr(), err))
	}
	return img, nil
}

func (p *Publisher) keychain() authn.Keychain {
	if p.Keychain != nil {
		return p.Keychain
	}
	return authn.DefaultKeychain
}
