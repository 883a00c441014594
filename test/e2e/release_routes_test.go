//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/gateway"
)

// ownRoute is a route as its owner has written it, with more than Bight knows of.
const ownRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: till}
spec:
  parentRefs: [{name: nobodys, sectionName: web}]
  hostnames: [till.example.com]
  rules:
  - name: stock
    matches: [{path: {type: PathPrefix, value: /stock}}]
    backendRefs: [{name: stock, port: 8080}]
  - name: till
    matches: [{path: {type: PathPrefix, value: /}}]
    timeouts: {request: 60s}
    backendRefs: [{name: till, port: 8080, weight: 3}, {name: cart, port: 8080, weight: 1}]
`

// classKind is as much of Gateway and GatewayClass as a gateway has to be known by, and one that has all that there is but
// a way to tell parameters.
const classKind = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: %[2]ss.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "unapproved, for a test"}
spec:
  group: gateway.networking.k8s.io
  scope: %[3]s
  names: {kind: %[1]s, plural: %[2]ss, singular: %[2]s, listKind: %[1]sList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
`

const ownGateway = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: nobodys}
status: {supportedFeatures: [{name: HTTPRoute}, {name: HTTPRouteMethodMatching}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: nobodys}
spec: {gatewayClassName: nobodys}
---
`

// routeLane is what the tests of what is written into a route need: a cluster that knows HTTPRoutes,
// one of them, and somebody who says of each generation that a gateway has it. Requests go to no gateway.
type routeLane struct {
	*bay
	routes dynamic.ResourceInterface
}

// TestReleaseRoutes kills who acts while routes of Gateway API share the requests of a release, and
// takes releases away. In the end each route is as its owner wrote it.
func TestReleaseRoutes(t *testing.T) {
	b := newReleaseBay(t)
	classes := strings.ReplaceAll(fmt.Sprintf(classKind, "GatewayClass", "gatewayclass", "Cluster"), "gatewayclasss", "gatewayclasses")
	b.write("kind.yaml", classes+fmt.Sprintf(classKind, "Gateway", "gateway", "Namespaced")+
		strings.ReplaceAll(routeKind, "    schema:", "    subresources: {status: {}}\n    schema:"))
	b.write("route.yaml", ownGateway+ownRoute)
	if out, err := b.kubectl("apply", "-f", b.dir+"/kind.yaml"); err != nil {
		t.Fatal(out, err)
	}
	t.Cleanup(func() {
		if out, err := b.kubectl("delete", "-f", b.dir+"/kind.yaml"); err != nil {
			t.Error(out, err)
		}
	})
	b.eventually("the route is there", func() error {
		out, err := b.kubectl("apply", "-n", b.namespace, "-f", b.dir+"/route.yaml")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	d, err := b.cluster().Dynamic()
	if err != nil {
		t.Fatal(err)
	}
	routes := d.Resource(gateway.Resource(v1alpha1.HTTPRoute)).Namespace(b.namespace)
	obeyRoutes(t, routes)
	for _, step := range []struct {
		name string
		run  func(*routeLane)
	}{
		{"ByMethod", testRoutesByMethod},
		{"LeaderKilledInACanary", testRoutesLeaderKilledInACanary},
		{"LeaderKilledAtUndo", testRoutesLeaderKilledAtUndo},
		{"LeaderKilledAtPromotion", testRoutesLeaderKilledAtPromotion},
		{"RemovedByForce", testRoutesRemovedByForce},
		{"RemovedByForceWhileAnotherWaits", testRoutesRemovedByForceWhileAnotherWaits},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(&routeLane{bay: b.on(t), routes: routes}) }) {
			t.Fatal("the rest builds on this")
		}
	}
}

// obeyRoutes says of each generation of each route, as the controller of a gateway does, that its
// gateway has it.
func obeyRoutes(t *testing.T, routes dynamic.ResourceInterface) {
	t.Helper()
	w, err := routes.Watch(context(), meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { w.Stop(); <-ended })
	go func() {
		defer close(ended)
		for e := range w.ResultChan() {
			u, ok := e.Object.(*unstructured.Unstructured)
			if !ok || e.Type == watch.Deleted {
				continue
			}
			var conditions []any
			for _, kind := range []string{"Accepted", "ResolvedRefs"} {
				conditions = append(conditions, map[string]any{"type": kind, "status": "True", "reason": kind, "observedGeneration": u.GetGeneration()})
			}
			parent := map[string]any{"name": "nobodys", "sectionName": "web"}
			status := map[string]any{"parents": []any{map[string]any{"parentRef": parent, "controllerName": "example.com/nobody", "conditions": conditions}}}
			if cmp.Equal(u.Object["status"], any(status)) {
				continue
			}
			patch, err := json.Marshal(map[string]any{"status": status})
			if err == nil {
				_, err = routes.Patch(context(), u.GetName(), types.MergePatchType, patch, meta.PatchOptions{}, "status")
			}
			if err != nil && !apierrors.IsNotFound(err) {
				t.Errorf("the status of the route: %v", err)
			}
		}
	}()
}

// route is the route as it is now.
func (b *routeLane) route() *unstructured.Unstructured {
	b.Helper()
	u, err := b.routes.Get(context(), tillNamed, meta.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return u
}

// percent is what a route gives the new version of what the Service has, and others still a quarter of all.
func percent(u *unstructured.Unstructured) (float64, error) {
	rules, _, _ := unstructured.NestedSlice(u.Object, "spec", "rules")
	weights := map[string]float64{}
	for _, r := range rules {
		rule, _ := r.(map[string]any)
		if rule["name"] != "till" {
			continue
		}
		refs, _ := rule["backendRefs"].([]any)
		for _, x := range refs {
			ref, _ := x.(map[string]any)
			if n, ok := ref["weight"].(int64); ok {
				weights[fmt.Sprint(ref["name"])] += float64(n)
			}
		}
	}
	own := weights["till"] + weights["till-canary"]
	if own == 0 || own != 3*weights["cart"] {
		return 0, fmt.Errorf("the others do not have what they had: %v", weights)
	}
	return 100 * weights["till-canary"] / own, nil
}

// has waits until the route gives the new version so many percent, and the status says that gateways obey.
func (b *routeLane) has(want float64) {
	b.Helper()
	b.eventually(fmt.Sprintf("the route has %v %%", want), func() error {
		got, err := percent(b.route())
		if err != nil {
			return err
		}
		if r := b.current(); got != want || r.Status.Weight != fmt.Sprintf("%v %%", want) || !strings.Contains(b.order("status", tillNamed), "1 of 1 gateway obey") {
			return fmt.Errorf("it has %v %%, the release %s: %s", got, r.Status.Weight, r.Status.Message)
		}
		return nil
	})
}

// given waits for the moment when the route gives the new version something, which it learns as a watcher does.
func (b *routeLane) given(w watch.Interface) {
	b.Helper()
	b.awaits("the route gives it something", w, func(u *unstructured.Unstructured) bool {
		got, err := percent(u)
		return err == nil && got > 0
	})
}

func (b *routeLane) awaits(what string, w watch.Interface, is func(*unstructured.Unstructured) bool) {
	b.Helper()
	late := time.After(patience)
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				b.Fatalf("%s: the watch has ended", what)
			}
			if u, isRoute := e.Object.(*unstructured.Unstructured); isRoute && is(u) {
				return
			}
		case <-late:
			b.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// watched watches the routes from now on.
func (b *routeLane) watched() watch.Interface {
	b.Helper()
	w, err := b.routes.Watch(context(), meta.ListOptions{ResourceVersion: b.route().GetResourceVersion()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.Stop)
	return w
}

// command gives orders to the newest release and waits for nothing.
func (b *routeLane) command(orders string) {
	b.Helper()
	user, err := b.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
	if err != nil {
		b.Fatal(user, err)
	}
	b.patchRelease(b.current().Name, fmt.Sprintf(`{"spec":{"orders":{%s,"by":%q}}}`, orders, user))
}

func (b *routeLane) patchRelease(name, patch string) {
	b.Helper()
	releases := objects.Resource(v1alpha1.Releases()).Namespace(b.namespace)
	if _, err := releases.Patch(context(), name, types.MergePatchType, []byte(patch), meta.PatchOptions{}); err != nil {
		b.Fatal(err)
	}
}

// successor kills the leader, and has the next one be a new pod at once: kubelet would have a container
// that ends again and again wait longer each time.
func (b *routeLane) successor() {
	b.Helper()
	b.killLeader()
	now := int64(0)
	err := client.CoreV1().Pods("bight-system").Delete(context(), "bight-controller-0", meta.DeleteOptions{GracePeriodSeconds: &now})
	if err != nil && !apierrors.IsNotFound(err) {
		b.Fatal(err)
	}
}

func (b *routeLane) start(word, plan string, phase string) *v1alpha1.Release {
	b.Helper()
	return way{args: []string{"--route", tillNamed}}.begin(b.bay, word, plan, phase)
}

// asWritten waits until nothing of a release is left: in the route is what its owner wrote.
func (b *routeLane) asWritten(was any) {
	b.Helper()
	b.unreleased()
	b.eventually("the route is as its owner wrote it", func() error {
		u := b.route()
		if diff := cmp.Diff(was, u.Object["spec"]); diff != "" || u.GetAnnotations()[v1alpha1.ReleasedAnnotation] != "" {
			return fmt.Errorf("annotations %v (-want +got):\n%s", u.GetAnnotations(), diff)
		}
		if _, err := client.CoreV1().Services(b.namespace).Get(context(), tillNamed+"-canary", meta.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the Service of the canary: %v", err)
		}
		return nil
	})
}

// said is how often the release has said something.
func (b *routeLane) said(what string) int {
	b.Helper()
	n := 0
	for _, e := range b.current().Status.Events {
		if strings.Contains(e.Text, what) {
			n++
		}
	}
	return n
}

// testRoutesByMethod gives the version requests by what a route can say, and the gateway can do. What it can't do is
// not written, and the order says why.
func testRoutesByMethod(b *routeLane) {
	was := b.route().Object["spec"]
	b.start("asked", fmt.Sprintf(hold, 0), "Held")
	toCanary := func() (all []any) {
		rules, _, _ := unstructured.NestedSlice(b.route().Object, "spec", "rules")
		for _, r := range rules {
			rule := r.(map[string]any)
			refs, _ := rule["backendRefs"].([]any)
			if slices.ContainsFunc(refs, func(x any) bool { return x.(map[string]any)["name"] == "till-canary" }) {
				all = append(all, rule["matches"])
			}
		}
		return all
	}
	b.order("route", tillNamed, "--method", "GET,HEAD", "--path", "/new", "--exact", "--to", "canary")
	match := func(method string) any {
		return map[string]any{"path": map[string]any{"type": "Exact", "value": "/new"}, "method": method}
	}
	if diff := cmp.Diff([]any{[]any{match("GET"), match("HEAD")}}, toCanary()); diff != "" {
		b.Errorf("(-want +got):\n%s", diff)
	}
	_, errs, code := b.bight("release", "route", tillNamed, "-n", b.namespace, "--query", "look=new", "--to", "canary", "--timeout", "3s")
	if code != 5 || !strings.Contains(errs, "of class nobodys, has no HTTPRouteQueryParamMatching among its supportedFeatures") {
		b.Errorf("exit code %d\n%s", code, errs)
	}
	if got := toCanary(); len(got) > 0 {
		b.Errorf("the version has %v", got)
	}
	b.order("route", tillNamed, "--clear")
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.asWritten(was)
}

// testRoutesLeaderKilledInACanary kills the leader as the route gives the version its first share: the next one
// goes on with the plan. Then somebody orders a share and another one edits the route while nobody leads.
func testRoutesLeaderKilledInACanary(b *routeLane) {
	was := b.route().Object["spec"]
	w := b.watched()
	name := b.start("led", "steps: [{weight: 10, for: 1s}, {weight: 30, for: 1s}, {weight: 60, hold: true}]\nkeep: 1s\n", "Progressing").Name
	b.given(w)
	b.successor()
	killed := time.Now()
	b.reaches("Held")
	b.has(60)
	b.Logf("the next leader has come to the plan's end after %s", time.Since(killed).Round(10*time.Millisecond))
	if r := b.current(); r.Name != name || r.Status.Undoing != nil || b.said("has begun it") != 1 {
		b.Errorf("%s: %+v", r.Name, r.Status.Events)
	}

	b.command(`"weight":40`)
	b.successor()
	b.has(40)
	if by := b.shares(40); by["app"] != 40 { // which come by no route
		b.Errorf("the Service is answered by %v", by)
	}

	b.controllers(0)
	edited := b.route()
	rules, _, _ := unstructured.NestedSlice(edited.Object, "spec", "rules")
	i := slices.IndexFunc(rules, func(r any) bool { return r.(map[string]any)["name"] == "till" })
	rules[i].(map[string]any)["timeouts"] = map[string]any{"request": "45s"}
	if err := unstructured.SetNestedSlice(edited.Object, rules, "spec", "rules"); err != nil {
		b.Fatal(err)
	}
	if _, err := b.routes.Update(context(), edited, meta.UpdateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.command(`"weight":20`)
	b.controllers(1)
	b.has(20)
	b.order("undo", tillNamed)
	b.reaches("Undone")
	wanted := (&unstructured.Unstructured{Object: map[string]any{"spec": was}}).DeepCopy().Object["spec"].(map[string]any)
	wanted["rules"].([]any)[i].(map[string]any)["timeouts"] = map[string]any{"request": "45s"}
	b.asWritten(wanted)
}

// testRoutesLeaderKilledAtUndo orders an undo as the leader is killed, and kills the next one as the route is about to
// be put back.
func testRoutesLeaderKilledAtUndo(b *routeLane) {
	was := b.route().Object["spec"]
	b.start("back", fmt.Sprintf(hold, 50), "Held")
	b.has(50)
	b.successor()
	b.command(`"undo":true,"weight":null`)
	ordered := time.Now()
	b.reaches("Undone")
	b.Logf("the next leader has undone it after %s", time.Since(ordered).Round(10*time.Millisecond))
	if got, err := percent(b.route()); err != nil || got != 0 {
		b.Errorf("undone, it has %v %%, %v", got, err)
	}
	b.successor()
	b.asWritten(was)
	if by := b.shares(40); by["app"] != 40 {
		b.Errorf("what is undone answers: %v", by)
	}
}

// testRoutesLeaderKilledAtPromotion kills the leader as the route gives the version everything.
func testRoutesLeaderKilledAtPromotion(b *routeLane) {
	was := b.route().Object["spec"]
	b.start("next", fmt.Sprintf(hold, 50), "Held")
	b.has(50)
	w := b.watched()
	b.command(`"promote":true`)
	b.awaits("the route gives it everything", w, func(u *unstructured.Unstructured) bool {
		got, err := percent(u)
		return err == nil && got == 100
	})
	b.successor()
	b.reaches("Promoted")
	b.asWritten(was)
	if by := b.shares(40); by["next"] != 40 {
		b.Errorf("what is promoted does not answer: %v", by)
	}
	b.start("app", "steps: [{weight: 50}]\nkeep: 1s\n", "Promoted")
	b.asWritten(was)
}

// force removes a Release past its finalizer.
func (b *routeLane) force(name string) {
	b.Helper()
	b.patchRelease(name, `{"metadata":{"finalizers":null}}`)
	if err := objects.Resource(v1alpha1.Releases()).Namespace(b.namespace).Delete(context(), name, meta.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		b.Fatal(err)
	}
}

// vanishes removes a release by force: as quickly as somebody hears of that, the route has nothing of it.
func (b *routeLane) vanishes(name string) {
	b.Helper()
	b.eventually("it is removed past its finalizer", func() error { // which the controller puts on again
		b.force(name)
		_, err := read[v1alpha1.Release](v1alpha1.Releases(), b.namespace, name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
	removed := time.Now()
	b.eventually("the route has nothing of it", func() error {
		u := b.route()
		if got, err := percent(u); err != nil || got != 0 || strings.Contains(u.GetAnnotations()[v1alpha1.ReleasedAnnotation], name) {
			return fmt.Errorf("%v %%, %v, annotations %v", got, err, u.GetAnnotations())
		}
		return nil
	})
	b.Logf("the route has nothing of it %s after it was removed", time.Since(removed).Round(time.Millisecond))
}

// testRoutesRemovedByForce has somebody remove a Release past its finalizer while the leader lives.
func testRoutesRemovedByForce(b *routeLane) {
	was := b.route().Object["spec"]
	name := b.start("forced", fmt.Sprintf(hold, 50), "Held").Name
	b.has(50)
	b.vanishes(name)
	b.asWritten(was)
	b.allAnswer("app")
}

// testRoutesRemovedByForceWhileAnotherWaits does so with a release that is promoted, and another one of the same
// Deployment waits for the end of it: that begins, with the route as its owner wrote it.
func testRoutesRemovedByForceWhileAnotherWaits(b *routeLane) {
	was := b.route().Object["spec"]
	name := b.start("kept", "steps: [{weight: 50, hold: true}]\nkeep: 10m\n", "Held").Name
	b.order("promote", tillNamed, "--timeout", "1m")
	b.reaches("Promoted")
	b.another("kept", "after")
	b.eventually("it waits", func() error {
		if r := b.current(); !strings.Contains(r.Status.Message, "release "+name+" is promoted") {
			return fmt.Errorf("%s: %s", r.Status.Phase, r.Status.Message)
		}
		return nil
	})
	b.vanishes(name)
	b.reaches("Held")
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.asWritten(was)
	b.allAnswer("app")
}
