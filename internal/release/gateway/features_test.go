package gateway

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
)

func TestWhatAGatewayCan(t *testing.T) {
	class := func(features ...any) map[string]any {
		return map[string]any{"status": map[string]any{"supportedFeatures": features}}
	}
	named := func(name string) any { return map[string]any{"name": name} }
	for _, tt := range []struct {
		name  string
		class map[string]any
		want  bool
	}{
		{"it says nothing", map[string]any{}, false},
		{"it says so", class(named("Gateway"), named("HTTPRouteRequestMirror")), false},
		{"it says so in the way of before", class("HTTPRouteRequestMirror"), false},
		{"it says other things", class(named("Gateway"), "HTTPRoute"), true},
	} {
		if got := Lacks(tt.class, "HTTPRouteRequestMirror"); got != tt.want {
			t.Errorf("%s: it lacks it: %v", tt.name, got)
		}
	}
	route := map[string]any{
		"metadata": map[string]any{"namespace": "shop"},
		"spec": map[string]any{"parentRefs": []any{
			map[string]any{"name": "web", "sectionName": "a"}, map[string]any{"name": "web", "sectionName": "b"},
			map[string]any{"kind": "Service", "name": "cart"}, map[string]any{"name": "web", "namespace": "edge"},
		}},
	}
	want := []types.NamespacedName{{Namespace: "shop", Name: "web"}, {Namespace: "edge", Name: "web"}}
	if diff := cmp.Diff(want, Gateways(route)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for kind, want := range map[string]string{"HTTPRoute": "httproutes", "GRPCRoute": "grpcroutes", "Gateway": "gateways", "GatewayClass": "gatewayclasses"} {
		if got := Resource(kind).Resource; got != want {
			t.Errorf("%s is %s", kind, got)
		}
	}
}

// Who copies and knows no share of copies copies everything, so that is asked for by its name; and of calls by the names
// that there are.
func TestWhatAReleaseNeedsOfAGateway(t *testing.T) {
	routes := []v1alpha1.ReleaseRoute{{Methods: []string{"GET"}}, {Query: []v1alpha1.HeaderMatch{{Name: "look", Value: "new"}}}, {Methods: []string{"PUT"}}}
	for _, tt := range []struct {
		name, kind string
		mirror     int64
		routes     []v1alpha1.ReleaseRoute
		want       []string
	}{
		{"weights", v1alpha1.HTTPRoute, 0, nil, nil},
		{"a header", v1alpha1.HTTPRoute, 0, []v1alpha1.ReleaseRoute{{Headers: []v1alpha1.HeaderMatch{{Name: "x", Value: "1"}}, Path: "/new", Exact: true}}, nil},
		{"methods and a parameter", v1alpha1.HTTPRoute, 0, routes, []string{"HTTPRouteMethodMatching", "HTTPRouteQueryParamMatching"}},
		{"copies of all", v1alpha1.HTTPRoute, all, nil, []string{"HTTPRouteRequestMirror"}},
		{"copies of some", v1alpha1.HTTPRoute, 25, nil, []string{"HTTPRouteRequestMirror", "HTTPRouteRequestPercentageMirror"}},
		{"copies of calls", v1alpha1.GRPCRoute, 5_000, nil, []string{"HTTPRouteRequestMirror", "HTTPRouteRequestPercentageMirror"}},
	} {
		var got []string
		for _, n := range Needs(tt.kind, tt.mirror, tt.routes) {
			got = append(got, n.Feature)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}
