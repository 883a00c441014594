package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

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

	// One that was removed while nobody could look is not there when somebody looks again, though another one of the
	// Deployment is.
	end()
	<-ended
	c.strays.take()
	key := types.NamespacedName{Namespace: "shop", Name: "cart"}
	d := newDesk(c, key)
	d.put(withUID("gone", "shop", release.Promoted, false))
	waits := withUID("waits", "shop", release.Starting, false)
	d.put(waits)
	desks := c.desks
	c.desks = map[types.NamespacedName]*desk{key: d}
	c.take(follow.Change{All: []runtime.Object{seen(t, waits)}})
	if in := c.strays.take(); !slices.Equal(in, []string{"shop"}) {
		t.Errorf("looked at: %q", in)
	}
	c.take(follow.Change{All: []runtime.Object{seen(t, waits)}})
	c.desks = desks

	// What is no sign of one has nothing looked at.
	w.take(c, v1alpha1.HTTPRoute, follow.Change{Event: watch.Modified, Object: sharedRoute("shop", "web", "u")})
	w.take(c, v1alpha1.HTTPRoute, follow.Change{All: []runtime.Object{sharedRoute("shop", "web", "")}})
	c.take(follow.Change{Event: watch.Deleted, Object: seen(t, withUID("gone", "shop", release.Undone, true))})
	if in := c.strays.take(); len(in) > 0 {
		t.Error(fmt.Sprint("looked at: ", in))
	}
}

// A Deployment whose release is no more gets the pods of the version before, and its Services lead to all pods again when
// there are no others.
func TestADeploymentWhoseReleaseIsNoMoreIsPutBack(t *testing.T) {
	labels := map[string]string{"app": "cart"}
	set := func(hash, image string) *appsv1.ReplicaSet {
		rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-" + hash, Labels: map[string]string{hashLabel: hash}}}
		rs.OwnerReferences = []metav1.OwnerReference{{UID: "d", Controller: ptr.To(true)}}
		rs.Spec.Template.Labels = map[string]string{"app": "cart", hashLabel: hash}
		rs.Spec.Template.Spec.Containers = []corev1.Container{{Name: "cart", Image: image}}
		return rs
	}
	deployment := func(change ...func(*appsv1.Deployment)) *appsv1.Deployment {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: "d", Generation: 7}}
		d.Annotations = map[string]string{v1alpha1.ReleasedAnnotation: `{"release":"gone","service":"cart","stable":"old","maxSurge":"25%","minReadySeconds":3}`}
		d.Spec.Replicas, d.Spec.Template = ptr.To[int32](2), set("", "cart:new").Spec.Template
		d.Spec.Template.Labels = labels
		held(d, 1)
		for _, c := range change {
			c(d)
		}
		return d
	}
	released := withUID("under", "shop", release.Progressing, false)
	released.Spec.Traffic.Routes = nil
	for name, tt := range map[string]struct {
		deployment *appsv1.Deployment
		sets       []runtime.Object
		releases   []runtime.Object
		image      string // that it has afterwards
		restored   bool   // its settings
		pinned     string // the hash of the pods that the Service leads to, "old" if it is ""
		unpinned   bool
		noted      bool // it still has the annotation, though the Service leads to all
		settles    bool
	}{
		"in the middle": {deployment: deployment(), sets: []runtime.Object{set("old", "cart:old"), set("new", "cart:new")}, image: "cart:old", restored: true, settles: true},
		"it makes pods of the version before": {
			deployment: deployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "cart:old" }),
			sets:       []runtime.Object{set("old", "cart:old")}, image: "cart:old", restored: true, settles: true,
		},
		"it has no others": {
			deployment: deployment(func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.Containers[0].Image = "cart:old"
				d.Status = appsv1.DeploymentStatus{ObservedGeneration: 7, Replicas: 2, UpdatedReplicas: 2}
			}),
			sets: []runtime.Object{set("old", "cart:old")}, image: "cart:old", restored: true, unpinned: true,
		},
		"the version before is gone": {deployment: deployment(), sets: []runtime.Object{set("new", "cart:new")}, image: "cart:new", restored: true, unpinned: true},
		"somebody has changed it since": {
			deployment: deployment(func(d *appsv1.Deployment) {
				d.Annotations[v1alpha1.ReleasedAnnotation] = `{"release":"gone","stable":"old","template":"other","maxSurge":"25%","minReadySeconds":3}`
			}), sets: []runtime.Object{set("old", "cart:old"), set("new", "cart:new")}, image: "cart:new", restored: true, unpinned: true,
		},
		"somebody has put other settings there": {
			deployment: deployment(func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 5 }),
			sets:       []runtime.Object{set("old", "cart:old"), set("new", "cart:new")}, image: "cart:new", restored: true, unpinned: true,
		},
		"its Service leads to the other version": {
			deployment: deployment(), sets: []runtime.Object{set("old", "cart:old")}, pinned: "gone", image: "cart:old", restored: true, unpinned: true, noted: true, settles: true,
		},
		"another release has it": {deployment: deployment(), sets: []runtime.Object{set("old", "cart:old")}, releases: []runtime.Object{released}, image: "cart:new"},
		"it is nobody's": {
			deployment: deployment(func(d *appsv1.Deployment) { d.Annotations = nil }), sets: []runtime.Object{set("old", "cart:old")}, image: "cart:new",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, _ := gatewayed(t, tt.releases...)
			service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}
			service.Spec.Selector = map[string]string{"app": "cart", hashLabel: cmp.Or(tt.pinned, "old")}
			typed := fake.NewClientset(append([]runtime.Object{tt.deployment, service}, tt.sets...)...)
			c.typed = typed
			failed := c.freeIn(t.Context(), "")
			if settles := errors.Is(failed["shop"], errSettles); settles != tt.settles || len(failed) > 0 != tt.settles {
				t.Errorf("got %v", failed)
			}
			d, err := typed.AppsV1().Deployments("shop").Get(t.Context(), "cart", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			s, err := typed.CoreV1().Services("shop").Get(t.Context(), "cart", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			restored := d.Spec.MinReadySeconds == 3 && d.Spec.Strategy.RollingUpdate.MaxSurge.StrVal == "25%"
			if image := d.Spec.Template.Spec.Containers[0].Image; image != tt.image || restored != tt.restored {
				t.Errorf("image %s, want %s; settings put back: %v", image, tt.image, restored)
			}
			if d.Spec.Template.Labels[hashLabel] != "" {
				t.Errorf("labels %v", d.Spec.Template.Labels)
			}
			if unpinned := s.Spec.Selector[hashLabel] == ""; unpinned != tt.unpinned {
				t.Errorf("selector %v", s.Spec.Selector)
			}
			if noted := d.Annotations[v1alpha1.ReleasedAnnotation] != ""; noted != (!tt.unpinned || tt.noted) && tt.deployment.Annotations != nil {
				t.Errorf("annotations %v", d.Annotations)
			}
		})
	}
}
