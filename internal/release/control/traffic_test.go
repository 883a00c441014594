package control

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	kubetesting "k8s.io/client-go/testing"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/gateway"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

var webRoute = v1alpha1.TrafficRoute{Kind: v1alpha1.HTTPRoute, Name: "web"}

// routed is a release at a twentieth whose requests a route shares, at a gateway that has
// seen a generation of it.
func routed(t *testing.T) *course {
	t.Helper()
	co := underWay(t)
	co.r.Spec.Service, co.r.Spec.Traffic.Routes = "cart", []v1alpha1.TrafficRoute{webRoute}
	u := &unstructured.Unstructured{Object: map[string]any{
		"kind": "HTTPRoute", "metadata": map[string]any{"name": "web", "namespace": "shop", "generation": int64(1), "resourceVersion": "1"},
		"spec": map[string]any{
			"parentRefs": []any{map[string]any{"name": "gw"}},
			"rules":      []any{map[string]any{"backendRefs": []any{map[string]any{"name": "cart", "port": int64(80), "weight": int64(1)}}}},
		},
	}}
	co.scene.routes = map[v1alpha1.TrafficRoute]*unstructured.Unstructured{webRoute: u}
	co.direct()
	co.saves(t)
	return co
}

// routeWritten has the route be what the course's routing says.
func (co *course) routeWritten(t *testing.T) {
	t.Helper()
	u := co.scene.routes[webRoute].DeepCopy()
	w, err := rewritten(co, u, co.routing)
	if err != nil {
		t.Fatal(err)
	}
	record := gateway.Record{Release: co.r.UID, Service: "cart", Canary: "cart-canary", Was: w.was, Made: w.made, From: w.from}
	u.SetAnnotations(map[string]string{v1alpha1.ReleasedAnnotation: record.String()})
	if err := unstructured.SetNestedSlice(u.Object, w.made, "spec", "rules"); err != nil {
		t.Fatal(err)
	}
	u.SetGeneration(u.GetGeneration() + 1)
	co.scene.routes[webRoute] = u
}

// accepts has the gateway's controller say that it has a generation of the route.
func (co *course) accepts(generation int64, status string) {
	u := co.scene.routes[webRoute].DeepCopy()
	condition := func(kind string) any {
		return map[string]any{"type": kind, "status": status, "observedGeneration": generation, "message": "so it is"}
	}
	u.Object["status"] = map[string]any{"parents": []any{map[string]any{
		"controllerName": "c", "parentRef": map[string]any{"name": "gw"}, "conditions": []any{condition("Accepted"), condition("ResolvedRefs")},
	}}}
	co.scene.routes[webRoute] = u
}

func TestGatewaysObeyWhenAllOfThemHaveTheRoute(t *testing.T) {
	co := routed(t)
	if !co.routing.ByRoutes || !cmp.Equal(co.routing.Before, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}) {
		t.Errorf("the routing is %+v", co.routing)
	}
	steps := []struct {
		name   string
		change func()
		want   bool
		say    string // problem, or why
	}{
		{"it is not written", func() {}, false, "no controller says anything"},
		{"it is", func() { co.routeWritten(t) }, false, "no controller says anything"},
		{"the controller has the one before", func() { co.accepts(1, "True") }, false, "generation 1 of the route, and not yet 2"},
		{"the controller refuses it", func() { co.accepts(2, "False") }, false, "Accepted is False: so it is"},
		{"the controller has it", func() { co.accepts(2, "True") }, true, ""},
		{"pods come and go", func() { co.scene.pods["two"][0].Status.Conditions = nil; co.direct() }, true, ""},
		{"another weight", func() { co.State.Route.Weight = 1000; co.direct() }, false, ""},
		{"the route is gone", func() { delete(co.scene.routes, webRoute) }, false, "there is no HTTPRoute web in namespace shop"},
	}
	for _, s := range steps {
		s.change()
		byGateways{}.see(co)
		if got := co.obeyed() == co.State.Route.Generation; got != s.want {
			t.Errorf("%s: obeyed %v, %+v", s.name, got, co.gateways)
		}
		if text := fmt.Sprintf("%+v", co.gateways); s.say != "" && !strings.Contains(text, s.say) {
			t.Errorf("%s: %s", s.name, text)
		}
	}
}

func TestWhatARouteIsToBe(t *testing.T) {
	co := routed(t)
	before := rulesOf(co.scene.routes[webRoute])
	if w, err := rewritten(co, co.scene.routes[webRoute], &v1alpha1.Routing{}); err != nil || !w.done {
		t.Errorf("nothing of it: %+v, %v", w, err)
	}
	co.routeWritten(t)
	w, err := rewritten(co, co.scene.routes[webRoute], co.routing)
	if err != nil || !w.done || w.edited || !leadsThere(co, co.scene.routes[webRoute]) {
		t.Errorf("as it is: %+v, %v", w, err)
	}
	w, err = rewritten(co, co.scene.routes[webRoute], &v1alpha1.Routing{Shut: true, Weight: 0, Canary: "two"})
	if diff := cmp.Diff(before, w.made); diff != "" || err != nil || w.done {
		t.Errorf("shut: %v (-want +got):\n%s", err, diff)
	}
	// Somebody brings back what they have in git.
	u := co.scene.routes[webRoute].DeepCopy()
	if err := unstructured.SetNestedSlice(u.Object, before, "spec", "rules"); err != nil {
		t.Fatal(err)
	}
	if w, err = rewritten(co, u, co.routing); err != nil || w.done || !w.edited || !cmp.Equal(w.was, before) {
		t.Errorf("overwritten: %+v, %v", w, err)
	}
	co.r.UID, co.Template = "another", ""
	if w, err = rewritten(co, u, co.routing); err != nil || !cmp.Equal(w.was, before) {
		t.Errorf("another's, before this one has begun: %+v, %v", w, err)
	}
	co.Template = "begun"
	if _, err = rewritten(co, u, co.routing); err == nil || !strings.Contains(err.Error(), "another release shares its requests") {
		t.Errorf("another's: %v", err)
	}
}

func TestRoutesThatAreNotSeen(t *testing.T) {
	co := routed(t)
	missing := apierrors.NewNotFound(gateway.Resource(v1alpha1.HTTPRoute).GroupResource(), "")
	for err, want := range map[error]string{missing: "installs the CRDs of Gateway API", errors.New("refused"): "HTTPRoutes are not seen: refused"} {
		co.scene.blind = map[string]error{v1alpha1.HTTPRoute: err}
		if got := co.scene.unseen(webRoute, "shop"); got == nil || !strings.Contains(got.Error(), want) {
			t.Errorf("%v: %v, want %q", err, got, want)
		}
	}
}

// The Service of the canary is nobody's whose requests are kept from the new pods.
func TestTheServiceOfTheCanaryIsNotPinned(t *testing.T) {
	s := stage()
	own := s.service.DeepCopy()
	own.Name, own.Labels = "cart-canary", map[string]string{v1alpha1.CanaryLabel: "cart"}
	own.Spec.Selector[hashLabel] = "one"
	s.services = []*corev1.Service{own}
	if len(s.leading()) > 0 || len(s.pinned()) > 0 {
		t.Errorf("it leads: %d, it is pinned: %d", len(s.leading()), len(s.pinned()))
	}
	long := strings.Repeat("a", 63)
	if a, b := canaryService(long), canaryService(long[:62]+"b"); len(a) > 63 || a == b || !strings.HasSuffix(a, "-canary") || canaryService("cart") != "cart-canary" {
		t.Errorf("%s and %s", a, b)
	}
}

// An outage that both versions have is no evidence, though the node with the canary tells
// of it first.
func TestWhatOneNodeSeesOfTheCanaryWaitsForTheOthers(t *testing.T) {
	co := routed(t)
	if err := co.sit(); err != nil {
		t.Fatal(err)
	}
	failed := func(canary bool, n int64) verdict.Counts {
		c := verdict.Cell{Weight: 0.05}
		if canary {
			c.Canary.Failed = n
		} else {
			c.Stable.Failed = n
		}
		return verdict.Counts{Cells: []verdict.Cell{c}}
	}
	now := time.Now()
	co.bench.takeApart(spec.Batch{Node: "b", Boot: "x", Seq: 1, Counts: failed(true, 20)}, now)
	co.bench.takeApart(spec.Batch{Node: "b", Boot: "x", Seq: 1, Counts: failed(true, 20)}, now) // again
	co.bench.takeApart(spec.Batch{Node: "a", Boot: "x", Seq: 1, Counts: failed(false, 380)}, now.Add(time.Second))
	if v := co.bench.judge.Verdict(co.bench.state); v.Is == verdict.Bad || len(co.bench.late) != 1 {
		t.Errorf("at once it is %s, and %d wait", v.Is, len(co.bench.late))
	}
	co.bench.catchUp(now.Add(lateness - 1))
	if len(co.bench.late) != 1 {
		t.Error("it counts too early")
	}
	co.bench.catchUp(now.Add(lateness))
	if v := co.bench.judge.Verdict(co.bench.state); v.Is == verdict.Bad || v.E > 1000 || len(co.bench.late) != 0 {
		t.Errorf("an outage of both is %s: %s", v.Is, v.Why)
	}
	co.bench.takeApart(spec.Batch{Node: "b", Boot: "x", Seq: 2, Counts: failed(true, 40)}, now.Add(time.Minute))
	co.bench.catchUp(now.Add(time.Minute + lateness))
	if v := co.bench.judge.Verdict(co.bench.state); v.Is != verdict.Bad {
		t.Errorf("one of the canary alone is %s: %s", v.Is, v.Why)
	}
	if co.scene.onlyAt(co.routing, "a") { // the pods of the test are on no node
		t.Error("a node that has no pod of stable has all of them")
	}
}

// What the ward keeps is a copy that nobody changes.
func TestARouteThatIsSeenIsNotChanged(t *testing.T) {
	co := routed(t)
	was := runtime.DeepCopyJSON(co.scene.routes[webRoute].Object)
	byGateways{}.see(co)
	if diff := cmp.Diff(was, co.scene.routes[webRoute].Object); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Some gateways take a match whose method or parameters they don't know for one of everything: where the class tells what
// it can, an order that asks for more is not written, and the status says why.
func TestAnOrderThatAGatewayCannotDoIsNotWritten(t *testing.T) {
	gw := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": map[string]any{"name": "gw", "namespace": "shop"},
		"spec": map[string]any{"gatewayClassName": "plain"},
	}}
	class := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": map[string]any{"name": "plain"},
		"status": map[string]any{"supportedFeatures": []any{map[string]any{"name": "HTTPRouteMethodMatching"}, map[string]any{"name": "HTTPRouteRequestMirror"}}},
	}}
	c, client, _ := gatewayed(t)
	for kind, u := range map[string]*unstructured.Unstructured{"Gateway": gw, "GatewayClass": class} {
		if err := client.Tracker().Create(gateway.Resource(kind), u, u.GetNamespace()); err != nil {
			t.Fatal(err)
		}
	}
	asked := 0
	client.PrependReactor("get", "gateways", func(kubetesting.Action) (bool, runtime.Object, error) {
		asked++
		return false, nil, nil
	})
	d := newDesk(c, types.NamespacedName{Namespace: "shop", Name: "cart"})
	co := routed(t)
	for _, step := range []struct {
		name   string
		order  v1alpha1.ReleaseRoute
		mirror release.Weight
		shut   bool
		want   string // of the refusal, "" for none
		copies bool   // are what it can't do
		asking int
	}{
		{"a header", v1alpha1.ReleaseRoute{Headers: []v1alpha1.HeaderMatch{{Name: "x", Value: "1"}}}, 0, false, "", false, 0},
		{"a method", v1alpha1.ReleaseRoute{Methods: []string{"GET"}}, 0, false, "", false, 1},
		{"another one", v1alpha1.ReleaseRoute{Methods: []string{"PUT"}}, 0, false, "", false, 1},
		{"a parameter", v1alpha1.ReleaseRoute{Query: []v1alpha1.HeaderMatch{{Name: "q", Value: "1"}}}, 0, false, "gateway shop/gw, of class plain, has no HTTPRouteQueryParamMatching", false, 2},
		{"it is undone", v1alpha1.ReleaseRoute{Query: []v1alpha1.HeaderMatch{{Name: "q", Value: "1"}}}, 0, true, "", false, 2},
		{"copies of all, by a plan that was changed", v1alpha1.ReleaseRoute{Headers: []v1alpha1.HeaderMatch{{Name: "x", Value: "1"}}}, release.All, false, "", false, 3},
		{"copies of some", v1alpha1.ReleaseRoute{Headers: []v1alpha1.HeaderMatch{{Name: "x", Value: "1"}}}, 50, false, "gateway shop/gw, of class plain, has no HTTPRouteRequestPercentageMirror", true, 4},
		{"copies of all, and a parameter", v1alpha1.ReleaseRoute{Query: []v1alpha1.HeaderMatch{{Name: "q", Value: "1"}}}, release.All, false, "gateway shop/gw, of class plain, has no HTTPRouteQueryParamMatching", false, 5},
	} {
		step.order.To = v1alpha1.Canary
		co.Heeded.Routes, co.State.Route.Shut, co.State.Opened = []v1alpha1.ReleaseRoute{step.order}, step.shut, true
		co.State.Route.Mirror = step.mirror
		co.direct()
		why, wrong := d.capable(t.Context(), co, webRoute, co.scene.routes[webRoute])
		if wrong != nil || (why == nil) != (step.want == "") || why != nil && !strings.Contains(why.Error(), step.want) || asked != step.asking {
			t.Errorf("%s: %v, %v, asked %d times; want %q, %d times", step.name, why, wrong, asked, step.want, step.asking)
		}
		if got := co.cannotMirror(webRoute); got != step.copies {
			t.Errorf("%s: it can't copy: %v", step.name, got)
		}
		byGateways{}.see(co)
		if problem := co.gateways[0].Problem; (problem == "") != (step.want == "") || !strings.Contains(problem, step.want) {
			t.Errorf("%s: the status says %q, want %q", step.name, problem, step.want)
		}
	}
}
