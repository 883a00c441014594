// Package install puts Bight into a cluster, for everybody who works there: the
// definitions of its API, who may use them, the node agents and the controller. It takes all of that
// out again.
//
// The main type is [Installer]. What is installed is decided by [Render] alone, from
// [Settings]; installing again brings a cluster to what this version renders. An
// Installer does one thing at a time.
package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/kube/follow"
)

// Installer changes what is installed in one cluster.
type Installer struct {
	Cluster *kube.Cluster
	// Say tells the user of each thing that was done, such as "created
	// daemonset/bight-node".
	Say func(text string)
}

// allowance is how long the cluster may take for what it does by itself.
const allowance = 2 * time.Minute

// Check fails unless the user has all the rights that installing takes.
func (i *Installer) Check(ctx context.Context) error {
	all, err := Render(everything())
	if err != nil {
		return err
	}
	return i.may(ctx, all, "create", "patch")
}

// everything has all that can be installed.
func everything() Settings {
	return Settings{Image: "none", Workers: Workers{Count: 1, Image: "none", Registry: "none", Volume: "1Gi"}}
}

// Install applies what the settings render, and returns when every node has its
// agent. Check and Volumes come first.
func (i *Installer) Install(ctx context.Context, s Settings) error {
	all, err := Render(s)
	if err != nil {
		return err
	}
	for _, u := range all {
		if err := i.apply(ctx, u); err != nil {
			return fmt.Errorf("apply %s: %w", nameOf(u), i.Cluster.Explain(err))
		}
		if u.GetKind() == "CustomResourceDefinition" {
			if err := i.established(ctx, u); err != nil {
				return fmt.Errorf("wait until %s is served: %w", nameOf(u), i.Cluster.Explain(err))
			}
		}
	}
	if err := i.dropOthers(ctx, all); err != nil {
		return err
	}
	return errors.Join(i.rolledOut(ctx), i.controllersReady(ctx, max(s.Replicas, 1)), i.workersReady(ctx, s.Workers.Count))
}

// may asks for all rights at once.
func (i *Installer) may(ctx context.Context, all []*unstructured.Unstructured, verbs ...string) error {
	var wanted []kube.Access
	for _, u := range all {
		k, ok := kinds()[u.GetKind()]
		if !ok {
			return fmt.Errorf("%s is of an unknown kind", nameOf(u))
		}
		a := kube.Access{Group: k.group, Resource: k.resource, Name: u.GetName()}
		if k.namespaced {
			a.Namespace = u.GetNamespace()
		}
		for _, verb := range verbs {
			a.Verb = verb
			wanted = append(wanted, a)
		}
	}
	return i.Cluster.Require(ctx, wanted)
}

type kind struct {
	group, version, resource string
	namespaced               bool
}

// kinds are all that are rendered.
func kinds() map[string]kind {
	const admission, rbac = "admissionregistration.k8s.io", "rbac.authorization.k8s.io"
	return map[string]kind{
		"Namespace":                        {"", "v1", "namespaces", false},
		"ServiceAccount":                   {"", "v1", "serviceaccounts", true},
		"CustomResourceDefinition":         {"apiextensions.k8s.io", "v1", "customresourcedefinitions", false},
		"ClusterRole":                      {rbac, "v1", "clusterroles", false},
		"ClusterRoleBinding":               {rbac, "v1", "clusterrolebindings", false},
		"ValidatingAdmissionPolicy":        {admission, "v1", "validatingadmissionpolicies", false},
		"ValidatingAdmissionPolicyBinding": {admission, "v1", "validatingadmissionpolicybindings", false},
		"DaemonSet":                        {"apps", "v1", "daemonsets", true},
		"Deployment":                       {"apps", "v1", "deployments", true},
		"StatefulSet":                      {"apps", "v1", "statefulsets", true},
		"Service":                          {"", "v1", "services", true},
		"PersistentVolumeClaim":            {"", "v1", "persistentvolumeclaims", true},
		"Role":                             {rbac, "v1", "roles", true},
		"RoleBinding":                      {rbac, "v1", "rolebindings", true},
	}
}

// client returns the client for objects like u.
func (i *Installer) client(u *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	k, ok := kinds()[u.GetKind()]
	if !ok {
		return nil, fmt.Errorf("%s is of an unknown kind", nameOf(u))
	}
	d, err := i.Cluster.Dynamic()
	if err != nil {
		return nil, err
	}
	r := d.Resource(u.GroupVersionKind().GroupVersion().WithResource(k.resource))
	if k.namespaced {
		return r.Namespace(u.GetNamespace()), nil
	}
	return r, nil
}

func (i *Installer) apply(ctx context.Context, u *unstructured.Unstructured) error {
	client, err := i.client(u)
	if err != nil {
		return err
	}
	before, err := client.Get(ctx, u.GetName(), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	b, err := json.Marshal(u.Object)
	if err != nil {
		return err
	}
	after, err := client.Patch(ctx, u.GetName(), types.ApplyPatchType, b, metav1.PatchOptions{FieldManager: FieldManager, Force: ptr.To(true)})
	switch {
	case err != nil:
		return err
	case before == nil:
		i.Say("created " + nameOf(u))
	case !reflect.DeepEqual(decided(before), decided(after)):
		i.Say("changed " + nameOf(u))
	}
	return nil
}

// decided is what of an object somebody has decided: not what its controllers write.
func decided(u *unstructured.Unstructured) map[string]any {
	u = u.DeepCopy()
	unstructured.RemoveNestedField(u.Object, "status")
	for _, f := range []string{"resourceVersion", "generation", "managedFields"} {
		unstructured.RemoveNestedField(u.Object, "metadata", f)
	}
	return u.Object
}

var errSeen = errors.New("seen")

// await follows one object until seen is true of it. It gets nil when there is none.
func (i *Installer) await(ctx context.Context, u *unstructured.Unstructured, seen func(*unstructured.Unstructured) bool) error {
	client, err := i.client(u)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, allowance)
	defer cancel()
	only := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", u.GetName()).String()}
	err = follow.Of(client, only).Changes(ctx, "", func(c follow.Change) error {
		var now *unstructured.Unstructured
		switch {
		case c.Event == "" && len(c.All) > 0:
			now = c.All[0].(*unstructured.Unstructured)
		case c.Event != "" && c.Event != watch.Deleted:
			now = c.Object.(*unstructured.Unstructured)
		}
		if seen(now) {
			return errSeen
		}
		return nil
	})
	if errors.Is(err, errSeen) {
		return nil
	}
	return err
}

// established waits until a definition is served.
func (i *Installer) established(ctx context.Context, u *unstructured.Unstructured) error {
	return i.await(ctx, u, func(now *unstructured.Unstructured) bool {
		if now == nil {
			return false
		}
		status, _ := condition(now, "Established")
		return status == "True"
	})
}

// condition is how a condition of an object stands, and why.
func condition(u *unstructured.Unstructured, kind string) (status, reason string) {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == kind {
			status, _ = m["status"].(string)
			reason, _ = m["reason"].(string)
		}
	}
	return status, reason
}

// rolledOut waits until every node has the agent that was applied.
func (i *Installer) rolledOut(ctx context.Context) error {
	ref := &unstructured.Unstructured{}
	ref.SetAPIVersion("apps/v1")
	ref.SetKind("DaemonSet")
	ref.SetName(NodeAgents)
	ref.SetNamespace(Namespace)
	var have, want, before int32
	for {
		// The time is for one step, whatever the number of nodes.
		before = have
		err := i.await(ctx, ref, func(now *unstructured.Unstructured) bool {
			var d appsv1.DaemonSet
			if now == nil || runtime.DefaultUnstructuredConverter.FromUnstructured(now.Object, &d) != nil || d.Status.ObservedGeneration < d.Generation {
				return false
			}
			have, want = min(d.Status.UpdatedNumberScheduled, d.Status.NumberAvailable), d.Status.DesiredNumberScheduled
			return want > 0 && (have == want || have > before)
		})
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			return fmt.Errorf("%d of %d nodes have this version of their agent, and no more for %s; see kubectl -n %s describe pods: %w",
				have, want, allowance, Namespace, err)
		case err != nil:
			return fmt.Errorf("wait for the node agents: %w", i.Cluster.Explain(err))
		case have == want:
			i.Say(fmt.Sprintf("%d node %s", have, plural(have, "agent is ready", "agents are ready")))
			return nil
		}
	}
}

// controllersReady waits until the controllers that were applied run, and one of them
// acts.
func (i *Installer) controllersReady(ctx context.Context, replicas int32) error {
	ref := &unstructured.Unstructured{}
	ref.SetAPIVersion("apps/v1")
	ref.SetKind("StatefulSet")
	ref.SetName(Controller)
	ref.SetNamespace(Namespace)
	err := i.await(ctx, ref, func(now *unstructured.Unstructured) bool {
		var s appsv1.StatefulSet
		return now != nil && runtime.DefaultUnstructuredConverter.FromUnstructured(now.Object, &s) == nil && s.Status.ObservedGeneration >= s.Generation &&
			s.Status.UpdatedReplicas == replicas && s.Status.ReadyReplicas == replicas && s.Status.CurrentRevision == s.Status.UpdateRevision
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return fmt.Errorf("the controller is not ready after %s; see kubectl -n %s describe pods,pvc -l app.kubernetes.io/name=%s: %w", allowance, Namespace, Controller, err)
	case err != nil:
		return fmt.Errorf("wait for the controller: %w", i.Cluster.Explain(err))
	}
	i.Say(fmt.Sprintf("%d %s", replicas, plural(replicas, "controller is ready", "controllers are ready, one of which acts")))
	return nil
}

// dropOthers removes what can be installed and is not wanted now.
func (i *Installer) dropOthers(ctx context.Context, wanted []*unstructured.Unstructured) error {
	all, err := Render(everything())
	if err != nil {
		return err
	}
	for _, u := range wanted {
		all = slices.DeleteFunc(all, func(o *unstructured.Unstructured) bool { return nameOf(o) == nameOf(u) })
	}
	slices.Reverse(all)
	var there []*unstructured.Unstructured
	for _, u := range all {
		client, err := i.client(u)
		if err != nil {
			return err
		}
		_, err = client.Get(ctx, u.GetName(), metav1.GetOptions{})
		if err == nil {
			there = append(there, u)
		} else if !apierrors.IsNotFound(err) {
			return fmt.Errorf("look for %s: %w", nameOf(u), i.Cluster.Explain(err))
		}
	}
	_, err = i.removeAll(ctx, there)
	return err
}

// workersReady waits until the workers that were applied run.
func (i *Installer) workersReady(ctx context.Context, count int32) error {
	if count == 0 {
		return nil
	}
	ref := &unstructured.Unstructured{}
	ref.SetAPIVersion("apps/v1")
	ref.SetKind("Deployment")
	ref.SetName(Worker)
	ref.SetNamespace(Namespace)
	err := i.await(ctx, ref, func(now *unstructured.Unstructured) bool {
		var d appsv1.Deployment
		return now != nil && runtime.DefaultUnstructuredConverter.FromUnstructured(now.Object, &d) == nil && d.Status.ObservedGeneration >= d.Generation &&
			d.Status.UpdatedReplicas == count && d.Status.AvailableReplicas >= count
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return fmt.Errorf("the workers do not run after %s; see kubectl -n %s describe pods -l app.kubernetes.io/name=%s: %w", allowance, Namespace, Worker, err)
	case err != nil:
		return fmt.Errorf("wait for the workers: %w", i.Cluster.Explain(err))
	}
	i.Say(fmt.Sprintf("%d %s", count, plural(count, "worker runs", "workers run")))
	return nil
}

func plural(n int32, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// Uninstall removes everything that Install has put there, and all Intercepts. It
// returns when nothing is left.
func (i *Installer) Uninstall(ctx context.Context) error {
	all, err := Render(everything())
	if err != nil {
		return err
	}
	slices.Reverse(all)
	if err := i.may(ctx, all, "delete"); err != nil {
		return err
	}
	if err := i.underWay(ctx); err != nil {
		return err
	}
	// The agents go first, and take their doors away: without the rest, they would
	// believe what anybody says.
	agents := func(u *unstructured.Unstructured) bool {
		return u.GetKind() == "DaemonSet" || u.GetKind() == "StatefulSet" || u.GetKind() == "Deployment"
	}
	first, err := i.removeAll(ctx, slices.DeleteFunc(slices.Clone(all), func(u *unstructured.Unstructured) bool { return !agents(u) }))
	if err != nil {
		return err
	}
	previews, err := i.previews(ctx)
	if err != nil {
		return err
	}
	rest, err := i.removeAll(ctx, append(previews, slices.DeleteFunc(all, agents)...))
	if err == nil && first+rest == 0 {
		i.Say("nothing of Bight is installed")
	}
	return err
}

// previews are the namespaces of changes' previews, which nobody would remove when the
// controller is gone. Other environments are where applications run, and stay.
func (i *Installer) previews(ctx context.Context) ([]*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("v1")
	u.SetKind("Namespace")
	client, err := i.client(u)
	if err != nil {
		return nil, err
	}
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.EnvironmentLabel + "=preview," + v1alpha1.AppNamespaceLabel})
	if apierrors.IsForbidden(err) {
		return nil, nil // who may remove the rest may remove these, but need not see all
	}
	if err != nil {
		return nil, fmt.Errorf("look for previews: %w", i.Cluster.Explain(err))
	}
	var all []*unstructured.Unstructured
	for n := range list.Items {
		all = append(all, &list.Items[n])
	}
	return all, nil
}

// removeAll removes objects, waits until they are gone, and returns how many there
// were.
func (i *Installer) removeAll(ctx context.Context, all []*unstructured.Unstructured) (n int, err error) {
	var removed []*unstructured.Unstructured
	var failed []error
	for _, u := range all {
		did, err := i.remove(ctx, u)
		switch {
		case err != nil:
			failed = append(failed, fmt.Errorf("remove %s: %w", nameOf(u), i.Cluster.Explain(err)))
		case did:
			removed = append(removed, u)
		}
	}
	for _, u := range removed {
		if err := i.gone(ctx, u); err != nil {
			failed = append(failed, err)
			break
		}
	}
	return len(removed), errors.Join(failed...)
}

// remove asks for the end of an object, and says whether there was one.
func (i *Installer) remove(ctx context.Context, u *unstructured.Unstructured) (bool, error) {
	client, err := i.client(u)
	if err != nil {
		return false, err
	}
	policy := metav1.DeletePropagationForeground
	if u.GetKind() == "Deployment" {
		policy = metav1.DeletePropagationBackground // workers finish what they are at, which nobody waits for
	}
	err = client.Delete(ctx, u.GetName(), metav1.DeleteOptions{PropagationPolicy: &policy})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (i *Installer) gone(ctx context.Context, u *unstructured.Unstructured) error {
	nudging, stop := context.WithCancel(ctx)
	defer stop()
	err := i.await(ctx, u, func(now *unstructured.Unstructured) bool {
		if now != nil && u.GetKind() == "CustomResourceDefinition" && stalled(now) {
			time.AfterFunc(time.Second, func() { i.nudge(nudging, now) }) // it may go on by itself
		}
		return now == nil
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return fmt.Errorf("%w: %s is still there after %s: see what holds it with kubectl get -o yaml %s", err, nameOf(u), allowance, nameOf(u))
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("wait until %s is gone: %w", nameOf(u), i.Cluster.Explain(err))
	}
	i.Say("removed " + strings.TrimSpace(nameOf(u)))
	return nil
}

// stalled says whether the API server could not make sure that no object of a definition is
// left, which is about to be removed.
func stalled(definition *unstructured.Unstructured) bool {
	_, reason := condition(definition, "Terminating")
	return reason == "InstanceDeletionFailed" || reason == "InstanceDeletionCheck"
}

// nudge has the API server look at a definition again that is stalled, unless something else has
// happened to it. It can't list the objects of one at once if nobody ever has. Its next try often sees
// the definition from before it wrote that down, gives up, and goes on when somebody else writes to
// the definition: or else minutes later.
func (i *Installer) nudge(ctx context.Context, definition *unstructured.Unstructured) {
	client, err := i.client(definition)
	if err != nil {
		return // as await says
	}
	version := definition.GetResourceVersion()
	patch := fmt.Appendf(nil, `{"metadata":{"resourceVersion":%q,"annotations":{"bight.dev/stalled":%[1]q}}}`, version)
	_, _ = client.Patch(ctx, definition.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}) // who waits sees what becomes of it
}
