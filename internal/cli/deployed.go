package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
)

// noAppError is that a namespace has nothing that bight up has deployed.
type noAppError struct {
	where, namespace string // the first is its place
	app              string // of the source that is here, "" for none
	err              error  // why there is no source
	absent           bool   // the namespace does not even exist
	meant            string // a workload whose name is the one that was given, or near it, "" for none
}

func (e *noAppError) Error() string {
	if e.meant != "" {
		return fmt.Sprintf("nothing that bight up deployed is in %s; did you mean %s, which somebody else deployed?", e.where, e.meant)
	}
	if e.absent && e.app != "" {
		return fmt.Sprintf("there is no %s: bight up -n %s makes it and deploys %s there, -n names another", e.where, e.namespace, e.app)
	}
	if e.absent {
		return fmt.Sprintf("there is no %s: -n names another, and --source the directory of the source, if it is elsewhere", e.where)
	}
	if e.app != "" {
		return fmt.Sprintf("nothing that bight up deployed is in %s: bight up -n %s deploys %s there, -n names another; a workload that somebody else deployed is written deploy/NAME", e.where, e.namespace, e.app)
	}
	return fmt.Sprintf("nothing that bight up deployed is in %s, and no source names another one: name the namespace with -n, the directory of the source with --source, or a workload that somebody else deployed, as in deploy/NAME (%v)", e.where, e.err)
}

func (e *noAppError) Unwrap() error { return codedError{code: exitNotFound, err: e.err} }

// sourceError is that the source which is here makes no plan, for a command that does not
// need one: it looks there for the app's name alone.
type sourceError struct{ err error }

func (e *sourceError) Error() string {
	return e.err.Error() + "\n" + e.advice()
}

// advice is what to do until it makes one.
func (e *sourceError) advice() string {
	return "-n NAMESPACE goes by what is deployed there, whatever the source here is like"
}

func (e *sourceError) Unwrap() error { return e.err }

// place names a namespace, and where it is.
func place(namespace string, cluster *kube.Cluster) string {
	return fmt.Sprintf("namespace %s (context %s)", namespace, cluster.Context)
}

// theApp is the app that a command is about, and its namespace: that of the source in
// dir or, where there is none or another namespace is named, what is deployed there.
func (t *target) theApp(ctx context.Context, dir string, cluster *kube.Cluster) (*app.App, string, error) {
	source, err := directory([]string{dir})
	if err != nil {
		return nil, "", err
	}
	a, planErr := session.Plan(ctx, source)
	switch {
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case planErr == nil && t.namespace == "":
		return a, t.environment(a.Name), nil
	case planErr != nil && t.namespace == "" && !errors.Is(planErr, detect.ErrNoService):
		return nil, "", &sourceError{planErr}
	}
	client, err := cluster.Typed()
	if err != nil {
		return nil, "", err
	}
	namespace := cluster.Namespace // that of -n, if it is given
	meant := ""
	if planErr == nil {
		meant = a.Name
	}
	there, err := deployedApps(ctx, client, namespace, meant)
	if err != nil {
		return nil, "", cluster.Explain(err)
	}
	var names []string
	for _, other := range there {
		names = append(names, other.Name)
	}
	switch {
	case planErr == nil && slices.Contains(names, a.Name):
		return a, namespace, nil
	case len(there) == 1:
		return there[0], namespace, nil
	case len(there) == 0:
		nothing := &noAppError{where: place(namespace, cluster), namespace: namespace, app: meant, err: planErr}
		if _, err := client.CoreV1().Namespaces().Get(ctx, namespace, meta.GetOptions{}); apierrors.IsNotFound(err) {
			nothing.absent = true
		}
		return nil, "", nothing
	}
	return nil, "", usageError("%s has the apps %s: say which one you mean by the directory of its source, with --source", place(namespace, cluster), strings.Join(names, ", "))
}

// deployedApps are the apps that are deployed in a namespace, with what the pods say of
// their services and, unless they show the one that is meant, the templates of
// Deployments, for those that have no pod.
func deployedApps(ctx context.Context, client kubernetes.Interface, namespace, meant string) ([]*app.App, error) {
	list, err := client.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: session.Managed})
	if err != nil {
		return nil, err
	}
	pods := list.Items
	if there := appsOf(pods); slices.ContainsFunc(there, func(a *app.App) bool { return a.Name == meant }) {
		return there, nil
	}
	// Without the right to see these, there are those that have pods.
	if templates, err := client.AppsV1().Deployments(namespace).List(ctx, meta.ListOptions{LabelSelector: session.Managed}); err == nil {
		for _, d := range templates.Items {
			pods = append(pods, core.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: d.Spec.Template.Spec})
		}
	}
	return appsOf(pods), nil
}

// appsOf are the apps that some pods are of.
func appsOf(pods []core.Pod) []*app.App {
	byName := map[string]*app.App{}
	var all []*app.App
	for i := range pods {
		pod := &pods[i]
		service := serviceOfPod(pod)
		if service == nil {
			continue
		}
		name := session.AppOf(pod)
		a := byName[name]
		if a == nil {
			a = &app.App{Name: name}
			byName[name], all = a, append(all, a)
		}
		if a.Service(service.Name) == nil {
			a.Services = append(a.Services, service)
		}
	}
	slices.SortFunc(all, func(x, y *app.App) int { return strings.Compare(x.Name, y.Name) })
	for _, a := range all {
		slices.SortFunc(a.Services, func(x, y *app.Service) int { return strings.Compare(x.Name, y.Name) })
	}
	return all
}

// serviceOfPod is what a pod says of its service, nil if it is no pod of one.
func serviceOfPod(pod *core.Pod) *app.Service {
	if session.ServiceOf(pod) == "" || session.AppOf(pod) == "" {
		return nil
	}
	service := &app.Service{Name: session.ServiceOf(pod)}
	agent, ok := deploy.AgentIn(&pod.Spec, service.Name)
	if !ok {
		return nil
	}
	for _, p := range deploy.ContainerOf(&pod.Spec, service.Name).Ports {
		number := int(p.ContainerPort)
		protocol := agent.Protocols[number]
		service.Ports = addPort(service.Ports, p.Name, number, p.Protocol, &protocol)
	}
	return service
}
