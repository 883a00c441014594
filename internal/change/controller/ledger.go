package controller

import (
	"context"
	"errors"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/change/repo/access"
	"github.com/bightdev/bight/internal/stats"
)

// Ledger remembers how changes have gone, and answers who asks. Its methods are called
// from several goroutines.
type Ledger interface {
	// Lead is called when this process begins to lead, before anything else. After an error
	// it takes nothing in.
	Lead(ctx context.Context) error
	// Change is told of a change as it is now, which must not be changed, and of its App,
	// nil for one that is no more. findings are what its review has found.
	Change(a *v1alpha1.App, m *v1alpha1.Change, findings func() []stats.Finding)
	// Answer answers a request at [stats.Path]. may says whether who asks may list the
	// objects of a resource in a namespace, or with "" in all: no is a
	// [stats.ErrForbidden].
	Answer(w http.ResponseWriter, r *http.Request, may func(resource, namespace string) error)
}

// account has the ledger told of all changes, from now on. Without one, changes go on all
// the same.
func (c *Controller) account(ctx context.Context) (forget func(), err error) {
	if err := c.Ledger.Lead(ctx); err != nil {
		c.Log.Error("there is no record of what ends, until another controller leads", "err", err)
		return func() {}, nil
	}
	informer, err := c.caches.GetInformer(ctx, &v1alpha1.Change{})
	if err != nil {
		return nil, err
	}
	tell := func(o any) {
		m, ok := o.(*v1alpha1.Change)
		if !ok || ctx.Err() != nil {
			return
		}
		a := &v1alpha1.App{}
		if err := c.client.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Spec.App}, a); err != nil {
			a = nil
		}
		c.Ledger.Change(a, m, func() []stats.Finding { return c.found(m) })
	}
	on, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, now any) { tell(now) }})
	if err != nil {
		return nil, err
	}
	return func() { _ = informer.RemoveEventHandler(on) }, nil // it ends with the process at the latest
}

// found are the findings of a change's review.
func (c *Controller) found(m *v1alpha1.Change) []stats.Finding {
	var all []stats.Finding
	for _, f := range c.findings(m) {
		all = append(all, stats.Finding{Rule: f.Rule, Tool: f.Tool, Severity: f.Severity, Message: f.Message, File: f.File, Line: f.Line})
	}
	return all
}

// PlaceOf says whose environment a namespace is, as far as is known here, without asking
// the API server.
func (c *Controller) PlaceOf(ctx context.Context, namespace string) stats.Place {
	p := stats.Place{Namespace: namespace}
	ns := &corev1.Namespace{}
	if c.caches == nil || c.caches.Get(ctx, client.ObjectKey{Name: namespace}, ns) != nil {
		return p
	}
	a := &v1alpha1.App{}
	key := client.ObjectKey{Namespace: ns.Labels[v1alpha1.AppNamespaceLabel], Name: ns.Labels[v1alpha1.AppLabel]}
	if key.Name == "" || c.client.Get(ctx, key, a) != nil {
		return p
	}
	return stats.PlaceOf(a, ns.Labels[v1alpha1.EnvironmentLabel], namespace)
}

// ChangeOf returns a change by NAMESPACE/NAME, nil for one that is not there.
func (c *Controller) ChangeOf(ctx context.Context, namespace, name string) *v1alpha1.Change {
	m := &v1alpha1.Change{}
	if c.client == nil || c.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, m) != nil {
		return nil
	}
	return m
}

// Load is what the controller is at: steps that wait for a worker, and those that one
// has; and how many workers there are.
func (c *Controller) Load() (waiting, leased, workers int) {
	if c.hub == nil {
		return 0, 0, 0
	}
	return c.hub.Load()
}

// MayScrape tells whether who sends a request may get a path: nil, or why not, and the
// status that says so.
func (c *Controller) MayScrape(r *http.Request, path string) (int, error) {
	if c.scrapers == nil {
		return http.StatusServiceUnavailable, errors.New("the controller has not begun yet")
	}
	user, err := c.scrapers.Authenticate(r.Context(), r)
	switch {
	case errors.Is(err, repo.ErrUnauthenticated):
		return http.StatusUnauthorized, err
	case err == nil:
		err = c.scrapers.MayGet(r.Context(), user, path)
	}
	switch {
	case errors.Is(err, access.ErrDenied):
		return http.StatusForbidden, err
	case err != nil:
		return http.StatusServiceUnavailable, err
	}
	return http.StatusOK, nil
}

// serveStats tells how changes and releases have gone.
func (c *Controller) serveStats(w http.ResponseWriter, r *http.Request) {
	user, err := c.git.Access.Authenticate(r.Context(), r)
	switch {
	case errors.Is(err, repo.ErrUnauthenticated):
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	c.Ledger.Answer(w, r, func(resource, namespace string) error {
		err := c.tokens.MayList(r.Context(), user, resource, namespace)
		if errors.Is(err, access.ErrDenied) {
			return stats.ErrForbidden
		}
		return err
	})
}
