package attest

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Complete reports whether an image has an SBOM and provenance by the builder, and, for
// a Client with a Signer, signed by it: whether attaching them would be for nothing.
func (c *Client) Complete(ctx context.Context, ref, builder string) (bool, error) {
	if c.Signer != nil {
		_, err := c.Verify(ctx, ref, Policy{Keys: []*PublicKey{c.Signer.PublicKey()}, Builders: []string{builder}})
		var rejected *Rejection
		if errors.As(err, &rejected) {
			return false, nil
		}
		return err == nil, err
	}
	image, err := c.digest(ref)
	if err != nil {
		return false, err
	}
	index, err := remote.Referrers(image, c.options(ctx)...)
	if err != nil {
		return false, fmt.Errorf("list what is attached to %s: %w", ref, explain(err))
	}
	list, err := index.IndexManifest()
	if err != nil {
		return false, fmt.Errorf("list what is attached to %s: %w", ref, err)
	}
	has := map[string]bool{}
	for _, d := range list.Manifests {
		has[d.Annotations[annotationPredicate]] = true
	}
	return has[PredicateSBOM] && has[PredicateProvenance], nil
}
