package kube

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// builtin are the kinds that Bight deals with, by group and version. They are
// the same in every conformant cluster, so nobody needs to be asked.
var builtin = []struct {
	group, version string
	namespaced     []string
	cluster        []string
}{
	{"", "v1", []string{
		"ConfigMap", "Endpoints", "Event", "LimitRange", "PersistentVolumeClaim", "Pod", "PodTemplate",
		"ReplicationController", "ResourceQuota", "Secret", "Service", "ServiceAccount",
	}, []string{"Namespace", "Node", "PersistentVolume"}},
	{"apps", "v1", []string{"ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"}, nil},
	{"batch", "v1", []string{"CronJob", "Job"}, nil},
	{"autoscaling", "v2", []string{"HorizontalPodAutoscaler"}, nil},
	{"policy", "v1", []string{"PodDisruptionBudget"}, nil},
	{"networking.k8s.io", "v1", []string{"Ingress", "NetworkPolicy"}, []string{"IngressClass"}},
	{"discovery.k8s.io", "v1", []string{"EndpointSlice"}, nil},
	{"coordination.k8s.io", "v1", []string{"Lease"}, nil},
	{"events.k8s.io", "v1", []string{"Event"}, nil},
	{"storage.k8s.io", "v1", nil, []string{"StorageClass"}},
	{"scheduling.k8s.io", "v1", nil, []string{"PriorityClass"}},
	{"apiextensions.k8s.io", "v1", nil, []string{"CustomResourceDefinition"}},
	{"rbac.authorization.k8s.io", "v1", []string{"Role", "RoleBinding"}, []string{"ClusterRole", "ClusterRoleBinding"}},
	{"admissionregistration.k8s.io", "v1", nil, []string{
		"MutatingWebhookConfiguration", "ValidatingAdmissionPolicy",
		"ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration",
	}},
}

// newMapper returns a mapper that asks rest only for kinds that are not built
// in.
func newMapper(rest meta.RESTMapper) meta.RESTMapper {
	var versions []schema.GroupVersion
	for _, b := range builtin {
		versions = append(versions, schema.GroupVersion{Group: b.group, Version: b.version})
	}
	known := meta.NewDefaultRESTMapper(versions)
	for i, b := range builtin {
		for _, kind := range b.namespaced {
			add(known, versions[i].WithKind(kind), meta.RESTScopeNamespace)
		}
		for _, kind := range b.cluster {
			add(known, versions[i].WithKind(kind), meta.RESTScopeRoot)
		}
	}
	return mapper{known: known, rest: rest}
}

func add(m *meta.DefaultRESTMapper, kind schema.GroupVersionKind, scope meta.RESTScope) {
	if kind.Kind == "Endpoints" { // the one whose name is a plural already
		r := kind.GroupVersion().WithResource("endpoints")
		m.AddSpecific(kind, r, r, scope)
		return
	}
	m.Add(kind, scope)
}

// mapper asks known first and rest only for what known does not have.
type mapper struct {
	known, rest meta.RESTMapper
}

func (m mapper) KindFor(r schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return firstOf(r, m.known.KindFor, m.rest.KindFor)
}

func (m mapper) KindsFor(r schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	return firstOf(r, m.known.KindsFor, m.rest.KindsFor)
}

func (m mapper) ResourceFor(r schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return firstOf(r, m.known.ResourceFor, m.rest.ResourceFor)
}

func (m mapper) ResourcesFor(r schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	return firstOf(r, m.known.ResourcesFor, m.rest.ResourcesFor)
}

func (m mapper) RESTMapping(k schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	if v, err := m.known.RESTMapping(k, versions...); err == nil {
		return v, nil
	}
	return m.rest.RESTMapping(k, versions...)
}

func (m mapper) RESTMappings(k schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	if v, err := m.known.RESTMappings(k, versions...); err == nil {
		return v, nil
	}
	return m.rest.RESTMappings(k, versions...)
}

func (m mapper) ResourceSingularizer(resource string) (string, error) {
	if _, err := m.known.ResourceFor(schema.GroupVersionResource{Resource: resource}); err == nil {
		return m.known.ResourceSingularizer(resource)
	}
	return m.rest.ResourceSingularizer(resource)
}

func firstOf[K, V any](key K, known, rest func(K) (V, error)) (V, error) {
	if v, err := known(key); err == nil {
		return v, nil
	}
	return rest(key)
}
