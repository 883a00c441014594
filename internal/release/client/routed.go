package client

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/release/gateway"
	"github.com/bightdev/bight/internal/release/spec"
)

// routed refuses routes of Gateway API that can't share the requests of a release as its
// plan says. The controller looks again, and asks the API server, too.
func (c *Client) routed(ctx context.Context, r *v1alpha1.Release) error {
	plan := spec.Expand(r.Spec.Plan)
	for _, t := range r.Spec.Traffic.Routes {
		if err := gateway.Sayable(t.Kind, plan.Routes, plan.Affinity); err != nil {
			return refuse("%s", err)
		}
		u, err := c.dynamic.Resource(gateway.Resource(t.Kind)).Namespace(c.namespace).Get(ctx, t.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) && nameless(err):
			return refuse("the cluster knows no kind %s of gateway.networking.k8s.io/v1: whoever runs it installs the CRDs of Gateway API (standard channel), and what implements it; without --route doors share the requests", t.Kind)
		case apierrors.IsNotFound(err):
			return &NotFoundError{fmt.Sprintf("there is no %s %s in namespace %s", t.Kind, t.Name, c.namespace)}
		case kube.KindOf(c.cluster.Explain(err)) == kube.Forbidden:
			continue // who may not see it may not change it, which the API server says
		case err != nil:
			return fmt.Errorf("read %s %s: %w", t.Kind, t.Name, c.cluster.Explain(err))
		}
		if err := shareable(r, t, u); err != nil {
			return err
		}
	}
	return nil
}

// nameless says that not the object is missing but its kind.
func nameless(err error) bool {
	status, ok := err.(apierrors.APIStatus)
	return ok && (status.Status().Details == nil || status.Status().Details.Name == "")
}

// shareable refuses a route that can't say what a plan does, or that no gateway has.
func shareable(r *v1alpha1.Release, t v1alpha1.TrafficRoute, u *unstructured.Unstructured) error {
	plan, err := spec.Plan(r.Spec.Plan)
	if err != nil {
		return refuse("%s", err)
	}
	what := t.Kind + " " + t.Name
	rules, _, _ := unstructured.NestedSlice(u.Object, "spec", "rules")
	if record := gateway.ReadRecord(u.GetAnnotations()[v1alpha1.ReleasedAnnotation]); record != nil {
		// Another release is about to end; the controller waits for that.
		rules = record.Was
	}
	for _, step := range plan.Steps {
		share := gateway.Of(t.Kind, u.GetNamespace(), r.Spec.Service, "the-canary", &v1alpha1.Routing{
			Weight: int32(step.Weight), Mirror: int32(step.Mirror), Canary: "any", Routes: spec.Expand(r.Spec.Plan).Routes,
		})
		if _, _, err := gateway.Apply(rules, share); err != nil {
			return refuse("%s: %s", what, err)
		}
	}
	parents := gateway.Parents(u.Object)
	if len(parents) == 0 {
		return refuse("%s has no parentRefs, so no gateway has it", what)
	}
	for _, p := range parents {
		if !p.Obeys {
			return refuse("%s: gateway %s does not have it (%s): it can't share requests", what, p.Gateway, p.Why)
		}
	}
	return nil
}
