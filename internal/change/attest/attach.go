package attest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	typeInToto    = "application/vnd.in-toto+json"
	typeEnvelope  = "application/vnd.dsse.envelope.v1+json"
	typeSimple    = "application/vnd.dev.cosign.simplesigning.v1+json"
	typeSignature = "application/vnd.dev.cosign.artifact.sig.v1+json"
	typeEmpty     = "application/vnd.oci.empty.v1+json"

	annotationSignature = "dev.cosignproject.cosign/signature"
	annotationPredicate = "in-toto.io/predicate-type"
)

// Client attaches to images in registries, and verifies. Set its fields before the
// first use.
type Client struct {
	// Signer signs; nil leaves statements unsigned and images without a signature.
	Signer *Signer
	// Keychain finds credentials for registries; nil is the user's Docker
	// configuration.
	Keychain authn.Keychain
	// Transport is used for requests; nil is a plain one.
	Transport http.RoundTripper
	// Insecure speaks plain HTTP, as is always done on the loopback interface.
	Insecure bool

	pause time.Duration // before a request is tried again; 0 is 50 ms
}

// digest reads a reference, which must be by digest: a tag may be another image by
// the time that it is used.
func (c *Client) digest(ref string) (name.Digest, error) {
	opts := []name.Option{name.StrictValidation}
	if c.Insecure {
		opts = append(opts, name.Insecure)
	}
	d, err := name.NewDigest(ref, opts...)
	if err != nil {
		return name.Digest{}, fmt.Errorf("image %q is not named by its digest (repository@sha256:...): %w", ref, err)
	}
	return d, nil
}

func (c *Client) options(ctx context.Context) []remote.Option {
	chain := c.Keychain
	if chain == nil {
		chain = authn.DefaultKeychain
	}
	opts := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(chain),
		remote.WithRetryBackoff(remote.Backoff{Duration: cmp.Or(c.pause, 50*time.Millisecond), Factor: 3, Steps: 3}),
	}
	if c.Transport != nil {
		opts = append(opts, remote.WithTransport(c.Transport))
	}
	return opts
}

// Attach attaches the statements to the image, which must be in the registry, and
// with a Signer a signature of its digest. It returns the references of what was
// attached. What is there already stays one; after an error, attaching again
// completes it.
func (c *Client) Attach(ctx context.Context, ref string, statements ...Statement) ([]string, error) {
	image, err := c.digest(ref)
	if err != nil {
		return nil, err
	}
	opts := c.options(ctx)
	subject, err := remote.Head(image, opts...)
	if err != nil {
		return nil, fmt.Errorf("attach to %s: find the image: %w", ref, explain(err))
	}
	artifacts, err := c.artifacts(image, *subject, statements)
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", ref, err)
	}
	var refs []string
	for _, a := range artifacts {
		d, err := a.push(image.Context(), opts)
		if err != nil {
			return nil, fmt.Errorf("attach to %s: %w", ref, explain(err))
		}
		refs = append(refs, d.String())
	}
	if err := c.confirm(ctx, image, artifacts, opts); err != nil {
		return nil, fmt.Errorf("attach to %s: %w", ref, explain(err))
	}
	return refs, nil
}

// artifacts makes what is to be attached.
func (c *Client) artifacts(image name.Digest, subject v1.Descriptor, statements []Statement) ([]*artifact, error) {
	var out []*artifact
	add := func(kind, layerType string, data []byte, about, sig map[string]string) error {
		a, err := newArtifact(subject, kind, layerType, data, about, sig)
		out = append(out, a)
		return err
	}
	for _, s := range statements {
		if len(s.Subject) != 1 || !s.Subject[0].same(image.DigestStr()) {
			return nil, fmt.Errorf("the statement %s is about another image", s.PredicateType)
		}
		data, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		kind := typeInToto
		if c.Signer != nil {
			kind = typeEnvelope
			if data, err = seal(c.Signer, data); err != nil {
				return nil, err
			}
		}
		if err := add(kind, kind, data, map[string]string{annotationPredicate: s.PredicateType}, nil); err != nil {
			return nil, err
		}
	}
	if c.Signer == nil {
		return out, nil
	}
	data, err := simplePayload(image.Context().Name(), image.DigestStr())
	if err != nil {
		return nil, err
	}
	sig, err := c.Signer.sign(data)
	if err != nil {
		return nil, fmt.Errorf("sign the image: %w", err)
	}
	return out, add(typeSignature, typeSimple, data, nil, map[string]string{annotationSignature: base64.StdEncoding.EncodeToString(sig)})
}

// artifact is a manifest of one layer that refers to an image.
type artifact struct {
	manifest []byte
	digest   v1.Hash
	layers   []v1.Layer
}

func newArtifact(subject v1.Descriptor, kind, layerType string, data []byte, about, onLayer map[string]string) (*artifact, error) {
	empty := static.NewLayer([]byte("{}"), typeEmpty)
	layer := static.NewLayer(data, types.MediaType(layerType))
	config, err := describe(empty, typeEmpty, nil)
	if err != nil {
		return nil, err
	}
	config.Data = []byte("{}")
	content, err := describe(layer, layerType, onLayer)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: kind,
		Config: config, Layers: []v1.Descriptor{content}, Annotations: about,
		Subject: &v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest},
	})
	if err != nil {
		return nil, err
	}
	sum, _, err := v1.SHA256(bytes.NewReader(raw))
	return &artifact{raw, sum, []v1.Layer{empty, layer}}, err
}

func describe(l v1.Layer, mediaType string, annotations map[string]string) (v1.Descriptor, error) {
	size, err := l.Size()
	if err != nil {
		return v1.Descriptor{}, err
	}
	sum, err := l.Digest()
	return v1.Descriptor{MediaType: types.MediaType(mediaType), Size: size, Digest: sum, Annotations: annotations}, err
}

func (a *artifact) RawManifest() ([]byte, error)        { return a.manifest, nil }
func (a *artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// push uploads the artifact. Where the registry keeps no list of referrers, Put
// keeps one under a tag.
func (a *artifact) push(repo name.Repository, opts []remote.Option) (name.Digest, error) {
	d := repo.Digest(a.digest.String())
	for _, l := range a.layers {
		if err := remote.WriteLayer(repo, l, opts...); err != nil {
			return d, err
		}
	}
	return d, remote.Put(d, a, opts...)
}

// confirm looks whether the registry lists all that was attached. The list under a
// tag is read, changed and written, so that of two who do so at once one is lost;
// then it is done again.
func (c *Client) confirm(ctx context.Context, image name.Digest, artifacts []*artifact, opts []remote.Option) error {
	var missing []*artifact
	for try := range 6 {
		index, err := remote.Referrers(image, opts...)
		if err != nil {
			return err
		}
		list, err := index.IndexManifest()
		if err != nil {
			return err
		}
		listed := map[v1.Hash]bool{}
		for _, d := range list.Manifests {
			listed[d.Digest] = true
		}
		missing = missing[:0]
		for _, a := range artifacts {
			if !listed[a.digest] {
				missing = append(missing, a)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond << try): // for who else writes the list
		}
		for _, a := range missing {
			if err := remote.Put(image.Context().Digest(a.digest.String()), a, opts...); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("the registry took %d artifacts and does not list them as referrers", len(missing))
}

// explain says what a registry's refusal means for the user.
func explain(err error) error {
	var refused *transport.Error
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the registry does not permit it; log in to it with the right to push and pull: %w", err)
	case http.StatusNotFound:
		return fmt.Errorf("the registry does not have it: %w", err)
	}
	return err
}
