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
	"github.com/bightdev/bight/internal/live"
)

// Status is the state of an app in its environment.
type Status struct {
	App       string          `json:"app"`
	Context   string          `json:"context"`
	Namespace string          `json:"namespace"`
	Session   string          `json:"session,omitempty"` // who follows the source now
	Services  []ServiceStatus `json:"services"`
}

// ServiceStatus is the state of one service.
type ServiceStatus struct {
	Name     string `json:"name"`
	Ready    int32  `json:"ready"`
	Replicas int32  `json:"replicas"`
	Image    string `json:"image"`
	URL      string `json:"url,omitempty"`
	// InSync is true only when every replica has confirmed that its files' hashes
	// are those of the local source's build. Why says what is missing else.
	InSync bool   `json:"inSync"`
	Why    string `json:"why,omitempty"`
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
	report := &Status{App: a.Name, Context: s.Cluster.Context, Namespace: s.environment, Services: make([]ServiceStatus, len(a.Services))}
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
	for i, service := range a.Services {
		asking.Go(func() {
			report.Services[i] = s.serviceStatus(ctx, service, arts[i], deployments, pods)
			report.Services[i].URL = urls[service.Name]
		})
	}
	asking.Wait()
	return report, ctx.Err()
}

// serviceStatus asks every pod of a service what it has.
func (s *Session) serviceStatus(ctx context.Context, service *app.Service, art *image.Artifact, deployments []apps.Deployment, pods []core.Pod) ServiceStatus {
	status := ServiceStatus{Name: service.Name}
	if art != nil {
		status.Tree = art.TreeDigest().String()
	}
	i := slices.IndexFunc(deployments, func(d apps.Deployment) bool { return d.Name == service.Name })
	if i < 0 {
		status.Why = "it is not deployed"
		return status
	}
	d := deployments[i]
	status.Ready, status.Replicas = d.Status.ReadyReplicas, 1
	if d.Spec.Replicas != nil {
		status.Replicas = *d.Spec.Replicas
	}
	if len(d.Spec.Template.Spec.Containers) > 0 {
		status.Image = d.Spec.Template.Spec.Containers[0].Image
	}
	var running []string
	for i := range pods {
		if pod := &pods[i]; pod.Labels[nameLabel] == service.Name && pod.DeletionTimestamp == nil && isRunning(pod) {
			running = append(running, pod.Name)
		}
	}
	if art == nil {
		status.Why = "the local source does not build"
		return status
	}
	answers := make([]answer, len(running))
	var asking sync.WaitGroup
	for i, pod := range running {
		asking.Go(func() {
			digest, err := s.askPod(ctx, service, pod)
			answers[i] = answer{pod, digest, err}
		})
	}
	asking.Wait()
	status.Why = outOfSync(status, answers)
	status.InSync = status.Why == ""
	return status
}

// answer is what a pod says of its files.
type answer struct {
	pod, digest string
	err         error
}

// outOfSync says why a service is not in sync, "" when it is.
func outOfSync(s ServiceStatus, answers []answer) string {
	var other, silent []string
	for _, a := range answers {
		switch {
		case a.err != nil:
			silent = append(silent, fmt.Sprintf("pod %s does not say: %v", a.pod, a.err))
		case a.digest != s.Tree:
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

// askPod returns the digest of the files that a pod has, hashed anew.
func (s *Session) askPod(ctx context.Context, service *app.Service, pod string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	port := deploy.AgentPort(service)
	state, err := live.Inspect(ctx, live.TargetConfig{
		Name:    pod,
		Dial:    func(ctx context.Context) (net.Conn, error) { return s.Cluster.DialPod(ctx, s.environment, pod, port) },
		Token:   s.token,
		Client:  s.me().String(),
		Version: s.Version,
		Log:     s.Log,
	}, true)
	return state.Digest.String(), err
}

// others returns who follows the source now, "" when nobody does, and the URLs that
// are open there.
func (s *Session) others(ctx context.Context, appName string) (session string, urls map[string]string) {
	lease, err := s.applier.Client.CoordinationV1().Leases(s.environment).Get(ctx, leaseName(appName), meta.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil || leaseFree(lease.Spec, s.me(), time.Now(), processLives) {
		return "", nil // whoever may not see leases is told nothing
	}
	if err := json.Unmarshal([]byte(lease.Annotations[urlsAnnotation]), &urls); err != nil {
		s.Log.Debug("session without URLs", "session", *lease.Spec.HolderIdentity, "error", err)
	}
	return *lease.Spec.HolderIdentity, urls
}
