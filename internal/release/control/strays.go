package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release/gateway"
	"github.com/bightdev/bight/internal/release/spec"
)

// strays are the namespaces where routes may say that they are shared by a release that is no more: somebody has taken its
// finalizer away, or brought back an old copy of a route. Nobody else would put these back, and with the Release the
// Service of its version goes, so that what still leads there is lost. The zero value is ready for use.
type strays struct {
	mu   sync.Mutex
	in   map[string]bool // "" is every namespace
	news chan struct{}   // has room for one
}

// look has a namespace looked at.
func (s *strays) look(namespace string) {
	s.mu.Lock()
	if s.in == nil {
		s.in = map[string]bool{}
	}
	s.in[namespace] = true
	news := s.channel()
	s.mu.Unlock()
	select {
	case news <- struct{}{}:
	default:
	}
}

// channel is news. The lock is held.
func (s *strays) channel() chan struct{} {
	if s.news == nil {
		s.news = make(chan struct{}, 1)
	}
	return s.news
}

func (s *strays) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Sorted(maps.Keys(s.in))
	s.in = nil
	return all
}

// free puts back the routes of releases that are no more, until ctx ends: all that there are, and then wherever
// something tells of one.
func (c *Controller) free(ctx context.Context) {
	c.strays.look("")
	c.strays.mu.Lock()
	news := c.strays.channel()
	c.strays.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	timer.Stop()
	pause := again
	for {
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-timer.C:
		}
		failed := false
		for _, namespace := range c.strays.take() {
			for where, err := range c.freeIn(ctx, namespace) {
				if ctx.Err() == nil {
					c.Log.Warn("routes of a release that is no more are not put back", "namespace", where, "err", err)
				}
				c.strays.look(where)
				failed = true
			}
		}
		if !failed {
			pause = again
			continue
		}
		select { // it is not news that it has failed
		case <-news:
		default:
		}
		timer.Reset(pause)
		pause = min(2*pause, longest)
	}
}

// freeIn puts back the routes of a namespace, of all with "", whose releases are no more. It returns why, by the
// namespaces that are to be looked at again.
func (c *Controller) freeIn(ctx context.Context, namespace string) map[string]error {
	failed := map[string]error{}
	under := map[string]map[types.UID]bool{}
	for _, kind := range []string{v1alpha1.HTTPRoute, v1alpha1.GRPCRoute} {
		routes := follow.Of(c.dynamic.Resource(gateway.Resource(kind)).Namespace(namespace), metav1.ListOptions{Limit: spec.Page})
		routes.Only = func(o runtime.Object) bool {
			u, ok := o.(*unstructured.Unstructured)
			return ok && recordOf(u) != nil
		}
		all, _, err := routes.Snapshot(ctx)
		if apierrors.IsNotFound(err) {
			continue // the cluster knows no such kind
		}
		if err != nil {
			failed[namespace] = errors.Join(failed[namespace], fmt.Errorf("list the %ss: %w", kind, err))
			continue
		}
		for _, o := range all {
			u := o.(*unstructured.Unstructured)
			if err := c.freeOne(ctx, u, under); err != nil {
				failed[u.GetNamespace()] = errors.Join(failed[u.GetNamespace()], err)
			}
		}
	}
	return failed
}

// freeOne puts a route back, unless its release is under way. Those are looked for after the route was read: one that has
// written it since can't be missed. under has those that are known, by namespace.
func (c *Controller) freeOne(ctx context.Context, u *unstructured.Unstructured, under map[string]map[types.UID]bool) error {
	record, namespace := recordOf(u), u.GetNamespace()
	if under[namespace] == nil {
		releases := follow.Of(c.dynamic.Resource(v1alpha1.Releases()).Namespace(namespace), metav1.ListOptions{Limit: spec.Page})
		all, _, err := releases.Snapshot(ctx)
		if err != nil {
			return fmt.Errorf("list the Releases of namespace %s: %w", namespace, err)
		}
		under[namespace] = map[types.UID]bool{}
		for _, o := range all {
			// One that can't be read may be under way.
			if r := c.read(o); r != nil && !done(r) {
				under[namespace][r.UID] = true
			} else if a, ok := o.(metav1.Object); ok && r == nil {
				under[namespace][a.GetUID()] = true
			}
		}
	}
	if under[namespace][record.Release] {
		return nil
	}
	_, err := c.writeRoute(ctx, u, restored(u, record), nil)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("put %s %s/%s back: %w", u.GetKind(), namespace, u.GetName(), err)
	}
	c.Log.Info("a route is put back whose release is no more", "namespace", namespace, "kind", u.GetKind(), "route", u.GetName(), "release", record.Release)
	return nil
}

// strange says whether the record of a route is of a release that no desk has.
func (c *Controller) strange(u *unstructured.Unstructured) bool {
	record := recordOf(u)
	if record == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, d := range c.desks {
		if key.Namespace == u.GetNamespace() && d.has(record.Release) {
			return false
		}
	}
	return c.seen
}
