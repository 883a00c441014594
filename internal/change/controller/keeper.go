package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/work"
)

// newest remembers what this process wrote last of each change, since the cache hears
// of it later. It is safe for concurrent use.
type newest struct {
	mu  sync.Mutex
	all map[client.ObjectKey]*v1alpha1.Change
	// writing has who writes a change at the moment, closed when they have done so.
	writing map[client.ObjectKey]chan struct{}
}

// lock waits until nobody else in this process writes a change. Two who write at once
// would both lose time: the API server refuses one of them.
func (n *newest) lock(ctx context.Context, key client.ObjectKey) (unlock func(), err error) {
	mine := make(chan struct{})
	for {
		n.mu.Lock()
		other := n.writing[key]
		if other == nil {
			if n.writing == nil {
				n.writing = map[client.ObjectKey]chan struct{}{}
			}
			n.writing[key] = mine
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				delete(n.writing, key)
				n.mu.Unlock()
				close(mine)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-other:
		}
	}
}

// of returns the newer of c and what was written.
func (n *newest) of(c *v1alpha1.Change) *v1alpha1.Change {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := client.ObjectKeyFromObject(c)
	known := n.all[key]
	if known == nil || known.UID != c.UID || version(c) >= version(known) {
		delete(n.all, key)
		return c
	}
	return known.DeepCopy()
}

func (n *newest) wrote(c *v1alpha1.Change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all == nil {
		n.all = map[client.ObjectKey]*v1alpha1.Change{}
	}
	key := client.ObjectKeyFromObject(c)
	if known := n.all[key]; known == nil || known.UID != c.UID || version(known) < version(c) {
		n.all[key] = c.DeepCopy()
	}
}

// version is comparable as of Kubernetes 1.35, and has been a number in every server
// with etcd.
func version(c *v1alpha1.Change) uint64 {
	v, _ := strconv.ParseUint(c.ResourceVersion, 10, 64)
	return v
}

// errUnchanged tells update that there is nothing to write.
var errUnchanged = errors.New("unchanged")

// patience is how long a write waits for an API server that is away.
const patience = 2 * time.Minute

// update changes the status of a change: what edit makes of the present one is
// written unless somebody was faster, in which case it is made anew. While the API
// server is away, it is tried again.
func (c *Controller) update(ctx context.Context, key client.ObjectKey, edit func(*v1alpha1.Change) error) (*v1alpha1.Change, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	read := client.Reader(c.client)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		var edited error
		now, err := c.updateOnce(ctx, read, key, func(m *v1alpha1.Change) error {
			edited = edit(m)
			return edited
		})
		switch {
		case err == nil || errors.Is(edited, errUnchanged):
			return now, nil
		case edited != nil:
			return nil, edited // nothing that time would mend
		case errors.Is(err, errNoMore) || !apierrors.IsConflict(err) && !passing(err):
			return nil, err
		}
		read = c.live
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("write the status of change %s: %w", key.Name, err)
		case <-time.After(pause):
		}
	}
}

func (c *Controller) updateOnce(ctx context.Context, read client.Reader, key client.ObjectKey, edit func(*v1alpha1.Change) error) (*v1alpha1.Change, error) {
	unlock, err := c.newest.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	got := &v1alpha1.Change{}
	if err := read.Get(ctx, key, got); err != nil {
		return nil, err
	}
	was := c.newest.of(got)
	now := was.DeepCopy()
	if err := edit(now); err != nil {
		return was, err
	}
	if err := c.client.Status().Patch(ctx, now, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
		return nil, err
	}
	c.newest.wrote(now)
	return now, nil
}

// passing reports whether an error is one of a server that is away or overloaded.
func passing(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) // the network
	}
	return apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsTimeout(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err)
}

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
	return list, run, s, nil
}

func keyOf(o work.Order) client.ObjectKey {
	return client.ObjectKey{Namespace: o.Namespace, Name: o.Change}
}

// Leased notes who does a step.
func (k keeper) Leased(ctx context.Context, o work.Order, worker string) error {
	_, err := k.update(ctx, keyOf(o), func(c *v1alpha1.Change) error {
		list, _, s, err := open(c, o)
		if err != nil {
			return err
		}
		message := ""
		if o.Lease > 0 && s.Worker != "" {
			message = fmt.Sprintf("begun again: worker %s was lost", s.Worker)
		}
		s.State, s.Worker, s.Lease, s.Commit, s.Message = v1alpha1.StepRunning, worker, o.Lease, o.Commit, message
		s.Started, s.Ended = ptrNow(), nil
		s.Log = logPath(o.Namespace, o.Change, o.Step+"-"+short(o.Commit), o.Attempt, o.Lease)
		*list = change.SetStep(*list, s)
		return nil
	})
	return err
}

// Done notes a result, once.
func (k keeper) Done(ctx context.Context, o work.Order, worker string, r work.Result) error {
	c := k.Controller
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
		s.Ended = ptrNow()
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
			run.State = change.RunState(app.Spec.Policy, run.Steps)
		}
		return nil
	})
	if err == nil {
		c.files.stir(logPath(o.Namespace, o.Change, o.Step+"-"+short(o.Commit), o.Attempt, o.Lease))
		c.wakeApp(o.Namespace, o.App)
	}
	return err
}

// Log keeps what a step prints.
func (k keeper) Log(o work.Order, b []byte) {
	name := logPath(o.Namespace, o.Change, o.Step+"-"+short(o.Commit), o.Attempt, o.Lease)
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
