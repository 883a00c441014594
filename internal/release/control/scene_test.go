package control

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
)

// template is a version of a service, by a word.
func template(word string) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "cart"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "cart", Image: "cart:" + word, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
		}}},
	}
}

// stage is a Deployment of three pods of version one, in order.
func stage() scene {
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "shop", UID: "d", Generation: 4},
		Spec:       appsv1.DeploymentSpec{Replicas: ptr.To[int32](3), Template: *template("one"), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cart"}}},
		Status:     appsv1.DeploymentStatus{ObservedGeneration: 4, Replicas: 3, UpdatedReplicas: 3, AvailableReplicas: 3},
	}
	s := scene{deployment: d, pods: map[types.UID][]*corev1.Pod{}, service: &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "shop"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "cart"},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}}
	s.add("one", 3)
	return s
}

// add adds a ReplicaSet with pods that are ready.
func (s *scene) add(word string, pods int) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "cart-" + word, UID: types.UID(word), Labels: map[string]string{"app": "cart", hashLabel: word}}}
	rs.Spec.Template, rs.Spec.Replicas = *template(word), ptr.To(int32(pods))
	rs.Spec.Template.Labels[hashLabel] = word
	s.sets = append(s.sets, rs)
	for i := range pods {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: rs.Name + "-" + string(rune('a'+i))}}
		p.Status.PodIP = "10.0.0." + string(rune('1'+i))
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		s.pods[rs.UID] = append(s.pods[rs.UID], p)
	}
	return rs
}

func TestFit(t *testing.T) {
	tests := []struct {
		name   string
		change func(*scene)
		to     string // the version
		want   string // in the error, "" for none
		final  bool
	}{
		{"in order", func(*scene) {}, "two", "", false},
		{"no Deployment", func(s *scene) { s.deployment = nil }, "two", "there is no Deployment cart in namespace shop", false},
		{"one that ends", func(s *scene) { s.deployment.DeletionTimestamp = &metav1.Time{} }, "two", "is being deleted", true},
		{"two versions must not run at once", func(s *scene) { s.deployment.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType }, "two", "give it RollingUpdate", true},
		{"paused", func(s *scene) { s.deployment.Spec.Paused = true }, "two", "is paused", false},
		{"the same version", func(*scene) {}, "one", "has this template already", true},
		{"a rollout", func(s *scene) { s.deployment.Status.UpdatedReplicas = 2 }, "two", "2 of 3 pods are updated", false},
		{"what was changed and not seen", func(s *scene) { s.deployment.Generation = 5 }, "two", "in the middle of a rollout", false},
		{"pods that do not serve", func(s *scene) { s.deployment.Status.AvailableReplicas = 1 }, "two", "", false},
		{"no pods", func(s *scene) { s.deployment.Spec.Replicas = ptr.To[int32](0) }, "two", "has no pods", true},
		{"no Service", func(s *scene) { s.service = nil }, "two", "there is no Service cart", false},
		{"a Service without selector", func(s *scene) { s.service.Spec.Selector = nil }, "two", "selects no pods by itself", true},
		{"a Service of others", func(s *scene) { s.service.Spec.Selector["app"] = "stock" }, "two", `selects pods with label app=stock, and those of Deployment cart have "cart"`, true},
		{"a Service that is another release's", func(s *scene) { s.service.Spec.Selector[hashLabel] = "one" }, "two", "", false},
		{"a Deployment that is another release's", func(s *scene) {
			s.deployment.Annotations = map[string]string{v1alpha1.ReleasedAnnotation: `{"release":"x","stable":"one"}`}
			s.deployment.Status.AvailableReplicas = 0
		}, "two", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := stage()
			tt.change(&s)
			r := &v1alpha1.Release{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}}
			r.Spec.Deployment, r.Spec.Service = "cart", "cart"
			err := s.fit(r, template(tt.to))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("fit = %v, want %q", err, tt.want)
			}
			if _, final := errors.AsType[refusal](err); final != tt.final {
				t.Errorf("for good: %v", final)
			}
		})
	}
}

func TestEveryServiceThatLeadsToThePodsIsKeptFromTheNewOnes(t *testing.T) {
	s := stage()
	service := func(name string, selector map[string]string) {
		s.services = append(s.services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: selector}})
	}
	service("cart", map[string]string{"app": "cart"})
	service("cart-inside", map[string]string{"app": "cart", hashLabel: "one"})
	service("stock", map[string]string{"app": "stock"})
	service("elsewhere", nil)
	var got []string
	for _, service := range s.leading() {
		got = append(got, service.Name)
	}
	if diff := cmp.Diff([]string{"cart", "cart-inside"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A Service that a release has pinned is found by the hash, whatever became of the rest.
func TestPinned(t *testing.T) {
	s := stage()
	for name, hash := range map[string]string{"cart": "one", "free": "", "other": "seven", "old": "gone"} {
		s.services = append(s.services, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "x", hashLabel: hash}},
		})
	}
	var got []string
	for _, service := range s.pinned("gone") {
		got = append(got, service.Name)
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"cart", "old"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHindrance(t *testing.T) {
	tests := []struct {
		name   string
		change func(*scene, *appsv1.ReplicaSet)
		want   string
	}{
		{"nothing", func(*scene, *appsv1.ReplicaSet) {}, ""},
		{"a quota", func(s *scene, _ *appsv1.ReplicaSet) {
			s.deployment.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: "exceeded quota: pods"}}
		}, "exceeded quota: pods"},
		{"an image that is not there", func(s *scene, rs *appsv1.ReplicaSet) {
			s.pods[rs.UID][0].Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}}}}
		}, "cart-two-a: ErrImagePull: not found"},
		{"one that is being made", func(s *scene, rs *appsv1.ReplicaSet) {
			s.pods[rs.UID][0].Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}
		}, ""},
		{"no room", func(s *scene, rs *appsv1.ReplicaSet) {
			s.pods[rs.UID][0].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes are available"}}
		}, "cart-two-a: 0/1 nodes are available"},
		{"a probe that is not passed", func(s *scene, rs *appsv1.ReplicaSet) {
			probed(s.pods[rs.UID][0], corev1.ContainerStatus{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
		}, "cart-two-a: container app runs, and has not passed its readiness probe, GET :8080/healthz"},
		{"a start that is not over", func(s *scene, rs *appsv1.ReplicaSet) {
			probed(s.pods[rs.UID][0], corev1.ContainerStatus{Name: "app", Started: new(bool), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
		}, "cart-two-a: container app runs, and has not passed its startup probe, a connection to :8080"},
		{"one that has passed", func(s *scene, rs *appsv1.ReplicaSet) {
			probed(s.pods[rs.UID][0], corev1.ContainerStatus{Name: "app", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := stage()
			rs := s.add("two", 1)
			tt.change(&s, rs)
			if got := s.hindrance(rs); got != tt.want {
				t.Errorf("hindrance = %q, want %q", got, tt.want)
			}
		})
	}
}

// probed gives a pod one container, which has probes.
func probed(p *corev1.Pod, is corev1.ContainerStatus) {
	at := intstr.FromInt32(8080)
	p.Spec.Containers = []corev1.Container{{
		Name:           is.Name,
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: at}}},
		StartupProbe:   &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: at}}},
	}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{is}
}

func TestADeploymentGetsItsSettingsBack(t *testing.T) {
	d := stage().deployment
	d.Spec.MinReadySeconds, d.Spec.ProgressDeadlineSeconds = 5, ptr.To[int32](120)
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
		MaxSurge: ptr.To(intstr.FromString("25%")), MaxUnavailable: ptr.To(intstr.FromInt32(1)),
	}}
	want := d.DeepCopy()
	b := settings(d)
	held(d, 2)
	if d.Spec.Strategy.RollingUpdate.MaxSurge.IntVal != 2 || d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntVal != 0 ||
		*d.Spec.ProgressDeadlineSeconds <= d.Spec.MinReadySeconds || d.Spec.MinReadySeconds < 1<<30 {
		t.Errorf("held: %+v", d.Spec)
	}
	b.restore(d)
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPorts(t *testing.T) {
	one, two := template("one"), template("two")
	two.Spec.Containers[0].Ports[0].ContainerPort = 9090
	tests := []struct {
		name  string
		ports []corev1.ServicePort
		want  []v1alpha1.RoutingPort
		err   string
	}{
		{"by name, where the versions differ", []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}}, []v1alpha1.RoutingPort{{Stable: 8080, Canary: 9090}}, ""},
		{"by number", []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(7070), AppProtocol: ptr.To("grpc")}}, []v1alpha1.RoutingPort{{Stable: 7070, Canary: 7070, Protocol: "grpc"}}, ""},
		{"its own number", []corev1.ServicePort{{Port: 80}}, []v1alpha1.RoutingPort{{Stable: 80, Canary: 80}}, ""},
		{"two that lead to one", []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}, {Port: 81, TargetPort: intstr.FromInt32(8080)}}, []v1alpha1.RoutingPort{{Stable: 8080, Canary: 9090}}, ""},
		{"a name that nobody has", []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("web")}}, nil, "the old version has no port for port 80 of Service cart: no container has a port named web"},
		{"no TCP", []corev1.ServicePort{{Port: 53, Protocol: corev1.ProtocolUDP}}, nil, "no port of Service cart is for TCP"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "cart"}, Spec: corev1.ServiceSpec{Ports: tt.ports}}
			got, err := ports(service, one, two)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// What a desk has written itself is not taken for somebody else's change, however late it is seen.
func TestItsOwnChangeIsWaitedFor(t *testing.T) {
	s := stage()
	d := newDesk(&Controller{Log: slog.New(slog.DiscardHandler)}, types.NamespacedName{Namespace: "shop", Name: "cart"})
	d.ward = newWard("shop")
	clear(d.ward.unseen)
	d.ward.put(s.deployment, false)
	d.ward.put(s.service, false)
	co := underWay(t)
	co.Template, co.r.Spec.Deployment, co.r.Spec.Service = "of the version", "cart", "cart"
	d.courses[co.r.UID] = co
	d.wrote = s.deployment.DeepCopy()
	d.wrote.Generation++
	d.wroteAt = time.Now()
	phase := co.State.Phase
	if _, err := d.look(t.Context(), co.r, false, nil); err != nil || co.State.Phase != phase {
		t.Errorf("it is %s, %v", co.State.Phase, err)
	}
	next := d.wrote.DeepCopy()
	for what, seen := range map[string]*appsv1.Deployment{"the change": next, "none": nil, "one made anew": {ObjectMeta: metav1.ObjectMeta{UID: "other"}}} {
		if d.behind(seen) {
			t.Errorf("%s is waited for", what)
		}
	}
}
