package gateway

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
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
