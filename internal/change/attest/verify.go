package attest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Policy is what must be attached to an image.
type Policy struct {
	// Keys are those whose signatures count; there must be one. The image's digest,
	// its provenance and its SBOM must each be signed by one of them.
	Keys []*PublicKey
	// Builders are the builder ids that provenance may name; there must be one.
	Builders []string
	// Commit, if set, is the commit that the provenance must name as source.
	Commit string
}

// Verified is what was found.
type Verified struct {
	Digest     string    `json:"digest"`
	Builder    string    `json:"builder"`
	Provenance Statement `json:"provenance"`
	SBOM       Statement `json:"sbom"`
}

// Rejection says that an image was looked at and does not satisfy the policy. Any
// other error of Verify says that it could not be looked at.
type Rejection struct {
	Ref     string
	Missing []string // what would have to be there, and why what is there does not count
}

func (r *Rejection) Error() string {
	return fmt.Sprintf("image %s may not be deployed: %s: build it by a change, which attaches and signs what is missing, "+
		"or correct the policy's keys and builders", r.Ref, strings.Join(r.Missing, "; "))
}

const (
	mostReferrers = 200
	mostBytes     = 32 << 20 // of one attached document
)

// Verify checks an image, named by its digest, against the policy.
func (c *Client) Verify(ctx context.Context, ref string, p Policy) (*Verified, error) {
	if len(p.Keys) == 0 || len(p.Builders) == 0 {
		return nil, errors.New("verify " + ref + ": the policy names no key or no builder, so nothing could be relied on: set both")
	}
	image, err := c.digest(ref)
	if err != nil {
		return nil, err
	}
	opts := c.options(ctx)
	index, err := remote.Referrers(image, opts...)
	if err != nil {
		return nil, fmt.Errorf("verify %s: list what is attached: %w", ref, explain(err))
	}
	list, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("verify %s: list what is attached: %w", ref, err)
	}
	v := &verification{image: image, policy: p, opts: opts, out: Verified{Digest: image.DigestStr()}}
	var broken error
	for i, d := range list.Manifests {
		if i == mostReferrers {
			v.because("any", fmt.Sprintf("only the first %d of %d referrers were looked at", mostReferrers, len(list.Manifests)))
			break
		}
		if err := v.look(d); err != nil && ctx.Err() == nil {
			broken = errors.Join(broken, err)
		} else if err != nil {
			return nil, fmt.Errorf("verify %s: %w", ref, context.Cause(ctx))
		}
	}
	missing := v.missing()
	switch {
	case missing == nil:
		return &v.out, nil
	case broken != nil: // what is missing may be what could not be read
		return nil, fmt.Errorf("verify %s: read what is attached: %w", ref, explain(broken))
	}
	return nil, &Rejection{Ref: ref, Missing: missing}
}

// verification is one call of Verify.
type verification struct {
	image  name.Digest
	policy Policy
	opts   []remote.Option
	out    Verified

	signed, provenance, sbom bool
	why                      map[string][]string
}

// because remembers why a thing that is there does not count.
func (v *verification) because(what, why string) {
	if v.why == nil {
		v.why = map[string][]string{}
	}
	if len(v.why[what]) < 5 && !slices.Contains(v.why[what], why) {
		v.why[what] = append(v.why[what], why)
	}
}

func (v *verification) missing() []string {
	var out []string
	for _, want := range []struct {
		ok   bool
		what string
	}{{v.signed, "signature"}, {v.provenance, "provenance"}, {v.sbom, "SBOM"}} {
		if want.ok {
			continue
		}
		line := "it has no " + want.what
		if reasons := slices.Concat(v.why[want.what], v.why["any"]); len(reasons) > 0 {
			line += " that counts (" + strings.Join(reasons, "; ") + ")"
		}
		out = append(out, line)
	}
	return out
}

// look takes one referrer. Its error says that the registry did not give it, or
// gave something else than the digest says.
func (v *verification) look(d v1.Descriptor) error {
	at := v.image.Context().Digest(d.Digest.String())
	got, err := remote.Get(at, v.opts...)
	if err != nil {
		return err
	}
	var m v1.Manifest
	if err := json.Unmarshal(got.Manifest, &m); err != nil {
		return nil // nothing of ours
	}
	if m.Subject == nil || m.Subject.Digest.String() != v.image.DigestStr() || len(m.Layers) != 1 {
		return nil // it is listed and does not refer to the image
	}
	kind, layer := m.ArtifactType, m.Layers[0]
	what := map[string]string{PredicateProvenance: "provenance", PredicateSBOM: "SBOM"}[m.Annotations[annotationPredicate]]
	switch {
	case kind == typeSignature:
		what = "signature"
	case kind == typeInToto && what != "":
		v.because(what, "there is one that is not signed")
		return nil
	case kind != typeEnvelope:
		return nil
	case what == "":
		what = "any"
	}
	if layer.Size > mostBytes {
		v.because(what, fmt.Sprintf("%s has %d MiB, at most %d are read", at.DigestStr(), layer.Size>>20, mostBytes>>20))
		return nil
	}
	data, err := v.fetch(layer)
	if err != nil {
		return err
	}
	if kind == typeSignature {
		v.signature(layer, data)
		return nil
	}
	v.statement(what, data)
	return nil
}

// fetch reads a layer, which ends in an error when it is not what its digest says.
func (v *verification) fetch(d v1.Descriptor) ([]byte, error) {
	layer, err := remote.Layer(v.image.Context().Digest(d.Digest.String()), v.opts...)
	if err != nil {
		return nil, err
	}
	r, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, mostBytes+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if len(data) > mostBytes {
		return nil, fmt.Errorf("%s has more than %d MiB", d.Digest, mostBytes>>20)
	}
	return data, nil
}

func (v *verification) signature(layer v1.Descriptor, payload []byte) {
	sig, err := base64.StdEncoding.DecodeString(layer.Annotations[annotationSignature])
	if err != nil || !slices.ContainsFunc(v.policy.Keys, func(k *PublicKey) bool { return k.verifies(payload, sig) }) {
		v.because("signature", "there is one by a key that is not trusted")
		return
	}
	var s simple
	if err := json.Unmarshal(payload, &s); err != nil || s.Critical.Type != simpleType || s.Critical.Image.Digest != v.image.DigestStr() {
		v.because("signature", "there is one of another image")
		return
	}
	v.signed = true
}

func (v *verification) statement(what string, data []byte) {
	payload, err := open(data, v.policy.Keys)
	if err != nil {
		v.because(what, "there is one, and "+err.Error())
		return
	}
	var s Statement
	if err := json.Unmarshal(payload, &s); err != nil || s.Type != statementType {
		v.because(what, "there is one that is no in-toto statement")
		return
	}
	if !slices.ContainsFunc(s.Subject, func(s Subject) bool { return s.same(v.image.DigestStr()) }) {
		v.because(what, "there is one about another image")
		return
	}
	switch s.PredicateType { // signed, unlike the annotation
	case PredicateSBOM:
		v.sbom, v.out.SBOM = true, s
	case PredicateProvenance:
		v.provenanceOf(s)
	}
}

func (v *verification) provenanceOf(s Statement) {
	var p provenance
	if err := json.Unmarshal(s.Predicate, &p); err != nil {
		v.because("provenance", "there is one that can't be read: "+err.Error())
		return
	}
	id := p.Run.Builder.ID
	if !slices.Contains(v.policy.Builders, id) {
		v.because("provenance", fmt.Sprintf("there is one by builder %q, the policy has %q", id, v.policy.Builders))
		return
	}
	commit := v.policy.Commit
	if commit != "" && !slices.ContainsFunc(p.Definition.Dependencies, func(r Resource) bool {
		return r.Name == "source" && r.Digest["gitCommit"] == commit
	}) {
		v.because("provenance", "there is one of another commit than "+commit)
		return
	}
	v.provenance, v.out.Provenance, v.out.Builder = true, s, id
}
