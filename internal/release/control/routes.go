package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/gateway"
)

func shareOf(co *course, kind string, r *v1alpha1.Routing) gateway.Share {
	return gateway.Of(kind, co.r.Namespace, co.r.Spec.Service, canaryService(co.r.Spec.Service), r)
}

func rulesOf(u *unstructured.Unstructured) []any {
	rules, _, _ := unstructured.NestedSlice(u.Object, "spec", "rules") // a copy
	return rules
}

func recordOf(u *unstructured.Unstructured) *gateway.Record {
	return gateway.ReadRecord(u.GetAnnotations()[v1alpha1.ReleasedAnnotation])
}

// restored are the rules of a route without what some release has made of them, by the record of that.
func restored(u *unstructured.Unstructured, record *gateway.Record) []any {
	was, _ := gateway.Restore(rulesOf(u), record, gateway.Share{Kind: u.GetKind(), Namespace: u.GetNamespace(), Service: record.Service, Canary: record.Canary})
	return was
}

// rewrite is what a route is to be.
type rewrite struct {
	was, made []any
	from      []int
	edited    bool // by somebody else, since it was written
	done      bool // it is so already
}

// rewritten is what a route is to be by a routing.
func rewritten(co *course, u *unstructured.Unstructured, r *v1alpha1.Routing) (w rewrite, err error) {
	s := shareOf(co, u.GetKind(), r)
	record, rules := recordOf(u), rulesOf(u)
	if record != nil && record.Release != co.r.UID && record.Service == co.r.Spec.Service && !co.begun() {
		// Another release of the Service is about to end: what is to be looked at is what that leaves.
		record, rules = nil, restored(u, record)
	}
	if record != nil && record.Release != co.r.UID {
		return w, fmt.Errorf("another release shares its requests, of Service %s: that has to end first", record.Service)
	}
	w.was, w.edited = gateway.Restore(rules, record, s)
	if w.made, w.from, err = gateway.Apply(w.was, s); err != nil {
		return w, err
	}
	w.done = reflect.DeepEqual(rules, w.made) && (record == nil && reflect.DeepEqual(w.was, w.made) ||
		record != nil && reflect.DeepEqual(record.Was, w.was) && reflect.DeepEqual(record.Made, w.made))
	return w, nil
}

// unseen says why a route of a release is not there, nil if it is.
func (s scene) unseen(r v1alpha1.TrafficRoute, namespace string) error {
	switch err := s.blind[r.Kind]; {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("the cluster knows no kind %s of gateway.networking.k8s.io/v1: whoever runs it installs the CRDs of Gateway API (standard channel); without them doors share the requests (no --route)", r.Kind)
	case err != nil:
		return fmt.Errorf("%ss are not seen: %w", r.Kind, err)
	case s.routes[r] == nil:
		return fmt.Errorf("there is no %s %s in namespace %s", r.Kind, r.Name, namespace)
	}
	return nil
}

// able refuses a route at a gateway whose implementation says what it can, and not what a release needs: some
// answer every request with an error then, or take a match for one that asks for less.
func (d *desk) able(ctx context.Context, u *unstructured.Unstructured, needs []gateway.Need) error {
	if len(needs) == 0 {
		return nil
	}
	for _, at := range gateway.Gateways(u.Object) {
		g, err := d.c.dynamic.Resource(gateway.Resource("Gateway")).Namespace(at.Namespace).Get(ctx, at.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read gateway %s: %w", at, err)
		}
		name, _, _ := unstructured.NestedString(g.Object, "spec", "gatewayClassName")
		class, err := d.c.dynamic.Resource(gateway.Resource("GatewayClass")).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read the class of gateway %s: %w", at, err)
		}
		for _, n := range needs {
			if gateway.Lacks(class.Object, n.Feature) {
				return incapable{n, refuse("the release asks for %s, and gateway %s, of class %s, has no %s among its supportedFeatures: leave %s out, or have doors share the requests (no --route)", n.Of, at, name, n.Feature, n.Of)}
			}
		}
	}
	return nil
}

// incapable refuses what a gateway can't do.
type incapable struct {
	need gateway.Need
	error
}

func (i incapable) Unwrap() error { return i.error }

// capable says why the gateway of a route can't do what the routing asks for, as long as it asks for that: an order may at
// any time. wrong is why that is not known.
func (d *desk) capable(ctx context.Context, co *course, ref v1alpha1.TrafficRoute, u *unstructured.Unstructured) (why, wrong error) {
	needs := co.needs(ref)
	if slices.Equal(co.unable[ref].of, needs) {
		return co.unable[ref].why, nil
	}
	why = d.able(ctx, u, needs)
	if _, final := errors.AsType[refusal](why); why != nil && !final {
		return nil, why
	}
	if co.unable == nil {
		co.unable = map[v1alpha1.TrafficRoute]inability{}
	}
	co.unable[ref] = inability{of: needs, why: why}
	return why, nil
}

// needs is what the routing asks of the gateway of a route.
func (co *course) needs(ref v1alpha1.TrafficRoute) []gateway.Need {
	s := shareOf(co, ref.Kind, co.routing)
	return gateway.Needs(ref.Kind, s.Mirror, s.Routes)
}

// cannotMirror says whether what the gateway of a route can't do is to copy, as the routing asks.
func (co *course) cannotMirror(ref v1alpha1.TrafficRoute) bool {
	no, ok := errors.AsType[incapable](co.unable[ref].why)
	return ok && slices.Contains(gateway.Needs(ref.Kind, int64(co.routing.Mirror), nil), no.need)
}

// inability is why the gateway of a route can't do something, nil if it can.
type inability struct {
	of  []gateway.Need
	why error
}

// tried asks the API server whether it takes a route, and all of it.
func (d *desk) tried(ctx context.Context, co *course, u *unstructured.Unstructured, w rewrite) error {
	if w.done {
		return nil
	}
	got, err := d.patchRoute(ctx, co, u, w, metav1.DryRunAll)
	switch {
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsBadRequest(err):
		return refuse("the API server refuses what it would be: %s", err)
	case err != nil:
		return err
	case !reflect.DeepEqual(rulesOf(got), w.made):
		return refuse("this cluster's kind %s leaves out some of what it would be (percent of a mirror, maybe): it is of an older version of Gateway API", u.GetKind())
	}
	return nil
}

// patchRoute writes a route, with the record of what it was.
func (d *desk) patchRoute(ctx context.Context, co *course, u *unstructured.Unstructured, w rewrite, dry ...string) (*unstructured.Unstructured, error) {
	record := gateway.Record{
		Release: co.r.UID, Service: co.r.Spec.Service, Canary: canaryService(co.r.Spec.Service), Was: w.was, Made: w.made, From: w.from,
	}.String()
	if len(record) > maxOriginal {
		return nil, refuse("its rules are too long to be kept beside what they become: %d bytes in an annotation, and %d are the most", len(record), maxOriginal)
	}
	return d.c.writeRoute(ctx, u, w.made, record, dry...)
}

// writeRoute writes the rules of a route as it was seen. A record of nil is taken off.
func (c *Controller) writeRoute(ctx context.Context, u *unstructured.Unstructured, rules []any, record any, dry ...string) (*unstructured.Unstructured, error) {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": u.GetResourceVersion(), "annotations": map[string]any{v1alpha1.ReleasedAnnotation: record}},
		"spec":     map[string]any{"rules": rules},
	})
	if err != nil {
		return nil, err
	}
	return c.dynamic.Resource(gateway.Resource(u.GetKind())).Namespace(u.GetNamespace()).Patch(ctx, u.GetName(), types.MergePatchType, patch,
		metav1.PatchOptions{FieldManager: manager, DryRun: dry})
}

// freed waits until no route is another release's of the same Service, and gateways have
// heard of that: what they lead to is about to go.
func (d *desk) freed(ctx context.Context, co *course) error {
	waits := errors.New("it begins when gateways have left the version of the release before")
	for _, ref := range sortedRoutes(co.scene) {
		u := co.scene.routes[ref]
		record := recordOf(u)
		if record == nil || record.Service != co.r.Spec.Service || record.Release == co.r.UID {
			continue
		}
		if _, err := d.c.writeRoute(ctx, u, restored(u, record), nil); expected(err) != nil {
			return fmt.Errorf("put %s %s back: %w", ref.Kind, ref.Name, err)
		}
		d.freedAt = time.Now()
	}
	if time.Since(d.freedAt) < lagging {
		return waits
	}
	return nil
}

func sortedRoutes(s scene) []v1alpha1.TrafficRoute {
	return slices.SortedFunc(maps.Keys(s.routes), func(a, b v1alpha1.TrafficRoute) int {
		return strings.Compare(a.Kind+"/"+a.Name, b.Kind+"/"+b.Name)
	})
}

// leadsThere says whether a route leads to the canary already.
func leadsThere(co *course, u *unstructured.Unstructured) bool {
	record := recordOf(u)
	return record != nil && !reflect.DeepEqual(record.Was, record.Made)
}
