package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/gateway"
)

// sharedRoute is a route that a release shares, "" for none: to cart, and to cart-canary.
func sharedRoute(namespace, name string, of types.UID) *unstructured.Unstructured {
	rule := func(services ...string) any {
		var refs []any
		for _, s := range services {
			refs = append(refs, map[string]any{"name": s, "port": int64(80)})
		}
		return map[string]any{"backendRefs": refs}
	}
	was, made := []any{rule("cart")}, []any{rule("cart", "cart-canary")}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"rules": made}}}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: v1alpha1.HTTPRoute})
	u.SetNamespace(namespace)
	u.SetName(name)
	if of != "" {
		record := gateway.Record{Release: of, Service: "cart", Canary: "cart-canary", Was: was, Made: made, From: []int{0}}
		u.SetAnnotations(map[string]string{v1alpha1.ReleasedAnnotation: record.String()})
	}
	return u
}

// gatewayed is a controller of a cluster with routes and Releases, that knows no GRPCRoutes. back gets the routes
// that are put back, by name.
func gatewayed(t *testing.T, objs ...runtime.Object) (c *Controller, client *dynamicfake.FakeDynamicClient, back chan string) {
	t.Helper()
	c, _ = serving(t)
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(scheme, map[schema.GroupVersionResource]string{
		gateway.Resource(v1alpha1.HTTPRoute): "HTTPRouteList", gateway.Resource(v1alpha1.GRPCRoute): "GRPCRouteList",
	}, objs...)
	client.PrependReactor("list", "grpcroutes", func(kubetesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(schema.GroupResource{}, "")
	})
	back = make(chan string, 10)
	client.PrependReactor("patch", "httproutes", func(a kubetesting.Action) (bool, runtime.Object, error) {
		back <- a.GetNamespace() + "/" + a.(kubetesting.PatchAction).GetName()
		return false, nil, nil
	})
	c.dynamic = client
	return c, client, back
}

func withUID(uid types.UID, namespace string, phase release.Phase, over bool) *v1alpha1.Release {
	r := &v1alpha1.Release{}
	r.Name, r.Namespace, r.UID, r.Status.Phase = "cart-"+string(uid), namespace, uid, string(phase)
	r.Spec.Deployment, r.Spec.Traffic.Routes = "cart", []v1alpha1.TrafficRoute{{Kind: v1alpha1.HTTPRoute, Name: "web"}}
	if !over {
		r.Finalizers, r.Status.Route = []string{finalizer}, &v1alpha1.Routing{Generation: 1}
	}
	return r
}

// Whoever takes the finalizer from a Release leaves its routes as they are: they are put back by the next to lead.
func TestRoutesOfReleasesThatAreNoMoreArePutBack(t *testing.T) {
	c, client, _ := gatewayed(t,
		sharedRoute("shop", "gone", "gone"), sharedRoute("shop", "under", "under"), sharedRoute("shop", "old", "over"), sharedRoute("shop", "new", "new"),
		sharedRoute("shop", "nobodys", ""), sharedRoute("farm", "elsewhere", "under"),
		withUID("under", "shop", release.Progressing, false), withUID("over", "shop", release.Undone, true), withUID("new", "shop", "", false),
	)
	if failed := c.freeIn(t.Context(), ""); len(failed) > 0 {
		t.Fatal(failed)
	}
	var back []string
	all, err := client.Resource(gateway.Resource(v1alpha1.HTTPRoute)).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range all.Items {
		rule, _ := rulesOf(&u)[0].(map[string]any)
		refs, _ := rule["backendRefs"].([]any)
		record := u.GetAnnotations()[v1alpha1.ReleasedAnnotation]
		if len(refs) == 1 && record == "" {
			back = append(back, u.GetNamespace()+"/"+u.GetName())
		} else if len(refs) == 1 || record == "" && u.GetName() != "nobodys" {
			t.Errorf("route %s is half put back: %v, %q", u.GetName(), refs, record)
		}
	}
	slices.Sort(back)
	if want := []string{"farm/elsewhere", "shop/gone", "shop/old"}; !slices.Equal(back, want) {
		t.Errorf("put back: %q, want %q", back, want)
	}
}

// It is done at the beginning, when a Release is removed by force, when an old copy of a route comes back, and again where
// it fails.
func TestRoutesArePutBackWhenSomethingTellsOfThem(t *testing.T) {
	c, client, back := gatewayed(t, sharedRoute("shop", "web", "gone"))
	refusals := 1
	client.PrependReactor("list", "httproutes", func(kubetesting.Action) (bool, runtime.Object, error) {
		if refusals--; refusals >= 0 {
			return true, nil, errors.New("connection refused")
		}
		return false, nil, nil
	})
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { c.free(ctx); close(ended) }()
	defer func() { end(); <-ended }()
	next := func(what string) {
		t.Helper()
		select {
		case got := <-back:
			if got != "shop/web" {
				t.Errorf("%s: %s", what, got)
			}
		case <-time.After(10 * time.Second):
			t.Fatal(what, ": nothing is put back")
		}
	}
	next("at the beginning, the second time")
	again := func() {
		t.Helper()
		if _, err := client.Resource(gateway.Resource(v1alpha1.HTTPRoute)).Namespace("shop").Update(ctx, sharedRoute("shop", "web", "gone"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	again()
	c.take(follow.Change{Event: watch.Deleted, Object: seen(t, withUID("gone", "shop", release.Progressing, false))})
	next("a Release is removed by force")
	again()
	w := newWard("shop")
	w.take(c, v1alpha1.HTTPRoute, follow.Change{Event: watch.Modified, Object: sharedRoute("shop", "web", "gone")})
	next("a route is changed")

	// What is no sign of one has nothing looked at.
	end()
	<-ended
	c.strays.take()
	w.take(c, v1alpha1.HTTPRoute, follow.Change{Event: watch.Modified, Object: sharedRoute("shop", "web", "u")})
	w.take(c, v1alpha1.HTTPRoute, follow.Change{All: []runtime.Object{sharedRoute("shop", "web", "")}})
	c.take(follow.Change{Event: watch.Deleted, Object: seen(t, withUID("gone", "shop", release.Undone, true))})
	if in := c.strays.take(); len(in) > 0 {
		t.Error(fmt.Sprint("looked at: ", in))
	}
}
