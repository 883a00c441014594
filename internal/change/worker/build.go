package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
	arts, err := w.artifacts(ctx, a)
	if err != nil {
		fmt.Fprintln(j.out, err)
		var compile *image.CompileError
		if errors.As(err, &compile) {
			return work.Result{State: work.Failed, Message: firstLines(compile.Error(), 6)}
		}
		return erred(err)
	}
	products, err := w.publish(ctx, j, a, arts)
	if err != nil {
		return erred(err)
	}
	findings, err := w.evidence(ctx, j, products)
	if err != nil {
		return erred(err)
	}
	return built(j, a, products, findings)
}

// built makes a step's result of the images.
func built(j *job, a *app.App, products []product, findings []review.Finding) work.Result {
	model, err := json.Marshal(a)
	if err != nil {
		return erred(err)
	}
	images := map[string]string{}
	var fresh []string
	var arts []*image.Artifact
	for _, p := range products {
		how := "as before"
		if !p.Present {
			how = "built"
			fresh = append(fresh, p.service.Name)
		}
		fmt.Fprintf(j.out, "%s: %s, %s\n", p.service.Name, how, p.Ref)
		images[p.service.Name] = p.Ref
		arts = append(arts, p.artifact)
	}
	if refused := told(j, findings); len(refused) > 0 {
		return work.Result{State: work.Failed, Message: firstLines(strings.Join(refused, "\n"), 6)}
	}
	r := work.Result{State: work.Passed, Images: images, Key: keyOf(arts), Files: map[string][]byte{"app.json": model}}
	r.Message, r.Cached = summary(len(products), fresh)
	return r
}

// artifacts builds all services at once, in the order of the app.
func (w *Worker) artifacts(ctx context.Context, a *app.App) ([]*image.Artifact, error) {
	arts := make([]*image.Artifact, len(a.Services))
	errs := make([]error, len(a.Services))
	var group sync.WaitGroup
	for i, s := range a.Services {
		group.Go(func() {
			if arts[i], errs[i] = w.Maker.Build(ctx, a, s, nil); errs[i] != nil {
				errs[i] = fmt.Errorf("build %s: %w", s.Name, errs[i])
			}
		})
	}
	group.Wait()
	if err := w.Maker.Close(); err != nil {
		w.Log.Debug("save file hashes", "err", err)
	}
	return arts, errors.Join(errs...)
}

// publish pushes the images, in the order of the artifacts.
func (w *Worker) publish(ctx context.Context, j *job, a *app.App, arts []*image.Artifact) ([]product, error) {
	var targets []image.Target
	for _, art := range arts {
		o := image.Options{Title: art.Service}
		if art.NeedsAgent {
			o.Agent = w.Agent
		}
		img, err := w.Maker.Publisher.Image(ctx, art, o)
		if err != nil {
			return nil, err
		}
		targets = append(targets, image.Target{Repository: app.Label(j.Namespace) + "/" + a.Name + "/" + art.Service, Image: img})
	}
	pushed, err := w.Maker.Publisher.Push(ctx, w.Registry, targets...)
	if err != nil {
		return nil, err
	}
	var out []product
	for i, p := range pushed {
		out = append(out, product{service: a.Service(arts[i].Service), artifact: arts[i], image: targets[i].Image, repository: targets[i].Repository, Pushed: p})
	}
	return out, nil
}

// keyOf is the digest of what decided the artifacts.
func keyOf(arts []*image.Artifact) string {
	h := sha256.New()
	for _, art := range arts {
		fmt.Fprintf(h, "%s %s\n", art.Service, art.Inputs)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// summary says in a sentence what was built, and what was known.
func summary(all int, fresh []string) (message, cached string) {
	known := all - len(fresh)
	switch {
	case len(fresh) == 0:
		return count(known, "image") + " as before", "what every service is built from is as in an earlier build"
	case known == 0:
		return "built " + strings.Join(fresh, ", "), ""
	}
	return fmt.Sprintf("built %s; %s as before", strings.Join(fresh, ", "), count(known, "image")), ""
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
