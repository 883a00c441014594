package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/work"
)

// orderPart makes an order one of a part of its step.
func orderPart(o *work.Order, part int, s *v1alpha1.Step) {
	p := s.Parts[part-1]
	o.Part, o.Units = part, p.Units
	if p.State == v1alpha1.StepRunning {
		o.Lease = p.Lease + 1 // its lease was given by a controller that is no more, or it is still held
	}
}

// partFile is the name of a file that a part leaves; a later lease has another.
func partFile(o work.Order, name string) string {
	return fmt.Sprintf("%s-part-%d-%d-%s", short(o.Commit), o.Part, o.Lease, name)
}

// partLog is where what a part prints is until it is done.
func partLog(o work.Order) string {
	return logPath(o.Namespace, o.Change, fmt.Sprintf("%s-%s-part-%d", o.Step, short(o.Commit), o.Part), o.Attempt, o.Lease)
}

// split shares a step out over the workers that there are now. What the worker that
// asks for it has found to be known is a part that is done.
func (k keeper) split(ctx context.Context, o work.Order, worker string, r work.Result) error {
	if o.Part > 0 || o.Workers < 2 || o.Untrusted || len(r.Rest) == 0 {
		return errors.New("the step is not to be split")
	}
	path, err := k.files.put(o.Namespace, o.Change, partFile(o, "known.json"), r.Files["tests.json"])
	if err != nil {
		return fmt.Errorf("keep what is known of the tests: %w", err)
	}
	workers := k.hub.Free(o)
	if !slices.Contains(workers, worker) { // it has just become free
		workers = append(workers, worker)
	}
	parts := change.Parts(r.Rest, len(workers))
	_, err = k.update(context.WithoutCancel(ctx), keyOf(o), func(now *v1alpha1.Change) error {
		list, _, s, err := open(now, o)
		if err != nil {
			return err
		}
		if s.Lease > o.Lease {
			return errNoMore
		}
		known := v1alpha1.Part{State: v1alpha1.StepPassed, Worker: worker, Result: path}
		s.Parts, s.Key, s.Message = append(parts[:len(parts):len(parts)], known), r.Key, fmt.Sprintf("split over %d workers", len(parts))
		*list = change.SetStep(*list, s)
		return nil
	})
	if err == nil {
		k.wakeApp(o.Namespace, o.App)
	}
	return err
}

// partLeased notes who does a part.
func (k keeper) partLeased(ctx context.Context, o work.Order, worker string) error {
	_, err := k.update(ctx, keyOf(o), func(now *v1alpha1.Change) error {
		list, _, s, err := open(now, o)
		if err != nil {
			return err
		}
		s.Parts = slices.Clone(s.Parts) // others share what is edited
		p := &s.Parts[o.Part-1]
		if o.Lease > 0 && p.Worker != "" {
			p.Message = fmt.Sprintf("begun again: worker %s was lost", p.Worker)
		}
		p.State, p.Worker, p.Lease = v1alpha1.StepRunning, worker, o.Lease
		*list = change.SetStep(*list, s)
		return nil
	})
	return err
}

// partDone notes what a part has shown, once, and joins all when it is the last.
func (k keeper) partDone(ctx context.Context, o work.Order, worker string, r work.Result) error {
	app := &v1alpha1.App{}
	if err := k.client.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: o.App}, app); err != nil {
		return err
	}
	path, err := k.files.put(o.Namespace, o.Change, partFile(o, "tests.json"), r.Files["tests.json"])
	if err != nil {
		return fmt.Errorf("keep the results of part %d: %w", o.Part, err)
	}
	var whole *suite.Result
	_, err = k.update(context.WithoutCancel(ctx), keyOf(o), func(now *v1alpha1.Change) error {
		list, run, s, err := open(now, o)
		if err != nil {
			return err
		}
		s.Parts = slices.Clone(s.Parts) // others share what is edited
		p := &s.Parts[o.Part-1]
		if p.Lease > o.Lease {
			return errNoMore
		}
		p.State, p.Message, p.Worker, p.Result = r.State, r.Message, worker, path
		whole = nil
		if change.PartsEnded(s) {
			if whole, err = k.join(o, &s); err != nil {
				return err
			}
		}
		*list = change.SetStep(*list, s)
		if run != nil {
			run.State = change.RunState(app.Spec.Policy, now, run.Steps)
		}
		return nil
	})
	if err != nil {
		return err
	}
	k.keepResults(app, o, r)
	if whole != nil {
		o.Part = 0
		k.keepResults(app, o, work.Result{Keep: suite.KeepDurations(o.Directory, whole.Durations())})
		k.files.stirAll(o.Namespace, o.Change)
	}
	k.wakeApp(o.Namespace, o.App)
	return nil
}

// join ends a step whose parts have all ended, with one result of all.
func (k keeper) join(o work.Order, s *v1alpha1.Step) (*suite.Result, error) {
	s.Ended = ptrNow()
	var results []*suite.Result
	var workers []string
	for i, p := range s.Parts {
		if p.State == v1alpha1.StepErred {
			s.State, s.Message = v1alpha1.StepErred, fmt.Sprintf("part %d of %d, on %s: %s", i+1, len(s.Parts)-1, p.Worker, p.Message)
			return nil, nil
		}
		got, err := k.partResult(p)
		if err != nil {
			s.State, s.Message = v1alpha1.StepErred, fmt.Sprintf("part %d of %d, on %s: %v", i+1, len(s.Parts)-1, p.Worker, err)
			return nil, nil
		}
		results = append(results, got)
		if !slices.Contains(workers, p.Worker) && len(p.Units) > 0 {
			workers = append(workers, p.Worker)
		}
	}
	whole := suite.Merge(results...)
	s.State, s.Message, s.Cached, s.Worker = v1alpha1.StepPassed, whole.Text(), whole.Known(), strings.Join(workers, ", ")
	if whole.Status != suite.Passed {
		s.State = v1alpha1.StepFailed
	} else if len(workers) > 1 {
		s.Message += fmt.Sprintf(", by %d workers", len(workers))
	}
	var err error
	s.Evidence, err = k.leave(o, whole)
	return whole, errors.Join(err, k.joinLogs(o, s))
}

// partResult reads what a part has shown. It is about the part's units, each of them,
// and no other.
func (k keeper) partResult(p v1alpha1.Part) (*suite.Result, error) {
	b, err := k.files.get(p.Result)
	if err != nil {
		return nil, fmt.Errorf("read its results: %w", err)
	}
	got := &suite.Result{}
	if err := json.Unmarshal(b, got); err != nil {
		return nil, fmt.Errorf("read its results: %w", err)
	}
	if len(p.Units) == 0 {
		return got, nil // those that were known before
	}
	var has []string
	for _, u := range got.Units {
		has = append(has, u.Name)
	}
	slices.Sort(has)
	if !slices.Equal(has, p.Units) {
		return nil, fmt.Errorf("it has results of %d packages, and was to have those of %d others", len(has), len(p.Units))
	}
	return got, nil
}

// leave keeps the joined result as one worker would have left it.
func (k keeper) leave(o work.Order, whole *suite.Result) (map[string]string, error) {
	var junit bytes.Buffer
	if err := suite.WriteJUnit(&junit, whole); err != nil {
		return nil, err
	}
	files := map[string][]byte{"junit.xml": junit.Bytes(), "tests.json": raw(whole)}
	evidence := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		p, err := k.files.put(o.Namespace, o.Change, short(o.Commit)+"-"+name, files[name])
		if err != nil {
			return nil, fmt.Errorf("keep %s: %w", name, err)
		}
		evidence[name] = p
	}
	return evidence, nil
}

// joinLogs puts what the parts have printed into the step's log, one after the other.
func (k keeper) joinLogs(o work.Order, s *v1alpha1.Step) error {
	for i, p := range s.Parts {
		if len(p.Units) == 0 {
			continue
		}
		of := o
		of.Part, of.Lease = i+1, p.Lease
		b, err := k.files.get(partLog(of))
		if err != nil {
			b = nil // it has printed nothing
		}
		head := fmt.Appendf(nil, "--- part %d of %d, by %s\n", i+1, len(s.Parts)-1, p.Worker)
		if err := k.files.append(s.Log, append(head, b...)); err != nil {
			return fmt.Errorf("join the logs: %w", err)
		}
	}
	return nil
}
