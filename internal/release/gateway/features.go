package gateway

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Resource is what the API calls objects of a kind.
func Resource(kind string) schema.GroupVersionResource {
	name := strings.ToLower(kind) + "s"
	if strings.HasSuffix(kind, "s") {
		name = strings.ToLower(kind) + "es"
	}
	return schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: name}
}

// Gateways are those that a route names, parents of other kinds left out.
func Gateways(route map[string]any) (out []types.NamespacedName) {
	meta, _ := route["metadata"].(map[string]any)
	spec, _ := route["spec"].(map[string]any)
	for _, p := range list(spec, "parentRefs") {
		ref, _ := p.(map[string]any)
		at := types.NamespacedName{Namespace: text(ref, "namespace", text(meta, "namespace", "")), Name: text(ref, "name", "")}
		if text(ref, "kind", "Gateway") == "Gateway" && !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	return out
}

// Lacks says whether a GatewayClass tells what its gateways can, and not this. One that tells
// nothing may have anything.
func Lacks(class map[string]any, feature string) bool {
	status, _ := class["status"].(map[string]any)
	features := list(status, "supportedFeatures")
	return len(features) > 0 && !slices.ContainsFunc(features, func(f any) bool {
		name, _ := f.(string) // as it was written once
		if m, ok := f.(map[string]any); ok {
			name = text(m, "name", "")
		}
		return name == feature
	})
}
