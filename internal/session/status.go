package session

import (
	"context"
	"fmt"
	"net"
	"slices"
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

// Status asks the cluster, and each pod's agent, how the app is.
func (s *Session) Status(ctx context.Context) (*Status, error) {
	if err := s.Cluster.Guard(s.Allowed); err != nil {
		return nil, err
	}
	client, err := s.Cluster.Typed()
	if err != nil {
		return nil, err
	}
	s.applier = &deploy.Applier{Client: client, Log: s.Log}
	options := meta.ListOptions{LabelSelector: selector(s.app.Name)}
	var deployments *apps.DeploymentList
	var pods *core.PodList
	var g errgroup.Group
	g.Go(func() (err error) {
		deployments, err = client.AppsV1().Deployments(s.environment).List(ctx, options)
		return err
	})
	g.Go(func() (err error) {
		pods, err = client.CoreV1().Pods(s.environment).List(ctx, options)
		return err
	})
	g.Go(func() (err error) {
		s.token, err = s.readToken(ctx)
		return err
	})
	report := &Status{App: s.app.Name, Context: s.Cluster.Context, Namespace: s.environment, Services: make([]ServiceStatus, len(s.app.Services))}
	arts := make([]*image.Artifact, len(s.app.Services))
	for i, service := range s.app.Services {
		g.Go(func() error {
			arts[i], _ = s.maker.Build(ctx, s.app, service, nil) // one that does not build is not in sync
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, s.Cluster.Explain(err)
	}
	session, port := s.holderOf(ctx)
	report.Session = session
	var asking errgroup.Group
	for i, service := range s.app.Services {
		asking.Go(func() error {
			report.Services[i] = s.serviceStatus(ctx, service, arts[i], deployments.Items, pods.Items)
			if p := service.Port(); p != nil && port != "" && p.Protocol == app.HTTP {
				report.Services[i].URL = fmt.Sprintf("http://%s.%s.localhost:%s", service.Name, s.environment, port)
			}
			return nil
		})
	}
	_ = asking.Wait()
	return report, nil
}

// serviceStatus asks every pod of a service what it has.
func (s *Session) serviceStatus(ctx context.Context, service *app.Service, art *image.Artifact, deployments []apps.Deployment, pods []core.Pod) ServiceStatus {
	status := ServiceStatus{Name: service.Name}
	if art != nil {
		status.Tree = art.Tree.Digest().String()
	}
	i := slices.IndexFunc(deployments, func(d apps.Deployment) bool { return d.Name == service.Name })
	if i < 0 {
		status.Why = "it is not deployed"
		return status
	}
	d := deployments[i]
	status.Ready, status.Replicas = d.Status.ReadyReplicas, *d.Spec.Replicas
	status.Image = d.Spec.Template.Spec.Containers[0].Image
	if art == nil {
		status.Why = "the local source does not build"
		return status
	}
	asked := int32(0)
	for i := range pods {
		pod := &pods[i]
		if pod.Labels[nameLabel] != service.Name || pod.DeletionTimestamp != nil || !isRunning(pod) {
			continue
		}
		asked++
		digest, err := s.askPod(ctx, service, pod.Name)
		switch {
		case err != nil:
			status.Why = fmt.Sprintf("pod %s: %v", pod.Name, err)
			return status
		case digest != status.Tree:
			status.Why = fmt.Sprintf("pod %s has other files than the local source", pod.Name)
			return status
		}
	}
	if asked < status.Replicas {
		status.Why = fmt.Sprintf("%d of %d pods are running", asked, status.Replicas)
		return status
	}
	status.InSync = true
	return status
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
		Client:  s.client(),
		Version: s.Version,
		Log:     s.Log,
	}, true)
	return state.Digest.String(), err
}

// readToken returns the token of the app's agents, "" when nothing is deployed.
func (s *Session) readToken(ctx context.Context) (string, error) {
	return s.applier.Token(ctx, s.environment, s.app.Name)
}

// portAnnotation is where a session says on which local port its URLs are.
const portAnnotation = "bight.dev/port"

// holderOf returns who follows the source now and on which port the URLs are.
func (s *Session) holderOf(ctx context.Context) (session, port string) {
	lease, err := s.applier.Client.CoordinationV1().Leases(s.environment).Get(ctx, leaseName(s.app.Name), meta.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil {
		return "", ""
	}
	return *lease.Spec.HolderIdentity, lease.Annotations[portAnnotation]
}
