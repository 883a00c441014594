package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/gateway"
	"github.com/bightdev/bight/internal/release/spec"
)

const (
	// lookBack is how long after it was tried routes are looked at again that are put back.
	lookBack = 500 * time.Millisecond
	// longestLeave is how long gateways may take to leave the canary before it is taken away
	// all the same, longestUndone that where its own pods hand all requests back, and longestDoor how long its doors may take before it gets a request.
	longestLeave, longestUndone, longestDoor = 30 * time.Second, 10 * time.Minute, 3 * time.Second
	// hearing is how long gateways may take to hear of pods that everybody else has heard of.
	hearing = time.Second
	// lagging is how long gateways may still do what they did before they said that they do
	// something else: many say it when they have read it.
	lagging = 5 * time.Second
	// meddling is how long it is not told again that somebody changes a route.
	meddling = time.Minute
	// maxOriginal is how long an annotation may be, of all annotations of an object.
	maxOriginal = 200 << 10
)

// canaryService is how the Service is called that leads to the new version alone.
func canaryService(service string) string {
	const suffix = "-canary"
	if len(service)+len(suffix) > 63 {
		sum := sha256.Sum256([]byte(service))
		service = strings.TrimRight(service[:63-len(suffix)-9], "-") + "-" + hex.EncodeToString(sum[:4])
	}
	return service + suffix
}

// byGateways are routes of Gateway API, whose rules lead to the Service and to another one
// that leads to the canary.
type byGateways struct{}

// fit looks at all that the plan may ask of the routes.
func (byGateways) fit(ctx context.Context, d *desk, co *course) error {
	plan, err := spec.Plan(co.r.Spec.Plan)
	if err != nil {
		return refuse("%s", err)
	}
	name := canaryService(co.r.Spec.Service)
	for _, service := range co.scene.services {
		if service.Name == name && service.Labels[v1alpha1.CanaryLabel] != co.r.Spec.Service {
			return refuse("there is a Service %s already, and a release that is shared by routes makes one of that name: give it another", name)
		}
	}
	for _, ref := range co.r.Spec.Traffic.Routes {
		routes := slices.Concat(co.Heeded.Routes, co.r.Spec.Plan.Routes)
		if err := gateway.Sayable(ref.Kind, routes, co.r.Spec.Plan.Affinity); err != nil {
			return refuse("%s", err)
		}
		if err := co.scene.unseen(ref, co.r.Namespace); err != nil {
			return err
		}
		u := co.scene.routes[ref]
		what := ref.Kind + " " + ref.Name
		steps := append(slices.Clone(plan.Steps), release.Step{Weight: release.All})
		for _, step := range steps {
			as := &v1alpha1.Routing{Weight: int32(step.Weight), Mirror: int32(step.Mirror), Canary: "any", Routes: routes}
			w, err := rewritten(co, u, as)
			if err != nil {
				return refuse("%s: %s", what, err)
			}
			if err := d.tried(ctx, co, u, w); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		least := int64(0) // who can copy that much can copy more
		for _, step := range plan.Steps {
			if m := int64(step.Mirror); m > 0 && (least == 0 || m < least) {
				least = m
			}
		}
		if err := d.able(ctx, u, gateway.Needs(ref.Kind, least, routes)); err != nil {
			return err
		}
		parents := gateway.Parents(u.Object)
		if len(parents) == 0 {
			return fmt.Errorf("%s has no parentRefs, so no gateway has it", what)
		}
		for _, p := range parents {
			if !p.Obeys {
				return fmt.Errorf("%s: gateway %s does not have it: %s", what, p.Gateway, p.Why)
			}
		}
	}
	return nil
}

// onlyAt says whether no pod of stable is on another node.
func (s scene) onlyAt(r *v1alpha1.Routing, node string) bool {
	return r != nil && !slices.ContainsFunc(s.podsOf(s.setWith(r.Stable)), func(p *corev1.Pod) bool { return p.Spec.NodeName != node })
}

// see notes what routes are, and what gateways say of them.
func (byGateways) see(co *course) {
	var all []v1alpha1.RouteStatus
	for i, ref := range co.r.Spec.Traffic.Routes {
		s := v1alpha1.RouteStatus{Kind: ref.Kind, Name: ref.Name}
		if i < len(co.gateways) {
			s.Generation = co.gateways[i].Generation
		}
		if err := co.scene.unseen(ref, co.r.Namespace); err != nil {
			s.Problem = err.Error()
			all = append(all, s)
			continue
		}
		u := co.scene.routes[ref]
		s.Parents = gateway.Parents(u.Object)
		w, err := rewritten(co, u, co.routing)
		switch {
		case err != nil:
			s.Problem = err.Error()
		case w.done:
			s.Generation = co.routing.Generation
		case co.unable[ref].why != nil && slices.Equal(co.unable[ref].of, co.needs(ref)):
			s.Problem = co.unable[ref].why.Error()
		}
		all = append(all, s)
	}
	co.gateways = all
}

func (byGateways) obeyed(co *course) bool {
	return len(co.gateways) > 0 && !slices.ContainsFunc(co.gateways, func(s v1alpha1.RouteStatus) bool { return !spec.Obeys(s, co.Since) })
}

// share makes the Service of the canary, and writes the routes.
func (byGateways) share(ctx context.Context, d *desk, co *course) (time.Time, error) {
	if co.newer || co.State.Cleaned {
		return time.Time{}, nil // what comes next has them, or they are put back
	}
	if co.routing.Canary != "" && !co.routing.Shut {
		if err := d.canaryService(ctx, co); err != nil {
			return time.Time{}, err
		}
	}
	var next time.Time
	var errs []error
	for _, ref := range co.r.Spec.Traffic.Routes {
		if co.scene.unseen(ref, co.r.Namespace) != nil {
			continue
		}
		u := co.scene.routes[ref]
		w, err := rewritten(co, u, co.routing)
		if err == nil && !w.done {
			why, wrong := d.capable(ctx, co, ref, u)
			if wrong != nil {
				errs = append(errs, wrong)
				continue
			}
			err = why
		}
		if err != nil { // a route by hand, or an edit: without the routes it can say that, mostly
			plain := co.routing.DeepCopy()
			plain.Routes = nil
			if co.cannotMirror(ref) {
				plain.Mirror = 0
			}
			if w, err = rewritten(co, u, plain); err != nil {
				continue
			}
		}
		if w.done || co.sent[ref] == u.GetResourceVersion() { // there will be news of it
			continue
		}
		if !leadsThere(co, u) && (co.routing.Weight > 0 || co.routing.Mirror > 0 || len(co.routing.Routes) > 0) {
			if ready, err := d.receives(ctx, co); err != nil || !ready {
				next, errs = earlier(next, time.Now().Add(again)), append(errs, err)
				continue
			}
		}
		if w.edited && recordOf(u) != nil || co.Shared && recordOf(u) == nil {
			co.meddle(ref)
		}
		if _, err := d.patchRoute(ctx, co, u, w); err != nil {
			if expected(err) != nil {
				errs = append(errs, fmt.Errorf("write %s %s: %w", ref.Kind, ref.Name, err))
			}
			continue
		}
		if obey, of := spec.Inside(co.r); !co.Shared && obey < of {
			co.say("no doors of %d of %d pods of the version tell what becomes of their requests: there it is judged by guards and pods alone, and undone by gateways", of-obey, of)
		}
		if co.Shared = true; co.sent == nil {
			co.sent = map[v1alpha1.TrafficRoute]string{}
		}
		co.sent[ref] = u.GetResourceVersion()
	}
	return next, errors.Join(errs...)
}

// meddle tells that somebody has changed a route in the middle of the release.
func (co *course) meddle(ref v1alpha1.TrafficRoute) {
	if time.Since(co.meddled) < meddling {
		return
	}
	co.meddled = time.Now()
	co.say("somebody has changed %s %s: what they want stays, and the requests are shared again", ref.Kind, ref.Name)
}

// canaryService makes the Service that leads to the new version alone, as the other is.
func (d *desk) canaryService(ctx context.Context, co *course) error {
	from := co.scene.service
	if from == nil {
		return nil
	}
	want := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Name: canaryService(from.Name), Namespace: from.Namespace, Annotations: maps.Clone(from.Annotations),
		Labels: map[string]string{v1alpha1.CanaryLabel: from.Name, v1alpha1.ServiceLabel: co.r.Spec.Deployment},
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: v1alpha1.GroupVersion().String(), Kind: "Release", Name: co.r.Name, UID: co.r.UID, Controller: ptr.To(true),
		}},
	}}
	delete(want.Annotations, corev1.LastAppliedConfigAnnotation)
	want.Spec.Selector = maps.Clone(from.Spec.Selector)
	want.Spec.Selector[hashLabel] = co.routing.Canary
	if from.Spec.ClusterIP == corev1.ClusterIPNone {
		want.Spec.ClusterIP = corev1.ClusterIPNone
	}
	for _, p := range from.Spec.Ports {
		p.NodePort = 0
		want.Spec.Ports = append(want.Spec.Ports, p)
	}
	services := d.c.typed.CoreV1().Services(want.Namespace)
	i := slices.IndexFunc(co.scene.services, func(s *corev1.Service) bool { return s.Name == want.Name })
	if i < 0 {
		_, err := services.Create(ctx, want, metav1.CreateOptions{FieldManager: manager})
		if apierrors.IsAlreadyExists(err) {
			return nil // there will be news of it
		}
		return err
	}
	has := co.scene.services[i]
	if apiequality.Semantic.DeepEqual(has.Spec.Selector, want.Spec.Selector) && apiequality.Semantic.DeepEqual(has.Spec.Ports, want.Spec.Ports) &&
		apiequality.Semantic.DeepEqual(has.OwnerReferences, want.OwnerReferences) {
		return nil
	}
	next := has.DeepCopy()
	next.Spec.Selector, next.Spec.Ports, next.OwnerReferences, next.Labels = want.Spec.Selector, want.Spec.Ports, want.OwnerReferences, want.Labels
	_, err := services.Update(ctx, next, metav1.UpdateOptions{FieldManager: manager})
	return expected(err)
}

// receives says whether the canary's Service has pods, and these have doors where others
// have: a gateway gives an error for what nobody takes.
func (d *desk) receives(ctx context.Context, co *course) (bool, error) {
	list, err := d.c.typed.DiscoveryV1().EndpointSlices(co.r.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + canaryService(co.r.Spec.Service),
	})
	if err != nil {
		return false, fmt.Errorf("look for the pods of Service %s: %w", canaryService(co.r.Spec.Service), err)
	}
	ready := slices.ContainsFunc(list.Items, func(s discoveryv1.EndpointSlice) bool {
		return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return ptr.Deref(e.Conditions.Ready, true) })
	})
	if !ready {
		co.opening = time.Time{}
		return false, nil
	}
	if co.opening.IsZero() {
		co.opening = time.Now()
	}
	obey, of := spec.Inside(co.r)
	since := time.Since(co.opening)
	return since > hearing && (obey >= of || len(co.r.Status.Doors) == 0 || since > longestDoor), nil
}

// back puts all routes back that are this release's. When the gateways have that, the
// Service of the canary goes.
func (byGateways) back(ctx context.Context, d *desk, co *course) (bool, error) {
	written := false
	for _, ref := range sortedRoutes(co.scene) {
		u := co.scene.routes[ref]
		record := recordOf(u)
		if record == nil || record.Release != co.r.UID {
			continue
		}
		written = true
		was, _ := gateway.Restore(rulesOf(u), record, shareOf(co, ref.Kind, nil))
		if _, err := d.c.writeRoute(ctx, u, was, nil); expected(err) != nil {
			return false, fmt.Errorf("put %s %s back: %w", ref.Kind, ref.Name, err)
		}
	}
	i := slices.IndexFunc(co.scene.services, func(s *corev1.Service) bool {
		return s.Labels[v1alpha1.CanaryLabel] != "" && metav1.IsControlledBy(s, co.r)
	})
	switch {
	case written:
		return false, nil
	case i < 0:
		return true, nil
	}
	if co.leaving.IsZero() {
		co.leaving = time.Now()
	}
	longest := longestLeave
	if co.State.Phase == release.Undone { // stable answers meanwhile
		longest = longestUndone
	}
	for _, ref := range co.r.Spec.Traffic.Routes {
		if err := co.scene.blind[ref.Kind]; err != nil && !apierrors.IsNotFound(err) {
			return false, co.scene.unseen(ref, co.r.Namespace)
		}
		u := co.scene.routes[ref]
		if u == nil || time.Since(co.leaving) > longest {
			continue
		}
		if slices.ContainsFunc(gateway.Parents(u.Object), func(p gateway.Parent) bool { return !p.Obeys }) {
			return false, nil
		}
	}
	if time.Since(co.leaving) < lagging { // many say so before they do
		return false, nil
	}
	name := co.scene.services[i].Name
	err := d.c.typed.CoreV1().Services(co.r.Namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &co.scene.services[i].UID}})
	if expected(err) != nil {
		return false, fmt.Errorf("remove Service %s: %w", name, err)
	}
	return true, nil
}
