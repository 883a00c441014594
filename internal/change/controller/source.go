package controller

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/host"
	"github.com/bightdev/bight/internal/change/repo"
)

// sources follows the repositories that are on outside hosts, each in a goroutine of
// its own. It is safe for concurrent use.
type sources struct {
	mu    sync.Mutex
	life  context.Context
	all   map[client.ObjectKey]*follower
	git   chan struct{} // as many as may speak with hosts at once
	tasks sync.WaitGroup
}

const (
	// atOnce is how many hosts are spoken with at a time: a thousand apps are not
	// fetched all together.
	atOnce = 16
	// lookTime is the longest that one look may take; the first brings everything.
	lookTime = 10 * time.Minute
	// After a failure a host is looked at again soon, then less and less often.
	firstRetry, lastRetry = time.Second, 5 * time.Minute
)

// start lets apps be followed until ctx ends.
func (s *sources) start(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life, s.git = ctx, make(chan struct{}, atOnce)
}

// of returns the follower of an app, or nil.
func (s *sources) of(key client.ObjectKey) *follower {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[key]
}

// stop ends the following of an app, and waits for that.
func (s *sources) stop(key client.ObjectKey) {
	s.mu.Lock()
	f := s.all[key]
	delete(s.all, key)
	s.mu.Unlock()
	if f == nil {
		return
	}
	f.cancel()
	<-f.ended
}

// attend has an app followed that is on an outside host, and looked at when its spec
// has changed. Its repository is there.
func (c *Controller) attend(a *v1alpha1.App) {
	key := client.ObjectKeyFromObject(a)
	s := &c.sources
	f := s.of(key)
	if f != nil && (a.Spec.Source == nil || f.uid != a.UID) {
		s.stop(key)
		f = nil
	}
	if a.Spec.Source == nil {
		return
	}
	if f != nil {
		if f.specified(a.Generation) {
			f.kick()
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == nil || s.life.Err() != nil || s.all[key] != nil {
		return
	}
	ctx, cancel := context.WithCancel(s.life)
	f = &follower{
		c: c, key: key, uid: a.UID, cancel: cancel, ended: make(chan struct{}), kicked: make(chan struct{}, 1),
		generation: a.Generation, state: sourceError{"Fetching", "its repository is being fetched"},
		feedback: feedback{kicked: make(chan struct{}, 1)},
	}
	if s.all == nil {
		s.all = map[client.ObjectKey]*follower{}
	}
	s.all[key] = f
	s.tasks.Go(func() {
		defer close(f.ended)
		defer cancel()
		var tasks sync.WaitGroup
		tasks.Go(func() { f.tell(ctx) })
		f.run(ctx)
		tasks.Wait()
	})
}

// follower keeps an app's repository equal to that on its host, and makes changes of
// what appears there.
type follower struct {
	c      *Controller
	key    client.ObjectKey
	uid    types.UID
	cancel context.CancelFunc
	ended  chan struct{}
	kicked chan struct{}

	deliveries host.Deliveries
	feedback   feedback

	// doubt is a head that the branch seems to be set back to, since doubted. They are
	// run's own.
	doubt   string
	doubted time.Time
	// large are the requests that are too large, by number. They are run's own, too.
	large map[int]largeRequest

	mu         sync.Mutex
	generation int64
	good       bool
	state      sourceError // what is wrong, or, where good, what is followed
	push       *publishing
}

// publishing is a commit on its way to the host's branch.
type publishing struct {
	commit, expect string
	done           bool
	moved          bool // the host had something else: nothing more until that is here
	err            error
}

// kick has the host looked at now.
func (f *follower) kick() {
	select {
	case f.kicked <- struct{}{}:
	default: // it is going to be
	}
}

// specified notes the spec's generation, and says whether it is another.
func (f *follower) specified(generation int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	other := f.generation != generation
	f.generation = generation
	return other
}

// run looks at the host again and again until ctx ends.
func (f *follower) run(ctx context.Context) {
	retry := firstRetry
	for {
		wait, err := f.turn(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			wait, retry = retry, min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		var again <-chan time.Time // never, where wait is 0
		timer := time.NewTimer(wait)
		if wait > 0 {
			again = timer.C
		}
		select {
		case <-ctx.Done():
		case <-f.kicked:
		case <-again:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// turn waits for a place, looks once, and returns how long to wait for the next look,
// 0 for until somebody tells of news.
func (f *follower) turn(ctx context.Context) (time.Duration, error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case f.c.sources.git <- struct{}{}:
	}
	defer func() { <-f.c.sources.git }()
	ctx, cancel := context.WithTimeoutCause(ctx, lookTime, fmt.Errorf("to look at the host took longer than %s", lookTime))
	defer cancel()
	a := &v1alpha1.App{}
	err := f.c.client.Get(ctx, f.key, a)
	if apierrors.IsNotFound(err) || err == nil && (a.Spec.Source == nil || a.UID != f.uid) {
		return 0, nil // the end comes
	}
	if err != nil {
		return 0, err
	}
	conn, err := f.c.connection(ctx, a)
	if err == nil {
		err = f.look(ctx, a, conn)
	}
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, errDoubt) {
		f.note(conn, nil)
		return doubtTime, nil
	}
	f.note(conn, err)
	return time.Duration(a.Spec.Source.PollSeconds) * time.Second, err
}

// note remembers how a look ended, for the app's status.
func (f *follower) note(conn connection, err error) {
	now, good := sourceError{"Following", "it follows " + conn.where + f.leftOut()}, true
	if err != nil {
		now, good = *conn.diagnose(err), false
	}
	f.mu.Lock()
	same := f.state == now && f.good == good
	f.state, f.good = now, good
	f.mu.Unlock()
	if same {
		return
	}
	if !good {
		f.c.Log.Warn("an outside host is not followed", "app", f.key.Name, "namespace", f.key.Namespace, "reason", now.Reason, "err", now.Text)
	}
	f.c.wakeApp(f.key.Namespace, f.key.Name)
}

// report says in an app's conditions how its host is.
func (s *sources) report(key client.ObjectKey, generation int64, ready *metav1.Condition, all *[]metav1.Condition) {
	f := s.of(key)
	if f == nil {
		meta.RemoveStatusCondition(all, reported)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ready.Reason, ready.Message = f.state.Reason, f.state.Text
	if !f.good {
		ready.Status = metav1.ConditionFalse
	}
	if r, ok := f.feedback.condition(); ok {
		r.ObservedGeneration = generation
		meta.SetStatusCondition(all, r)
	} else {
		meta.RemoveStatusCondition(all, reported)
	}
}

// errPending says that a commit is on its way to the host, or why it is not there
// yet.
type errPending struct{ why string }

func (e *errPending) Error() string {
	if e.why == "" {
		return "the commit is on its way to the host"
	}
	return "not at the host yet: " + e.why
}

// publishOutside brings a commit to the host's branch in the background. It returns
// nil when it is there, an *errPending until then, a *repo.RejectedError when the host
// does not want it.
func (c *Controller) publishOutside(s *subject, commit string) error {
	f := c.sources.of(client.ObjectKeyFromObject(s.app))
	if f == nil {
		return &errPending{"the host is not followed"}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.push
	if p == nil || p.commit != commit || p.expect != s.tip {
		f.push = &publishing{commit: commit, expect: s.tip}
		f.kick()
		return &errPending{}
	}
	if !p.done {
		switch {
		case p.err != nil:
			return &errPending{p.err.Error()}
		case !f.good:
			return &errPending{f.state.Text}
		}
		return &errPending{}
	}
	return p.err
}

// withdraw takes back what is not at the host yet.
func (c *Controller) withdraw(key client.ObjectKey) {
	f := c.sources.of(key)
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.push = nil
}

// pushTime is the longest that a push to a host may take.
const pushTime = 2 * time.Minute

// publish pushes what is to be pushed.
func (f *follower) publish(ctx context.Context, a *v1alpha1.App, r *repo.Repository, conn connection) error {
	f.mu.Lock()
	p := f.push
	f.mu.Unlock()
	if p == nil || p.done || p.moved {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, pushTime, fmt.Errorf("the push took longer than %s", pushTime))
	defer cancel()
	err := r.Push(ctx, conn.remote, repo.Pushing{Commit: p.commit, Ref: "refs/heads/" + a.Spec.Branch, Expect: p.expect})
	moved, isMoved := errors.AsType[*repo.MovedError](err)
	rejected, isRejected := errors.AsType[*repo.RejectedError](err)
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.c.wakeApp(f.key.Namespace, f.key.Name)
	switch {
	case err == nil, isMoved && moved.Have == p.commit: // an earlier push was not heard of
		p.done, p.err = true, nil
		return nil
	case isMoved:
		p.moved = true
		return nil
	case isRejected:
		p.done, p.err = true, rejected
		return nil
	}
	p.err = conn.diagnose(&hostError{err})
	return p.err
}

// fetched has what the host had something else for decided anew.
func (f *follower) fetched() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.push != nil && f.push.moved {
		f.push = nil
		f.c.wakeApp(f.key.Namespace, f.key.Name)
	}
}

// unpublished notes with changes why their merge is not at the host. It says whether it
// has written what decides about them.
func (c *Controller) unpublished(ctx context.Context, s *subject, members []*v1alpha1.Change, err error) (bool, error) {
	_, rejected := errors.AsType[*repo.RejectedError](err)
	pending, isPending := errors.AsType[*errPending](err)
	switch {
	case rejected:
		why := err.Error() + ": see what protects the branch there, then bight change retry"
		return true, c.giveUp(ctx, s, members, why)
	case !isPending:
		return false, err
	case pending.why == "":
		return false, nil
	}
	for _, m := range members {
		_, err := c.update(ctx, c.key(s, m.Name), func(now *v1alpha1.Change) error {
			return setMergeStep(now, v1alpha1.StepRunning, pending.Error())
		})
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// giveUp ends changes that the host does not take.
func (c *Controller) giveUp(ctx context.Context, s *subject, members []*v1alpha1.Change, why string) error {
	for _, m := range members {
		_, err := c.update(ctx, c.key(s, m.Name), func(now *v1alpha1.Change) error {
			return setMergeStep(now, v1alpha1.StepErred, why)
		})
		if err == nil {
			err = c.end(ctx, s, change.Action{Change: m.Name, Phase: v1alpha1.Failed, Message: v1alpha1.MergeStep + ": " + why})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setMergeStep notes how a merge is that waits for the host.
func setMergeStep(m *v1alpha1.Change, state, message string) error {
	steps := m.DeepCopy().Status.Steps
	step := v1alpha1.Step{Name: v1alpha1.MergeStep, State: state, Message: message}
	for _, old := range steps {
		if old.Name == v1alpha1.MergeStep && old.Started != nil {
			step.Started = old.Started.DeepCopy()
		}
	}
	if step.Started == nil {
		step.Started = ptrNow()
	}
	if state != v1alpha1.StepRunning {
		step.Ended = ptrNow()
	}
	m.Status.Steps = change.SetStep(m.Status.Steps, step)
	if reflect.DeepEqual(steps, m.Status.Steps) {
		return errUnchanged
	}
	return nil
}
