package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/attest"
	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/imagefacts"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

// controllerURL is where the repositories of provenance are, as the cluster names it.
const controllerURL = "http://bight-controller.bight-system"

// product is the image of a service, in the registry when it is done.
type product struct {
	service    *app.Service
	repository string
	inputs     tree.Hash       // what decides it; zero for what is not remembered
	artifact   *image.Artifact // nil for one that is taken over
	image      v1.Image
	image.Pushed
	// from is who built one that is taken over: "change shop-3f2a".
	from string
	// attested tells that what it is made of and how is attached.
	attested bool
}

// evidence attaches to each image what it is made of and how it was made, unless it
// has that, and says what is wrong with the images.
func (w *Worker) evidence(ctx context.Context, j *job, products []*product) ([]review.Finding, error) {
	when := time.Unix(0, 0)
	if c, err := j.copy.Repository.Commit(ctx, j.Commit); err == nil {
		when = c.Committer.When
	}
	began := time.Now()
	found := make([][]review.Finding, len(products))
	notes := make([]error, len(products))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, p := range products {
		g.Go(func() error {
			err := w.attach(gctx, j, p, when)
			switch {
			case err != nil && w.signer(j) != nil: // whoever wants signatures, wants them all
				return fmt.Errorf("sign the image of %s: %w", p.service.Name, err)
			case err != nil:
				notes[i] = fmt.Errorf("%s: nothing is attached to the image: %w", p.service.Name, err)
			}
			facts, factsErr := facts(j, p)
			facts.SBOM, p.attested = err == nil, err == nil
			if factsErr == nil {
				found[i] = imagefacts.Findings(facts)
			}
			return factsErr
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	w.Log.Debug("images looked at", "app", j.App, "images", len(products), "took", time.Since(began))
	var all []review.Finding
	for i := range products {
		if notes[i] != nil {
			fmt.Fprintln(j.out, notes[i])
		}
		all = append(all, found[i]...)
	}
	return all, nil
}

// signer is who signs what a job makes: nobody does for a stranger.
func (w *Worker) signer(j *job) *attest.Signer {
	if j.Untrusted {
		return nil
	}
	return w.Signer
}

func (w *Worker) attach(ctx context.Context, j *job, p *product, when time.Time) error {
	to := w.attester(j)
	name := w.Registry.Push + "/" + p.repository
	ref := name + "@" + p.Digest.String()
	if p.from != "" {
		return nil // it was looked at when it was taken
	}
	if p.Present {
		if complete, err := to.Complete(ctx, ref, v1alpha1.WorkerBuilder); err != nil || complete {
			return err
		}
	}
	subject, err := attest.Image(cmp.Or(w.Registry.Pull, w.Registry.Push)+"/"+p.repository, p.Digest.String())
	if err != nil {
		return err
	}
	parts, err := w.components(p)
	if err != nil {
		return err
	}
	sbom, err := attest.SBOM(subject, when, parts...)
	if err != nil {
		return err
	}
	provenance, err := attest.Provenance(subject, buildOf(j, p, parts))
	if err != nil {
		return err
	}
	_, err = to.Attach(ctx, ref, sbom, provenance)
	return err
}

// components are the programs of an image and what they are made of.
func (w *Worker) components(p *product) ([]attest.Component, error) {
	programs := map[string]string{} // by name in the image, files here
	if p.artifact.NeedsAgent {
		programs[strings.TrimPrefix(image.AgentPath, "/")] = w.Agent
	}
	command := path.Clean(p.artifact.Command[0])
	if e, there := p.artifact.Tree[command]; there {
		programs[path.Join(strings.TrimPrefix(image.Root, "/"), command)] = e.Local
	}
	var out []attest.Component
	for name, file := range programs {
		c, err := program(name, file)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func program(name, file string) (c attest.Component, err error) {
	f, err := os.Open(file)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return attest.Program(name, f)
}

// buildOf says how an image was made. It is the same whoever does so, and when.
func buildOf(j *job, p *product, parts []attest.Component) attest.Build {
	repository := controllerURL
	if u, err := url.Parse(j.url); err == nil {
		repository += u.Path
	}
	b := attest.Build{
		Builder:    v1alpha1.WorkerBuilder,
		Invocation: fmt.Sprintf("%s/%s/%d", j.Namespace, j.Change, j.Attempt),
		Parameters: map[string]string{
			"namespace": j.Namespace, "app": j.App, "directory": cmp.Or(j.Directory, "."), "service": p.service.Name, "kind": p.service.Build.Kind,
		},
		Inputs: []attest.Resource{attest.Commit(repository, j.Commit)},
	}
	if p.artifact.Inputs != (tree.Hash{}) {
		b.Internal = map[string]string{"inputs": p.artifact.Inputs.String()}
	}
	seen := map[string]bool{}
	for _, c := range parts {
		for _, part := range c.Parts {
			if part.Name == "std" && !seen[part.Version] {
				seen[part.Version] = true
				b.Inputs = append(b.Inputs, attest.Toolchain("go", part.Version))
			}
		}
	}
	return b
}

// facts are what there is to judge an image by.
func facts(j *job, p *product) (imagefacts.Image, error) {
	from := p.service.Build.From
	f := imagefacts.Image{Service: p.service.Name, File: path.Join(j.Directory, from.File), Line: from.Line}
	var err error
	if f.Manifest, err = p.image.Manifest(); err != nil {
		return f, err
	}
	f.Config, err = p.image.ConfigFile()
	return f, err
}
