package podview

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/kube"
)

// refs are the objects that a container refers to.
type refs struct {
	configMaps, secrets map[string]bool
	tokens              map[tokenKey]bool
	node                bool
}

// references finds what a container refers to by its variables and mounts.
func references(pod *corev1.Pod, c *corev1.Container) refs {
	r := refs{configMaps: map[string]bool{}, secrets: map[string]bool{}, tokens: map[tokenKey]bool{}}
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			r.configMaps[from.ConfigMapRef.Name] = true
		}
		if from.SecretRef != nil {
			r.secrets[from.SecretRef.Name] = true
		}
	}
	for _, e := range c.Env {
		if from := e.ValueFrom; from != nil && e.Value == "" {
			if from.ConfigMapKeyRef != nil {
				r.configMaps[from.ConfigMapKeyRef.Name] = true
			}
			if from.SecretKeyRef != nil {
				r.secrets[from.SecretKeyRef.Name] = true
			}
			r.resource(pod, c, from.ResourceFieldRef)
		}
	}
	for _, v := range pod.Spec.Volumes {
		mounted := func(m corev1.VolumeMount) bool { return m.Name == v.Name }
		if slices.ContainsFunc(c.VolumeMounts, mounted) {
			r.volume(pod, c, v.VolumeSource)
		}
	}
	return r
}

func (r *refs) volume(pod *corev1.Pod, c *corev1.Container, v corev1.VolumeSource) {
	items := func(items []corev1.DownwardAPIVolumeFile) {
		for _, i := range items {
			r.resource(pod, c, i.ResourceFieldRef)
		}
	}
	switch {
	case v.ConfigMap != nil:
		r.configMaps[v.ConfigMap.Name] = true
	case v.Secret != nil:
		r.secrets[v.Secret.SecretName] = true
	case v.DownwardAPI != nil:
		items(v.DownwardAPI.Items)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			switch {
			case s.ConfigMap != nil:
				r.configMaps[s.ConfigMap.Name] = true
			case s.Secret != nil:
				r.secrets[s.Secret.Name] = true
			case s.DownwardAPI != nil:
				items(s.DownwardAPI.Items)
			case s.ServiceAccountToken != nil:
				r.tokens[keyOf(s.ServiceAccountToken)] = true
			}
		}
	}
}

// resource notes whether the node has to be asked for a limit.
func (r *refs) resource(pod *corev1.Pod, c *corev1.Container, f *corev1.ResourceFieldSelector) {
	if f == nil {
		return
	}
	if f.ContainerName != "" {
		other, err := findContainer(pod, f.ContainerName)
		if err != nil {
			return
		}
		c = other
	}
	if name, ok := strings.CutPrefix(f.Resource, "limits."); ok {
		q := c.Resources.Limits[corev1.ResourceName(name)]
		r.node = r.node || q.IsZero() && nodeLimits(name)
	}
}

// nodeLimits reports whether a limit that is not set is the node's.
func nodeLimits(name string) bool {
	switch corev1.ResourceName(name) {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return true
	}
	return false
}

func keyOf(t *corev1.ServiceAccountTokenProjection) tokenKey {
	k := tokenKey{audience: t.Audience}
	if t.ExpirationSeconds != nil {
		k.seconds = *t.ExpirationSeconds
	}
	return k
}

// rights are those without which there is no view.
func (r *refs) rights(namespace string) []kube.Access {
	var all []kube.Access
	for _, name := range slices.Sorted(maps.Keys(r.configMaps)) {
		all = append(all, kube.Access{Verb: "get", Resource: "configmaps", Namespace: namespace, Name: name})
	}
	for _, name := range slices.Sorted(maps.Keys(r.secrets)) {
		all = append(all, kube.Access{Verb: "get", Resource: "secrets", Namespace: namespace, Name: name})
	}
	return all
}
