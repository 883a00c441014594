package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/work"
)

// keeper writes down what becomes of orders.
type keeper struct{ *Controller }

var _ work.Keeper = keeper{}

// errNoMore tells that a step is not to be done any more.
var errNoMore = errors.New("the step is done already, or nobody wants it any more")

// steps returns the list that an order's step is in: the change's own, or its run's.
func steps(c *v1alpha1.Change, o work.Order) (*[]v1alpha1.Step, *v1alpha1.Run) {
	if o.Attempt != c.Status.Attempt || change.Ended(c) {
		return nil, nil
	}
	if o.Step == v1alpha1.ReviewStep {
		return &c.Status.Steps, nil
	}
	i := slices.IndexFunc(c.Status.Runs, func(r v1alpha1.Run) bool { return r.Commit == o.Commit && r.State == v1alpha1.RunRunning })
	if i < 0 {
		return nil, nil
	}
	return &c.Status.Runs[i].Steps, &c.Status.Runs[i]
}

// open returns an order's step if it is still to be done.
func open(c *v1alpha1.Change, o work.Order) (*[]v1alpha1.Step, *v1alpha1.Run, v1alpha1.Step, error) {
	list, run := steps(c, o)
	if list == nil {
		return nil, nil, v1alpha1.Step{}, errNoMore
	}
	s := v1alpha1.Step{Name: o.Step}
	if old := change.StepOf(*list, o.Step); old != nil {
		s = *old
	}
	if s.State != "" && s.State != v1alpha1.StepWaiting && s.State != v1alpha1.StepRunning {
		return nil, nil, s, errNoMore
	}
	if o.Part == 0 && len(s.Parts) > 0 || o.Part > len(s.Parts) || o.Part > 0 && change.PartEnded(s.Parts[o.Part-1]) {
		return nil, nil, s, errNoMore
	}
	return list, run, s, nil
}

func keyOf(o work.Order) client.ObjectKey {
	return client.ObjectKey{Namespace: o.Namespace, Name: o.Change}
}

// Leased notes who does a step.
func (k keeper) Leased(ctx context.Context, o work.Order, worker string) error {
	if o.Part > 0 {
		return k.partLeased(ctx, o, worker)
	}
	started := ptrNow()
	_, err := k.update(ctx, keyOf(o), func(c *v1alpha1.Change) error {
		list, _, s, err := open(c, o)
		if err != nil {
			return err
		}
		if s.Lease > o.Lease {
			return errNoMore
		}
		message := ""
		if o.Lease > 0 && s.Worker != "" {
			message = fmt.Sprintf("begun again: worker %s was lost", s.Worker)
		}
		s.State, s.Worker, s.Lease, s.Commit, s.Message = v1alpha1.StepRunning, worker, o.Lease, o.Commit, message
		s.Started, s.Ended = started, nil
		s.Log = logPath(o.Namespace, o.Change, o.Step+"-"+short(o.Commit), o.Attempt, o.Lease)
		*list = change.SetStep(*list, s)
		return nil
	})
	return err
}

// Done notes a result, once.
func (k keeper) Done(ctx context.Context, o work.Order, worker string, r work.Result) error {
	c := k.Controller
	switch {
	case r.State == work.Split:
		return k.split(ctx, o, worker, r)
	case o.Part > 0:
		return k.partDone(ctx, o, worker, r)
	}
	evidence := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(r.Files)) {
		p, err := c.files.put(o.Namespace, o.Change, short(o.Commit)+"-"+name, r.Files[name])
		if err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
		evidence[name] = p
	}
	app := &v1alpha1.App{}
	if err := c.client.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: o.App}, app); err != nil {
		return err
	}
	ended := ptrNow()
	// The worker's connection may end before this does; what it did is done.
	_, err := c.update(context.WithoutCancel(ctx), keyOf(o), func(now *v1alpha1.Change) error {
		list, run, s, err := open(now, o)
		if err != nil {
			return err
		}
		if s.Lease > o.Lease {
			return errNoMore
		}
		s.State, s.Message, s.Key, s.Cached, s.Worker, s.Commit = r.State, r.Message, r.Key, r.Cached, worker, o.Commit
		s.Ended = ended
		if s.Started == nil {
			s.Started = s.Ended
		}
		if len(evidence) > 0 {
			s.Evidence = evidence
		}
		*list = change.SetStep(*list, s)
		if r.Risk != nil {
			now.Status.Risk = r.Risk
		}
		if run != nil {
			if r.Images != nil {
				run.Images = r.Images
			}
			run.State = change.RunState(app.Spec.Policy, now, run.Steps)
		}
		return nil
	})
	if err == nil {
		c.keepResults(app, o, r)
		c.files.stir(logPath(o.Namespace, o.Change, o.Step+"-"+short(o.Commit), o.Attempt, o.Lease))
		c.wakeApp(o.Namespace, o.App)
	}
	return err
}

// Doing notes what a step does, while it does it.
func (k keeper) Doing(ctx context.Context, o work.Order, text string) error {
	if o.Part > 0 {
		return nil // the step says which parts there are
	}
	_, err := k.update(ctx, keyOf(o), func(c *v1alpha1.Change) error {
		list, _, s, err := open(c, o)
		if err != nil {
			return err
		}
		if s.State != v1alpha1.StepRunning || s.Lease != o.Lease {
			return errNoMore
		}
		s.Message = text
		*list = change.SetStep(*list, s)
		return nil
	})
	return err
}

// Log keeps what a step prints.
func (k keeper) Log(o work.Order, b []byte) {
	name := logPath(o.Namespace, o.Change, o.Step+"-"+short(o.Commit), o.Attempt, o.Lease)
	if o.Part > 0 {
		name = partLog(o)
	}
	if err := k.files.append(name, b); err != nil {
		k.Controller.Log.Warn("a log is not kept", "log", name, "err", err)
	}
}

func ptrNow() *metav1.MicroTime {
	t := metav1.NowMicro()
	return &t
}

func short(commit string) string { return commit[:min(12, len(commit))] }

// raw is a value as JSON.
func raw(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return b
}
