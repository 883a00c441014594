package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/session"
)

// build builds the images of all services, as the inner loop does: what it has built
// from the same inputs is not built again.
func (w *Worker) build(ctx context.Context, j *job) work.Result {
	a, err := j.plan(ctx)
	if err != nil {
		return failed(err)
	}
	if len(a.Unreadable) > 0 { // what the app is, is not known
		var lines []string
		for _, n := range a.Unreadable {
			lines = append(lines, n.From.Place()+": "+n.Text)
		}
		return work.Result{State: work.Failed, Message: firstLines(strings.Join(lines, "\n"), 6)}
	}
	if len(a.Questions) > 0 {
		return failed(&session.QuestionsError{Questions: a.Questions})
	}
	if len(a.Services) == 0 {
		return work.Result{State: work.Failed, Message: "there is no service in the source: bight plan says what was looked at"}
	}
	products, err := w.make(ctx, j, a)
	if err != nil {
		fmt.Fprintln(j.out, err)
		var compile *image.CompileError
		if errors.As(err, &compile) {
			return work.Result{State: work.Failed, Message: firstLines(compile.Error(), 6)}
		}
		return erred(err)
	}
	findings, err := w.evidence(ctx, j, products)
	if err != nil {
		return erred(err)
	}
	r := built(j, a, products, findings)
	r.Keep = w.offer(ctx, j, products)
	return r
}

// built makes a step's result of the images.
func built(j *job, a *app.App, products []*product, findings []review.Finding) work.Result {
	model, err := json.Marshal(a)
	if err != nil {
		return erred(err)
	}
	images := map[string]string{}
	for _, p := range products {
		fmt.Fprintf(j.out, "%s: %s, %s\n", p.service.Name, p.origin(), p.Ref)
		images[p.service.Name] = p.Ref
	}
	if refused := told(j, findings); len(refused) > 0 {
		return work.Result{State: work.Failed, Message: firstLines(strings.Join(refused, "\n"), 6)}
	}
	r := work.Result{State: work.Passed, Images: images, Key: keyOf(products), Files: map[string][]byte{"app.json": model}}
	r.Message, r.Cached = summary(products)
	return r
}

// make makes the images of all services, in the order of the app: what this machine
// has built is put together, what another worker has built is taken, and the rest is
// built.
func (w *Worker) make(ctx context.Context, j *job, a *app.App) ([]*product, error) {
	products := make([]*product, len(a.Services))
	for i, s := range a.Services {
		p := &product{service: s, repository: app.Label(j.Namespace) + "/" + a.Name + "/" + s.Name}
		products[i] = p
		var err error
		if p.artifact, p.inputs, err = w.Maker.Known(ctx, a, s); err != nil {
			return nil, fmt.Errorf("build %s: %w", s.Name, err)
		}
	}
	if err := w.takeOver(ctx, j, products); err != nil {
		return nil, err
	}
	if err := w.buildRest(ctx, a, products); err != nil {
		return nil, err
	}
	return products, w.publish(ctx, products)
}

// buildRest builds what there is no artifact and no image of, all at once.
func (w *Worker) buildRest(ctx context.Context, a *app.App, products []*product) error {
	errs := make([]error, len(products))
	var group sync.WaitGroup
	for i, p := range products {
		if p.artifact != nil || p.image != nil {
			continue
		}
		group.Go(func() {
			if p.artifact, errs[i] = w.Maker.Build(ctx, a, p.service, nil); errs[i] != nil {
				errs[i] = fmt.Errorf("build %s: %w", p.service.Name, errs[i])
			}
		})
	}
	group.Wait()
	if err := w.Maker.Close(); err != nil {
		w.Log.Debug("save file hashes", "err", err)
	}
	return errors.Join(errs...)
}

// publish pushes the images of the artifacts.
func (w *Worker) publish(ctx context.Context, products []*product) error {
	var own []*product
	var targets []image.Target
	for _, p := range products {
		if p.image != nil {
			continue
		}
		p.inputs = p.artifact.Inputs
		o := image.Options{Title: p.service.Name}
		if p.artifact.NeedsAgent {
			o.Agent = w.Agent
		}
		var err error
		if p.image, err = w.Maker.Publisher.Image(ctx, p.artifact, o); err != nil {
			return err
		}
		own, targets = append(own, p), append(targets, image.Target{Repository: p.repository, Image: p.image})
	}
	pushed, err := w.Maker.Publisher.Push(ctx, w.Registry, targets...)
	if err != nil {
		return err
	}
	for i, p := range own {
		p.Pushed = pushed[i]
	}
	return nil
}

// keyOf is the digest of what decided the images.
func keyOf(products []*product) string {
	h := sha256.New()
	for _, p := range products {
		fmt.Fprintf(h, "%s %s\n", p.service.Name, p.inputs)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// By is what workers build for, as it is remembered.
const By = "bight worker"

// by says who else has built what an image has: "bight up", or another change's worker.
// It is "" where that was a worker here, for any change.
func (p *product) by() string {
	if p.from == "" && p.artifact.Cached && p.artifact.By != By {
		return p.artifact.By
	}
	return p.from
}

// origin says where an image comes from.
func (p *product) origin() string {
	switch by := p.by(); {
	case by != "":
		return "as " + by + " built it"
	case p.fresh():
		return "built"
	}
	return "as before"
}

// fresh reports whether an image had to be built.
func (p *product) fresh() bool {
	if p.from != "" || p.artifact.Cached {
		return false
	}
	return !p.Present || p.artifact.By == By // what is not remembered is put together each time, and costs little
}

// summary says in a sentence what was built, and why the rest was not.
func summary(products []*product) (message, cached string) {
	var fresh, others []string
	before := false
	for _, p := range products {
		switch by := p.by(); {
		case p.fresh():
			fresh = append(fresh, p.service.Name)
		case by == "":
			before = true
		case !slices.Contains(others, by):
			others = append(others, by)
		}
	}
	known := len(products) - len(fresh)
	text := count(known, "image") + " as before"
	if len(fresh) > 0 {
		if known == 0 {
			return "built " + strings.Join(fresh, ", "), ""
		}
		return "built " + strings.Join(fresh, ", ") + "; " + text, ""
	}
	if len(others) == 0 {
		return text, "what every service is built from is as in an earlier build"
	}
	for i, by := range others {
		if !strings.HasPrefix(by, "change ") {
			others[i] = "what " + by + " built"
		}
	}
	if before {
		others = append(others, "an earlier build")
	}
	return text, "same inputs as " + strings.Join(others, " and ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func firstLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = append(lines[:n], fmt.Sprintf("... and %d lines more", len(lines)-n))
	}
	return strings.Join(lines, "\n")
}
