package session

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/live"
	"github.com/bightdev/bight/internal/live/wire"
)

// Status is the state of an app in its environment.
type Status struct {
	App       string          `json:"app"`
	Context   string          `json:"context"`
	Namespace string          `json:"namespace"`
	Session   string          `json:"session,omitempty"` // who follows the source now
	Services  []ServiceStatus `json:"services"`
	// NoSource says that there was no local source, so that nothing can be in sync
	// with it.
	NoSource bool `json:"noSource,omitempty"`
}

// ServiceStatus is the state of one service.
type ServiceStatus struct {
	Name     string `json:"name"`
	Ready    int32  `json:"ready"`
	Replicas int32  `json:"replicas"`
	Image    string `json:"image"`
	// Running is true when all pods are ready and of what was deployed last, and their
	// agents are there, where we may ask them.
	Running bool   `json:"running"`
	URL     string `json:"url,omitempty"`
	// InSync is true only when every replica has confirmed that its files' hashes
	// are those of the local source's build. Why says why the service does not run, or
	// else what is missing to be in sync.
	InSync bool   `json:"inSync"`
	Why    string `json:"why,omitempty"`
	// Output is the end of what a process wrote that does not run.
	Output []string `json:"output,omitempty"`

	stale bool // the cluster counts pods that are not there, as it does when it has just started
	// Tree is the digest of what the local source builds to.
	Tree string `json:"tree"`
}

// App returns the app as it was planned last.
func (s *Session) App() *app.App { return s.plan() }

// Status asks the cluster, and each pod's agent, how the app is.
func (s *Session) Status(ctx context.Context) (*Status, error) {
	if err := s.Cluster.Guard(s.Allowed); err != nil {
		return nil, err
	}
	if err := s.reach(); err != nil {
		return nil, err
	}
	a := s.plan()
	report := &Status{App: a.Name, Context: s.Cluster.Context, Namespace: s.environment, Services: make([]ServiceStatus, len(a.Services)), NoSource: s.maker == nil}
	var deployments []apps.Deployment
	var pods []core.Pod
	var urls map[string]string
	arts := make([]*image.Artifact, len(a.Services))
	g, run := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		deployments, err = s.deployments(run, a.Name)
		return err
	})
	g.Go(func() error {
		list, err := s.applier.Client.CoreV1().Pods(s.environment).List(run, meta.ListOptions{LabelSelector: Selector(a.Name)})
		if err != nil {
			return s.Cluster.Explain(err)
		}
		pods = list.Items
		return nil
	})
	g.Go(func() (err error) {
		s.token, err = s.applier.Token(run, s.environment, a.Name)
		return s.Cluster.Explain(err)
	})
	g.Go(func() error {
		report.Session, urls = s.others(run, a.Name)
		return nil
	})
	for i, service := range a.Services {
		if report.NoSource {
			break
		}
		g.Go(func() error {
			arts[i], _ = s.maker.Build(run, a, service, nil) // one that does not build is not in sync
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var asking sync.WaitGroup
	exits := make([][]deploy.Exit, len(a.Services))
	for i, service := range a.Services {
		asking.Go(func() {
			report.Services[i], exits[i] = s.serviceStatus(ctx, service, arts[i], deployments, pods)
			report.Services[i].URL = urls[service.Name]
		})
	}
	asking.Wait()
	s.explain(ctx, report, slices.Concat(exits...))
	return report, ctx.Err()
}

// explain says of the services that do not run why they don't.
func (s *Session) explain(ctx context.Context, report *Status, exits []deploy.Exit) {
	down := only(s.plan(), func(service *app.Service) bool {
		return slices.ContainsFunc(report.Services, func(st ServiceStatus) bool {
			return st.Name == service.Name && st.Image != "" && !st.Running
		})
	})
	if len(down.Services) == 0 {
		return
	}
	waiter := &deploy.Waiter{Client: s.applier.Client, Log: s.Log}
	verdicts, err := waiter.Look(ctx, deploy.Rollout{App: down, Namespace: s.environment}, exits...)
	if err != nil {
		s.Log.Debug("nothing says why services do not run", "error", err)
	}
	for _, v := range verdicts {
		i := slices.IndexFunc(report.Services, func(st ServiceStatus) bool { return st.Name == v.Service })
		st := &report.Services[i]
		switch {
		case v.State == deploy.Ready:
			st.Running = !st.stale
		case v.Failure != nil:
			st.Why, st.Output = v.Failure.Brief(), v.Failure.Log
		case v.Why != "":
			st.Why = v.Why
		}
	}
}

// serviceStatus asks every pod of a service what it has, and returns which of their
// processes have ended, too.
func (s *Session) serviceStatus(ctx context.Context, service *app.Service, art *image.Artifact, deployments []apps.Deployment, pods []core.Pod) (ServiceStatus, []deploy.Exit) {
	status := ServiceStatus{Name: service.Name}
	if art != nil {
		status.Tree = art.TreeDigest().String()
	}
	i := slices.IndexFunc(deployments, func(d apps.Deployment) bool { return d.Name == service.Name })
	if i < 0 {
		status.Why = "it is not deployed; bight up deploys it"
		return status, nil
	}
	d := deployments[i]
	status.Ready, status.Replicas = d.Status.ReadyReplicas, 1
	if d.Spec.Replicas != nil {
		status.Replicas = *d.Spec.Replicas
	}
	if container := deploy.ContainerOf(&d.Spec.Template.Spec, service.Name); container != nil {
		status.Image = container.Image
	}
	status.Running = d.Status.ObservedGeneration >= d.Generation && status.Ready >= status.Replicas &&
		d.Status.UpdatedReplicas == status.Replicas && d.Status.Replicas == status.Replicas
	var running []string
	for i := range pods {
		if pod := &pods[i]; pod.Labels[nameLabel] == service.Name && pod.DeletionTimestamp == nil && isRunning(pod) {
			running = append(running, pod.Name)
		}
	}
	answers := make([]answer, len(running))
	var asking sync.WaitGroup
	for i, pod := range running {
		asking.Go(func() {
			state, err := s.askPod(ctx, service, pod)
			answers[i] = answer{pod, state.Digest.String(), state.Process, err}
		})
	}
	asking.Wait()
	var exits []deploy.Exit
	status.stale = len(running) < int(status.Replicas)
	for _, a := range answers {
		status.stale = status.stale || isOutOfReach(a.err)
		if hasEnded(a.process) {
			exits = append(exits, deploy.Exit{Pod: a.pod, Code: exitCode(a.process), Count: a.process.Starts})
		}
	}
	status.Running = status.Running && !status.stale
	switch status.Why = outOfSync(status, answers); {
	case s.maker == nil:
	case art == nil:
		status.Why = "the local source does not build"
	default:
		status.InSync = status.Why == ""
	}
	return status, exits
}

// isOutOfReach reports whether a pod's agent was not reached for another reason than that
// we may not.
func isOutOfReach(err error) bool {
	kind := kube.KindOf(err)
	return err != nil && kind != kube.Forbidden && kind != kube.Credentials && kind != kube.Policy
}

// hasEnded reports whether a process has ended by itself and does not run, or runs but
// has not got to where it can serve since.
func hasEnded(p wire.Process) bool {
	return p.Phase == wire.Waiting || p.Phase == wire.Starting && exitCode(p) != 0
}

// exitCode is how a process has ended, as a shell has it.
func exitCode(p wire.Process) int {
	if p.Signal != 0 {
		return 128 + p.Signal
	}
	return p.Code
}

// answer is what a pod says of its files and its process.
type answer struct {
	pod, digest string
	process     wire.Process
	err         error
}

// outOfSync says why a service is not in sync, "" when it is.
func outOfSync(s ServiceStatus, answers []answer) string {
	var other, silent []string
	for _, a := range answers {
		switch {
		case a.err != nil:
			silent = append(silent, fmt.Sprintf("pod %s does not say: %v", a.pod, a.err))
		case s.Tree != "" && a.digest != s.Tree:
			other = append(other, a.pod)
		}
	}
	switch {
	case len(other) > 0:
		what := "has other files"
		if len(other) > 1 {
			what = "have other files"
		}
		return strings.Join(other, ", ") + " " + what + " than the local source; bight up brings them"
	case len(silent) > 0:
		return silent[0]
	case len(answers) < int(s.Replicas):
		return fmt.Sprintf("%d of %d pods are running", len(answers), s.Replicas)
	}
	return ""
}

// askLimit is how long one pod may take to say what it has.
const askLimit = 10 * time.Second

// askPod returns what the agent of a pod says, the digest of its files hashed anew.
func (s *Session) askPod(ctx context.Context, service *app.Service, pod string) (wire.State, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	port := deploy.AgentPort(service)
	return live.Inspect(ctx, live.TargetConfig{
		Name:    pod,
		Dial:    func(ctx context.Context) (net.Conn, error) { return s.Cluster.DialPod(ctx, s.environment, pod, port) },
		Token:   s.token,
		Client:  s.me().String(),
		Version: s.Version,
		Log:     s.Log,
	}, true)
}

// others returns who follows the source now, "" when nobody does, and the URLs that
// are open there.
func (s *Session) others(ctx context.Context, appName string) (session string, urls map[string]string) {
	lease, err := s.applier.Client.CoordinationV1().Leases(s.environment).Get(ctx, leaseName(appName), meta.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil || leaseFree(lease.Spec, s.me(), time.Now(), ProcessLives) {
		return "", nil // whoever may not see leases is told nothing
	}
	if err := json.Unmarshal([]byte(lease.Annotations[urlsAnnotation]), &urls); err != nil {
		s.Log.Debug("session without URLs", "session", *lease.Spec.HolderIdentity, "error", err)
	}
	return *lease.Spec.HolderIdentity, urls
}
