package podview

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/reach"
)

// cluster is one of the test.
type cluster struct {
	client  *fake.Clientset
	require func([]kube.Access) error
}

func (c *cluster) Typed() (kubernetes.Interface, error) { return c.client, nil }
func (c *cluster) Explain(err error) error              { return err }
func (c *cluster) Require(_ context.Context, wanted []kube.Access) error {
	if c.require == nil {
		return nil
	}
	return c.require(wanted)
}

// newCluster has some objects, and gives tokens that say what they are for.
func newCluster(objects ...runtime.Object) *cluster {
	c := &cluster{client: fake.NewClientset(objects...)}
	c.client.PrependReactor("create", "serviceaccounts", func(a k8stesting.Action) (bool, runtime.Object, error) {
		create, ok := a.(k8stesting.CreateActionImpl)
		if !ok || a.GetSubresource() != "token" {
			return false, nil, nil
		}
		r := create.Object.(*authv1.TokenRequest).DeepCopy()
		r.Status.Token = fmt.Sprintf("token of %s for %v bound to %s", create.Name, r.Spec.Audiences, r.Spec.BoundObjectRef.Name)
		r.Status.ExpirationTimestamp = metav1.NewTime(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
		return true, r, nil
	})
	return c
}

// forbid makes a request fail for want of a right.
func (c *cluster) forbid(verb, resource string) {
	c.client.PrependReactor(verb, resource, func(a k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no right"))
	})
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: "shop"}
}

func objectsOfShop() []runtime.Object {
	return []runtime.Object{
		&corev1.ConfigMap{ObjectMeta: meta("settings"), Data: map[string]string{"LEVEL": "info", "a.yaml": "a: 1"}, BinaryData: map[string][]byte{"logo": {0xff, 0}}},
		&corev1.Secret{ObjectMeta: meta("keys"), Data: map[string][]byte{"PASSWORD": []byte("pa$$"), "LEVEL": []byte("secret")}},
		&corev1.Service{ObjectMeta: meta("cart-db"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{
			{Name: "sql", Port: 5432}, {Name: "ha-check", Port: 53, Protocol: corev1.ProtocolUDP}}}},
		&corev1.Service{ObjectMeta: meta("headless"), Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Port: 80}}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"}, Spec: corev1.ServiceSpec{
			ClusterIP: "fd00::1", Ports: []corev1.ServicePort{{Name: "https", Port: 443}}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "other", Namespace: "default"}, Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 80}}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("3920m"), corev1.ResourceMemory: resource.MustParse("2Gi")}}},
	}
}

// podOf returns a running pod with one container.
func podOf(c corev1.Container, volumes ...corev1.Volume) *corev1.Pod {
	c.Name = "web"
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "web-1", Namespace: "shop", UID: "u-1",
			Labels:      map[string]string{"app": "web", "tier": "front"},
			Annotations: map[string]string{"note": "a \"b\"\nc"},
		},
		Spec: corev1.PodSpec{
			NodeName: "node-1", ServiceAccountName: "web", Containers: []corev1.Container{c, {Name: "side"}}, Volumes: volumes,
			EnableServiceLinks: new(false),
		},
		Status: corev1.PodStatus{HostIP: "10.0.0.1", PodIP: "10.1.0.5", PodIPs: []corev1.PodIP{{IP: "10.1.0.5"}, {IP: "fd00::5"}}},
	}
}

func get(t *testing.T, c *cluster, pod *corev1.Pod) *View {
	t.Helper()
	v, err := Get(t.Context(), c, pod, "web")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// own returns the variables that are not of the API server's Service.
func own(v *View) []string {
	var all []string
	for _, e := range v.Pod.Env {
		if !strings.HasPrefix(e.Name, "KUBERNETES_") {
			all = append(all, e.Name+"="+e.Value)
		}
	}
	return all
}

func TestEnvironmentByKubeletsRules(t *testing.T) {
	configMap := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	from := func(f corev1.EnvVarSource) *corev1.EnvVarSource { return &f }
	field := func(path string) *corev1.EnvVarSource {
		return from(corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}})
	}
	limit := func(name, divisor string) *corev1.EnvVarSource {
		f := &corev1.ResourceFieldSelector{Resource: name}
		if divisor != "" {
			f.Divisor = resource.MustParse(divisor)
		}
		return from(corev1.EnvVarSource{ResourceFieldRef: f})
	}
	for name, tt := range map[string]struct {
		container corev1.Container
		want      []string
		notes     []string
	}{
		"values that refer to others": {
			container: corev1.Container{Env: []corev1.EnvVar{
				{Name: "A", Value: "a"}, {Name: "B", Value: "$(A)-$(LATER)-$$(A)-$A-$(KUBERNETES_SERVICE_PORT)$"},
				{Name: "LATER", Value: "l"}, {Name: "A", Value: "$(A)$(B"}, {Name: "EMPTY"},
			}},
			want: []string{"A=a$(B", "B=a-$(LATER)-$(A)-$A-443$", "LATER=l", "EMPTY="},
		},
		"whole objects, the later one wins": {
			container: corev1.Container{
				EnvFrom: []corev1.EnvFromSource{
					{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: configMap("settings")}},
					{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: configMap("keys")}},
					{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: configMap("settings")}},
					{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: configMap("none"), Optional: new(true)}},
					{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: configMap("gone")}},
				},
				Env: []corev1.EnvVar{{Name: "PASSWORD", Value: "$(LEVEL)"}},
			},
			want:  []string{"LEVEL=secret", "a.yaml=a: 1", "PASSWORD=secret", "P_LEVEL=info", "P_a.yaml=a: 1"},
			notes: []string{`variables of Secret "gone" are left out: it does not exist`},
		},
		"keys": {
			container: corev1.Container{Env: []corev1.EnvVar{
				{Name: "L", ValueFrom: from(corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: configMap("settings"), Key: "LEVEL"}})},
				{Name: "P", ValueFrom: from(corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: configMap("keys"), Key: "PASSWORD"}})},
				{Name: "O", ValueFrom: from(corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: configMap("keys"), Key: "none", Optional: new(true)}})},
				{Name: "X", ValueFrom: from(corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: configMap("settings"), Key: "none"}})},
			}},
			want:  []string{"L=info", "P=pa$$"},
			notes: []string{`variable X is left out: ConfigMap "settings" does not exist or has no key "none"`},
		},
		"fields": {
			container: corev1.Container{Env: []corev1.EnvVar{
				{Name: "A", ValueFrom: field("metadata.name")}, {Name: "B", ValueFrom: field("metadata.labels['tier']")},
				{Name: "C", ValueFrom: field("metadata.labels")}, {Name: "D", ValueFrom: field("metadata.annotations['note']")},
				{Name: "E", ValueFrom: field("status.podIPs")}, {Name: "F", ValueFrom: field("status.hostIP")},
				{Name: "G", ValueFrom: field("spec.nodeName")}, {Name: "H", ValueFrom: field("metadata.labels['none']")},
				{Name: "I", ValueFrom: field("status.phase")}, {Name: "J", ValueFrom: field("metadata.annotations")},
				{Name: "K", ValueFrom: field("spec.serviceAccountName")}, {Name: "L", ValueFrom: field("metadata.uid")},
			}},
			want: []string{"A=web-1", "B=front", "C=app=\"web\"\ntier=\"front\"", "D=a \"b\"\nc", "E=10.1.0.5,fd00::5",
				"F=10.0.0.1", "G=node-1", "H=", `J=note="a \"b\"\nc"`, "K=web", "L=u-1"},
			notes: []string{"variable I is left out: field status.phase of the pod is not one that the downward API gives"},
		},
		"resources": {
			container: corev1.Container{
				Resources: corev1.ResourceRequirements{
					Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("100Mi")},
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")},
				},
				Env: []corev1.EnvVar{
					{Name: "A", ValueFrom: limit("limits.memory", "")}, {Name: "B", ValueFrom: limit("limits.memory", "1Mi")},
					{Name: "C", ValueFrom: limit("limits.cpu", "")}, {Name: "D", ValueFrom: limit("limits.cpu", "1m")},
					{Name: "E", ValueFrom: limit("requests.cpu", "")}, {Name: "F", ValueFrom: limit("requests.cpu", "100m")},
					{Name: "G", ValueFrom: limit("requests.memory", "")}, {Name: "H", ValueFrom: limit("limits.hugepages-2Mi", "")},
					{Name: "I", ValueFrom: limit("limits.gpu", "")},
				},
			},
			want:  []string{"A=104857600", "B=100", "C=4", "D=3920", "E=1", "F=3", "G=0", "H=0"},
			notes: []string{"variable I is left out: resource limits.gpu is not one that the downward API gives"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := get(t, newCluster(objectsOfShop()...), podOf(tt.container))
			if diff := cmp.Diff(tt.want, own(v)); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.notes, append([]string(nil), v.Pod.Notes[1:]...)); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVariablesOfServices(t *testing.T) {
	pod := podOf(corev1.Container{Env: []corev1.EnvVar{{Name: "CART_DB_PORT", Value: "mine"}}})
	pod.Spec.EnableServiceLinks = nil // as by default
	v := get(t, newCluster(objectsOfShop()...), pod)
	var got []string
	for _, e := range v.Pod.Env {
		got = append(got, e.Name+"="+e.Value)
	}
	want := []string{
		"CART_DB_PORT=mine",
		"CART_DB_PORT_53_UDP=udp://10.96.0.7:53", "CART_DB_PORT_53_UDP_ADDR=10.96.0.7",
		"CART_DB_PORT_53_UDP_PORT=53", "CART_DB_PORT_53_UDP_PROTO=udp",
		"CART_DB_PORT_5432_TCP=tcp://10.96.0.7:5432", "CART_DB_PORT_5432_TCP_ADDR=10.96.0.7",
		"CART_DB_PORT_5432_TCP_PORT=5432", "CART_DB_PORT_5432_TCP_PROTO=tcp",
		"CART_DB_SERVICE_HOST=10.96.0.7", "CART_DB_SERVICE_PORT=5432",
		"CART_DB_SERVICE_PORT_HA_CHECK=53", "CART_DB_SERVICE_PORT_SQL=5432",
		"KUBERNETES_PORT=tcp://[fd00::1]:443", "KUBERNETES_PORT_443_TCP=tcp://[fd00::1]:443",
		"KUBERNETES_PORT_443_TCP_ADDR=fd00::1", "KUBERNETES_PORT_443_TCP_PORT=443", "KUBERNETES_PORT_443_TCP_PROTO=tcp",
		"KUBERNETES_SERVICE_HOST=fd00::1", "KUBERNETES_SERVICE_PORT=443", "KUBERNETES_SERVICE_PORT_HTTPS=443",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestMissingRightsAreNamedTogether(t *testing.T) {
	c := newCluster(objectsOfShop()...)
	c.forbid("get", "secrets")
	var wanted []kube.Access
	all := errors.New("rights are missing")
	c.require = func(w []kube.Access) error {
		wanted = w
		return all
	}
	pod := podOf(corev1.Container{
		EnvFrom: []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}}},
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
		},
		VolumeMounts: []corev1.VolumeMount{{Name: "tls", MountPath: "/tls"}},
	}, corev1.Volume{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "tls"}}},
		corev1.Volume{Name: "unused", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "unused"}}})
	if _, err := Get(t.Context(), c, pod, ""); !errors.Is(err, all) {
		t.Errorf("error %v", err)
	}
	want := []kube.Access{
		{Verb: "get", Resource: "configmaps", Namespace: "shop", Name: "settings"},
		{Verb: "get", Resource: "secrets", Namespace: "shop", Name: "keys"},
		{Verb: "get", Resource: "secrets", Namespace: "shop", Name: "tls"},
	}
	if diff := cmp.Diff(want, wanted); diff != "" {
		t.Errorf("rights (-want +got):\n%s", diff)
	}
}

func TestWhatCanBeDoneWithoutIsNoted(t *testing.T) {
	c := newCluster(objectsOfShop()...)
	c.forbid("list", "services")
	c.forbid("get", "nodes")
	c.forbid("create", "serviceaccounts")
	pod := podOf(corev1.Container{
		Env:          []corev1.EnvVar{{Name: "CPUS", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}}},
		VolumeMounts: []corev1.VolumeMount{{Name: "token", MountPath: "/token"}},
	}, corev1.Volume{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}})
	pod.Spec.EnableServiceLinks = new(true)
	v := get(t, c, pod)
	notes := strings.Join(v.Pod.Notes, "\n")
	for _, want := range []string{"variables of other Kubernetes Services are left out", "limits that are not set", "variable CPUS is left out", "token of service account web is left out"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes do not say %q:\n%s", want, notes)
		}
	}
	if diff := cmp.Diff([]reach.LeftOut{{Path: "/token/token", Why: "there is no token"}}, v.Files[0].LeftOut); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
}

func TestContainers(t *testing.T) {
	pod := podOf(corev1.Container{WorkingDir: "/app", SecurityContext: &corev1.SecurityContext{RunAsUser: new(int64(7))}})
	pod.Spec.InitContainers = []corev1.Container{{Name: "proxy"}}
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1)), RunAsGroup: new(int64(2)), FSGroup: new(int64(3))}
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "10.9.9.9", Hostnames: []string{"old", "older"}}}
	pod.Spec.DNSPolicy = corev1.DNSNone
	pod.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"a", "b"},
		Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}, {Name: "rotate"}}}
	c := newCluster(objectsOfShop()...)
	v := get(t, c, pod)
	if p := v.Pod; p.UID != 7 || p.GID != 2 || len(p.Groups) != 1 || p.Dir != "/app" || p.Hostname != "web-1" ||
		p.ResolvConf != "search a b\nnameserver 1.1.1.1\noptions ndots:2 rotate\n" ||
		!strings.HasSuffix(p.Hosts, "10.1.0.5\tweb-1\nfd00::5\tweb-1\n10.9.9.9\told\tolder\n") {
		t.Errorf("pod %+v", p)
	}
	if _, err := Get(t.Context(), c, pod, "proxy"); err != nil {
		t.Error(err)
	}
	pod.Annotations["kubectl.kubernetes.io/default-container"] = "side"
	if got, err := findContainer(pod, ""); err != nil || got.Name != "side" {
		t.Errorf("default container %v, %v", got, err)
	}
	if _, err := Get(t.Context(), c, pod, "none"); err == nil || !strings.Contains(err.Error(), `"side"`) {
		t.Errorf("error %v", err)
	}
}
