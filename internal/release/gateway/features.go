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

// Needs are those of a release that shares the requests by a route of a kind, and copies so many hundredths of a percent
// of them. Copies of some take a feature besides that of copies: who lacks it copies all. Gateway API has no name for
// copies of calls, so an implementation is taken to do of them what it does of other requests.
func Needs(kind string, mirror int64, routes []v1alpha1.ReleaseRoute) (out []Need) {
	if mirror > 0 {
		out = append(out, Need{v1alpha1.HTTPRoute + "RequestMirror", "mirror"})
	}
	if mirror > 0 && mirror < all {
		out = append(out, Need{v1alpha1.HTTPRoute + "RequestPercentageMirror", "a mirror of less than 100 %"})
	}
	if slices.ContainsFunc(routes, func(r v1alpha1.ReleaseRoute) bool { return len(r.Methods) > 0 }) {
		out = append(out, Need{kind + "MethodMatching", "a method"})
	}
	if slices.ContainsFunc(routes, func(r v1alpha1.ReleaseRoute) bool { return len(r.Query) > 0 }) {
		out = append(out, Need{kind + "QueryParamMatching", "a parameter"})
	}
	return out
}
