package client

import (
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/api/v1alpha1"
)

// routed is a release whose requests a route shares at two gateways.
func routed() *v1alpha1.Release {
	r := &v1alpha1.Release{}
	r.Name, r.Namespace, r.Generation = "cart-two", "shop", 1
	r.Spec = v1alpha1.ReleaseSpec{Deployment: "cart", Service: "cart", Traffic: v1alpha1.ReleaseTraffic{
		Routes: []v1alpha1.TrafficRoute{{Kind: v1alpha1.HTTPRoute, Name: "web"}},
	}}
	r.Status = v1alpha1.ReleaseStatus{
		Phase: "Held", Stable: v1alpha1.VersionStatus{Pods: 3, Ready: 3}, Canary: v1alpha1.VersionStatus{Pods: 1, Ready: 1},
		Route: &v1alpha1.Routing{
			Generation: 7, Weight: 500, ByRoutes: true, Stable: "one", Canary: "two", Addresses: []string{"10.0.0.4"}, Before: []string{"10.0.0.1"},
		},
		Gateways: []v1alpha1.RouteStatus{{Kind: v1alpha1.HTTPRoute, Name: "web", Generation: 7, Parents: []v1alpha1.RouteParent{
			{Gateway: "a", Controller: "c", Obeys: true}, {Gateway: "b", Controller: "d", Why: "it has seen generation 1 of the route, and not yet 2"},
		}}},
	}
	return r
}

func TestOrdersAreObservedWhenGatewaysHaveTheRoute(t *testing.T) {
	r := routed()
	if obey, of := Covered(r); obey != 1 || of != 2 {
		t.Errorf("%d of %d", obey, of)
	}
	want := []string{"gateway b (d), of HTTPRoute web: it has seen generation 1 of the route, and not yet 2"}
	if got := Behind(r, nil); !slices.Equal(got, want) {
		t.Errorf("behind: %q", got)
	}
	r.Status.Gateways[0].Parents[1].Obeys = true
	if obey, of := Covered(r); obey != 2 || of != 2 {
		t.Errorf("all: %d of %d", obey, of)
	}
	r.Status.Route.Generation++
	if got := Behind(r, nil); !slices.Equal(got, []string{"HTTPRoute web is not written yet"}) {
		t.Errorf("behind: %q", got)
	}
	r.Status.Gateways[0].Problem = "there is no HTTPRoute web in namespace shop"
	if obey, _ := Covered(r); obey != 0 || !strings.Contains(Behind(r, nil)[0], "there is no HTTPRoute web") {
		t.Errorf("gone: %d, %q", obey, Behind(r, nil))
	}
	r.Status.Gateways = nil
	if obey, of := Covered(r); obey != 0 || of != 1 {
		t.Errorf("nobody knows: %d of %d", obey, of)
	}
}

// Who undoes waits for the version's own pods, where these have doors, and for no gateway.
func TestAnUndoWaitsForNoGateway(t *testing.T) {
	r := routed()
	r.Spec.Orders.Undo = true
	door := func(generation int64, pods ...string) {
		r.Status.Doors = []v1alpha1.NodeDoors{{Node: "n", Generation: generation, Pods: pods}}
	}
	r.Status.Gateways[0].Parents[1].Obeys = true
	r.Status.Gateways[0].Generation = 8
	if done, _ := Observed(r); !done {
		t.Error("without doors it is the gateways' word that counts")
	}
	door(7, "cart-one-a", "cart-two-a")
	if done, waiting := Observed(r); done || waiting != "0 of 1 pods of the version hand their requests back" {
		t.Errorf("%v, %q", done, waiting)
	}
	if got := Behind(r, nil); len(got) != 1 || got[0] != "pod cart-two-a of the version, on node n, keeps what comes to it still" {
		t.Errorf("%q", got)
	}
	r.Status.Gateways[0].Generation = 7
	door(8, "cart-one-a", "cart-two-a")
	if done, waiting := Observed(r); !done || !ShutInside(r) {
		t.Errorf("%v, %q", done, waiting)
	}
	r.Status.Route.Before = nil // nobody is there to take them
	if done, _ := Observed(r); done {
		t.Error("it is done though no gateway has heard of it")
	}
}

// A pod of the version that has no door hands nothing back: there the gateways' word counts, and for the others their doors'.
func TestAnUndoWaitsForGatewaysWhereAPodHasNoDoor(t *testing.T) {
	pod := func(name, node, ip string) (p core.Pod) {
		p.Name, p.Spec.NodeName, p.Status.PodIP = name, node, ip
		return p
	}
	pods := []core.Pod{pod("cart-two-a", "n", "10.0.0.4"), pod("cart-two-b", "m", "10.0.0.5"), pod("cart-two-c", "n", "10.0.0.6"), pod("cart-two-d", "n", "10.0.0.7")}
	made := func(door, gateways int64) *v1alpha1.Release {
		r := routed()
		r.Spec.Orders.Undo, r.Status.Route.Addresses = true, []string{"10.0.0.4", "10.0.0.5", "10.0.0.6"} // the last is not ready
		r.Status.Doors = []v1alpha1.NodeDoors{{Node: "n", Generation: door, Pods: []string{"cart-one-a", "cart-two-a"}, Problems: []v1alpha1.DoorProblem{{Name: "cart-two-c", Why: "it can't be entered"}}}}
		r.Status.Gateways[0].Generation, r.Status.Gateways[0].Parents[1].Obeys = gateways, true
		return r
	}
	doorless := []string{"pod cart-two-b of the version, on node m, has no door: the agent of that node says nothing", "pod cart-two-c of the version, on node n, has no door: it can't be entered"}
	for _, tt := range []struct {
		name           string
		door, gateways int64
		want           string // what it waits for
	}{
		{"nobody obeys", 7, 7, "0 of 1 pods of the version hand their requests back"},
		{"gateways alone", 7, 8, "0 of 1 pods of the version hand their requests back"},
		{"doors alone", 8, 7, "0 of 2 gateways obey"},
		{"both", 8, 8, ""},
	} {
		r := made(tt.door, tt.gateways)
		if done, waiting := Observed(r); done != (tt.want == "") || waiting != tt.want {
			t.Errorf("%s: %v, %q, want %q", tt.name, done, waiting, tt.want)
		}
		if got := Doorless(r, pods); !slices.Equal(got, doorless) || ShutInside(r) {
			t.Errorf("%s: %q", tt.name, got)
		}
		if got := Behind(r, pods); tt.want != "" && !slices.Equal(got[len(got)-2:], doorless) {
			t.Errorf("%s: behind: %q", tt.name, got)
		}
	}
	if got := Doorless(made(8, 8), nil); !slices.Equal(got, []string{"2 of 3 pods of the version have no door"}) {
		t.Errorf("who may not list pods: %q", got)
	}
}

func TestARouteThatCanShare(t *testing.T) {
	u := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"namespace": "shop", "name": "web", "generation": int64(2)},
		"spec": map[string]any{
			"parentRefs": []any{map[string]any{"name": "gw"}},
			"rules":      []any{map[string]any{"backendRefs": []any{map[string]any{"name": "cart"}, map[string]any{"name": "legacy"}}}},
		},
	}}
	r := routed()
	refused := func(want string) {
		t.Helper()
		if err := shareable(r, r.Spec.Traffic.Routes[0], u); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	refused("gateway gw does not have it (no controller says anything of the route)")
	mirror := intstr.FromInt32(10)
	r.Spec.Plan.Steps = []v1alpha1.ReleaseStep{{Weight: intstr.FromInt32(0), Mirror: &mirror}}
	refused("leave out mirror")
	r.Spec.Service = "stock"
	refused("no rule of it leads to Service stock")
}
