package podview

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/bightdev/bight/internal/reach"
)

// reader reads from a map, where a Secret without data may not be read.
func reader(resource string, all map[string]map[string]string, reads map[string]int) func(context.Context, string) (map[string]string, error) {
	return func(_ context.Context, name string) (map[string]string, error) {
		reads[resource+" "+name]++
		data, ok := all[name]
		switch {
		case !ok:
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: resource}, name)
		case data == nil:
			return nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, name, nil)
		}
		return data, nil
	}
}

func TestTheEnvironmentThatASpecGives(t *testing.T) {
	yes := true
	config := func(name, key string, optional *bool) *core.EnvVarSource {
		return &core.EnvVarSource{ConfigMapKeyRef: &core.ConfigMapKeySelector{LocalObjectReference: core.LocalObjectReference{Name: name}, Key: key, Optional: optional}}
	}
	secret := func(name, key string) *core.EnvVarSource {
		return &core.EnvVarSource{SecretKeyRef: &core.SecretKeySelector{LocalObjectReference: core.LocalObjectReference{Name: name}, Key: key}}
	}
	field := func(path string) *core.EnvVarSource {
		return &core.EnvVarSource{FieldRef: &core.ObjectFieldSelector{FieldPath: path}}
	}
	pod := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: "till-1", Namespace: "shop", Labels: map[string]string{"app": "till"}},
		Status:     core.PodStatus{PodIPs: []core.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}},
	}
	c := &core.Container{
		EnvFrom: []core.EnvFromSource{
			{Prefix: "C_", ConfigMapRef: &core.ConfigMapEnvSource{LocalObjectReference: core.LocalObjectReference{Name: "config"}}},
			{SecretRef: &core.SecretEnvSource{LocalObjectReference: core.LocalObjectReference{Name: "keys"}}},
			{ConfigMapRef: &core.ConfigMapEnvSource{LocalObjectReference: core.LocalObjectReference{Name: "none"}, Optional: &yes}},
			{SecretRef: &core.SecretEnvSource{LocalObjectReference: core.LocalObjectReference{Name: "none"}}},
		},
		Env: []core.EnvVar{
			{Name: "PLAIN", Value: "a $(C_color) b $$(C_color) $(NOT_THERE) $5 $(open"},
			{Name: "key", Value: "over"},
			{Name: "ONE", ValueFrom: config("config", "color", nil)},
			{Name: "KEY", ValueFrom: secret("keys", "key")},
			{Name: "OPTIONAL", ValueFrom: config("config", "none", &yes)},
			{Name: "C_size", ValueFrom: config("config", "none", &yes)},
			{Name: "MISSING", ValueFrom: config("config", "none", nil)},
			{Name: "FORBIDDEN", ValueFrom: secret("others", "key")},
			{Name: "BEHIND", Value: "x$(FORBIDDEN)"},
			{Name: "ADDRESS", Value: "http://$(CART_SERVICE_HOST)"},
			{Name: "POD", ValueFrom: field("metadata.name")}, {Name: "LABEL", ValueFrom: field("metadata.labels['app']")},
			{Name: "IPS", ValueFrom: field("status.podIPs")}, {Name: "NODE", ValueFrom: field("spec.nodeName")},
			{Name: "ACCOUNT", ValueFrom: field("spec.serviceAccountName")},
			{Name: "CPU", ValueFrom: &core.EnvVarSource{ResourceFieldRef: &core.ResourceFieldSelector{Resource: "limits.cpu"}}},
		},
	}
	reads := map[string]int{}
	env, unknown := Specified(t.Context(), pod, c, Source{
		ConfigMap: reader("configmaps", map[string]map[string]string{"config": {"color": "blue", "size": "9"}}, reads),
		Secret:    reader("secrets", map[string]map[string]string{"keys": {"key": "s3"}, "others": nil}, reads),
	})
	want := []reach.Variable{
		{Name: "ACCOUNT", Value: "default"}, {Name: "C_color", Value: "blue"}, {Name: "C_size", Value: "9"}, {Name: "IPS", Value: "10.0.0.1,fd00::1"},
		{Name: "KEY", Value: "s3"}, {Name: "LABEL", Value: "till"}, {Name: "ONE", Value: "blue"},
		{Name: "PLAIN", Value: "a blue b $(C_color) $(NOT_THERE) $5 $(open"}, {Name: "POD", Value: "till-1"}, {Name: "key", Value: "over"},
	}
	if d := cmp.Diff(want, env); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	wantUnknown := []string{
		`all of Secret none (secrets "none" not found)`,
		"MISSING (ConfigMap config has no key none)",
		`FORBIDDEN (secrets "others" is forbidden: <nil>)`,
		"BEHIND (it has the value of FORBIDDEN)",
		"ADDRESS (it may have the value of CART_SERVICE_HOST, of a Kubernetes Service)",
		"NODE (pod till-1 does not say its spec.nodeName)",
		"CPU (kubelet computes limits.cpu)",
	}
	if d := cmp.Diff(wantUnknown, unknown); d != "" {
		t.Errorf("unknown (-want +got):\n%s", d)
	}
	for what, n := range reads {
		if n != 1 {
			t.Errorf("%s was read %d times", what, n)
		}
	}
}

func TestAPodToComeHasNoFields(t *testing.T) {
	field := func(name, path string) core.EnvVar {
		return core.EnvVar{Name: name, ValueFrom: &core.EnvVarSource{FieldRef: &core.ObjectFieldSelector{FieldPath: path}}}
	}
	c := &core.Container{Env: []core.EnvVar{field("NAMESPACE", "metadata.namespace"), field("LABEL", "metadata.labels['app']"), field("ACCOUNT", "spec.serviceAccountName")}}
	env, unknown := Specified(t.Context(), &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: "shop"}}, c, Source{})
	if d := cmp.Diff([]reach.Variable{{Name: "NAMESPACE", Value: "shop"}}, env); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	want := []string{"LABEL (there is no pod to say its metadata.labels['app'])", "ACCOUNT (there is no pod to say its spec.serviceAccountName)"}
	if d := cmp.Diff(want, unknown); d != "" {
		t.Errorf("unknown (-want +got):\n%s", d)
	}
}
