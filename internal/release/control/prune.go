package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release/config"
	"github.com/bightdev/bight/internal/release/spec"
)

const (
	// fresh is for how long new configuration may wait for the release that it is made for.
	fresh = 30 * time.Second
	// gather is how long what happens in a namespace is waited for, to look once.
	gather = time.Second
	// pruneAgain is when a namespace is looked at again that could not be read.
	pruneAgain = 15 * time.Second
)

// pruner removes configuration of versions that no pod can come to have any more: when a
// ReplicaSet is gone or a release is over. Where no version has a configuration of its own
// it asks the API server nothing.
type pruner struct {
	c        *Controller
	metadata metadata.Interface

	mu    sync.Mutex
	yards map[string]*yard // by namespace, of those that have such configuration
	news  chan struct{}
}

// yard is a namespace's configuration.
type yard struct {
	all map[config.Ref]metav1.ObjectMeta
	due time.Time // when it is looked at, zero for not before something happens
	end context.CancelFunc
}

func newPruner(c *Controller, m metadata.Interface) *pruner {
	return &pruner{c: c, metadata: m, yards: map[string]*yard{}, news: make(chan struct{}, 1)}
}

// run acts until ctx ends.
func (p *pruner) run(ctx context.Context) {
	for kind, resource := range map[string]string{config.ConfigMap: "configmaps", config.Secret: "secrets"} {
		source := follow.Of(p.metadata.Resource(corev1.SchemeGroupVersion.WithResource(resource)), metav1.ListOptions{LabelSelector: config.Label})
		p.c.tasks.Go(func() {
			source.Always(ctx, func(err error) { p.c.Log.Warn("configuration of versions is not seen", "of", resource, "err", err) },
				func(change follow.Change) { p.take(ctx, kind, change) })
		})
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-p.news:
		}
		for namespace, all := range p.ripe(time.Now()) {
			next, err := p.look(ctx, namespace, all)
			if err != nil && ctx.Err() == nil {
				p.c.Log.Warn("configuration of old versions is not removed", "namespace", namespace, "err", err)
				next = time.Now().Add(pruneAgain)
			}
			if !next.IsZero() {
				p.want(namespace, next)
			}
		}
		timer.Stop()
		if at := p.next(); !at.IsZero() {
			timer.Reset(time.Until(at))
		}
	}
}

// take takes in a change of all configuration of a kind.
func (p *pruner) take(ctx context.Context, kind string, change follow.Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if change.Event != "" {
		p.put(ctx, kind, change.Object, change.Event == watch.Deleted)
		return
	}
	for _, y := range p.yards {
		for r := range y.all {
			if r.Kind == kind {
				delete(y.all, r)
			}
		}
	}
	for _, o := range change.All {
		p.put(ctx, kind, o, false)
	}
	for namespace := range p.yards {
		p.tidy(namespace)
	}
}

// put keeps or removes what is known of an object. The lock is held.
func (p *pruner) put(ctx context.Context, kind string, o runtime.Object, gone bool) {
	m, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return
	}
	r, y := config.Ref{Kind: kind, Name: m.Name}, p.yards[m.Namespace]
	if gone {
		if y != nil {
			delete(y.all, r)
			p.tidy(m.Namespace)
		}
		return
	}
	if y == nil {
		ctx, end := context.WithCancel(ctx)
		y = &yard{all: map[config.Ref]metav1.ObjectMeta{}, end: end}
		p.yards[m.Namespace] = y
		sets := follow.Of(p.metadata.Resource(appsv1.SchemeGroupVersion.WithResource("replicasets")).Namespace(m.Namespace), metav1.ListOptions{})
		p.c.tasks.Go(func() {
			sets.Always(ctx, func(err error) { p.c.Log.Warn("ReplicaSets are not seen", "namespace", m.Namespace, "err", err) },
				func(change follow.Change) {
					if change.Event == "" || change.Event == watch.Deleted {
						p.happened(m.Namespace)
					}
				})
		})
	}
	was, since := y.all[r], wantedSince(m)
	y.all[r] = metav1.ObjectMeta{Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, CreationTimestamp: since, DeletionTimestamp: m.DeletionTimestamp}
	if !since.Equal(&was.CreationTimestamp) {
		p.hasten(y, since.Add(fresh+gather))
	}
}

// wantedSince is when configuration was made, or a release has taken it again.
func wantedSince(m *metav1.PartialObjectMetadata) metav1.Time {
	since := m.CreationTimestamp
	if again, err := time.Parse(time.RFC3339, m.Annotations[config.Wanted]); err == nil && again.After(since.Time) && !again.After(time.Now().Add(fresh)) {
		since.Time = again
	}
	return since
}

// tidy forgets a namespace without such configuration. The lock is held.
func (p *pruner) tidy(namespace string) {
	if y := p.yards[namespace]; len(y.all) == 0 {
		y.end()
		delete(p.yards, namespace)
	}
}

// happened says that something of a namespace may be needed no more.
func (p *pruner) happened(namespace string) { p.want(namespace, time.Now().Add(gather)) }

// want has a namespace looked at, if it has any configuration of versions.
func (p *pruner) want(namespace string, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if y := p.yards[namespace]; y != nil {
		p.hasten(y, at)
	}
}

// hasten has a yard looked at no later than that. The lock is held.
func (p *pruner) hasten(y *yard, at time.Time) {
	if !y.due.IsZero() && !at.Before(y.due) {
		return
	}
	y.due = at
	select {
	case p.news <- struct{}{}:
	default: // it is about to look at all of them
	}
}

// next is when the next namespace is due, zero for never.
func (p *pruner) next() (at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, y := range p.yards {
		if !y.due.IsZero() && (at.IsZero() || y.due.Before(at)) {
			at = y.due
		}
	}
	return at
}

// ripe returns what is known of the namespaces that are due, which they are no more.
func (p *pruner) ripe(now time.Time) map[string]map[config.Ref]metav1.ObjectMeta {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]map[config.Ref]metav1.ObjectMeta{}
	for namespace, y := range p.yards {
		if !y.due.IsZero() && !now.Before(y.due) {
			y.due, out[namespace] = time.Time{}, maps.Clone(y.all)
		}
	}
	return out
}

// look removes what nobody refers to, and says when to look again, zero for not before
// something happens.
func (p *pruner) look(ctx context.Context, namespace string, all map[config.Ref]metav1.ObjectMeta) (again time.Time, err error) {
	templates, err := p.c.templates(ctx, namespace)
	if err != nil {
		return time.Time{}, err
	}
	gone, again := unused(all, templates, time.Now())
	var errs []error
	for _, r := range gone {
		errs = append(errs, p.c.removeConfig(ctx, namespace, r, all[r]))
	}
	return again, errors.Join(errs...)
}

// unused are those of some ConfigMaps and Secrets that no template refers to. One that is
// just made is looked at again.
func unused(all map[config.Ref]metav1.ObjectMeta, templates []map[string]any, now time.Time) (out []config.Ref, again time.Time) {
	used := map[config.Ref]bool{}
	for _, t := range templates {
		for _, r := range config.Refs(t) {
			used[r] = true
		}
	}
	for r, m := range all {
		if used[r] || m.DeletionTimestamp != nil {
			continue
		}
		if ripe := m.CreationTimestamp.Add(fresh); !now.After(ripe) {
			if ripe = ripe.Add(gather); again.IsZero() || ripe.Before(again) {
				again = ripe
			}
			continue
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b config.Ref) int { return strings.Compare(a.Kind+a.Name, b.Kind+b.Name) })
	return out, again
}

// templates are all by which pods of a namespace may be made: those of ReplicaSets, which
// may come back as long as they are there, of Deployments, and of releases under way.
func (c *Controller) templates(ctx context.Context, namespace string) (out []map[string]any, err error) {
	// A template goes from the Release to the Deployment and from there to a ReplicaSet: who looks the
	// other way may miss it at all three.
	list, err := c.dynamic.Resource(v1alpha1.Releases()).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	deployments, err := c.typed.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	sets, err := c.typed.AppsV1().ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, rs := range sets.Items {
		out = append(out, fieldsOf(&rs.Spec.Template))
	}
	for _, d := range deployments.Items {
		out = append(out, fieldsOf(&d.Spec.Template))
	}
	for _, u := range list.Items {
		r := &v1alpha1.Release{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, r); err != nil {
			return nil, fmt.Errorf("read Release %s: %w", u.GetName(), err)
		}
		if spec.Over(r) {
			continue
		}
		for _, at := range [][]string{{"spec", "template"}, {"status", "state", "before"}} { // and what it may go back to
			if template, ok, _ := unstructured.NestedMap(u.Object, at...); ok {
				out = append(out, template)
			}
		}
	}
	return out, nil
}

func (c *Controller) removeConfig(ctx context.Context, namespace string, r config.Ref, m metav1.ObjectMeta) error {
	only := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &m.UID, ResourceVersion: &m.ResourceVersion}}
	var err error
	if r.Kind == config.Secret {
		err = c.typed.CoreV1().Secrets(namespace).Delete(ctx, r.Name, only)
	} else {
		err = c.typed.CoreV1().ConfigMaps(namespace).Delete(ctx, r.Name, only)
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove %s %s/%s: %w", r.Kind, namespace, r.Name, err)
	}
	return nil
}
