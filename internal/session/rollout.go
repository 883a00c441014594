package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/ui/term"
)

// nameLabel has the service's name on every object of it.
const nameLabel = "app.kubernetes.io/name"

// ServiceOf returns the name of the service that a pod is of.
func ServiceOf(pod *core.Pod) string { return pod.Labels[nameLabel] }

// Managed finds what Bight has deployed of any app.
const Managed = "app.kubernetes.io/managed-by=bight"

// NotManaged finds what somebody else has deployed.
const NotManaged = "app.kubernetes.io/managed-by!=bight"

// AppOf returns the name of the app that a pod is of.
func AppOf(pod *core.Pod) string { return pod.Labels["app.kubernetes.io/part-of"] }

// Selector finds what Bight has deployed of an app.
func Selector(appName string) string {
	return Managed + ",app.kubernetes.io/part-of=" + appName
}

// apply pushes the images of what was built and makes the environment equal to
// the app. A service that could not be built keeps the image that it has in the
// cluster; one that never had any is left out. It returns the services of which
// anything was written.
func (s *Session) apply(ctx context.Context, a *app.App, built []*image.Artifact) (changed map[string]bool, err error) {
	var images map[string]string
	var running []apps.Deployment
	g, run := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		images, err = s.push(run, a, built)
		return err
	})
	if len(built) < len(a.Services) || len(a.Unreadable) > 0 {
		g.Go(func() (err error) {
			running, err = s.deployments(run, a.Name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := unread(a, running); err != nil {
		return nil, err
	}
	keepImages(a, images, running)
	objects, err := s.render(a, images)
	if err != nil {
		return nil, err
	}
	started := time.Now()
	result, err := s.applier.Apply(ctx, a.Name, s.environment, objects)
	if err != nil {
		return nil, s.Cluster.Explain(err)
	}
	s.printApplied(result, time.Since(started))
	s.pods.deployed(images, built, s.wanted())
	changed = map[string]bool{}
	for _, done := range result.Objects {
		if done.Action != deploy.Unchanged {
			changed[done.Service] = true
		}
	}
	return changed, nil
}

// deployments returns what is deployed of an app.
func (s *Session) deployments(ctx context.Context, appName string) ([]apps.Deployment, error) {
	list, err := s.applier.Client.AppsV1().Deployments(s.environment).List(ctx, meta.ListOptions{LabelSelector: Selector(appName)})
	if err != nil {
		return nil, s.Cluster.Explain(err)
	}
	return list.Items, nil
}

// UnreadableError is that a service which is deployed is not found in source that
// does not parse. Nothing was changed.
type UnreadableError struct {
	Services []string // that are deployed
	Files    []app.Note
}

func (e *UnreadableError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s cannot be found in the source, where some files do not parse; what is deployed is left as it is, correct these first:", strings.Join(e.Services, ", "))
	for _, f := range e.Files {
		fmt.Fprintf(&b, "\n%s: %s", f.From.Place(), f.Text)
	}
	return b.String()
}

// unread refuses a plan that would remove a service for no better reason than that
// its source has a syntax error today.
func unread(a *app.App, running []apps.Deployment) error {
	if len(a.Unreadable) == 0 {
		return nil
	}
	e := &UnreadableError{Files: a.Unreadable}
	for _, d := range running {
		if name := d.Labels[nameLabel]; a.Service(name) == nil {
			e.Services = append(e.Services, name)
		}
	}
	if len(e.Services) == 0 {
		return nil
	}
	slices.Sort(e.Services)
	return e
}

// keepImages adds the images that services without a new one have in the cluster,
// so that what does not build today goes on as it is.
func keepImages(a *app.App, images map[string]string, running []apps.Deployment) {
	for _, d := range running {
		service := d.Labels[nameLabel]
		if container := deploy.ContainerOf(&d.Spec.Template.Spec, service); a.Service(service) != nil && images[service] == "" && container != nil {
			images[service] = container.Image
		}
	}
}

// render returns the objects that run those of the app's services that have an
// image.
func (s *Session) render(a *app.App, images map[string]string) ([]deploy.Object, error) {
	commands := map[string][]string{}
	for _, service := range a.Services {
		command, err := Command(service)
		if err != nil {
			return nil, err
		}
		commands[service.Name] = command
	}
	return deploy.Render(only(a, func(service *app.Service) bool { return images[service.Name] != "" }), deploy.RenderOptions{
		Environment: s.environment,
		Images:      images,
		Commands:    commands,
		Root:        image.Root,
		User:        image.User,
		Live:        &deploy.LiveOptions{AgentPath: image.AgentPath, Token: s.token},
	})
}

// only returns the app with those of its services that are wanted.
func only(a *app.App, wanted func(*app.Service) bool) *app.App {
	some := *a
	some.Services = slices.DeleteFunc(slices.Clone(a.Services), func(service *app.Service) bool { return !wanted(service) })
	return &some
}

// push brings the images of artifacts to the registry and returns their
// references by service.
func (s *Session) push(ctx context.Context, a *app.App, built []*image.Artifact) (map[string]string, error) {
	began := time.Now()
	targets := make([]image.Target, len(built))
	var g errgroup.Group
	for i, art := range built {
		g.Go(func() error {
			img, err := s.maker.Publisher.Image(ctx, art, image.Options{Agent: s.Agent, Title: art.Service})
			targets[i] = image.Target{Repository: repository(a.Name, art.Service), Image: img}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("make images: %w", err)
	}
	task := s.Printer.Task(term.Push, "", "pushing images to "+s.registry.Push)
	pushed, err := s.maker.Publisher.Push(ctx, s.registry, targets...)
	task.Drop()
	if err != nil {
		return nil, err
	}
	images := map[string]string{}
	var moved int64
	var fresh []string
	for i, p := range pushed {
		images[built[i].Service] = p.Ref
		moved += p.Bytes
		if !p.Present {
			fresh = append(fresh, built[i].Service)
		}
	}
	if len(fresh) > 0 {
		s.Printer.Event(term.Event{Type: term.Push, Text: few(fresh, "image"), Why: "to " + s.registry.Push, Took: time.Since(began), Bytes: moved})
	}
	return images, nil
}

// wait waits until every service that could be built is ready, and prints how that
// goes for those that were changed.
func (s *Session) wait(ctx context.Context, a *app.App, changed map[string]bool, start time.Time) error {
	waited := only(a, func(service *app.Service) bool { return s.artifact(service.Name) != nil })
	progress := s.newProgress(waited, changed)
	defer progress.end()
	exits, done := s.pods.watchExits()
	defer done()
	waiter := &deploy.Waiter{
		Client: s.applier.Client, Log: s.Log, Exits: exits, KeepGoing: true,
		Progress: progress.take,
	}
	err := waiter.Wait(ctx, deploy.Rollout{App: waited, Namespace: s.environment, Start: start})
	var rollout *deploy.RolloutError
	if errors.As(err, &rollout) && rollout.Err == nil {
		return reported{err} // each failure was printed as it came
	}
	return err
}
