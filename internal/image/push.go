package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"
)

// Registry is where images go.
type Registry struct {
	// Push is the registry's host as this machine reaches it, "localhost:41234",
	// where needed with a path below which all repositories are.
	Push string
	// Pull is its host as the cluster's nodes name it; "" is Push.
	Pull string
	// Insecure speaks plain HTTP, as is always done on the loopback interface.
	Insecure bool
	// Transport is used for requests; nil is a plain one.
	Transport http.RoundTripper
}

// Target is an image and the repository that it goes to: "<app>/<service>".
type Target struct {
	Repository string
	Image      v1.Image
}

// Pushed tells what became of a Target.
type Pushed struct {
	Ref     string // by digest, as the cluster's nodes name it
	Digest  v1.Hash
	Bytes   int64 // how much was moved
	Present bool  // the registry had the image already
}

// Push brings the images to the registry, all at once; only what the registry
// lacks is moved, and what several images share is moved once. The results are
// in the order of the targets.
func (p *Publisher) Push(ctx context.Context, reg Registry, targets ...Target) ([]Pushed, error) {
	results := make([]Pushed, len(targets))
	group, ctx := errgroup.WithContext(ctx)
	for i, t := range targets {
		group.Go(func() error {
			got, err := p.pushOne(ctx, reg, t)
			if err != nil {
				return fmt.Errorf("push %s: %w", t.Repository, explain(reg.Push, err))
			}
			results[i] = got
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return results, nil
}

// Find returns an image that a registry has, and nil where it has it not. What is not
// needed of it is not read.
func (p *Publisher) Find(ctx context.Context, reg Registry, repository string, digest v1.Hash) (v1.Image, Pushed, error) {
	repo, err := reg.repository(repository)
	if err != nil {
		return nil, Pushed{}, err
	}
	via := p.transport(reg)
	there, err := has(ctx, via, repo, digest)
	if err != nil {
		return nil, Pushed{}, explain(reg.Push, err)
	}
	if !there {
		return nil, Pushed{}, nil
	}
	img, err := remote.Image(repo.Digest(digest.String()), remote.WithContext(ctx), remote.WithTransport(via), remote.WithAuthFromKeychain(p.keychain()))
	if err != nil {
		return nil, Pushed{}, explain(reg.Push, err)
	}
	return img, Pushed{Ref: cmp.Or(reg.Pull, reg.Push) + "/" + repository + "@" + digest.String(), Digest: digest, Present: true}, nil
}

func (p *Publisher) pushOne(ctx context.Context, reg Registry, t Target) (Pushed, error) {
	digest, err := t.Image.Digest()
	if err != nil {
		return Pushed{}, err
	}
	res := Pushed{Ref: cmp.Or(reg.Pull, reg.Push) + "/" + t.Repository + "@" + digest.String(), Digest: digest}
	repo, err := reg.repository(t.Repository)
	if err != nil {
		return Pushed{}, err
	}
	via := p.transport(reg)
	if res.Present, err = has(ctx, via, repo, digest); err != nil || res.Present {
		return res, err
	}
	moved := &counter{next: via}
	opts := []remote.Option{
		remote.WithContext(ctx), remote.WithTransport(moved), remote.WithAuthFromKeychain(p.keychain()),
		remote.WithRetryBackoff(remote.Backoff{Duration: 100 * time.Millisecond, Factor: 3, Steps: 3}),
	}
	if err := p.pushLayers(ctx, repo, t.Image, opts); err != nil {
		return Pushed{}, err
	}
	if err := remote.Put(repo.Digest(digest.String()), t.Image, opts...); err != nil {
		return Pushed{}, err
	}
	res.Bytes = moved.bytes.Load()
	if p.Log != nil {
		p.Log.DebugContext(ctx, "pushed", "image", res.Ref, "bytes", res.Bytes)
	}
	return res, nil
}

func (p *Publisher) pushLayers(ctx context.Context, repo ggcr.Repository, img v1.Image, opts []remote.Option) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range append(layers, config) {
		group.Go(func() error { return p.pushLayer(ctx, repo, l, opts) })
	}
	return group.Wait()
}

// blobAt is a blob in a registry.
type blobAt struct {
	registry string
	digest   v1.Hash
}

// upload is the first upload of a blob, for the others that need it to wait for.
type upload struct {
	done chan struct{}
	repo ggcr.Repository
	err  error
}

// pushLayer uploads a layer, unless the registry has it. Where another image of
// ours has or is just getting it, the registry is asked to take it from there.
func (p *Publisher) pushLayer(ctx context.Context, repo ggcr.Repository, l v1.Layer, opts []remote.Option) error {
	digest, err := l.Digest()
	if err != nil {
		return err
	}
	at := blobAt{repo.RegistryStr(), digest}
	p.mu.Lock()
	if p.blobs == nil {
		p.blobs = map[blobAt]*upload{}
	}
	first, waiting := p.blobs[at]
	if !waiting {
		first = &upload{done: make(chan struct{}), repo: repo}
		p.blobs[at] = first
	}
	p.mu.Unlock()
	if !waiting {
		first.err = remote.WriteLayer(repo, l, opts...)
		if first.err != nil {
			p.mu.Lock()
			delete(p.blobs, at)
			p.mu.Unlock()
		}
		close(first.done)
		return first.err
	}
	select {
	case <-first.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if first.err == nil && first.repo.RepositoryStr() != repo.RepositoryStr() {
		l = &remote.MountableLayer{Layer: l, Reference: first.repo.Digest(digest.String())}
	}
	return remote.WriteLayer(repo, l, opts...)
}

func (r Registry) repository(path string) (ggcr.Repository, error) {
	opts := []ggcr.Option{ggcr.StrictValidation}
	if r.plain() {
		opts = append(opts, ggcr.Insecure)
	}
	repo, err := ggcr.NewRepository(r.Push+"/"+path, opts...)
	if err != nil {
		return ggcr.Repository{}, fmt.Errorf("%q can't be a repository of registry %q: %w", path, r.Push, err)
	}
	return repo, nil
}

// plain reports whether the registry is spoken to without TLS.
func (r Registry) plain() bool {
	if r.Insecure {
		return true
	}
	address, _, _ := strings.Cut(r.Push, "/") // it may name a path below the host
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// transport returns what requests go through. The default has larger buffers
// than usual: layers are large and registries near.
func (p *Publisher) transport(r Registry) http.RoundTripper {
	if r.Transport != nil {
		return r.Transport
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.http == nil {
		p.http = &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, ExpectContinueTimeout: time.Second,
			WriteBufferSize: 256 << 10, ReadBufferSize: 64 << 10,
		}
	}
	return p.http
}

// has asks for the image in the one way that costs a single request. A registry
// that wants credentials first says no here and is asked properly later.
func has(ctx context.Context, via http.RoundTripper, repo ggcr.Repository, digest v1.Hash) (bool, error) {
	url := fmt.Sprintf("%s://%s/v2/%s/manifests/%s", repo.Scheme(), repo.RegistryStr(), repo.RepositoryStr(), digest)
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json")
	res, err := via.RoundTrip(req)
	if err != nil {
		return false, err
	}
	return res.StatusCode == http.StatusOK, res.Body.Close()
}

// Reachable returns nil when something that speaks for a registry answers at its
// address, be it with a request for credentials, and else an explained error. It
// costs one request.
func Reachable(ctx context.Context, reg Registry, via http.RoundTripper) error {
	repo, err := reg.repository("bight")
	if err != nil {
		return err
	}
	url := fmt.Sprintf("%s://%s/v2/", repo.Scheme(), repo.RegistryStr())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := via.RoundTrip(req)
	if err != nil {
		return explain(reg.Push, err)
	}
	_ = res.Body.Close() // nothing of it was read
	switch {
	case res.StatusCode == http.StatusOK, res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden:
		return nil
	}
	return &RegistryError{
		Registry: reg.Push, Err: fmt.Errorf("it answers %s to a request for /v2/", res.Status),
		Advice: "name one that works with --registry HOST/PATH",
	}
}

// counter counts the bytes that requests carry.
type counter struct {
	next  http.RoundTripper
	bytes atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (c *counter) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil && req.Body != http.NoBody {
		req = req.Clone(req.Context())
		req.Body = &countedBody{req.Body, &c.bytes}
	}
	return c.next.RoundTrip(req)
}

type countedBody struct {
	io.ReadCloser
	bytes *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(int64(n))
	return n, err
}

// RegistryError is a registry that does not do what is asked of it.
type RegistryError struct {
	Registry string
	Advice   string // what to do next
	Err      error
}

func (e *RegistryError) Error() string {
	return fmt.Sprintf("registry %s: %v: %s", e.Registry, e.Err, e.Advice)
}

// Unwrap returns the cause.
func (e *RegistryError) Unwrap() error { return e.Err }

// explain adds what to do about a registry's failure.
func explain(registry string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	advice := ""
	var refused *transport.Error
	var netErr net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		advice = "nothing answers there; start the cluster that it belongs to (bight cluster start) or name another registry"
	case strings.Contains(err.Error(), "no space left on device"), errors.As(err, &refused) && refused.StatusCode == http.StatusInsufficientStorage:
		advice = "its disk is full; make room there and run the command again"
	case errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden):
		advice = "it does not let you in; log in with: docker login " + registry
	case refusedAs(err, transport.DigestInvalidErrorCode), refusedAs(err, transport.SizeInvalidErrorCode):
		advice = "a file changed while it was being pushed; run the command again"
	case errors.As(err, &refused) && refused.StatusCode >= 500:
		advice = "it failed itself; see its logs and run the command again"
	case errors.As(err, &netErr):
		advice = "it can't be reached; check its name and the network"
	default:
		return err
	}
	return &RegistryError{Registry: registry, Advice: advice, Err: err}
}

// refusedAs reports whether a registry gave that reason.
func refusedAs(err error, code transport.ErrorCode) bool {
	var refused *transport.Error
	return errors.As(err, &refused) && slices.ContainsFunc(refused.Errors, func(d transport.Diagnostic) bool { return d.Code == code })
}
