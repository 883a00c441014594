package nodeagent

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/agent/node"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release/spec"
)

// Agent serves the Intercepts and Releases of one node. Its fields are set before Run.
type Agent struct {
	Cluster *kube.Cluster
	Node    string    // its name
	Proc    node.Proc // where the node's processes are seen
	Version string
	Log     *slog.Logger

	mu         sync.Mutex
	intercepts map[types.NamespacedName]*v1alpha1.Intercept
	seen       map[types.NamespacedName]renewal
	late       map[types.NamespacedName]late
	deleting   map[types.NamespacedName]time.Time // since when
	releases   map[types.NamespacedName]*v1alpha1.Release
	pods       map[types.UID]*core.Pod

	// Of the loop alone.
	posts   map[types.UID]*post
	trials  map[subject]*onTrial
	courier *courier
	boot    string // of this run

	wake chan struct{} // something has changed; has room for one
}

// Run serves until ctx ends, and takes every gate away then.
func (a *Agent) Run(ctx context.Context) error {
	a.intercepts, a.seen = map[types.NamespacedName]*v1alpha1.Intercept{}, map[types.NamespacedName]renewal{}
	a.late, a.deleting = map[types.NamespacedName]late{}, map[types.NamespacedName]time.Time{}
	a.pods, a.posts = map[types.UID]*core.Pod{}, map[types.UID]*post{}
	a.releases, a.trials = map[types.NamespacedName]*v1alpha1.Release{}, map[subject]*onTrial{}
	a.boot = rand.Text()
	a.wake = make(chan struct{}, 1)
	typed, err := a.Cluster.Typed()
	if err != nil {
		return err
	}
	client, err := a.Cluster.Dynamic()
	if err != nil {
		return err
	}
	a.courier = newCourier(func(ctx context.Context) (*core.Service, error) {
		return typed.CoreV1().Services(namespace()).Get(ctx, controller, metav1.GetOptions{})
	})
	mine := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", a.Node).String()}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.follow(ctx, "pods", follow.Of(typed.CoreV1().Pods(""), mine), a.takePods) })
	g.Go(func() error {
		return a.follow(ctx, "intercepts", follow.Of(client.Resource(v1alpha1.Intercepts()), metav1.ListOptions{}), a.takeIntercepts)
	})
	g.Go(func() error {
		all := follow.Of(client.Resource(v1alpha1.Releases()), metav1.ListOptions{Limit: spec.Page})
		all.Only = underWay
		return a.follow(ctx, "releases", all, a.takeReleases)
	})
	r := &reporter{client: client, node: a.Node, log: a.Log, wake: make(chan struct{}, 1)}
	g.Go(func() error { return r.run(ctx) })
	g.Go(func() error { return a.loop(ctx, r) })
	return g.Wait()
}

// patience is between attempts.
const patience = time.Second

// follow follows a collection until ctx ends.
func (a *Agent) follow(ctx context.Context, what string, source follow.Source, take func(follow.Change)) error {
	source.Always(ctx, func(err error) {
		a.Log.Warn("changes are not seen", "of", what, "err", err)
	}, func(c follow.Change) {
		a.mu.Lock()
		take(c)
		a.mu.Unlock()
		a.rouse()
	})
	return nil
}

func (a *Agent) rouse() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// takePods takes in a change of the pods. The lock is held.
func (a *Agent) takePods(c follow.Change) {
	if c.Event == "" {
		clear(a.pods)
		for _, o := range c.All {
			a.pods[o.(*core.Pod).UID] = o.(*core.Pod)
		}
		return
	}
	pod, ok := c.Object.(*core.Pod)
	switch {
	case !ok:
	case c.Event == watch.Deleted:
		delete(a.pods, pod.UID)
	default:
		a.pods[pod.UID] = pod
	}
}

// takeIntercepts takes in a change of the Intercepts. The lock is held.
func (a *Agent) takeIntercepts(c follow.Change) {
	if c.Event == "" {
		before := a.intercepts
		a.intercepts = map[types.NamespacedName]*v1alpha1.Intercept{}
		for _, o := range c.All {
			a.note(o)
		}
		for name := range before {
			// What has become of it was not seen, so it is over.
			if a.intercepts[name] == nil {
				delete(a.seen, name)
			}
		}
		return
	}
	if c.Event != watch.Deleted {
		a.note(c.Object)
	} else if u, ok := c.Object.(*unstructured.Unstructured); ok {
		name := types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}
		a.drop(name, a.intercepts[name])
	}
}

// drop forgets an Intercept that is no more. One that has expired may come back.
func (a *Agent) drop(name types.NamespacedName, i *v1alpha1.Intercept) {
	if r, known := a.seen[name]; known && i != nil && r.expired(time.Now()) {
		a.late[name] = late{i, r.at.Add(comeback)}
	}
	delete(a.intercepts, name)
	delete(a.seen, name)
}

// note takes in an Intercept as it is now.
func (a *Agent) note(o runtime.Object) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return
	}
	i := &v1alpha1.Intercept{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, i); err != nil {
		a.Log.Warn("an Intercept can't be read", "name", u.GetNamespace()+"/"+u.GetName(), "err", err)
		return
	}
	name := nameOf(i)
	text := string(i.UID) + " " + i.Annotations[v1alpha1.RenewedAnnotation]
	if r, known := a.seen[name]; !known || r.text != text {
		a.seen[name] = renewal{text, time.Now()}
	}
	a.intercepts[name] = i
	delete(a.late, name)
}

func nameOf(i *v1alpha1.Intercept) types.NamespacedName {
	return types.NamespacedName{Namespace: i.Namespace, Name: i.Name}
}

// loop brings the posts to the plan whenever something has changed.
func (a *Agent) loop(ctx context.Context, r *reporter) error {
	var posts sync.WaitGroup
	defer posts.Wait()
	defer a.dismiss(func(subject) bool { return true })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-a.wake:
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		a.mu.Lock()
		now := time.Now()
		want := plan(withLate(a.intercepts, a.late, now), a.pods)
		here := map[types.NamespacedName]bool{}
		for _, w := range want {
			for _, i := range w.intercepts {
				here[nameOf(i)] = true
			}
		}
		over, next := expired(a.seen, func(n types.NamespacedName) bool { return here[n] }, now)
		over, again := a.begin(over, now)
		a.share(ctx, &posts, want, now)
		a.mu.Unlock()
		a.station(ctx, &posts, want)
		all := a.statuses(want)
		maps.Copy(all, a.doors(want, now))
		r.report(all)
		if len(over) > 0 {
			posts.Go(func() { a.expire(ctx, over) })
			next = earlier(next, now.Add(patience)) // to see whether they are gone
		}
		if !again.IsZero() {
			next = earlier(next, again)
		}
		if slices.ContainsFunc(slices.Collect(maps.Values(want)), (*wanted).counts) {
			next = earlier(next, now.Add(sampling))
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// earlier is the first of two times, of which the zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// station brings the posts to what is wanted.
func (a *Agent) station(ctx context.Context, running *sync.WaitGroup, want map[types.UID]*wanted) {
	for uid, p := range a.posts {
		if want[uid] == nil && !p.set(nil) {
			delete(a.posts, uid)
		}
	}
	for uid, w := range want {
		if p := a.posts[uid]; p != nil && p.set(w) {
			continue
		}
		p := &post{
			proc: a.Proc, version: a.Version, changed: a.rouse, news: make(chan struct{}, 1),
			log: a.Log.With("namespace", w.pod.Namespace, "pod", w.pod.Name),
		}
		p.set(w)
		a.posts[uid] = p
		running.Go(func() { p.run(ctx) })
	}
}

// statuses is what there is to tell of each Intercept with pods here.
func (a *Agent) statuses(want map[types.UID]*wanted) map[subject]any {
	pods := map[subject][]v1alpha1.PodStatus{}
	for uid, w := range want {
		for _, i := range w.intercepts {
			s := subject{kindIntercept, nameOf(i), i.UID}
			pods[s] = append(pods[s], a.posts[uid].status(i.Name))
		}
	}
	all := map[subject]any{}
	for s, p := range pods {
		slices.SortFunc(p, func(a, b v1alpha1.PodStatus) int { return strings.Compare(a.Name, b.Name) })
		all[s] = v1alpha1.InterceptStatus{Nodes: []v1alpha1.NodeStatus{{Node: a.Node, Pods: p}}}
	}
	return all
}

// deletion is how long an attempt to delete an Intercept may take before the next.
const deletion = 10 * time.Second

// begin returns those that nobody deletes yet, of which there is none that is being
// deleted already, and when to try again what is there still: the zero time for never. The
// lock is held.
func (a *Agent) begin(over []types.NamespacedName, now time.Time) (fresh []types.NamespacedName, again time.Time) {
	maps.DeleteFunc(a.deleting, func(_ types.NamespacedName, since time.Time) bool { return now.Sub(since) >= deletion })
	for _, name := range over {
		i := a.intercepts[name]
		if _, begun := a.deleting[name]; begun || i == nil || i.DeletionTimestamp != nil {
			continue
		}
		a.deleting[name] = now
		fresh = append(fresh, name)
	}
	for _, since := range a.deleting {
		again = earlier(again, since.Add(deletion))
	}
	return fresh, again
}

// expire deletes Intercepts whose owners have fallen silent, unless they have been
// heard of meanwhile.
func (a *Agent) expire(ctx context.Context, over []types.NamespacedName) {
	client, err := a.Cluster.Dynamic()
	if err != nil {
		return
	}
	for _, name := range over {
		a.mu.Lock()
		i := a.intercepts[name]
		a.mu.Unlock()
		if i == nil {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := client.Resource(v1alpha1.Intercepts()).Namespace(name.Namespace).Delete(limited, name.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &i.UID, ResourceVersion: &i.ResourceVersion},
		})
		cancel()
		switch {
		case err == nil:
			a.Log.Info("an Intercept has expired", "name", name.String(), "owner", i.Spec.Owner)
		case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		default:
			a.Log.Warn("an Intercept has expired and can't be deleted", "name", name.String(), "err", fmt.Sprint(err))
		}
	}
}
