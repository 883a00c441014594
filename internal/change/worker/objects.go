package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/session"
)

// rendering is the objects of a base commit on their way.
type rendering struct {
	done chan struct{} // closed when they are in the Input, or err is set
	err  error
}

// after is a checker that looks at objects, and waits for those of the base.
type after struct {
	review.Checker
	base *rendering
}

// Check implements [review.Checker].
func (a after) Check(ctx context.Context, in *review.Input) (review.Result, error) {
	select {
	case <-ctx.Done():
		return review.Result{}, context.Cause(ctx)
	case <-a.base.done:
		return a.Checker.Check(ctx, in)
	}
}

// renderBase puts the objects of the base commit into a review's input, for the change
// to be answerable for what it alters alone.
func (w *Worker) renderBase(ctx context.Context, j *job, in *review.Input) error {
	if j.Base == "" {
		in.BaseRendered = true // nothing comes to no objects
		return nil
	}
	if len(in.Objects) == 0 {
		return nil // none of them can have been altered
	}
	var err error
	in.BaseObjects, err = w.baseObjects(ctx, j)
	in.BaseRendered = err == nil
	return err
}

// baseObjects renders the base commit.
func (w *Worker) baseObjects(ctx context.Context, j *job) ([]review.Object, error) {
	s, err := w.another(ctx, j.Order, j.copy, "base", j.Base, nil)
	if s != nil {
		defer w.leave(s)
	}
	if err != nil {
		return nil, err
	}
	a, err := session.Plan(ctx, filepath.Join(s.copy.Dir, filepath.FromSlash(j.Directory)))
	if err != nil {
		return nil, err
	}
	return objects(a, j)
}

// objects renders an app as it is deployed, save for what its images are called.
func objects(a *app.App, j *job) ([]review.Object, error) {
	rendered, err := session.Manifests(a, j.App)
	if err != nil {
		return nil, err
	}
	var out []review.Object
	for _, o := range rendered {
		x := review.Object{}
		if err := json.Unmarshal(o.JSON, &x.Value); err != nil {
			return nil, fmt.Errorf("read %s: %w", o.Ref, err)
		}
		if s := a.Service(o.Service); s != nil {
			at := s.Source.From
			if s.Entry.File != "" { // what nothing but the file says, the replicas, is most often what is refused
				at = s.Entry
			}
			if at.File != "" {
				x.File, x.Line = path.Join(j.Directory, at.File), at.Line
			}
			x.Fields = fields(s, j.Directory)
		}
		out = append(out, x)
	}
	return out, nil
}

// fields are where the fields of a service's objects were read, in a directory of the
// repository.
func fields(s *app.Service, directory string) (all []review.Field) {
	add := func(from app.From, item string, names ...string) {
		if from.File == "" || from.Line == 0 {
			return
		}
		for _, name := range names {
			all = append(all, review.Field{Name: name, Item: item, File: path.Join(directory, from.File), Line: from.Line})
		}
	}
	add(s.ReplicasFrom, "", "replicas")
	add(s.ArgsFrom, "", "args")
	if s.Health != nil {
		add(s.Health.From, "", "livenessProbe", "readinessProbe", "startupProbe")
	}
	for _, e := range s.Env {
		add(e.From, e.Name, "env")
	}
	for _, l := range s.Links {
		if l.Env != "" { // or else it is an argument
			add(l.From, l.Env, "env")
		}
	}
	for _, p := range s.Ports {
		add(p.From, p.Name, "ports")
	}
	for _, v := range s.Volumes {
		add(v.From, v.Name, "volumes", "volumeMounts")
	}
	return all
}
