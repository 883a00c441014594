package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/bridge/permit"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

// anywhere is the subject of who wants a namespace's network and names and nothing else,
// where bight up has deployed nothing: any workload there that has a ready pod. nothing
// is the error where there is none.
func (p *Program) anywhere(ctx context.Context, t *target, nothing *noAppError, printer *term.Printer) (*subject, error) {
	if nothing.absent {
		return nil, nothing
	}
	cluster, _, err := t.load(printer)
	if err != nil {
		return nil, err
	}
	client, err := cluster.Typed()
	if err != nil {
		return nil, err
	}
	list, err := client.CoreV1().Pods(cluster.Namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return nil, cluster.Explain(err)
	}
	kind, name := anyWorkload(list.Items)
	if name == "" {
		return nil, fmt.Errorf("%w; no workload there has a ready pod either", nothing)
	}
	s, err := p.workload(ctx, t, kind, name, printer)
	if err != nil {
		return nil, err
	}
	s.name, s.unasked = "", true
	return s, nil
}

// anyWorkload is a workload of which one of these pods is, and is ready: the first by its
// kind and name, so that it is the same one next time. It is "" for none.
func anyWorkload(list []core.Pod) (kind, name string) {
	type workload struct{ kind, name string }
	var all []workload
	for i := range list {
		pod := &list[i]
		if pod.DeletionTimestamp != nil || pod.Spec.HostNetwork || !ready(pod) {
			continue
		}
		if kind, name := workloadOf(pod); name != "" {
			all = append(all, workload{kind, name})
		}
	}
	if len(all) == 0 {
		return "", ""
	}
	first := slices.MinFunc(all, func(x, y workload) int { return cmp.Or(cmp.Compare(x.kind, y.kind), cmp.Compare(x.name, y.name)) })
	return first.kind, first.name
}

func ready(pod *core.Pod) bool {
	return pod.Status.Phase == core.PodRunning && slices.ContainsFunc(pod.Status.Conditions, func(c core.PodCondition) bool {
		return c.Type == core.PodReady && c.Status == core.ConditionTrue
	})
}

// workloadOf is the workload that made a pod, "" for none that Bight has a name for. That
// of a ReplicaSet is named as it is, with the hash of its template behind.
func workloadOf(pod *core.Pod) (kind, name string) {
	o := meta.GetControllerOf(pod)
	switch {
	case o == nil || !strings.HasPrefix(o.APIVersion, "apps/"):
	case o.Kind == "StatefulSet", o.Kind == "DaemonSet":
		return strings.ToLower(o.Kind), o.Name
	case o.Kind == "ReplicaSet":
		hash := pod.Labels["pod-template-hash"]
		if name, ok := strings.CutSuffix(o.Name, "-"+hash); ok && hash != "" {
			return "deployment", name
		}
	}
	return "", ""
}

// uninvited says, of who named no workload and finds no node agents, what to do: an
// ephemeral container stays listed in a pod that nobody has asked for.
func (s *subject) uninvited(missing *permit.MissingError) error {
	return fmt.Errorf("nothing that bight up deployed is in %s, and %w; bight run %s -n %s -- COMMAND has the network by an ephemeral container, which stays listed in the pod until that is replaced",
		place(s.bridge.Namespace, s.bridge.Cluster), missing, s.workload, s.bridge.Namespace)
}

// named is the subject of a command that is about a service, or, if name is "", about
// nothing but the network and the names of a namespace.
func (p *Program) named(ctx context.Context, t *target, source, name string, printer *term.Printer) (*subject, error) {
	b, a, err := p.bridge(ctx, t, source, printer)
	var nothing *noAppError
	switch there := !errors.As(err, &nothing); {
	case there:
	case name == "":
		return p.anywhere(ctx, t, nothing, printer)
	default:
		nothing.meant = t.meant(ctx, name, printer)
	}
	if err != nil {
		return nil, err
	}
	s := &subject{bridge: b, name: name, app: a}
	if name != "" {
		if s.service = a.Service(name); s.service == nil {
			return nil, unknownService(ctx, b, name)
		}
		b.Say = func(text string) { printer.Note(name, text) }
	}
	return s, err
}

// meant is the workload that somebody may have meant who gave its name alone, "" for none.
func (t *target) meant(ctx context.Context, name string, printer *term.Printer) string {
	cluster, _, err := t.load(printer)
	if err != nil {
		return ""
	}
	client, err := cluster.Typed()
	if err != nil {
		return ""
	}
	return other(present(ctx, client, cluster.Namespace, "", kindsByName()...), nil, name)
}

// unknownService is the error that an app has no service of a name, but perhaps its
// namespace another workload that is meant.
func unknownService(ctx context.Context, b *bridge.Bridge, name string) error {
	unknown := b.Unknown(name)
	if client, err := b.Cluster.Typed(); err == nil {
		unknown.Other = other(present(ctx, client, b.Namespace, session.NotManaged, kindsByName()...), unknown.Known, name)
	}
	return codedError{code: exitNotFound, err: unknown}
}

// other is the workload of others that somebody may have meant who named no service of
// the app: one that has the name, or is nearer to it than each of the services; "" for
// none.
func other(all map[string][]string, services []string, name string) string {
	if exact := ofName(all, name); exact != "" {
		return exact
	}
	names := slices.Clone(services) // the first of those that are equally near is taken
	for _, kind := range kindsByName() {
		names = append(names, all[kind]...)
	}
	if near := bridge.Nearest(name, names); !slices.Contains(services, near) {
		return ofName(all, near)
	}
	return ""
}

// ofName is the workload that has a name, "" for none.
func ofName(all map[string][]string, name string) string {
	for _, kind := range kindsByName() {
		if slices.Contains(all[kind], name) {
			return kind + "/" + name
		}
	}
	return ""
}
