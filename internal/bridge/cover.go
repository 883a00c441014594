package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
)

// cover keeps a rule in force in every pod of a service, those that come later too.
type cover struct {
	b       *Bridge
	rule    steer.Rule
	handler steer.Handler
	laptop  *steer.Laptop
	// connect opens a session with the agent of a pod.
	connect func(context.Context, *core.Pod, func(context.Context, *stream.Stream)) (*stream.Session, error)

	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex
	pods    map[string]*covered // by name
	refused error               // why the rule does not come into force, or has ended
	engaged bool                // all pods have had the rule
	revoked chan struct{}       // closed when the right to enter the pods is gone
	said    []string            // of other rules
	denied  []string            // what was said of refusals since all pods had the rule
	last    error               // why a pod did not have the rule
	changed chan struct{}       // closed and renewed when a pod's state changes
}

// covered is one pod.
type covered struct {
	uid   types.UID // of the pod: another one may come by its name
	ready bool
	stop  context.CancelFunc
	state steer.State
}

// cover puts a rule into force in all pods that are ready, and returns then. It goes
// on with pods that come and go until leave.
func (b *Bridge) cover(ctx context.Context, rule steer.Rule, handler steer.Handler) (*cover, error) {
	c := b.newCover(ctx, rule, handler)
	client, err := b.Cluster.Typed()
	if err != nil {
		return nil, err
	}
	source := follow.Of(client.CoreV1().Pods(b.Namespace), meta.ListOptions{LabelSelector: b.Selector})
	list, err := b.list(c.ctx)
	switch {
	case err != nil:
		err = b.Cluster.Explain(err)
	case !slices.ContainsFunc(list.Items, func(p core.Pod) bool { return b.Service(&p) == rule.Service }):
		err = b.missing(rule.Service)
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	var all []runtime.Object
	for i := range list.Items {
		all = append(all, &list.Items[i])
	}
	c.take(follow.Change{All: all})
	c.work.Go(func() { c.follow(source, list.ResourceVersion) })
	if err := c.complete(ctx); err != nil {
		c.leave()
		return nil, err
	}
	return c, nil
}

// newCover makes a cover that knows of no pods yet.
func (b *Bridge) newCover(ctx context.Context, rule steer.Rule, handler steer.Handler) *cover {
	c := &cover{
		b: b, rule: rule, handler: handler, laptop: &steer.Laptop{Log: b.Log}, connect: b.connect,
		pods: map[string]*covered{}, changed: make(chan struct{}), revoked: make(chan struct{}),
	}
	c.ctx, c.stop = context.WithCancel(ctx)
	return c
}

// leave takes the rule back; what is under way has a moment to end.
func (c *cover) leave() {
	c.mu.Lock()
	for _, p := range c.pods {
		p.stop()
	}
	c.mu.Unlock()
	c.stop()
	c.work.Wait()
}

// failure returns why the rule does not come into force, or has ended for good.
func (c *cover) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

// counts returns how many of the ready pods have the rule.
func (c *cover) counts() (active, ready int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count()
}

// count is counts for callers that have the lock.
func (c *cover) count() (active, ready int) {
	for _, p := range c.pods {
		if p.ready {
			ready++
			if p.state == steer.Active {
				active++
			}
		}
	}
	return active, ready
}

// complete waits until every ready pod has confirmed the rule.
func (c *cover) complete(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		c.mu.Lock()
		changed, err := c.changed, c.refused
		active, ready := c.count()
		c.engaged = err == nil && ready > 0 && active == ready
		engaged := c.engaged
		c.mu.Unlock()
		if err != nil || engaged {
			return err
		}
		select {
		case <-changed:
		case <-limit.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if ready == 0 {
				return fmt.Errorf("service %s has no ready pod in namespace %s; bight status says how it is", c.rule.Service, c.b.Namespace)
			}
			return fmt.Errorf("only %d of %d pods of %s have confirmed the intercept; it was taken back: %w%s", active, ready, c.rule.Service, context.DeadlineExceeded, c.because())
		}
	}
}

// because says what was in the way last, for the end of an error.
func (c *cover) because() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		return ""
	}
	return ": " + c.last.Error()
}

// touch wakes complete. The caller has the lock.
func (c *cover) touch() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// follow watches the pods until the cover ends.
func (c *cover) follow(source follow.Source, version string) {
	for c.ctx.Err() == nil {
		err := source.Changes(c.ctx, version, func(change follow.Change) error {
			c.take(change)
			return nil
		})
		if c.ctx.Err() != nil {
			return
		}
		c.b.Log.Debug("pods are not followed", "error", err)
		select {
		case <-time.After(250 * time.Millisecond):
		case <-c.ctx.Done():
			return
		}
		version = ""
	}
}

// take takes in a change of the pods.
func (c *cover) take(change follow.Change) {
	switch change.Event {
	case "":
		present := map[string]bool{}
		for _, object := range change.All {
			pod := object.(*core.Pod)
			present[pod.Name] = true
			c.note(pod)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for name := range c.pods {
			if !present[name] {
				c.drop(name)
			}
		}
		c.touch()
	case watch.Deleted:
		if pod, ok := change.Object.(*core.Pod); ok {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.drop(pod.Name)
			c.touch()
		}
	default:
		if pod, ok := change.Object.(*core.Pod); ok {
			c.note(pod)
		}
	}
}

// note takes in what a pod is now.
func (c *cover) note(pod *core.Pod) {
	if c.b.Service(pod) != c.rule.Service {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.touch()
	known := c.pods[pod.Name]
	if known != nil && known.uid != pod.UID { // whose end nobody has seen
		c.drop(pod.Name)
		known = nil
	}
	if known != nil && pod.DeletionTimestamp != nil {
		known.ready = false // but its clients have connections still: the rule ends with it
		return
	}
	if !c.b.usable(pod) {
		c.drop(pod.Name)
		return
	}
	if known == nil {
		if c.ctx.Err() != nil {
			return
		}
		ctx, stop := context.WithCancel(c.ctx)
		known = &covered{uid: pod.UID, stop: stop}
		c.pods[pod.Name] = known
		c.work.Go(func() { c.keep(ctx, pod, known) })
	}
	known.ready = isReady(pod)
}

// drop forgets a pod. The caller has the lock.
func (c *cover) drop(name string) {
	if p := c.pods[name]; p != nil {
		p.stop()
		delete(c.pods, name)
	}
}

// How long a cover waits before it asks a pod for the rule again, and before it does one
// whose agent has refused it.
const (
	usualPause   = 250 * time.Millisecond
	refusedPause = 5 * time.Second
)

// keep keeps the rule in force in one pod until ctx ends.
func (c *cover) keep(ctx context.Context, pod *core.Pod, p *covered) {
	for {
		err := c.join(ctx, pod, p)
		pause, news := c.lacks(ctx, p, err)
		if pause == 0 {
			return
		}
		if news != "" {
			c.b.Say(news)
		}
		c.b.Log.Debug("intercept is not in force", "pod", pod.Name, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// lacks takes in why a pod does not have the rule. It returns how long to wait before the
// next attempt, 0 if there is to be none, and what to tell the user, "" for nothing.
func (c *cover) lacks(ctx context.Context, p *covered, err error) (pause time.Duration, news string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.touch()
	p.state, c.last = steer.Gone, err
	var refused *steer.RefusedError
	denied := errors.As(err, &refused) || errors.As(err, new(*OverlapError))
	switch {
	case ctx.Err() != nil:
		return 0, ""
	case errors.Is(err, ErrRevoked):
		if !errors.Is(c.refused, ErrRevoked) {
			c.refused = err
			close(c.revoked)
		}
		return 0, ""
	case !c.engaged && (denied || kube.KindOf(err) == kube.Forbidden || errors.Is(err, ErrBarred)):
		if c.refused == nil {
			c.refused = err
		}
		return 0, ""
	case !denied: // later on, one pod's problem is not the others'
		return usualPause, ""
	}
	// Somebody else's rule was faster, while the network was away for example.
	if refused != nil {
		err = refused
	}
	if news = fmt.Sprintf("intercept %s is not in force in every pod: %v; it is tried again", c.rule.ID, err); slices.Contains(c.denied, news) {
		return refusedPause, ""
	}
	c.denied = append(c.denied, news)
	return refusedPause, news
}

// has takes in that a pod has the rule.
func (c *cover) has(p *covered) {
	c.mu.Lock()
	p.state = steer.Active
	c.touch()
	active, ready := c.count()
	again := active == ready && len(c.denied) > 0
	if again {
		c.denied = nil
	}
	c.mu.Unlock()
	if again {
		c.b.Say(fmt.Sprintf("intercept %s is in force in every pod again", c.rule.ID))
	}
}

// look finds other rules of the same user in a pod, before this one comes into force
// for the first time: what it would take from them silently is refused, the rest said.
func (c *cover) look(ctx context.Context, sess *stream.Session) error {
	c.mu.Lock()
	engaged := c.engaged
	c.mu.Unlock()
	if engaged {
		return nil
	}
	all, err := steer.List(ctx, sess)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Rule.Owner == c.rule.Owner && (s.State != steer.Active || c.b.Lives != nil && !c.b.Lives(s.Rule)) {
			continue // it is about to end
		}
		said, err := beside(c.rule, s.Rule)
		if err != nil {
			return err
		}
		c.mu.Lock()
		news := said != "" && !slices.Contains(c.said, said)
		if news {
			c.said = append(c.said, said)
		}
		c.mu.Unlock()
		if news {
			c.b.Say(said)
		}
	}
	return nil
}

// grace is how long requests under way have when a rule is taken back.
const grace = 5 * time.Second

// join puts the rule into force in a pod and returns when it no longer is.
func (c *cover) join(ctx context.Context, pod *core.Pod, p *covered) error {
	// The session outlives ctx by the grace, for what is under way. Before the rule is in
	// force there is nothing: the network or the agent may take long, and are not waited for.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	sess, err := c.connect(life, pod, c.laptop.Handle)
	stop()
	if err != nil {
		end()
		return err
	}
	asking, cut := context.WithCancel(life) // the session lives on, to tell the agent
	stop = context.AfterFunc(ctx, cut)
	var m *steer.Membership
	if err = c.look(asking, sess); err == nil {
		m, err = c.laptop.Join(asking, sess, c.rule, c.handler)
	}
	if !stop() && err == nil {
		err = ctx.Err() // and with it the membership is over
	}
	if err != nil {
		farewell(sess, end)
		return err
	}
	leave := func() error {
		defer farewell(sess, end)
		limited, cancel := context.WithTimeout(life, grace)
		defer cancel()
		return m.Leave(limited)
	}
	c.has(p)
	select {
	case <-m.Done():
		err = m.Err()
	case <-sess.Done():
		err = sess.Err()
	case <-ctx.Done():
		return leave()
	}
	c.work.Go(func() { // meanwhile the next agent is looked for
		if err := leave(); err != nil {
			c.b.Log.Debug("what an agent has taken back did not end well", "pod", pod.Name, "error", err)
		}
	})
	return err
}
