package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/kube"
)

// inError is how many names an error has room for.
const inError = 12

// present are the names of the workloads of a namespace by kind, of these kinds and as far
// as this user may see them. selector chooses by labels; "" is all.
func present(ctx context.Context, client kubernetes.Interface, namespace, selector string, kinds ...string) map[string][]string {
	all, which := map[string][]string{}, meta.ListOptions{LabelSelector: selector}
	note := func(kind string, list runtime.Object, err error) {
		if err != nil {
			return
		}
		_ = apimeta.EachListItem(list, func(o runtime.Object) error { // the function returns no error
			if named, err := apimeta.Accessor(o); err == nil {
				all[kind] = append(all[kind], named.GetName())
			}
			return nil
		})
	}
	for _, kind := range kinds {
		switch kind {
		case "deployment":
			list, err := client.AppsV1().Deployments(namespace).List(ctx, which)
			note(kind, list, err)
		case "statefulset":
			list, err := client.AppsV1().StatefulSets(namespace).List(ctx, which)
			note(kind, list, err)
		case "daemonset":
			list, err := client.AppsV1().DaemonSets(namespace).List(ctx, which)
			note(kind, list, err)
		case "pod": // those of StatefulSets: see alone
			list, err := client.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: strings.TrimPrefix(selector+","+appsv1.StatefulSetPodNameLabel, ",")})
			note(kind, list, err)
		case "service":
			list, err := client.CoreV1().Services(namespace).List(ctx, which)
			note(kind, list, err)
		}
	}
	return all
}

// kindsByName are the kinds in which a name is looked for, the likeliest first.
func kindsByName() []string { return []string{"deployment", "statefulset", "daemonset", "service"} }

// unknownWorkload is the error that a namespace has no workload of a kind and a name. It
// says what there is.
func unknownWorkload(ctx context.Context, client kubernetes.Interface, cluster *kube.Cluster, namespace, kind, name string) error {
	where := place(namespace, cluster)
	if _, err := client.CoreV1().Namespaces().Get(ctx, namespace, meta.GetOptions{}); apierrors.IsNotFound(err) {
		return codedError{code: exitNotFound, err: fmt.Errorf("there is no %s: -n names another, and without it it is the context's", where)}
	}
	kinds := kindsByName()
	if kind == "pod" {
		kinds = append(kinds, kind)
	}
	return codedError{code: exitNotFound, err: fmt.Errorf("there is no %s %s in %s%s", kind, name, where, instead(present(ctx, client, namespace, "", kinds...), kind, name))}
}

// instead says what somebody may have meant who asked for a workload that is not there.
func instead(all map[string][]string, kind, name string) string {
	if other := ofName(all, name); other != "" {
		return fmt.Sprintf("; did you mean %s?", other)
	}
	if near := bridge.Nearest(name, all[kind]); near != "" {
		return fmt.Sprintf("; did you mean %s/%s?", kind, near)
	}
	switch names := all[kind]; {
	case len(names) > inError:
		return fmt.Sprintf("; there is %s and %d others", strings.Join(names[:inError], ", "), len(names)-inError)
	case len(names) > 0:
		return "; there is " + strings.Join(names, ", ")
	}
	return "; -n names another namespace"
}

// haltedError is that no process of a workload runs.
type haltedError struct {
	workload, where string
	why             string // after the workload's name
	pods            []core.Pod
}

func (e *haltedError) Error() string { return e.workload + " in " + e.where + " " + e.why }

// explain says of a workload of others that can't be entered what its pods are like, if
// that is the reason.
func (s *subject) explain(ctx context.Context, err error) error {
	if !errors.Is(err, bridge.ErrNoPod) && !errors.Is(err, bridge.ErrBarred) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if halted := s.halted(ctx); halted != nil {
		return halted
	}
	return err
}

// halted is a *haltedError if no process of a workload of others runs; nil otherwise, and
// where that can't be told.
func (s *subject) halted(ctx context.Context) error {
	if s.workload == "" {
		return nil
	}
	client, err := s.bridge.Cluster.Typed()
	if err != nil {
		return nil
	}
	list, err := client.CoreV1().Pods(s.bridge.Namespace).List(ctx, meta.ListOptions{LabelSelector: labels.Set(s.selector).String()})
	if err != nil {
		return nil
	}
	why := halted(list.Items)
	if why == "" {
		return nil
	}
	return &haltedError{s.workload, place(s.bridge.Namespace, s.bridge.Cluster), why, list.Items}
}

// halted says why none of some pods can be entered, "" if one might be.
func halted(pods []core.Pod) string {
	if len(pods) == 0 {
		return "has no pods: is it scaled to 0? A command takes the place of a process that runs"
	}
	why := ""
	for i := range pods {
		pod := &pods[i]
		if slices.ContainsFunc(pod.Status.ContainerStatuses, func(c core.ContainerStatus) bool { return c.State.Running != nil }) {
			return ""
		}
		if why == "" {
			why = fmt.Sprintf("has no pod that runs: pod %s %s", pod.Name, stands(pod))
		}
	}
	return why
}

// stands is how a pod is of which no container runs.
func stands(pod *core.Pod) string {
	for _, c := range pod.Status.ContainerStatuses {
		last, why := c.LastTerminationState.Terminated, ""
		switch {
		case c.State.Waiting != nil:
			why = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			why, last = c.State.Terminated.Reason, c.State.Terminated
		}
		if last != nil {
			return fmt.Sprintf("is not running (%s, container %s ended with exit code %d): kubectl -n %s logs %s -c %[2]s --previous has its last words",
				why, c.Name, last.ExitCode, pod.Namespace, pod.Name)
		}
		if why != "" {
			return fmt.Sprintf("is not running (%s of container %s): kubectl -n %s describe pod %s says why", why, c.Name, pod.Namespace, pod.Name)
		}
	}
	return fmt.Sprintf("is not running (%s): kubectl -n %s describe pod %s says why", pod.Status.Phase, pod.Namespace, pod.Name)
}
