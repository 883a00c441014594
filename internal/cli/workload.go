package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/bridge/guest"
	"github.com/bightdev/bight/internal/bridge/permit"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/ui/term"
)

// subject is what run, intercept and env are about: a service of the app, or a
// workload that somebody else deployed, written KIND/NAME.
type subject struct {
	bridge  *bridge.Bridge
	service *app.Service // nil for none
	name    string       // by which the bridge knows it, "" for none
	app     *app.App     // nil for a workload

	workload string            // "deployment/cart", "" for a service of the app
	selector map[string]string // of the workload's pods
	pods     pods
	// unasked says that nobody has named the workload: it is for its network alone.
	unasked bool
	// container is the one that --container names.
	container string
	// agentImage pushes the image with the agent, and returns its reference.
	agentImage func(context.Context) (string, error)
}

// subject finds a service, or a workload.
func (p *Program) subject(ctx context.Context, t *target, source, name string, printer *term.Printer) (*subject, error) {
	kind, bare, isWorkload := strings.Cut(name, "/")
	if isWorkload {
		return p.workload(ctx, t, kind, bare, printer)
	}
	if t.container != "" {
		return nil, usageError("--container is about a workload that somebody else deployed, such as deploy/NAME: what bight up deploys has one container")
	}
	return p.named(ctx, t, source, name, printer)
}

// kindsOfWorkloads are the ways to write each kind.
func kindsOfWorkloads() map[string][]string {
	return map[string][]string{
		"service":     {"svc", "services"},
		"deployment":  {"deploy", "deployments"},
		"statefulset": {"sts", "statefulsets"},
		"daemonset":   {"ds", "daemonsets"},
		"pod":         {"po", "pods"},
	}
}

// kindOf is a kind in full, by any of the ways to write it: with its group, too, as in
// what kubectl get -o name prints.
func kindOf(written string) string {
	kind, _, _ := strings.Cut(strings.ToLower(written), ".")
	for full, short := range kindsOfWorkloads() {
		if kind == full || slices.Contains(short, kind) {
			return full
		}
	}
	return written
}

// workload finds a workload in the cluster.
func (p *Program) workload(ctx context.Context, t *target, kind, name string, printer *term.Printer) (*subject, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	kind = kindOf(kind)
	if kindsOfWorkloads()[kind] == nil || name == "" {
		return nil, usageError("%s/%s: a workload is written service/NAME, deployment/NAME, statefulset/NAME or daemonset/NAME (short: svc, deploy, sts, ds), one pod of a StatefulSet pod/NAME", kind, name)
	}
	cluster, _, err := t.load(printer)
	if err != nil {
		return nil, err
	}
	client, err := cluster.Typed()
	if err != nil {
		return nil, err
	}
	namespace := cluster.Namespace
	selector, ports, in, err := readWorkload(ctx, client, namespace, kind, name)
	if apierrors.IsNotFound(err) {
		return nil, unknownWorkload(ctx, client, cluster, namespace, kind, name)
	}
	if err != nil {
		return nil, fmt.Errorf("find %s/%s in %s: %w", kind, name, place(namespace, cluster), cluster.Explain(err))
	}
	owner, err := permit.Owner(ctx, cluster)
	if err != nil {
		return nil, err
	}
	service := &app.Service{Name: name, Ports: ports}
	s := &subject{
		service: service, name: kind + "/" + name,
		workload: kind + "/" + name, selector: selector, pods: in, container: t.container,
		agentImage: func(ctx context.Context) (string, error) { return p.pushAgent(ctx, t, cluster, printer) },
	}
	s.bridge = &bridge.Bridge{
		Cluster: cluster, Namespace: namespace, App: "namespace " + namespace, Selector: labels.Set(selector).String(), Services: []string{s.name},
		Service: func(*core.Pod) string { return s.workload },
		Agent:   func(*core.Pod) (int, bool) { return 0, true },
		Owner:   owner, Version: p.Version,
		Say: func(text string) { printer.Note(name, text) }, Log: t.log(p.Stderr),
	}
	return s, nil
}

// readWorkload returns which pods a workload has, their ports, and what is in them.
func readWorkload(ctx context.Context, client kubernetes.Interface, namespace, kind, name string) (map[string]string, []app.Port, pods, error) {
	var template core.PodTemplateSpec
	var selects *meta.LabelSelector
	switch kind {
	case "service":
		return readService(ctx, client, namespace, name)
	case "deployment":
		d, err := client.AppsV1().Deployments(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return nil, nil, pods{}, err
		}
		template, selects = d.Spec.Template, d.Spec.Selector
	case "statefulset":
		var d *appsv1.StatefulSet
		d, err := client.AppsV1().StatefulSets(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return nil, nil, pods{}, err
		}
		template, selects = d.Spec.Template, d.Spec.Selector
	case "daemonset":
		d, err := client.AppsV1().DaemonSets(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return nil, nil, pods{}, err
		}
		template, selects = d.Spec.Template, d.Spec.Selector
	case "pod":
		pod, err := client.CoreV1().Pods(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return nil, nil, pods{}, err
		}
		if err := alone(pod); err != nil {
			return nil, nil, pods{}, err
		}
		template = core.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
		selects = &meta.LabelSelector{MatchLabels: map[string]string{appsv1.StatefulSetPodNameLabel: name}}
	}
	// Every pod has all labels of the template, and those that match only labels
	// are the least that says which pods they are.
	selector := selects.MatchLabels
	if len(selects.MatchExpressions) > 0 || len(selector) == 0 {
		selector = template.Labels
	}
	var ports []app.Port
	for _, c := range template.Spec.Containers {
		for _, p := range c.Ports {
			ports = addPort(ports, p.Name, int(p.ContainerPort), p.Protocol, nil)
		}
	}
	if !slices.ContainsFunc(ports, func(p app.Port) bool { return p.Protocol != app.UDP }) {
		if services, err := client.CoreV1().Services(namespace).List(ctx, meta.ListOptions{}); err == nil { // else the user has to say
			ports = append(ports, undeclared(services.Items, template.Labels, namedIn(template.Spec.Containers))...)
		}
	}
	return selector, ports, pods{containers: template.Spec.Containers, annotations: template.Annotations}, nil
}

// alone is nil for a pod that a label tells from all others, as those of a StatefulSet have
// one; for any other it is an error that says what to name instead.
func alone(pod *core.Pod) error {
	if pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name {
		return nil
	}
	instead := "name a workload"
	if kind, name := workloadOf(pod); name != "" {
		instead = fmt.Sprintf("name what it is a pod of, %s/%s", kind, name)
	}
	return usageError("no label tells pod %s from others, as %s does those of a StatefulSet: %s", pod.Name, appsv1.StatefulSetPodNameLabel, instead)
}

// readService returns the pods that a Kubernetes Service leads to, and their ports
// behind its own.
func readService(ctx context.Context, client kubernetes.Interface, namespace, name string) (map[string]string, []app.Port, pods, error) {
	s, err := client.CoreV1().Services(namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return nil, nil, pods{}, err
	}
	if len(s.Spec.Selector) == 0 {
		return nil, nil, pods{}, fmt.Errorf("the Kubernetes Service selects no pods (type %s): name the workload behind it", s.Spec.Type)
	}
	list, err := client.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: labels.Set(s.Spec.Selector).String()})
	if err != nil {
		return nil, nil, pods{}, err
	}
	var in pods
	if len(list.Items) > 0 {
		in = pods{containers: list.Items[0].Spec.Containers, annotations: list.Items[0].Annotations}
	}
	var containers []core.Container // of all pods: in a rollout they differ
	for _, p := range list.Items {
		containers = append(containers, p.Spec.Containers...)
	}
	ports, behind := servedPorts(s, namedIn(containers))
	in.behind = behind
	return s.Spec.Selector, ports, in, nil
}

func addPort(ports []app.Port, name string, number int, transport core.Protocol, says *string) []app.Port {
	protocol := ""
	said := strings.ToLower(name)
	if says != nil {
		said = strings.TrimPrefix(strings.ToLower(*says), "kubernetes.io/")
	}
	switch first, _, _ := strings.Cut(said, "-"); {
	case transport != core.ProtocolTCP && transport != "":
		protocol = app.UDP
	case first == "grpc":
		protocol = app.GRPC
	case first == "http" || first == "http2" || first == "h2c" || first == "ws":
		protocol = app.HTTP
	case first == "tcp" || first == "tls" || first == "https" || first == "wss":
		protocol = app.TCP
	}
	if name == "" {
		name = fmt.Sprint(number)
	}
	return append(ports, app.Port{Name: name, Number: number, Protocol: protocol})
}

// rule makes the rule for a port of the subject.
func (s *subject) rule(flags *ruleFlags, port string, mode steer.Mode) (*steer.Rule, error) {
	if s.workload != "" && mode == steer.Replace {
		return nil, usageError("--replace: the process of %s is not Bight's to stop; it works with services that bight up has deployed", s.workload)
	}
	port, err := s.portOf(port)
	if err != nil {
		return nil, err
	}
	return flags.rule(s.bridge, s.service, port, mode)
}

// admit gets us into the workload's pods, with a rule or, where that is nil, for
// their network, environment and files alone: by the agents of the nodes, or else by an
// ephemeral container in each pod. leave has to be called in the end. For a service of
// the app there is nothing to do.
func (s *subject) admit(ctx context.Context, rule *steer.Rule, pod bool) (leave func(), err error) {
	if s.workload == "" {
		return func() {}, nil
	}
	container, err := s.pods.choose(s.container, s.port(rule))
	if err != nil {
		return nil, err
	}
	if said := s.pods.others(container); pod && s.container == "" && said != "" && !s.unasked {
		s.bridge.Say(said)
	}
	if s.unasked {
		s.bridge.Say(fmt.Sprintf("a pod of %s leads into %s, where bight up has deployed nothing", s.workload, place(s.bridge.Namespace, s.bridge.Cluster)))
	}
	leave, err = s.ask(ctx, rule, container, pod)
	var missing *permit.MissingError
	if !errors.As(err, &missing) {
		return leave, err
	}
	if s.unasked {
		return nil, s.uninvited(missing)
	}
	if halted := s.halted(ctx); halted != nil {
		return nil, halted // no container is left in a pod where nothing runs
	}
	lacking, err := s.bridge.Cluster.Missing(ctx, guest.Rights(s.bridge.Namespace))
	if err != nil {
		return nil, err
	}
	if len(lacking) > 0 {
		return nil, fmt.Errorf("%w. The other way is an ephemeral container in each pod, which takes a right that you don't have: %s", missing, lacking[0])
	}
	return s.visit(ctx, rule, container, pod)
}

// port is the one that a session is about: the rule's or, where there is none, the one
// that a Kubernetes Service leads to first; 0 for none.
func (s *subject) port(rule *steer.Rule) int {
	switch main := steerable(s.service); {
	case rule != nil:
		return rule.Port
	case main != nil && strings.HasPrefix(s.workload, "service/"):
		return main.Number
	}
	return 0
}

// visit is admit by ephemeral containers.
func (s *subject) visit(ctx context.Context, rule *steer.Rule, container string, pod bool) (leave func(), err error) {
	s.bridge.Say("no node agents here; an ephemeral container in each pod leads to it (it stays listed in the pod until that is replaced)")
	settings := guest.Settings{
		Cluster: s.bridge.Cluster, Namespace: s.bridge.Namespace, Selector: s.bridge.Selector,
		ID: s.id(), Owner: s.bridge.Owner + " (" + ownName() + ")", Workload: s.workload, Container: container,
		Rule: rule, Environment: pod, Log: s.bridge.Log,
	}
	if rule != nil {
		settings.Protocol = protocolOf(s.service, rule.Port)
	}
	if settings.Image, err = s.agentImage(ctx); err != nil {
		return nil, err
	}
	g, err := guest.Open(ctx, settings)
	if err != nil {
		return nil, err
	}
	s.bridge.Token, s.bridge.Enter = g.Token(), g.Enter
	if rule != nil {
		*rule = *g.Rule()
	}
	return g.Close, nil
}

// id names what lets this process in.
func (s *subject) id() string { return fmt.Sprintf("%s-%d", s.service.Name, os.Getpid()) }

// ask is admit by the agents of the nodes.
func (s *subject) ask(ctx context.Context, rule *steer.Rule, container string, pod bool) (leave func(), err error) {
	spec := v1alpha1.InterceptSpec{
		Owner: s.bridge.Owner, From: ownName(), Workload: s.workload, Selector: s.selector, Container: container, Pod: pod,
	}
	if rule != nil {
		spec.Rule = &v1alpha1.Rule{
			Port: int32(rule.Port), Protocol: protocolOf(s.service, rule.Port), Mode: string(rule.Mode), Path: rule.Match.Path, Strict: rule.Strict,
		}
		for _, h := range rule.Match.Headers {
			spec.Rule.Headers = append(spec.Rule.Headers, v1alpha1.HeaderMatch{Name: h.Name, Value: h.Value, Prefix: h.Prefix})
		}
	}
	p, err := permit.Ask(ctx, s.bridge.Cluster, s.bridge.Namespace, s.id(), spec, s.bridge.Log)
	if err != nil {
		return nil, err
	}
	s.bridge.Token, s.bridge.Enter = p.Token(), p.Enter
	if rule != nil {
		*rule = *p.Rule()
	}
	return p.Close, nil
}

func protocolOf(s *app.Service, port int) string {
	for _, p := range s.Ports {
		if p.Number == port {
			return p.Protocol
		}
	}
	return ""
}
