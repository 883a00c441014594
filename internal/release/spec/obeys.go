package spec

import (
	"slices"
	"strings"

	"github.com/bightdev/bight/api/v1alpha1"
)

// Obeys says whether all gateways of a route have a generation of the routing, or a newer
// one.
func Obeys(s v1alpha1.RouteStatus, generation int64) bool {
	return s.Problem == "" && s.Generation >= generation && len(s.Parents) > 0 &&
		!slices.ContainsFunc(s.Parents, func(p v1alpha1.RouteParent) bool { return !p.Obeys })
}

// Inside is how many of the version's own pods have doors that obey what is in effect, and
// how many serve.
func Inside(r *v1alpha1.Release) (obey, of int) {
	e := Effective(r)
	if e == nil || e.Canary == "" {
		return 0, 0
	}
	for _, d := range r.Status.Doors {
		for _, p := range d.Pods {
			if d.Generation >= e.Generation && OfCanary(r, p) {
				obey++
			}
		}
	}
	return obey, len(e.Addresses)
}

// Doors is how many of the version's own pods have doors, whether these obey or not.
func Doors(r *v1alpha1.Release) (n int) {
	for _, d := range r.Status.Doors {
		for _, p := range d.Pods {
			if OfCanary(r, p) {
				n++
			}
		}
	}
	return n
}

// OfCanary says whether a pod is of the version, by its name.
func OfCanary(r *v1alpha1.Release, pod string) bool {
	hash := ""
	if r.Status.Route != nil {
		hash = r.Status.Route.Canary
	}
	return hash != "" && strings.HasPrefix(pod, r.Spec.Deployment+"-"+hash+"-")
}

// Unreached is how many requests were to be the version's, if stable has answered every one
// of them because no pod of the version did; 0 if one was the version's.
func Unreached(r *v1alpha1.Release) (n int64) {
	for _, d := range r.Status.Doors {
		if d.Fallback < d.Carried {
			return 0
		}
		n += d.Carried
	}
	return n
}
