// Package control carries out what package release decides: it makes the canary's pods,
// says what the doors are to do, judges what they tell, and ends a release by promoting
// or undoing it.
//
// The main type is [Controller]; one acts at a time, the leader. Each Deployment with a
// release under way has a desk, a goroutine that looks at the cluster whenever something
// has changed, asks [release.Next], writes the answer into the Release's status, which
// is what the doors obey, and then changes the Deployment. All that it knows is in the
// status, so another process can go on at any moment; whatever it does may be done twice.
//
// How a canary is made without a second workload: the Deployment gets the new template
// and a minReadySeconds that no pod ever reaches. Its controller then makes as many new
// pods as maxSurge says, and takes away no old one. The Service meanwhile selects the
// old pods alone, by their pod-template-hash; requests come to the new ones through the
// doors of the old. Promoted, the Deployment gets its own settings back, and goes on
// from the pods that are there; undone, the old template too.
package control

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/bearer"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release/spec"
)

// Controller carries out the releases of a cluster. Its exported fields are set before
// Run.
type Controller struct {
	Cluster *kube.Cluster
	// Agents is the user that node agents are: who else sends evidence is refused.
	Agents string
	// Dir is where the evidence of releases is kept, "" for nowhere.
	Dir string
	// Past is where is kept how releases went whose objects were replaced, "" for nowhere.
	Past string
	// Unsaved is where is kept what was heard of releases and is not written down yet, "" for nowhere.
	Unsaved string
	// Secrets returns the secrets in a text. nil finds none.
	Secrets func(ctx context.Context, text string) ([]string, error)
	// Metrics answers guards; nil if nobody does.
	Metrics Metrics
	// Seen, if not nil, is told of each Release as it is now, which it must not change, and
	// Observed how long a new share took until every pod obeyed it.
	Seen     func(*v1alpha1.Release)
	Observed func(took time.Duration)
	Log      *slog.Logger

	typed   kubernetes.Interface
	dynamic dynamic.Interface
	known   bearer.Book[string] // whose tokens are
	past    past
	unsaved unsaved
	strays  strays // where something of releases may be left
	meet    sync.Once
	taking  sync.Mutex // evidence

	mu    sync.Mutex
	desks map[types.NamespacedName]*desk // by Deployment
	wards map[string]*ward               // by namespace
	life  context.Context                // of desks; nil while this process does not lead
	seen  bool                           // all Releases, once
	// pruner is told of releases that are over.
	pruner *pruner
	tasks  sync.WaitGroup

	rulers rulers
}

// Run acts until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	typed, err := c.Cluster.Typed()
	if err != nil {
		return err
	}
	if c.dynamic, err = c.Cluster.Dynamic(); err != nil {
		return err
	}
	m, err := metadata.NewForConfig(c.Cluster.RESTConfig())
	if err != nil {
		return err
	}
	c.past.dir, c.unsaved.dir = c.Past, c.Unsaved
	defer c.tasks.Wait()
	c.mu.Lock()
	c.typed = typed // agents may have found the way here before this
	c.pruner = newPruner(c, m)
	c.desks, c.wards, c.life = map[types.NamespacedName]*desk{}, map[string]*ward{}, ctx
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.life, c.seen = nil, false
		c.mu.Unlock()
	}()
	c.tasks.Go(func() { c.sweep(ctx) })
	c.tasks.Go(func() { c.pruner.run(ctx) })
	c.tasks.Go(func() { c.free(ctx) })
	c.tasks.Go(func() { c.followPolicies(ctx) })
	all := follow.Of(c.dynamic.Resource(v1alpha1.Releases()), metav1.ListOptions{Limit: spec.Page})
	all.Only = func(o runtime.Object) bool {
		r := c.read(o)
		if r == nil || !done(r) {
			return r != nil
		}
		c.tellSeen(r, false) // it may have ended just before this process began
		if end := r.Status.Ended; end != nil && time.Since(end.Time) < lately {
			c.remember(r)
		}
		return false
	}
	all.Always(ctx, func(err error) { c.Log.Warn("releases are not seen", "err", err) }, c.take)
	return nil
}

// take takes in a change of the Releases.
func (c *Controller) take(change follow.Change) {
	if change.Event != "" {
		if r := c.read(change.Object); r != nil {
			if change.Event == watch.Deleted || done(r) {
				c.remember(r)
			}
			c.note(r, change.Event == watch.Deleted)
			if change.Event == watch.Deleted && !spec.Over(r) { // by force
				c.strays.look(r.Namespace)
			}
			c.tellSeen(r, change.Event == watch.Deleted)
		}
		return
	}
	seen := map[types.UID]bool{}
	for _, o := range change.All {
		if r := c.read(o); r != nil {
			seen[r.UID] = true
			c.note(r, false)
			c.tellSeen(r, false)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = true
	for key, d := range c.desks {
		if d.retain(seen) { // while nobody has looked: by force, maybe
			c.strays.look(key.Namespace)
		}
	}
}

// remember keeps how a release went, before the next of its name is seen.
func (c *Controller) remember(r *v1alpha1.Release) {
	if err := c.past.add(r); err != nil {
		c.Log.Warn("releases of the same version will not know of this one", "err", err)
	}
}

func (c *Controller) tellSeen(r *v1alpha1.Release, deleted bool) {
	if c.Seen != nil && !deleted {
		c.Seen(r)
	}
}

func (c *Controller) read(o runtime.Object) *v1alpha1.Release {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	r := &v1alpha1.Release{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, r); err != nil {
		c.Log.Warn("a Release can't be read", "name", u.GetNamespace()+"/"+u.GetName(), "err", err)
		return nil
	}
	r.ManagedFields = nil
	r.Spec.Plan = spec.Expand(r.Spec.Plan)
	return r
}

// done says that nothing is left to be done for a Release. Most are.
func done(r *v1alpha1.Release) bool { return spec.Over(r) && !slices.Contains(r.Finalizers, finalizer) }

// note brings a Release to the desk of its Deployment. One that is over needs none.
func (c *Controller) note(r *v1alpha1.Release, deleted bool) {
	key := types.NamespacedName{Namespace: r.Namespace, Name: r.Spec.Deployment}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.desks[key]
	if deleted || done(r) {
		if c.pruner != nil {
			c.pruner.happened(r.Namespace)
		}
		if d != nil {
			d.drop(r.UID)
		}
		return
	}
	if d == nil {
		if c.life == nil {
			return
		}
		d = newDesk(c, key)
		c.desks[key] = d
		d.ward = c.wardOf(key.Namespace)
		c.tasks.Go(func() { d.run(c.life) })
	}
	d.put(r)
}

// leave ends a desk that has nothing to do any more.
func (c *Controller) leave(d *desk) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !d.idle() {
		return false
	}
	delete(c.desks, d.key)
	// What nobody has put back until now nobody will.
	c.strays.look(d.key.Namespace)
	if c.pruner != nil {
		c.pruner.happened(d.key.Namespace)
	}
	for _, other := range c.desks {
		if other.ward == d.ward {
			return true
		}
	}
	delete(c.wards, d.key.Namespace)
	d.ward.end()
	return true
}

// wardOf returns what is seen of a namespace. The lock is held.
func (c *Controller) wardOf(namespace string) *ward {
	w := c.wards[namespace]
	if w == nil {
		w = newWard(namespace)
		c.wards[namespace] = w
		ctx, end := context.WithCancel(c.life)
		w.life, w.end = ctx, end
		w.follow(ctx, c)
	}
	return w
}

// rouse has a desk look again.
func (c *Controller) rouse(namespace, deployment string) {
	c.mu.Lock()
	d := c.desks[types.NamespacedName{Namespace: namespace, Name: deployment}]
	c.mu.Unlock()
	if d != nil {
		d.rouse()
	}
}

// rouseAll has all desks of a namespace look again.
func (c *Controller) rouseAll(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, d := range c.desks {
		if key.Namespace == namespace {
			d.rouse()
		}
	}
}

// now is when something happens, to the microsecond that the API keeps.
func now() metav1.MicroTime { return metav1.NewMicroTime(time.Now().Truncate(time.Microsecond)) }
