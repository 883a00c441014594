package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/attest"
	"github.com/bightdev/bight/internal/tree"
)

// image is what a worker tells others of an image that it has built.
type imageEntry struct {
	Service string  `json:"service"`
	Inputs  string  `json:"inputs"`
	Base    string  `json:"base"`
	Digest  v1.Hash `json:"digest"`
	From    string  `json:"from"` // "change shop-3f2a"
}

// entryKey is what an image is called at the controller: by all that decides it.
func entryKey(inputs tree.Hash, base v1.Hash) string {
	h := sha256.New()
	fmt.Fprintf(h, "image 1\n%s\n%s\n", inputs, base)
	return hex.EncodeToString(h.Sum(nil))
}

// takeOver finds the images that other workers have built from the same inputs, of the
// services that this machine has built nothing of.
func (w *Worker) takeOver(ctx context.Context, j *job, products []*product) error {
	if w.Results == nil {
		return nil
	}
	base, err := w.Maker.Publisher.BaseDigest(ctx)
	if err != nil {
		return err
	}
	var keys []string
	for _, p := range products {
		if p.artifact == nil && p.inputs != (tree.Hash{}) {
			keys = append(keys, entryKey(p.inputs, base))
		}
	}
	known := w.ask(ctx, j, buildKind, keys)
	for _, p := range products {
		if p.artifact != nil || p.inputs == (tree.Hash{}) {
			continue
		}
		for _, class := range j.classes() {
			b, ok := known[string(class)+"/"+entryKey(p.inputs, base)]
			if !ok {
				continue
			}
			if err := w.takeImage(ctx, j, p, b, base); err != nil {
				fmt.Fprintf(j.out, "%s is built here: %v\n", p.service.Name, err)
				continue
			}
			break
		}
	}
	return nil
}

// takeImage makes a product of what another worker tells of an image. An error says
// why it can't be taken.
func (w *Worker) takeImage(ctx context.Context, j *job, p *product, b []byte, base v1.Hash) error {
	var e imageEntry
	if err := json.Unmarshal(b, &e); err != nil {
		return fmt.Errorf("what is known of its image can't be read: %w", err)
	}
	if e.Service != p.service.Name || e.Inputs != p.inputs.String() || e.Base != base.String() {
		return fmt.Errorf("what is known of its image is about other inputs")
	}
	img, pushed, err := w.Maker.Publisher.Find(ctx, w.Registry, p.repository, e.Digest)
	if err != nil {
		return fmt.Errorf("the image of %s: %w", e.From, err)
	}
	if img == nil {
		return fmt.Errorf("the image of %s is no longer in the registry", e.From)
	}
	complete, err := w.attester(j).Complete(ctx, w.Registry.Push+"/"+p.repository+"@"+e.Digest.String(), v1alpha1.WorkerBuilder)
	if err != nil {
		return fmt.Errorf("the image of %s: %w", e.From, err)
	}
	if !complete {
		return fmt.Errorf("the image of %s has not all attached that this worker attaches", e.From)
	}
	p.image, p.Pushed, p.from = img, pushed, e.From
	return nil
}

// offer is what others may take of what a job has built. What bight up has built on
// this machine they may not: nobody but its user knows how it came about.
func (w *Worker) offer(ctx context.Context, j *job, products []*product) map[string][]byte {
	base, err := w.Maker.Publisher.BaseDigest(ctx)
	if w.Results == nil || err != nil {
		return nil
	}
	keep := map[string][]byte{}
	for _, p := range products {
		if p.artifact == nil || p.artifact.By != By || !p.attested || p.inputs == (tree.Hash{}) {
			continue
		}
		b, err := json.Marshal(imageEntry{
			Service: p.service.Name, Inputs: p.inputs.String(), Base: base.String(), Digest: p.Digest, From: "change " + j.Change,
		})
		if err == nil {
			keep[buildKind+"/"+entryKey(p.inputs, base)] = b
		}
	}
	return keep
}

// attester looks at, and adds to, what is attached to images.
func (w *Worker) attester(j *job) *attest.Client {
	return &attest.Client{
		Signer: w.signer(j), Keychain: w.Maker.Publisher.Keychain, Transport: w.Registry.Transport, Insecure: w.Registry.Insecure,
	}
}
