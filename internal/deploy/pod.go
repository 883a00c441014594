package deploy

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/bightdev/bight/internal/app"
)

const (
	liveDir  = "/bight/live" // the only directory that live update writes to
	tokenKey = "token"
	tokenEnv = "BIGHT_TOKEN"

	volumeLive = "bight-live"
	volumeTmp  = "bight-tmp"
)

// podTemplate renders s's pods. Nothing may be in it that changes without a
// reason to replace the pods: no line numbers, no version.
func (r *renderer) podTemplate(s *app.Service, set settings) *coreac.PodTemplateSpecApplyConfiguration {
	labels := appLabels(r.app.Name)
	labels[labelName] = s.Name
	token := ""
	if r.opts.Live != nil {
		token = r.opts.Live.Token
	}
	security := coreac.PodSecurityContext().WithRunAsNonRoot(true).
		WithRunAsUser(r.opts.User).WithRunAsGroup(r.opts.User).
		WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
	if len(s.Volumes) > 0 {
		security.WithFSGroup(r.opts.User)
	}
	spec := coreac.PodSpec().
		WithServiceAccountName(s.Name).
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithSecurityContext(security).
		WithContainers(r.container(s, set)).
		WithVolumes(r.volumes(s)...)
	if r.opts.Live != nil {
		spec.WithTerminationGracePeriodSeconds(4) // for 1.5 s of them the agent lets clients go
	}
	if g := r.opts.Grace; g > 0 {
		spec.WithTerminationGracePeriodSeconds(int64(g / time.Second))
	}
	return coreac.PodTemplateSpec().WithLabels(labels).
		WithAnnotations(map[string]string{annotationConfig: set.digest(token)}).
		WithAnnotations(r.opts.Annotations).
		WithSpec(spec)
}

func (r *renderer) container(s *app.Service, set settings) *coreac.ContainerApplyConfiguration {
	c := coreac.Container().WithName(s.Name).WithImage(r.opts.Images[s.Name]).
		WithCommand(literal(r.command(s))...).
		WithWorkingDir(r.opts.Root).
		WithResources(coreac.ResourceRequirements().WithRequests(corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi"),
		})).
		WithSecurityContext(coreac.SecurityContext().
			WithAllowPrivilegeEscalation(false).WithReadOnlyRootFilesystem(true).
			WithCapabilities(coreac.Capabilities().WithDrop("ALL"))).
		WithVolumeMounts(r.mounts(s)...).
		WithTerminationMessagePolicy(corev1.TerminationMessageFallbackToLogsOnError)
	for _, p := range s.Ports {
		c.WithPorts(coreac.ContainerPort().WithName(p.Name).WithContainerPort(int32(p.Number)).WithProtocol(transport(p)))
	}
	if len(set.plain) > 0 {
		c.WithEnvFrom(coreac.EnvFromSource().WithConfigMapRef(coreac.ConfigMapEnvSource().WithName(s.Name)))
	}
	if len(set.secret) > 0 {
		c.WithEnvFrom(coreac.EnvFromSource().WithSecretRef(coreac.SecretEnvSource().WithName(s.Name)))
	}
	if r.opts.Live != nil {
		c.WithEnv(coreac.EnvVar().WithName(tokenEnv).WithValueFrom(coreac.EnvVarSource().
			WithSecretKeyRef(coreac.SecretKeySelector().WithName(r.opts.Live.TokenSecret).WithKey(tokenKey))))
	}
	if r.opts.Live == nil && len(s.Ports) > 0 {
		c.WithLifecycle(coreac.Lifecycle().WithPreStop(coreac.LifecycleHandler().
			WithSleep(coreac.SleepAction().WithSeconds(r.drain()))))
	}
	r.probes(c, s)
	return c
}

// command is what the container starts: the service, or the agent that starts
// the service.
func (r *renderer) command(s *app.Service) []string {
	own := append(append([]string{}, r.opts.Commands[s.Name]...), arguments(s)...)
	live := r.opts.Live
	if live == nil {
		if strings.HasPrefix(own[0], "./") {
			own[0] = path.Join(r.opts.Root, own[0])
		}
		return own
	}
	cmd := []string{
		live.AgentPath, "run", "--root", r.opts.Root, "--live", liveDir,
		"--listen", "127.0.0.1:" + strconv.Itoa(live.Port(s)), "--name", s.Name,
	}
	if q := question(s); q != "" {
		cmd = append(cmd, "--ready", q, "--ready-at", strconv.Itoa(ReadyPort(s)))
	}
	doors := DoorPorts(s)
	for _, p := range s.Ports {
		if door, ok := doors[p.Number]; ok && p.Protocol != app.UDP { // which may have the same number
			cmd = append(cmd, "--door", fmt.Sprintf("%d=%d/%s", door, p.Number, p.Protocol))
		}
	}
	return append(append(cmd, "--"), own...)
}

// Agent is what a container's command says of the agent that runs in it.
type Agent struct {
	Port  int         // for sessions
	Ready string      // how it sees that the process can serve: "http:8080/healthz"
	Doors map[int]int // by the process's port: where the door in front of it is
	// Protocols are what those ports speak.
	Protocols map[int]string
}

// ContainerOf is the container of a service in one of its pods: the one that is named
// as the service is, for others may have been put before it since, as a mesh does with
// its proxy. Where none has the name it is the first; nil where there are none.
func ContainerOf(pod *corev1.PodSpec, service string) *corev1.Container {
	if len(pod.Containers) == 0 {
		return nil
	}
	i := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == service })
	return &pod.Containers[max(i, 0)]
}

// AgentIn reads what Render wrote of the agent in one of a service's pods.
func AgentIn(pod *corev1.PodSpec, service string) (a Agent, ok bool) {
	c := ContainerOf(pod, service)
	if c == nil {
		return Agent{}, false
	}
	return AgentOf(slices.Concat(c.Command, c.Args))
}

// AgentOf reads what Render wrote, from a container of any age; ok is false where no
// agent runs.
func AgentOf(command []string) (a Agent, ok bool) {
	a.Doors, a.Protocols = map[int]int{}, map[int]string{}
	if len(command) < 2 || command[1] != "run" {
		return a, false // a static site that is served without live update, for one
	}
	for i, word := range command {
		switch {
		case word == "--" || i+1 == len(command):
			return a, a.Port != 0
		case word == "--listen":
			if _, port, err := net.SplitHostPort(command[i+1]); err == nil {
				a.Port, _ = strconv.Atoi(port) // 0 is none
			}
		case word == "--ready":
			a.Ready = command[i+1]
		case word == "--door":
			at, port, _ := strings.Cut(command[i+1], "=")
			port, protocol, _ := strings.Cut(port, "/")
			n, err := strconv.Atoi(port)
			if door, errAt := strconv.Atoi(at); err == nil && errAt == nil {
				a.Doors[n], a.Protocols[n] = door, protocol
			}
		}
	}
	return a, a.Port != 0
}

// health is how s is asked whether it can serve: as it says itself, else by
// connecting to its main port. It is nil where nobody can ask.
func health(s *app.Service) *app.Health {
	if s.Health != nil {
		return s.Health
	}
	if p := s.Port(); p != nil && p.Protocol != app.UDP {
		return &app.Health{Kind: app.HealthTCP, Port: p.Number, From: p.From}
	}
	return nil
}

// question is the health question in the agent's words: "http:8080/healthz".
func question(s *app.Service) string {
	h := health(s)
	switch {
	case h == nil:
		return ""
	case h.Kind == app.HealthHTTP:
		return fmt.Sprintf("http:%d/%s", h.Port, strings.TrimPrefix(h.Path, "/"))
	default:
		return fmt.Sprintf("%s:%d", h.Kind, h.Port)
	}
}

// drained is for how long a pod of production goes on after it was told to end: longer
// than it takes until every node's proxy knows of it and leads no more requests to it.
// It takes Kubernetes 1.30.
const drained = 5 * time.Second

// drain is for how many seconds a pod goes on, which leaves its process some to end.
func (r *renderer) drain() int64 {
	d := drained
	if g := r.opts.Grace; g > 0 {
		d = min(d, g-time.Second)
	}
	return int64(d / time.Second)
}

// longestStart is how long a process may take until it accepts connections.
const longestStart = 120 * time.Second

// probes tells kubelet how to ask. In production a process that no longer
// accepts connections is restarted; one that says it cannot serve is not, since
// what it misses may be another service. In a sandbox nothing is restarted by
// kubelet: the agent does that, and keeps the live files.
//
// Slow starters have their time by the delay of the liveness probe. A startup probe
// would give it them, too, but kubelet asks that one on its next second at the
// soonest, and a readiness probe without one as soon as the container runs. The one
// that comes too soon is repeated after a second, for which a rollout waits. A pod that
// refuses loses its requests after four seconds, one that hangs after eight.
func (r *renderer) probes(c *coreac.ContainerApplyConfiguration, s *app.Service) {
	h := health(s)
	if h == nil {
		return
	}
	if r.opts.Live == nil {
		tcp := &app.Health{Kind: app.HealthTCP, Port: h.Port}
		c.WithReadinessProbe(probe(h).WithPeriodSeconds(1).WithFailureThreshold(4).WithTimeoutSeconds(2))
		c.WithLivenessProbe(probe(tcp).WithInitialDelaySeconds(int32(longestStart.Seconds())).
			WithPeriodSeconds(10).WithFailureThreshold(3).WithTimeoutSeconds(2))
		return
	}
	// The agent lets the first question wait until the process can serve: kubelet
	// asks at once when it sees the container run, and only each second after that.
	ready := &app.Health{Kind: app.HealthHTTP, Port: ReadyPort(s), Path: "/"}
	c.WithReadinessProbe(probe(ready).WithPeriodSeconds(1).WithFailureThreshold(3).WithTimeoutSeconds(65))
}

func probe(h *app.Health) *coreac.ProbeApplyConfiguration {
	p := coreac.Probe()
	port := intstr.FromInt32(int32(h.Port))
	switch h.Kind {
	case app.HealthHTTP:
		return p.WithHTTPGet(coreac.HTTPGetAction().WithPort(port).WithPath("/" + strings.TrimPrefix(h.Path, "/")))
	case app.HealthGRPC:
		return p.WithGRPC(coreac.GRPCAction().WithPort(int32(h.Port)))
	default:
		return p.WithTCPSocket(coreac.TCPSocketAction().WithPort(port))
	}
}

func (r *renderer) volumes(s *app.Service) []*coreac.VolumeApplyConfiguration {
	var vs []*coreac.VolumeApplyConfiguration
	if !ownTmp(s) {
		vs = append(vs, coreac.Volume().WithName(volumeTmp).WithEmptyDir(coreac.EmptyDirVolumeSource()))
	}
	if r.opts.Live != nil {
		vs = append(vs, coreac.Volume().WithName(volumeLive).WithEmptyDir(coreac.EmptyDirVolumeSource().
			WithMedium(corev1.StorageMediumMemory).WithSizeLimit(resource.MustParse(r.opts.Live.Size))))
	}
	for _, v := range s.Volumes {
		vs = append(vs, coreac.Volume().WithName(v.Name).WithPersistentVolumeClaim(
			coreac.PersistentVolumeClaimVolumeSource().WithClaimName(claimName(s, v))))
	}
	return vs
}

// ownTmp reports whether a volume of s takes the place of our /tmp.
func ownTmp(s *app.Service) bool {
	return slices.ContainsFunc(s.Volumes, func(v app.Volume) bool { return path.Clean(v.Path) == "/tmp" })
}

func (r *renderer) mounts(s *app.Service) []*coreac.VolumeMountApplyConfiguration {
	var ms []*coreac.VolumeMountApplyConfiguration
	if !ownTmp(s) {
		ms = append(ms, coreac.VolumeMount().WithName(volumeTmp).WithMountPath("/tmp"))
	}
	if r.opts.Live != nil {
		ms = append(ms, coreac.VolumeMount().WithName(volumeLive).WithMountPath(liveDir))
	}
	for _, v := range s.Volumes {
		ms = append(ms, coreac.VolumeMount().WithName(v.Name).WithMountPath(v.Path))
	}
	return ms
}
