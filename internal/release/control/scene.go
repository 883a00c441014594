package control

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
)

const hashLabel = appsv1.DefaultDeploymentUniqueLabelKey

// before is what a Deployment was before a release changed it. It is kept in
// [v1alpha1.ReleasedAnnotation].
type before struct {
	Release types.UID `json:"release"`
	// Service is the one that selects by hash, Stable the hash of the pods of before.
	Service string `json:"service"`
	Stable  string `json:"stable"`
	// Template is the digest of the pod template that the release has given it.
	Template string `json:"template,omitempty"`

	MaxSurge                *intstr.IntOrString `json:"maxSurge,omitempty"`
	MaxUnavailable          *intstr.IntOrString `json:"maxUnavailable,omitempty"`
	MinReadySeconds         int32               `json:"minReadySeconds,omitempty"`
	ProgressDeadlineSeconds *int32              `json:"progressDeadlineSeconds,omitempty"`
}

// beforeOf returns what a Deployment was, nil if no release has changed it.
func beforeOf(d *appsv1.Deployment) *before {
	text := d.Annotations[v1alpha1.ReleasedAnnotation]
	if text == "" {
		return nil
	}
	b := &before{}
	if err := json.Unmarshal([]byte(text), b); err != nil {
		return nil // somebody else's words
	}
	return b
}

// has says whether a Deployment is as the release has made it, as far as that is known.
func (b before) has(d *appsv1.Deployment) bool {
	if b.Template == "" {
		return d.Spec.MinReadySeconds == never
	}
	return b.Template == digest(plain(&d.Spec.Template))
}

// settings are those of a Deployment that a release changes.
func settings(d *appsv1.Deployment) before {
	b := before{MinReadySeconds: d.Spec.MinReadySeconds, ProgressDeadlineSeconds: d.Spec.ProgressDeadlineSeconds}
	if r := d.Spec.Strategy.RollingUpdate; r != nil {
		b.MaxSurge, b.MaxUnavailable = r.MaxSurge, r.MaxUnavailable
	}
	return b
}

// restore puts a Deployment's settings back.
func (b before) restore(d *appsv1.Deployment) {
	delete(d.Annotations, v1alpha1.ReleasedAnnotation)
	d.Spec.MinReadySeconds, d.Spec.ProgressDeadlineSeconds = b.MinReadySeconds, b.ProgressDeadlineSeconds
	d.Spec.Strategy.RollingUpdate = nil
	if b.MaxSurge != nil || b.MaxUnavailable != nil {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: b.MaxSurge, MaxUnavailable: b.MaxUnavailable}
	}
}

// held has a Deployment make as many new pods as surge says, and take away no old one.
func held(d *appsv1.Deployment, surge int32) {
	d.Spec.MinReadySeconds, d.Spec.ProgressDeadlineSeconds = never, ptr.To[int32](never+1)
	d.Spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{
		MaxSurge: ptr.To(intstr.FromInt32(surge)), MaxUnavailable: ptr.To(intstr.FromInt32(0)),
	}
}

// never is how many seconds no pod is ready for, but one: a Deployment's deadline has to
// be later still, and is none at the largest number.
const never = 1<<31 - 2

// sameTemplate reports whether pods of both templates are of one version.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	return apiequality.Semantic.DeepEqual(plain(a), plain(b))
}

// plain is a template without what a ReplicaSet adds to it.
func plain(t *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	t = t.DeepCopy()
	delete(t.Labels, hashLabel)
	return t
}

// setOf is the ReplicaSet of a template, nil if there is none. Of several it is the
// oldest, as for the Deployment's own controller.
func (s scene) setOf(t *corev1.PodTemplateSpec) *appsv1.ReplicaSet {
	var found *appsv1.ReplicaSet
	for _, rs := range s.sets {
		if sameTemplate(&rs.Spec.Template, t) && (found == nil || rs.CreationTimestamp.Before(&found.CreationTimestamp)) {
			found = rs
		}
	}
	return found
}

// setWith is the ReplicaSet with a hash, nil if there is none.
func (s scene) setWith(hash string) *appsv1.ReplicaSet {
	i := slices.IndexFunc(s.sets, func(rs *appsv1.ReplicaSet) bool { return hash != "" && rs.Labels[hashLabel] == hash })
	if i < 0 {
		return nil
	}
	return s.sets[i]
}

// podsOf are the pods of a ReplicaSet that are not ending.
func (s scene) podsOf(rs *appsv1.ReplicaSet) []*corev1.Pod {
	if rs == nil {
		return nil
	}
	var out []*corev1.Pod
	for _, p := range s.pods[rs.UID] {
		if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded {
			out = append(out, p)
		}
	}
	return out
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// count counts the pods of a ReplicaSet.
func (s scene) count(rs *appsv1.ReplicaSet, want int32) release.Pods {
	n := release.Pods{Want: want}
	for _, p := range s.podsOf(rs) {
		n.All++
		if isReady(p) {
			n.Ready++
		}
	}
	return n
}

// want is how many pods the Deployment's owner, or a scaler, wants.
func (s scene) want() int32 { return ptr.Deref(s.deployment.Spec.Replicas, 1) }

// refusal says that a release can never begin.
type refusal struct{ why string }

func (r refusal) Error() string { return r.why }

func refuse(format string, args ...any) error { return refusal{fmt.Sprintf(format, args...)} }

// fit says what keeps a release from beginning now: a [refusal] if it is for good.
func (s scene) fit(r *v1alpha1.Release, template *corev1.PodTemplateSpec) error {
	d, name := s.deployment, "Deployment "+r.Spec.Deployment
	switch {
	case d == nil:
		return fmt.Errorf("there is no %s in namespace %s", name, r.Namespace)
	case d.DeletionTimestamp != nil:
		return refuse("%s is being deleted", name)
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return refuse("%s has strategy Recreate, which says that two versions of it must not run at once: give it RollingUpdate to release it step by step", name)
	case s.service == nil:
		return fmt.Errorf("there is no Service %s in namespace %s", r.Spec.Service, r.Namespace)
	case len(s.service.Spec.Selector) == 0:
		return refuse("Service %s selects no pods by itself", r.Spec.Service)
	}
	for k, v := range s.service.Spec.Selector {
		if k != hashLabel && d.Spec.Template.Labels[k] != v {
			return refuse("Service %s selects pods with label %s=%s, and those of %s have %q: name the Service that leads to them in spec.service", r.Spec.Service, k, v, name, d.Spec.Template.Labels[k])
		}
		if k != hashLabel && template.Labels[k] != v {
			return refuse("Service %s selects pods with label %s=%s, and those of the new version have %q", r.Spec.Service, k, v, template.Labels[k])
		}
	}
	if b := beforeOf(d); b != nil {
		return nil // another release, which this one takes the place of
	}
	switch {
	case d.Spec.Paused:
		return fmt.Errorf("%s is paused: it begins when that has ended (kubectl rollout resume)", name)
	case sameTemplate(&d.Spec.Template, template):
		return refuse("%s has this template already", name)
	case s.want() == 0:
		return refuse("%s has no pods (replicas: 0), so there is nothing to take over from", name)
	case !s.settled():
		return fmt.Errorf("%s is in the middle of a rollout (%d of %d pods are updated): it begins when that has ended",
			name, d.Status.UpdatedReplicas, s.want())
	}
	return nil
}

// settled reports whether all pods of the Deployment are of its template. They need not
// serve: a release may be what mends them.
func (s scene) settled() bool {
	d := s.deployment
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == s.want() &&
		d.Status.Replicas == s.want() && s.setOf(&d.Spec.Template) != nil
}

// leading are the Services that lead to pods of the Deployment: each of them has to be
// kept from the new ones. Previews are for these.
func (s scene) leading() []*corev1.Service {
	return slices.DeleteFunc(slices.Clone(s.services), func(service *corev1.Service) bool {
		if service.Labels[v1alpha1.CanaryLabel] != "" {
			return true // it leads to the new ones, and only there
		}
		for k, v := range service.Spec.Selector {
			if k != hashLabel && s.deployment.Spec.Template.Labels[k] != v {
				return true
			}
		}
		return len(service.Spec.Selector) == 0 || service.Labels[v1alpha1.PreviewLabel] != ""
	})
}

// pinned are the Services that select one version of the Deployment, by the hash of one of
// its ReplicaSets or by one of those given.
func (s scene) pinned(hashes ...string) []*corev1.Service {
	for _, rs := range s.sets {
		hashes = append(hashes, rs.Labels[hashLabel])
	}
	return slices.DeleteFunc(slices.Clone(s.services), func(service *corev1.Service) bool {
		has := service.Spec.Selector[hashLabel]
		return has == "" || !slices.Contains(hashes, has) || service.Labels[v1alpha1.PreviewLabel] != "" || service.Labels[v1alpha1.CanaryLabel] != ""
	})
}

// hindrance is what keeps pods of the new version from being there or ready, as far as
// the cluster says, "" for nothing.
func (s scene) hindrance(canary *appsv1.ReplicaSet) string {
	for _, c := range s.deployment.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			return c.Message
		}
	}
	for _, p := range s.podsOf(canary) {
		for _, c := range p.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return strings.TrimSuffix(p.Name+": "+w.Reason+": "+w.Message, ": ")
			}
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return p.Name + ": " + c.Message
			}
		}
	}
	for _, p := range s.podsOf(canary) {
		if why := unready(p); why != "" {
			return p.Name + ": " + why
		}
	}
	return ""
}

// unready says which container of a pod runs and does not pass its probe, "" for none.
func unready(p *corev1.Pod) string {
	for _, c := range p.Spec.Containers {
		i := slices.IndexFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == c.Name })
		if i < 0 || p.Status.ContainerStatuses[i].State.Running == nil || p.Status.ContainerStatuses[i].Ready {
			continue
		}
		kind, probe := "readiness", c.ReadinessProbe
		if started := p.Status.ContainerStatuses[i].Started; c.StartupProbe != nil && started != nil && !*started {
			kind, probe = "startup", c.StartupProbe
		}
		if probe == nil {
			continue // about to be told
		}
		return fmt.Sprintf("container %s runs, and has not passed its %s probe%s", c.Name, kind, asks(probe))
	}
	return ""
}

// asks is what a probe asks: ", GET :8080/healthz".
func asks(p *corev1.Probe) string {
	switch {
	case p.HTTPGet != nil:
		return fmt.Sprintf(", GET :%s%s", p.HTTPGet.Port.String(), p.HTTPGet.Path)
	case p.TCPSocket != nil:
		return ", a connection to :" + p.TCPSocket.Port.String()
	case p.GRPC != nil:
		return fmt.Sprintf(", gRPC at :%d", p.GRPC.Port)
	}
	return ""
}

// ports are those that a Service leads to, at pods of both templates.
func ports(service *corev1.Service, stable, canary *corev1.PodTemplateSpec) ([]v1alpha1.RoutingPort, error) {
	var out []v1alpha1.RoutingPort
	for _, p := range service.Spec.Ports {
		if cmp.Or(p.Protocol, corev1.ProtocolTCP) != corev1.ProtocolTCP {
			continue
		}
		from, err := spec.Target(p, stable)
		if err != nil {
			return nil, fmt.Errorf("the old version has no port for port %d of Service %s: %w", p.Port, service.Name, err)
		}
		to, err := spec.Target(p, canary)
		if err != nil {
			return nil, fmt.Errorf("the new version has no port for port %d of Service %s: %w", p.Port, service.Name, err)
		}
		if slices.ContainsFunc(out, func(o v1alpha1.RoutingPort) bool { return o.Stable == from }) {
			continue
		}
		out = append(out, v1alpha1.RoutingPort{Stable: from, Canary: to, Protocol: spec.Protocol(p)})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no port of Service %s is for TCP, so there are no requests to share", service.Name)
	}
	return out, nil
}
