package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/ui/term"
)

// Unpushed is the registry in the names of images that nobody has built yet.
const Unpushed = "registry.invalid"

// Manifests returns the objects that would run the app, with names in the place
// of images that nobody has built yet.
func Manifests(a *app.App, environment string) ([]deploy.Object, error) {
	images, commands := map[string]string{}, map[string][]string{}
	for _, s := range a.Services {
		images[s.Name] = Unpushed + "/" + a.Name + "/" + s.Name
		command, err := Command(s)
		if err != nil {
			return nil, err
		}
		commands[s.Name] = command
	}
	return deploy.Render(a, deploy.RenderOptions{Environment: environment, Images: images, Commands: commands, Root: image.Root, User: image.User})
}

// BuiltImage is what Build gives for one service.
type BuiltImage struct {
	Service string `json:"service"`
	Image   string `json:"image"` // with its digest
	Tree    string `json:"tree"`
	Cached  bool   `json:"cached"`
}

// Build builds the services named, or all, and pushes their images.
func (s *Session) Build(ctx context.Context, names []string) ([]BuiltImage, error) {
	services, err := s.named(names)
	if err != nil {
		return nil, err
	}
	a := *s.plan()
	a.Services = services
	if s.registry, err = FindRegistry(ctx, s.Cluster, s.Registry); err != nil {
		return nil, err
	}
	built, err := s.build(ctx, &a, nil)
	if err != nil {
		return nil, err
	}
	refs, err := s.push(ctx, &a, built)
	if err != nil {
		return nil, err
	}
	var images []BuiltImage
	for _, service := range services {
		art := s.artifact(service.Name)
		images = append(images, BuiltImage{Service: service.Name, Image: refs[service.Name], Tree: art.TreeDigest().String(), Cached: art.Cached})
	}
	return images, nil
}

// named returns the services of those names, or all when there are none.
func (s *Session) named(names []string) ([]*app.Service, error) {
	if len(names) == 0 {
		return s.plan().Services, nil
	}
	var services []*app.Service
	for _, name := range names {
		service := s.plan().Service(name)
		if service == nil {
			return nil, s.unknown(name)
		}
		services = append(services, service)
	}
	return services, nil
}

// UnknownServiceError tells that the app has no service of that name.
type UnknownServiceError struct {
	Name  string
	Dir   string // where the app's source is
	Known []string
}

func (e *UnknownServiceError) Error() string {
	return fmt.Sprintf("no service is named %q: there is %s in the source %s", e.Name, strings.Join(e.Known, ", "), e.Dir)
}

func (s *Session) unknown(name string) error {
	e := &UnknownServiceError{Name: name, Dir: s.Dir}
	for _, service := range s.plan().Services {
		e.Known = append(e.Known, service.Name)
	}
	return e
}

// LogOptions choose what Logs prints.
type LogOptions struct {
	Service string // "" means all
	Follow  bool
	Tail    int64 // lines of each pod to begin with
}

// Logs prints what the services' containers write.
func (s *Session) Logs(ctx context.Context, o LogOptions) error {
	if o.Service != "" && s.plan().Service(o.Service) == nil {
		return s.unknown(o.Service)
	}
	client, err := s.Cluster.Typed()
	if err != nil {
		return err
	}
	chosen := Selector(s.plan().Name)
	if o.Service != "" {
		chosen += "," + nameLabel + "=" + o.Service
	}
	pods, err := client.CoreV1().Pods(s.environment).List(ctx, meta.ListOptions{LabelSelector: chosen})
	if err != nil {
		return s.Cluster.Explain(err)
	}
	if len(pods.Items) == 0 {
		return fmt.Errorf("%s has no pods in namespace %s (context %s): bight up deploys it", s.plan().Name, s.environment, s.Cluster.Context)
	}
	var group sync.WaitGroup
	errs := make([]error, len(pods.Items))
	for i, pod := range pods.Items {
		group.Go(func() {
			service := ServiceOf(&pod)
			options := &core.PodLogOptions{Follow: o.Follow, TailLines: &o.Tail}
			if container := deploy.ContainerOf(&pod.Spec, service); container != nil {
				options.Container = container.Name
			}
			stream, err := client.CoreV1().Pods(s.environment).GetLogs(pod.Name, options).Stream(ctx)
			if err == nil {
				defer stream.Close()
				err = readLines(stream, func(line string, _ bool) { s.Printer.Log(service, local(s.plan(), line)) })
			}
			if err != nil && ctx.Err() == nil {
				errs[i] = fmt.Errorf("read the log of pod %s: %w", pod.Name, s.Cluster.Explain(err))
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// Down removes what was deployed of the app, and the claim of a session that is no
// more. It is refused while somebody else's session goes on.
func (s *Session) Down(ctx context.Context, volumes bool) error {
	if err := s.Cluster.Guard(s.Allowed); err != nil {
		return err
	}
	if err := s.reach(); err != nil {
		return err
	}
	a := s.plan()
	if err := s.removeLease(ctx, a.Name); err != nil {
		return err
	}
	task := s.Printer.Task(term.Deploy, "", "removing "+a.Name+" from namespace "+s.environment)
	result, err := s.applier.Down(ctx, a.Name, s.environment, deploy.DownOptions{Volumes: volumes})
	task.Drop()
	if err != nil {
		return s.Cluster.Explain(err)
	}
	if len(result.Removed) == 0 && !result.NamespaceRemoved {
		s.Printer.Note("", fmt.Sprintf("%s is not deployed in namespace %s; there is nothing to remove", a.Name, s.environment))
	} else {
		s.Printer.Event(term.Event{Type: term.Deploy, Text: "removed " + term.Count(len(result.Removed), "object") + " from namespace " + s.environment})
	}
	for _, ref := range result.Kept {
		s.Printer.Note("", "kept "+ref.String()+" and what is in it; bight down --volumes removes it")
	}
	switch {
	case result.NamespaceRemoved:
		s.Printer.Note("", "removed namespace "+s.environment)
	case len(result.Left) > 0:
		s.Printer.Note("", "namespace "+s.environment+" stays, for others have there: "+strings.Join(result.Left, ", "))
	}
	return nil
}

// removeLease removes the claim of a session: of one that has ended, or of the
// user's own, which ends when it notices.
func (s *Session) removeLease(ctx context.Context, appName string) error {
	client := s.applier.Client.CoordinationV1().Leases(s.environment)
	have, err := client.Get(ctx, leaseName(appName), meta.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil
	case err != nil:
		return s.Cluster.Explain(err)
	}
	me := s.me()
	if !leaseFree(have.Spec, me, time.Now(), ProcessLives) {
		if h, ok := parseHolder(*have.Spec.HolderIdentity); !ok || h.user != me.user || h.host != me.host {
			return busy(appName, s.environment, have)
		}
	}
	err = client.Delete(ctx, have.Name, meta.DeleteOptions{Preconditions: &meta.Preconditions{UID: &have.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return s.Cluster.Explain(err)
	}
	return nil
}
