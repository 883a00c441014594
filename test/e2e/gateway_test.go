//go:build e2e && gateway

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/gateway"
)

// viaGateway is where the gateway of the cluster is.
const viaGateway = "http://traefik.traefik:8000/"

const tillRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: till}
spec:
  parentRefs: [{name: traefik, namespace: traefik, sectionName: web}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /stock}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: stock, port: 8080}]
  - matches: [{path: {type: PathPrefix, value: /}}]
    timeouts: {request: 60s}
    backendRefs: [{name: till, port: 8080, weight: 3}]
`

// TestGateway shares the requests of releases by the routes of a real implementation of
// Gateway API, which the cluster has.
func TestGateway(t *testing.T) {
	b := newReleaseBay(t)
	b.write("route.yaml", tillRoute)
	b.applyRoute()
	b.eventually("the gateway leads to till", func() error {
		a, err := b.ask(b.client(false, false), viaGateway)
		if err == nil && a.code != 200 {
			err = fmt.Errorf("%d %s", a.code, a.body)
		}
		return err
	})
	for _, step := range []struct {
		name string
		run  func(*bay)
	}{
		{"Refused", testGatewayRefused},
		{"Way", func(b *bay) { testWay(b, viaRoute(b)) }},
		{"Promoted", func(b *bay) { testWayPromotes(b, viaRoute(b)) }},
		{"Convicted", testGatewayConvicted},
		{"UndoWithoutAGateway", testUndoWithoutAGateway},
		{"RouteGone", testRouteGone},
		{"Superseded", testGatewaySuperseded},
		{"Calls", testGatewayCalls},
		{"Asks", testGatewayAsks},
		{"Nodes", testGatewayNodes},
		{"Mirror", testGatewayMirror},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(b.on(t)) }) {
			t.Fatal("the rest builds on this")
		}
	}
}

func (b *bay) applyRoute() {
	b.Helper()
	if out, err := b.kubectl("apply", "-n", b.namespace, "-f", b.dir+"/route.yaml"); err != nil {
		b.Fatal(out, err)
	}
}

func (b *bay) routes() dynamic.ResourceInterface {
	b.Helper()
	d, err := b.cluster().Dynamic()
	if err != nil {
		b.Fatal(err)
	}
	return d.Resource(gateway.Resource(v1alpha1.HTTPRoute)).Namespace(b.namespace)
}

func (b *bay) route() *unstructured.Unstructured {
	b.Helper()
	u, err := b.routes().Get(context(), tillNamed, meta.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return u
}

// viaRoute is a way whose route is what it is now when a release has ended.
func viaRoute(b *bay) way {
	was := b.route().Object["spec"]
	return way{
		url: viaGateway, args: []string{"--route", tillNamed}, lags: true,
		changed: func(b *bay) {
			other := b.route().Object["spec"].(map[string]any)["rules"].([]any)[0]
			if diff := cmp.Diff(was.(map[string]any)["rules"].([]any)[0], other); diff != "" {
				b.Errorf("a rule of others is changed (-want +got):\n%s", diff)
			}
			// Whoever has the route in git brings it back.
			patch, err := json.Marshal(map[string]any{"spec": was})
			if err == nil {
				_, err = b.routes().Patch(context(), tillNamed, types.MergePatchType, patch, meta.PatchOptions{})
			}
			if err != nil {
				b.Fatal(err)
			}
			b.eventually("the route is put right", func() error {
				said := b.order("status", tillNamed)
				if !strings.Contains(said, "somebody has changed HTTPRoute till") || !strings.Contains(said, "1 of 1 gateway obey") {
					return fmt.Errorf("%s", said)
				}
				return nil
			})
		},
		unchanged: func(b *bay) error {
			u := b.route()
			if diff := cmp.Diff(was, u.Object["spec"]); diff != "" || u.GetAnnotations()[v1alpha1.ReleasedAnnotation] != "" {
				return fmt.Errorf("annotations %v (-want +got):\n%s", u.GetAnnotations(), diff)
			}
			if _, err := client.CoreV1().Services(b.namespace).Get(context(), "till-canary", meta.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("the Service of the canary: %v", err)
			}
			return nil
		},
	}
}

func testGatewayRefused(b *bay) {
	for _, tt := range []struct {
		plan string
		args []string
		want string
		code int
	}{
		{"steps: [{weight: 5}]", []string{"--route", "none"}, "there is no HTTPRoute none", 4},
		{"steps: [{weight: 5}]", []string{"--route", "Gateway/till"}, "write the NAME of an HTTPRoute", 2},
		{"routes: [{cookies: [{name: plan, value: gold}], to: canary}]", []string{"--route", tillNamed}, "knows no cookies", 2},
		{"affinity: {cookie: version}", []string{"--route", tillNamed}, "affinity", 2},
		{"routes: [{path: /stock/new, to: canary}]", []string{"--route", tillNamed}, "rules[0] comes before rules[1]", 2},
	} {
		args := append([]string{"release", "start", tillNamed, "-n", b.namespace, "--env", "WHO=two", "--plan", b.plan(tt.plan)}, tt.args...)
		if _, errs, code := b.bight(args...); code != tt.code || !strings.Contains(errs, tt.want) {
			b.Errorf("%v: exit code %d\n%s", tt.args, code, errs)
		}
	}
	// What a gateway can't do is known by its class.
	said, errs, code := b.bight("release", "start", tillNamed, "-n", b.namespace, "--env", "WHO=two", "--plan", b.plan("steps: [{weight: 0, mirror: 10}]"), "--route", tillNamed)
	if code != 1 || !strings.Contains(errs, "has no HTTPRouteRequestMirror among its supportedFeatures") {
		b.Errorf("exit code %d\n%s%s", code, said, errs)
	}
	// Who may not change a route has nobody change it for them.
	b.grant("carol", rbac.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"pods", "services", "deployments"}, Verbs: []string{"get", "list"}},
		rbac.PolicyRule{APIGroups: []string{"bight.dev"}, Resources: []string{"releases"}, Verbs: []string{"get", "list", "watch", "create"}})
	_, errs, code = b.bight("release", "start", tillNamed, "-n", b.namespace, "--env", "WHO=three", "--route", tillNamed, "--detach", "--kubeconfig", as(b.T, "carol"))
	if code == 0 || !strings.Contains(errs, "carol may not patch all of HTTPRoute till") {
		b.Errorf("exit code %d\n%s", code, errs)
	}
	viaRoute(b).over(b)
}

// testGatewayConvicted has a version that fails undone by what its pods' doors have seen.
func testGatewayConvicted(b *bay) {
	w := viaRoute(b)
	w.load(b)
	r := w.begin(b, "broken", "steps: [{weight: 5, proven: true}]\nkeep: 1s\n", "Undone", "--env", "BROKEN=yes")
	var got counts
	b.load("/stop", &got)
	b.Logf("%s; %d requests, %d failed", r.Status.Message, got.Requests, got.Failed)
	if !r.Status.Convicted || r.Status.Verdict == nil || r.Status.Verdict.Is != "bad" || got.Failed == 0 || got.Failed > 60 {
		b.Errorf("convicted: %v, verdict %+v, %d errors", r.Status.Convicted, r.Status.Verdict, got.Failed)
	}
	w.over(b)
}

// testUndoWithoutAGateway undoes while nobody tells the gateway.
func testUndoWithoutAGateway(b *bay) {
	w := viaRoute(b)
	w.begin(b, "deaf", fmt.Sprintf(hold, 50), "Held")
	w.part(b, "deaf", 70, 130)
	b.controllers(0)
	w.load(b)
	began := time.Now()
	said := b.order("undo", tillNamed)
	b.Logf("undone without a controller in %s: %s", time.Since(began).Round(time.Millisecond), strings.TrimSpace(said))
	w.only(b, "app")
	rules, err := json.Marshal(b.route().Object["spec"])
	if err != nil || !strings.Contains(string(rules), "till-canary") || !strings.Contains(said, "its own pods hand every request to the version before") {
		b.Errorf("%v; the gateway is told already: %s\n%s", err, rules, said)
	}
	b.controllers(1)
	b.reaches("Undone")
	w.over(b)
	b.unharmed("an undo that no gateway knows of")
}

// testRouteGone has the route deleted, and made anew, in the middle.
func testRouteGone(b *bay) {
	w := viaRoute(b)
	w.begin(b, "again", fmt.Sprintf(hold, 100), "Held")
	if err := b.routes().Delete(context(), tillNamed, meta.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.eventually("that is told", func() error {
		if said := b.order("status", tillNamed); !strings.Contains(said, "there is no HTTPRoute till") {
			return fmt.Errorf("%s", said)
		}
		return nil
	})
	b.applyRoute()
	w.all(b, "again")
	b.order("undo", tillNamed)
	w.only(b, "app")
	w.over(b)
}

// testGatewaySuperseded has another release take the place of one that has requests.
func testGatewaySuperseded(b *bay) {
	w := viaRoute(b)
	w.begin(b, "ten", fmt.Sprintf(hold, 50), "Held")
	w.part(b, "ten", 70, 130)
	b.supersede("ten", "eleven")
	w.part(b, "eleven", 55, 105)
	if by := b.sharesAt(w.url, 60); by["ten"] > 0 {
		b.Errorf("the first has %v", by)
	}
	b.order("undo", tillNamed)
	w.only(b, "app")
	b.reaches("Undone")
	w.over(b)
}

const callsRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: till-calls}
spec:
  parentRefs: [{name: traefik, namespace: traefik, sectionName: grpc}]
  rules:
  - backendRefs: [{name: till, port: 8080}]
`

// testGatewayCalls shares what comes by a GRPCRoute: HTTP/2, whatever is called.
func testGatewayCalls(b *bay) {
	b.write("calls.yaml", callsRoute)
	if out, err := b.kubectl("apply", "-n", b.namespace, "-f", b.dir+"/calls.yaml"); err != nil {
		b.Fatal(out, err)
	}
	asks := func(headers ...string) map[string]int {
		by := map[string]int{}
		for range 60 {
			a, err := b.ask(b.client(true, false), "http://traefik.traefik:8001/", headers...)
			if err != nil || a.code != 200 {
				by[fmt.Sprint(a.code, " ", err)]++
			}
			by[a.who]++
		}
		return by
	}
	b.eventually("the gateway leads to till", func() error {
		if by := asks(); by["app"] != 60 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	plan := b.plan("steps: [{weight: 0, mirror: 10}]")
	_, errs, code := b.bight("release", "start", tillNamed, "-n", b.namespace, "--env", "WHO=calls", "--plan", plan, "--route", "GRPCRoute/till-calls")
	if code != 1 || !strings.Contains(errs, "has no HTTPRouteRequestMirror among its supportedFeatures") {
		b.Errorf("exit code %d\n%s", code, errs)
	}
	was := viaRoute(b)
	w := way{url: viaGateway, args: []string{"--route", "GRPCRoute/till-calls"}, lags: true, unchanged: was.unchanged}
	w.begin(b, "calls", fmt.Sprintf(hold, 50), "Held")
	b.eventually("half of the calls are the version's", func() error {
		if by := asks(); by["calls"] < 15 || by["app"] < 15 || by["calls"]+by["app"] != 60 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	b.order("route", tillNamed, "--header", "x-team=ada", "--to", "canary")
	b.eventually("ada's calls are the version's", func() error {
		if by := asks("X-Team", "ada"); by["calls"] != 60 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	w.only(b, "app") // the other route is not the release's
	b.order("undo", tillNamed)
	if by := asks(); by["app"] != 60 {
		b.Errorf("undone, %v", by)
	}
	w.over(b)
}
