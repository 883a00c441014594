package gateway

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
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

// Need is a feature that not every implementation has, and what of a release asks for it.
type Need struct{ Feature, Of string }

// Needs are those of a release that shares the requests by a route of a kind.
func Needs(kind string, mirror bool, routes []v1alpha1.ReleaseRoute) (all []Need) {
	if mirror {
		all = append(all, Need{kind + "RequestMirror", "mirror"})
	}
	if slices.ContainsFunc(routes, func(r v1alpha1.ReleaseRoute) bool { return len(r.Methods) > 0 }) {
		all = append(all, Need{kind + "MethodMatching", "a method"})
	}
	if slices.ContainsFunc(routes, func(r v1alpha1.ReleaseRoute) bool { return len(r.Query) > 0 }) {
		all = append(all, Need{kind + "QueryParamMatching", "a parameter"})
	}
	return all
}
