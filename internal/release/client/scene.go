package client

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
)

// steady refuses a Deployment that a release can't begin with now.
func steady(s *scene) error {
	d := s.deployment
	name := d.Name
	for _, r := range s.releases {
		if r.Spec.Deployment != name {
			continue
		}
		if spec.Over(&r) {
			break
		}
		if phaseOf(&r).Ended() {
			return kept(&r, s.now)
		}
		return refuse("deployment %s is in the middle of release %s (%s): follow it with bight release watch %[1]s, or end it with bight release undo %[1]s", name, r.Name, cmp.Or(lower(r.Status.Phase), "about to begin"))
	}
	of := int32(1)
	if d.Spec.Replicas != nil {
		of = *d.Spec.Replicas
	}
	switch {
	case d.DeletionTimestamp != nil:
		return refuse("deployment %s is being deleted", name)
	case d.Annotations[v1alpha1.ReleasedAnnotation] != "":
		return refuse("deployment %s has not been put back yet by the release before (annotation %s): does the controller run? kubectl get pods -n bight-system", name, v1alpha1.ReleasedAnnotation)
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return refuse("deployment %s has the strategy Recreate, which says that two versions of it can't run side by side, as in a release they do: change that to RollingUpdate if they can, or deploy the image without a release", name)
	case d.Spec.Paused:
		return refuse("deployment %s is paused: kubectl rollout resume deployment/%[1]s comes first", name)
	case d.Spec.Template.Spec.HostNetwork:
		return refuse("deployment %s uses the nodes' own network (hostNetwork), where requests can't be shared between versions: deploy the image without a release", name)
	case of == 0:
		return refuse("deployment %s has no pods (replicas: 0), so there are no requests to share: scale it first, or change the image itself", name)
	case d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas < of || d.Status.Replicas > d.Status.UpdatedReplicas || !rolledOut(d):
		return refuse("deployment %s is in the middle of a rollout: %d of %d pods are of its newest version and available; wait for kubectl rollout status deployment/%[1]s, or go back with kubectl rollout undo deployment/%[1]s", name, min(d.Status.UpdatedReplicas, d.Status.AvailableReplicas), of)
	}
	return nil
}

// kept refuses another release while one that has ended keeps pods, and says until when that is.
func kept(r *v1alpha1.Release, now time.Time) error {
	name := r.Spec.Deployment
	until := keptUntil(r)
	left := until.Sub(now).Round(time.Second)
	then := until.Local().Format(time.TimeOnly)
	switch {
	case left <= 0 || gone(r):
		return refuse("release %s of deployment %s is %s, and what is left of it is about to go: try again in a moment", r.Name, name, lower(r.Status.Phase))
	case phaseOf(r) == release.Promoted:
		return refuse("release %s of deployment %s is promoted, and can be undone until %s, for %s more; another begins after that, or when bight release resume %[2]s has the pods of before it go at once (bight release undo %[2]s goes back to them)",
			r.Name, name, then, left)
	}
	return refuse("release %s of deployment %s is %s, and its pods still answer what they were asked: they go at %s, in %s; try again then", r.Name, name, lower(r.Status.Phase), then, left)
}

// keptUntil is until when a release that has ended keeps pods, or zero if it has not.
func keptUntil(r *v1alpha1.Release) time.Time {
	if r.Status.Ended == nil {
		return time.Time{}
	}
	p, _ := spec.Plan(r.Spec.Plan) // what can't be read any more keeps them as long as usual
	if phaseOf(r) == release.Promoted {
		return r.Status.Ended.Add(p.Kept())
	}
	return r.Status.Ended.Add(p.Left())
}

// leaving is the release of a Deployment that is about to be gone by itself, which another
// waits for; nil if there is none. One that is promoted is asked about, as long as somebody
// may go back: another would take that away.
func leaving(all []v1alpha1.Release, deployment string, now time.Time) *v1alpha1.Release {
	i := slices.IndexFunc(all, func(r v1alpha1.Release) bool { return r.Spec.Deployment == deployment })
	if i < 0 || spec.Over(&all[i]) {
		return nil
	}
	r := &all[i]
	switch phase := phaseOf(r); {
	case undoing(r):
		return r
	case phase == release.Promoted && !gone(r) && keptUntil(r).After(now):
		return nil
	case phase.Ended():
		return r
	}
	return nil
}

// undoing says whether a release is about to end because it is undone: the doors may obey the
// order before its phase says so.
func undoing(r *v1alpha1.Release) bool {
	phase := phaseOf(r)
	return phase == release.Undoing || !phase.Ended() && r.Spec.Orders.Undo
}

// rolledOut reports whether the newest version was available once.
func rolledOut(d *appsv1.Deployment) bool {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing {
			return c.Status == core.ConditionTrue && c.Reason == "NewReplicaSetAvailable"
		}
	}
	return true // there is no progressDeadlineSeconds
}

// serviceOf returns the Kubernetes Service whose requests are shared: the one of the
// name or, where that is "", the only one that leads to the Deployment.
func serviceOf(s *scene, name string) (*core.Service, error) {
	d := s.deployment.Name
	var fit []string
	var found *core.Service
	for i := range s.services {
		x := &s.services[i]
		leads := len(x.Spec.Selector) > 0 && labels.SelectorFromSet(x.Spec.Selector).Matches(labels.Set(s.deployment.Spec.Template.Labels))
		switch {
		case x.Labels[v1alpha1.PreviewLabel] != "":
		case name == x.Name && !leads:
			return nil, refuse("Kubernetes Service %s does not lead to the pods of deployment %s: its selector is %s, and the pods have %s", name, d, orNothing(x.Spec.Selector), orNothing(s.deployment.Spec.Template.Labels))
		case name == x.Name && !takesTCP(x):
			return nil, refuse("Kubernetes Service %s has no TCP port, and no other requests can be shared", name)
		case name == x.Name:
			return x, nil
		case leads && takesTCP(x):
			fit = append(fit, x.Name)
			found = x
		}
	}
	switch {
	case name != "" && len(fit) > 0:
		return nil, &NotFoundError{fmt.Sprintf("there is no Kubernetes Service %s in namespace %s; to deployment %s leads %s", name, s.deployment.Namespace, d, some(fit))}
	case name != "":
		return nil, &NotFoundError{fmt.Sprintf("there is no Kubernetes Service %s in namespace %s", name, s.deployment.Namespace)}
	case len(fit) == 0:
		return nil, refuse("no Kubernetes Service with a TCP port leads to the pods of deployment %s, so it gets no requests that could be shared: make one whose selector its pods have (%s), or deploy the image without a release", d, orNothing(s.deployment.Spec.Template.Labels))
	case len(fit) > 1:
		return nil, refuse("%d Kubernetes Services lead to deployment %s: say whose requests are shared, with --service %s", len(fit), d, strings.Join(fit, " or --service "))
	}
	return found, nil
}

func orNothing(set map[string]string) string { return cmp.Or(labels.Set(set).String(), "nothing") }

func takesTCP(s *core.Service) bool {
	return slices.ContainsFunc(s.Spec.Ports, func(p core.ServicePort) bool { return p.Protocol == core.ProtocolTCP || p.Protocol == "" })
}

// change is the Deployment's pod template with what somebody wants to be different, and
// what people call that.
func change(w Wish, s *scene) (template map[string]any, version string, err error) {
	template = s.template()
	list, _, _ := unstructured.NestedSlice(template, "spec", "containers")
	containers := map[string]map[string]any{}
	var names, touched []string
	for _, c := range list {
		fields, _ := c.(map[string]any)
		name, _ := fields["name"].(string)
		containers[name] = fields
		names = append(names, name)
	}
	for _, image := range w.Images {
		name := image.Container
		switch {
		case name == "" && len(names) > 1:
			return nil, "", refuse("deployment %s has %d containers: say whose image it is, as in --image %s=%s; there is %s", w.Deployment, len(names), names[0], image.Image, strings.Join(names, ", "))
		case name == "" && len(names) == 1:
			name = names[0]
		case containers[name] == nil:
			return nil, "", refuse("deployment %s has no container %s; there is %s", w.Deployment, name, strings.Join(names, ", "))
		}
		containers[name]["image"] = image.Image
		touched = append(touched, name)
		version = cmp.Or(version, Short(image.Image))
	}
	if len(w.Env) > 0 {
		if len(touched) == 0 && len(names) > 1 {
			return nil, "", refuse("deployment %s has %d containers: say whose variables --env means, by naming the container's --image, too; there is %s", w.Deployment, len(names), strings.Join(names, ", "))
		}
		if len(touched) == 0 {
			touched = names
			image, _ := containers[names[0]]["image"].(string)
			version = Short(image)
		}
		var set []string
		for _, e := range w.Env {
			set = append(set, e.Name)
			for _, name := range touched {
				setEnv(containers[name], e)
			}
		}
		version += " with " + some(set) // not the values: they may be secret
	}
	if err := unstructured.SetNestedSlice(template, list, "spec", "containers"); err != nil || len(w.Configs) == 0 {
		return template, version, err
	}
	var of []string
	if s.made, of, err = configure(w, s, template); err != nil {
		return nil, "", err
	}
	if version == "" && len(names) > 0 {
		image, _ := containers[names[0]]["image"].(string)
		version = Short(image)
	}
	if len(of) > 0 {
		version += " with " + some(of)
	}
	return template, version, nil
}

// setEnv gives a container a variable, in place of one of that name.
func setEnv(container map[string]any, e Env) {
	list, _ := container["env"].([]any)
	entry := map[string]any{"name": e.Name, "value": e.Value}
	i := slices.IndexFunc(list, func(x any) bool { fields, _ := x.(map[string]any); return fields["name"] == e.Name })
	if i >= 0 {
		list[i] = entry
	} else {
		list = append(list, entry)
	}
	container["env"] = list
}

// Short is what people call an image: the end of its name, with its tag or the
// beginning of its digest.
func Short(image string) string {
	name, digest, pinned := strings.Cut(image[strings.LastIndex(image, "/")+1:], "@")
	if pinned && !strings.Contains(name, ":") {
		algorithm, hash, _ := strings.Cut(digest, ":")
		return name + "@" + algorithm + ":" + hash[:min(len(hash), 12)]
	}
	return name
}

// differs refuses a version that the Deployment runs already.
func differs(s *scene, template map[string]any) error {
	live, _, _ := unstructured.NestedMap(s.fields.Object, "spec", "template")
	has, err := canonical(live)
	if err != nil {
		return err
	}
	wants, err := canonical(template)
	if err != nil {
		return err
	}
	if bytes.Equal(has, wants) {
		return refuse("deployment %s runs exactly this already, %s: there is nothing to release", s.deployment.Name, Short(s.deployment.Spec.Template.Spec.Containers[0].Image))
	}
	return nil
}
