package client

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

// deployed is deployment cart of image cart:v1, whose template has a field that this
// program knows nothing of.
func deployed(change func(*appsv1.Deployment)) *appsv1.Deployment {
	d := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "shop", Generation: 3},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr[int32](2), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cart"}},
			Template: core.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "cart"}},
				Spec: core.PodSpec{Containers: []core.Container{{
					Name: "app", Image: "registry:5000/team/cart:v1", Env: []core.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
				}}},
			},
		},
		Status: appsv1.DeploymentStatus{
			ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2,
			Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: core.ConditionTrue, Reason: "NewReplicaSetAvailable"}},
		},
	}
	if change != nil {
		change(d)
	}
	return d
}

func fieldsOf(t *testing.T, o any) map[string]any {
	t.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		t.Fatal(err)
	}
	return fields
}

func service(name string, change func(*core.Service)) core.Service {
	s := core.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"},
		Spec:       core.ServiceSpec{Selector: map[string]string{"app": "cart"}, Ports: []core.ServicePort{{Port: 80, Protocol: core.ProtocolTCP}}},
	}
	if change != nil {
		change(&s)
	}
	return s
}

func sceneOf(t *testing.T, d *appsv1.Deployment, services []core.Service, releases ...v1alpha1.Release) *scene {
	t.Helper()
	fields := fieldsOf(t, d)
	if err := unstructured.SetNestedField(fields, "kept", "spec", "template", "spec", "fromTheFuture"); err != nil {
		t.Fatal(err)
	}
	return &scene{now: noon, fields: &unstructured.Unstructured{Object: fields}, deployment: d, services: services, releases: releases}
}

func v2() Wish {
	return Wish{Deployment: "cart", Images: []Image{{Image: "registry:5000/team/cart:v2"}}}
}

func TestPrepare(t *testing.T) {
	w := v2()
	w.Env = []Env{{"B", "3"}, {"C", "4"}}
	w.Plan.Doubt = "undo"
	s := sceneOf(t, deployed(nil), []core.Service{service("carts", nil), service("other", func(s *core.Service) { s.Spec.Selector = map[string]string{"app": "x"} })})
	r, before, err := prepare(w, s)
	if err != nil || before != nil {
		t.Fatal(before, err)
	}
	var template map[string]any
	if err := json.Unmarshal(r.Spec.Template.Raw, &template); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"metadata": map[string]any{"labels": map[string]any{"app": "cart"}},
		"spec": map[string]any{
			"fromTheFuture": "kept",
			"containers": []any{map[string]any{
				"name": "app", "image": "registry:5000/team/cart:v2", "resources": map[string]any{},
				"env": []any{
					map[string]any{"name": "A", "value": "1"}, map[string]any{"name": "B", "value": "3"}, map[string]any{"name": "C", "value": "4"},
				},
			}},
		},
	}
	if diff := cmp.Diff(want, template); diff != "" {
		t.Errorf("template (-want +got):\n%s", diff)
	}
	name, err := Name("cart", template)
	if err != nil || r.Name != name || len(name) != len("cart-0123456789") {
		t.Errorf("name %s, want %s (%v)", r.Name, name, err)
	}
	r.Spec.Template = runtime.RawExtension{}
	spec := v1alpha1.ReleaseSpec{Deployment: "cart", Service: "carts", Version: "cart:v2 with B, C", Plan: v1alpha1.ReleasePlan{Doubt: "undo"}}
	if diff := cmp.Diff(spec, r.Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{v1alpha1.ServiceLabel: "cart"}, r.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}

// The name is of the template and nothing else: not of how somebody writes it.
func TestNameIsOfTheTemplate(t *testing.T) {
	a, _ := Name("cart", json.RawMessage(`{"metadata":{"creationTimestamp":null,"labels":{"a":"1","b":"2"}},"spec":{}}`))
	b, _ := Name("cart", json.RawMessage(`{"spec":{},"metadata":{"labels":{"b":"2","a":"1"}}}`))
	c, _ := Name("cart", json.RawMessage(`{"spec":{},"metadata":{"labels":{"b":"2","a":"2"}}}`))
	if a != b || a == c {
		t.Errorf("names %s, %s and, of another template, %s", a, b, c)
	}
}

// noon is when the tests look.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// ended is a release whose pods are kept for ten minutes, and which has ended that long ago.
func ended(ago time.Duration) func(*v1alpha1.Release) {
	return func(r *v1alpha1.Release) {
		at := metav1.NewMicroTime(noon.Add(-ago))
		r.Status.Ended, r.Spec.Plan.Keep = &at, &metav1.Duration{Duration: 10 * time.Minute}
	}
}

func TestRefusals(t *testing.T) {
	one := []core.Service{service("carts", nil)}
	two := func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, core.Container{Name: "proxy", Image: "proxy:1"})
	}
	name, _, _ := prepare(v2(), sceneOf(t, deployed(nil), one))
	again := *running(func(r *v1alpha1.Release) {
		r.Name, r.Status.Route, r.Status.Convicted = name.Name, nil, true
		phase(release.Undone, "E = 1430, abort at 1000")(r)
	})
	tests := []struct {
		name     string
		wish     func(*Wish)
		d        func(*appsv1.Deployment)
		services []core.Service
		releases []v1alpha1.Release
		want     string // the beginning, "" for none
	}{
		{name: "all is well"},
		{name: "Recreate", d: func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType }, want: "deployment cart has the strategy Recreate"},
		{name: "paused", d: func(d *appsv1.Deployment) { d.Spec.Paused = true }, want: "deployment cart is paused: kubectl rollout resume deployment/cart comes first"},
		{name: "host network", d: func(d *appsv1.Deployment) { d.Spec.Template.Spec.HostNetwork = true }, want: "deployment cart uses the nodes' own network"},
		{name: "no pods", d: func(d *appsv1.Deployment) { d.Spec.Replicas = ptr[int32](0) }, want: "deployment cart has no pods (replicas: 0)"},
		{name: "a rollout not seen yet", d: func(d *appsv1.Deployment) { d.Generation = 4 }, want: "deployment cart is in the middle of a rollout: 2 of 2 pods"},
		{name: "a rollout under way", d: func(d *appsv1.Deployment) { d.Status.UpdatedReplicas, d.Status.Replicas = 1, 3 },
			want: "deployment cart is in the middle of a rollout: 1 of 2 pods are of its newest version and available; wait for kubectl rollout status deployment/cart, or"},
		{name: "a rollout that is stuck", d: func(d *appsv1.Deployment) {
			d.Status.Conditions[0].Status, d.Status.Conditions[0].Reason = core.ConditionFalse, "ProgressDeadlineExceeded"
		}, want: "deployment cart is in the middle of a rollout"},
		{name: "not put back", d: func(d *appsv1.Deployment) { d.Annotations = map[string]string{v1alpha1.ReleasedAnnotation: "{}"} },
			want: "deployment cart has not been put back yet by the release before"},
		{name: "another release", releases: []v1alpha1.Release{*running(nil)},
			want: "deployment cart is in the middle of release cart-1 (progressing): follow it with bight release watch cart, or end it with bight release undo cart"},
		{name: "a release that can be undone", releases: []v1alpha1.Release{*running(both(phase(release.Promoted, ""), ended(30*time.Second)))},
			want: "release cart-1 of deployment cart is promoted, and can be undone until " + noon.Add(570*time.Second).Local().Format("15:04:05") +
				", for 9m30s more; another begins after that, or when bight release resume cart has the pods of before it go at once (bight release undo cart goes back to them)"},
		{name: "a release that could be undone", releases: []v1alpha1.Release{*running(both(phase(release.Promoted, ""), ended(time.Hour)))},
			want: "release cart-1 of deployment cart is promoted, and what is left of it is about to go: try again in a moment"},
		{name: "a release whose pods are kept", releases: []v1alpha1.Release{*running(both(phase(release.Undone, ""), ended(30*time.Second)))},
			want: "release cart-1 of deployment cart is undone, and its pods still answer what they were asked: they go at " + noon.Add(570*time.Second).Local().Format("15:04:05") + ", in 9m30s; try again then"},
		{name: "the release of another", releases: []v1alpha1.Release{*running(func(r *v1alpha1.Release) { r.Spec.Deployment = "shop" })}},
		{name: "a release that is over", releases: []v1alpha1.Release{*running(both(phase(release.Promoted, ""), func(r *v1alpha1.Release) { r.Status.Route = nil }))}},
		{name: "no Service", services: []core.Service{service("x", func(s *core.Service) { s.Spec.Selector = nil })},
			want: "no Kubernetes Service with a TCP port leads to the pods of deployment cart"},
		{name: "two Services", services: append(one, service("private", nil)), want: "2 Kubernetes Services lead to deployment cart: say whose requests are shared, with --service carts or --service private"},
		{name: "one of two Services", services: append(one, service("private", nil)), wish: func(w *Wish) { w.Service = "private" }},
		{name: "a Service that is not there", wish: func(w *Wish) { w.Service = "none" }, want: "there is no Kubernetes Service none in namespace shop; to deployment cart leads carts"},
		{name: "a Service of others", services: []core.Service{service("x", func(s *core.Service) { s.Spec.Selector = map[string]string{"app": "x"} })}, wish: func(w *Wish) { w.Service = "x" },
			want: "Kubernetes Service x does not lead to the pods of deployment cart: its selector is app=x, and the pods have app=cart"},
		{name: "UDP", services: []core.Service{service("x", func(s *core.Service) { s.Spec.Ports[0].Protocol = core.ProtocolUDP })}, wish: func(w *Wish) { w.Service = "x" },
			want: "Kubernetes Service x has no TCP port"},
		{name: "the same image", wish: func(w *Wish) { w.Images[0].Image = "registry:5000/team/cart:v1" }, want: "deployment cart runs exactly this already, cart:v1"},
		{name: "the same variable", wish: func(w *Wish) { w.Images, w.Env = nil, []Env{{"A", "1"}} }, want: "deployment cart runs exactly this already"},
		{name: "another variable", wish: func(w *Wish) { w.Images, w.Env = nil, []Env{{"A", "2"}} }},
		{name: "whose image", d: two, want: "deployment cart has 2 containers: say whose image it is, as in --image app=registry:5000/team/cart:v2; there is app, proxy"},
		{name: "whose variable", d: two, wish: func(w *Wish) { w.Images, w.Env = nil, []Env{{"A", "2"}} }, want: "deployment cart has 2 containers: say whose variables"},
		{name: "one container of two", d: two, wish: func(w *Wish) { w.Images[0].Container = "proxy" }},
		{name: "no such container", wish: func(w *Wish) { w.Images[0].Container = "web" }, want: "deployment cart has no container web; there is app"},
		{name: "convicted", releases: []v1alpha1.Release{again}, want: "this version was released before, as " + again.Name + ", and the evidence was against it: E = 1430, abort at 1000\nbight release start with --again tries it all the same"},
		{name: "convicted, and again", releases: []v1alpha1.Release{again}, wish: func(w *Wish) { w.Again = true }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := v2()
			if tt.wish != nil {
				tt.wish(&w)
			}
			services := tt.services
			if services == nil {
				services = one
			}
			r, before, err := prepare(w, sceneOf(t, deployed(tt.d), services, tt.releases...))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)):
				t.Errorf("error %v\nwant %s", err, tt.want)
			case err == nil && w.Again && (before == nil || before.Name != r.Name):
				t.Errorf("it does not take the place of %s", again.Name)
			}
		})
	}
}

func TestShort(t *testing.T) {
	for image, want := range map[string]string{
		"cart":                                       "cart",
		"registry:5000/team/cart:v2":                 "cart:v2",
		"cart:v2@sha256:0123456789abcdef":            "cart:v2",
		"r.example.com/cart@sha256:0123456789abcdef": "cart@sha256:0123456789ab",
	} {
		if got := Short(image); got != want {
			t.Errorf("Short(%s) = %s, want %s", image, got, want)
		}
	}
}
