package deploy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/app"
)

// RenderOptions is what Render needs besides the app.
type RenderOptions struct {
	Environment string              // the namespace
	Images      map[string]string   // by service: the reference that nodes pull, with its digest
	Commands    map[string][]string // by service: what starts it, relative to Root

	// Root is the working directory of every process and User who it runs as.
	// They are the image's; zero values mean /srv/app and 65532.
	Root string
	User int64

	// Version, where it is not empty, labels the objects but never the pods: a
	// version alone is no reason to replace one.
	Version string

	// Grace is how long a pod has from when it is told to end until it is killed, in
	// whole seconds. 0 is Kubernetes' own, 30 s.
	Grace time.Duration
	// Annotations are put on every pod.
	Annotations map[string]string

	// Live makes a sandbox: each process runs under the agent.
	Live *LiveOptions
}

// LiveOptions are how the agent runs in the pods of a sandbox.
type LiveOptions struct {
	AgentPath string // where images have the agent; "" means /bight/agent

	// Port chooses the loopback port that the agent listens on; nil means
	// AgentPort. It must not be one of the service's own.
	Port func(*app.Service) int

	// TokenSecret is the Secret that holds the token which the agent asks of a
	// session; "" means "bight-<app>". Token is its value, see [Applier.Token].
	TokenSecret string
	Token       string

	// Size limits the memory volume that live files are kept in; "" means 1Gi.
	Size string
}

// AgentPort returns the loopback port of the agent in s's pods: a fixed one
// unless s listens on that itself.
func AgentPort(s *app.Service) int {
	port := 24448
	for slices.ContainsFunc(s.Ports, func(p app.Port) bool { return p.Number == port }) {
		port++
	}
	return port
}

// ReadyPort returns the port at which the agent in s's pods answers kubelet.
func ReadyPort(s *app.Service) int {
	port := 24454
	for port == AgentPort(s) || slices.ContainsFunc(s.Ports, func(p app.Port) bool { return p.Number == port }) {
		port++
	}
	return port
}

// firstDoor is where doors begin.
const firstDoor = 24460

// DoorPorts returns, for each TCP port of s, the port of the agent's door in front
// of it: what the Kubernetes Service leads to in a sandbox.
func DoorPorts(s *app.Service) map[int]int {
	doors := map[int]int{}
	next := firstDoor
	for _, p := range s.Ports {
		if p.Protocol == app.UDP {
			continue
		}
		for next == AgentPort(s) || next == ReadyPort(s) || slices.ContainsFunc(s.Ports, func(p app.Port) bool { return p.Number == next }) {
			next++
		}
		doors[p.Number] = next
		next++
	}
	return doors
}

// Render returns the objects that run a in an environment, sorted by service
// and then in the order in which they have to exist. The namespace is not
// among them, see [RenderNamespace]. It refuses, naming all of them at once,
// facts that Kubernetes would refuse.
func Render(a *app.App, opts RenderOptions) ([]Object, error) {
	opts = withDefaults(a, opts)
	if err := check(a, opts); err != nil {
		return nil, err
	}
	r := renderer{app: a, opts: opts}
	if opts.Live != nil {
		r.add("", tokenSecret(&r))
	}
	for _, s := range slices.SortedFunc(slices.Values(a.Services), func(x, y *app.Service) int { return cmp.Compare(x.Name, y.Name) }) {
		r.service(s)
	}
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	return r.objects, nil
}

// RenderNamespace returns the namespace of an environment, with Pod Security
// "restricted" enforced.
func RenderNamespace(name string, labels map[string]string) (Object, error) {
	all := map[string]string{
		"pod-security.kubernetes.io/enforce": "restricted",
		labelManagedBy:                       FieldManager,
	}
	maps.Copy(all, labels)
	o, err := object("", coreac.Namespace(name).WithLabels(all))
	o.Namespace = ""
	return o, err
}

func withDefaults(a *app.App, opts RenderOptions) RenderOptions {
	opts.Root = cmp.Or(opts.Root, "/srv/app")
	opts.User = cmp.Or(opts.User, 65532)
	if opts.Live == nil {
		return opts
	}
	live := *opts.Live
	live.AgentPath = cmp.Or(live.AgentPath, "/bight/agent")
	live.TokenSecret = cmp.Or(live.TokenSecret, parentName(a.Name))
	live.Size = cmp.Or(live.Size, "1Gi")
	if live.Port == nil {
		live.Port = AgentPort
	}
	opts.Live = &live
	return opts
}

// check refuses what Kubernetes would, or would take and never run.
func check(a *app.App, opts RenderOptions) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, q := range a.Questions {
		bad("%s: %s", at(q.From), q.Text)
	}
	if msgs := validation.IsDNS1123Label(opts.Environment); len(msgs) > 0 {
		bad("%q is no name for a namespace: %s", opts.Environment, strings.Join(msgs, "; "))
	}
	if msgs := validation.IsDNS1123Label(parentName(a.Name)); len(msgs) > 0 {
		bad("%q is no name for an app: %s; write another at \"name\" in bight.yaml", a.Name, strings.Join(msgs, "; "))
	}
	if opts.Live != nil && opts.Live.Token == "" {
		bad("the agents of app %s have no token: a sandbox needs one", a.Name)
	}
	claims := map[string]string{} // whose they are
	for _, s := range a.Services {
		errs = append(errs, checkService(a, s, opts)...)
		for _, v := range s.Volumes {
			name, whose := claimName(s, v), fmt.Sprintf("volume %s of service %s", v.Name, s.Name)
			if other := claims[name]; other != "" {
				bad("%s: %s and %s would be one, %s; rename one of them", at(v.From), other, whose, name)
			}
			claims[name] = whose
		}
	}
	return errors.Join(errs...)
}

func checkService(a *app.App, s *app.Service, opts RenderOptions) []error {
	var errs []error
	bad := func(from app.From, format string, args ...any) {
		errs = append(errs, fmt.Errorf("service %s (%s): %s", s.Name, at(from), fmt.Sprintf(format, args...)))
	}
	if msgs := validation.IsDNS1035Label(s.Name); len(msgs) > 0 {
		bad(s.Source.From, "its name cannot be a host name in Kubernetes: %s; rename it in bight.yaml", strings.Join(msgs, "; "))
	}
	if s.Name == parentName(a.Name) {
		bad(s.Source.From, "its name is what Bight's own record of the app is called; rename it in bight.yaml")
	}
	if opts.Images[s.Name] == "" {
		bad(s.Source.From, "it has no image; build it first")
	}
	if len(opts.Commands[s.Name]) == 0 {
		bad(s.Source.From, "nothing says how to start it; build it first")
	}
	for _, p := range s.Ports {
		for _, m := range slices.Concat(validation.IsValidPortNum(p.Number), validation.IsValidPortName(p.Name)) {
			bad(p.From, "port %q (%d): %s", p.Name, p.Number, m)
		}
	}
	for _, v := range s.Volumes {
		if _, err := resource.ParseQuantity(v.Size); err != nil {
			bad(v.From, "volume %s: size %q is no quantity; write one such as 1Gi", v.Name, v.Size)
		}
		if msgs := validation.IsDNS1123Label(v.Name); len(msgs) > 0 {
			bad(v.From, "volume %q: %s", v.Name, strings.Join(msgs, "; "))
		}
		if !strings.HasPrefix(v.Path, "/") {
			bad(v.From, "volume %s: path %q is not absolute", v.Name, v.Path)
		}
	}
	if opts.Live != nil {
		if port := opts.Live.Port(s); slices.ContainsFunc(s.Ports, func(p app.Port) bool { return p.Number == port }) {
			bad(s.Source.From, "the agent's port %d is one of its own", port)
		}
	}
	return append(errs, checkSettings(s)...)
}

// renderer collects the objects of one call of Render.
type renderer struct {
	app     *app.App
	opts    RenderOptions
	objects []Object
	errs    []error
}

func (r *renderer) add(service string, ac any) {
	o, err := object(service, ac)
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	r.objects = append(r.objects, o)
}

// service adds all objects of s.
func (r *renderer) service(s *app.Service) {
	set := settingsOf(s)
	ns, labels := r.opts.Environment, r.labels(s.Name)
	r.add(s.Name, coreac.ServiceAccount(s.Name, ns).WithLabels(labels).WithAutomountServiceAccountToken(false))
	if len(set.plain) > 0 {
		r.add(s.Name, coreac.ConfigMap(s.Name, ns).WithLabels(labels).
			WithAnnotations(notes(annotationEnv, set.plainFrom)).WithData(set.plain))
	}
	if len(set.secret) > 0 {
		r.add(s.Name, coreac.Secret(s.Name, ns).WithLabels(labels).WithType(corev1.SecretTypeOpaque).
			WithAnnotations(notes(annotationEnv, set.secretFrom)).WithData(secretData(set.secret)))
	}
	for _, v := range s.Volumes {
		r.add(s.Name, coreac.PersistentVolumeClaim(claimName(s, v), ns).WithLabels(labels).
			WithSpec(coreac.PersistentVolumeClaimSpec().WithAccessModes(corev1.ReadWriteOnce).
				WithResources(coreac.VolumeResourceRequirements().WithRequests(corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(v.Size)}))))
	}
	if len(s.Ports) > 0 {
		r.add(s.Name, coreac.Service(s.Name, ns).WithLabels(labels).
			WithAnnotations(notes(annotationPorts, portNotes(s))).
			WithSpec(coreac.ServiceSpec().WithSelector(selector(r.app, s)).WithPorts(r.servicePorts(s)...)))
	}
	r.add(s.Name, r.deployment(s, set))
}

func (r *renderer) deployment(s *app.Service, set settings) *appsac.DeploymentApplyConfiguration {
	notesOf := notes(annotationSource, []string{fmt.Sprintf("%s (%s)", s.Source.Dir, at(s.Source.From))})
	maps.Copy(notesOf, notes(annotationLinks, linkNotes(s)))
	spec := appsac.DeploymentSpec().
		WithSelector(metaac.LabelSelector().WithMatchLabels(selector(r.app, s))).
		WithRevisionHistoryLimit(3).
		WithStrategy(strategy(s)).
		WithTemplate(r.podTemplate(s, set))
	if s.Replicas > 0 {
		// An unset number is nobody's, so scaling by hand or by an autoscaler stays.
		spec.WithReplicas(s.Replicas)
	}
	return appsac.Deployment(s.Name, r.opts.Environment).WithLabels(r.labels(s.Name)).WithAnnotations(notesOf).WithSpec(spec)
}

// strategy never takes a serving pod away before its successor serves, except
// where a volume can be had by one pod only.
func strategy(s *app.Service) *appsac.DeploymentStrategyApplyConfiguration {
	if len(s.Volumes) > 0 {
		return appsac.DeploymentStrategy().WithType(appsv1.RecreateDeploymentStrategyType)
	}
	return appsac.DeploymentStrategy().WithType(appsv1.RollingUpdateDeploymentStrategyType).
		WithRollingUpdate(appsac.RollingUpdateDeployment().WithMaxSurge(intstr.FromInt32(1)).WithMaxUnavailable(intstr.FromInt32(0)))
}

func tokenSecret(r *renderer) *coreac.SecretApplyConfiguration {
	return coreac.Secret(r.opts.Live.TokenSecret, r.opts.Environment).WithLabels(r.labels(r.app.Name)).
		WithType(corev1.SecretTypeOpaque).WithData(map[string][]byte{tokenKey: []byte(r.opts.Live.Token)})
}

func (r *renderer) labels(name string) map[string]string {
	l := appLabels(r.app.Name)
	l[labelName] = name
	if r.opts.Version != "" {
		l[labelVersion] = r.opts.Version
	}
	return l
}

func appLabels(appName string) map[string]string {
	return map[string]string{labelInstance: appName, labelPartOf: appName, labelManagedBy: FieldManager}
}

// selector picks the pods of s. A Deployment's cannot be changed, so it has no
// more in it than what never changes.
func selector(a *app.App, s *app.Service) map[string]string {
	return map[string]string{labelName: s.Name, labelInstance: a.Name}
}

func (r *renderer) servicePorts(s *app.Service) []*coreac.ServicePortApplyConfiguration {
	var doors map[int]int
	if r.opts.Live != nil {
		doors = DoorPorts(s)
	}
	var ports []*coreac.ServicePortApplyConfiguration
	for _, p := range s.Ports {
		target := p.Number
		if p.Protocol != app.UDP {
			target = cmp.Or(doors[p.Number], target)
		}
		sp := coreac.ServicePort().WithName(p.Name).WithPort(int32(p.Number)).
			WithTargetPort(intstr.FromInt32(int32(target))).WithProtocol(transport(p))
		switch p.Protocol {
		case app.HTTP:
			sp.WithAppProtocol("http")
		case app.GRPC:
			sp.WithAppProtocol("kubernetes.io/h2c")
		}
		ports = append(ports, sp)
	}
	return ports
}

func transport(p app.Port) corev1.Protocol {
	if p.Protocol == app.UDP {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}

func claimName(s *app.Service, v app.Volume) string { return s.Name + "-" + v.Name }

// object gives the canonical form of an apply configuration.
func object(service string, ac any) (Object, error) {
	b, err := json.Marshal(ac)
	if err != nil {
		return Object{}, fmt.Errorf("render service %s: %w", service, err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return Object{}, fmt.Errorf("render service %s: %w", service, err)
	}
	if b, err = json.Marshal(fields); err != nil {
		return Object{}, fmt.Errorf("render service %s: %w", service, err)
	}
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Object{}, fmt.Errorf("render service %s: %w", service, err)
	}
	group, _, found := strings.Cut(head.APIVersion, "/")
	if !found {
		group = ""
	}
	ref := Ref{Group: group, Kind: head.Kind, Namespace: head.Metadata.Namespace, Name: head.Metadata.Name}
	return Object{Ref: ref, Service: service, JSON: b}, nil
}
