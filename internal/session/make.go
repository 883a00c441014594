package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/image/golang"
	"github.com/bightdev/bight/internal/image/static"
	"github.com/bightdev/bight/internal/tree"
	"github.com/bightdev/bight/internal/ui/term"
)

// Maker turns services into artifacts and images. It is safe for concurrent use.
type Maker struct {
	Publisher *image.Publisher

	hashes   *tree.Cache
	builders map[string]image.Builder // by kind of build
}

// NewMaker returns a Maker that remembers what it made in cacheDir. What a
// reproducible one makes depends on the source alone, not on where it lies; that
// compiles every dependency anew the first time.
func NewMaker(cacheDir string, reproducible bool, log *slog.Logger) (*Maker, error) {
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w; set XDG_CACHE_HOME to one that can be written", err)
	}
	store := image.OpenStore(filepath.Join(cacheDir, "store"))
	hashes := tree.OpenCache(filepath.Join(cacheDir, "hashes"))
	return &Maker{
		Publisher: &image.Publisher{Store: store, Zones: timeZones(), Log: log},
		hashes:    hashes,
		builders: map[string]image.Builder{
			app.BuildGo:     image.Cached(&golang.Builder{Store: store, Hashes: hashes, Trimpath: reproducible, Log: log}, store),
			app.BuildStatic: &static.Builder{Hashes: hashes},
		},
	}, nil
}

// timeZones returns the time zones of the Go toolchain, "" when there is none.
func timeZones() string {
	root := os.Getenv("GOROOT")
	if root == "" {
		if program, err := exec.LookPath("go"); err == nil {
			if program, err = filepath.EvalSymlinks(program); err == nil {
				root = filepath.Dir(filepath.Dir(program))
			}
		}
	}
	zones := filepath.Join(root, "lib", "time", "zoneinfo.zip")
	if _, err := os.Stat(zones); err != nil {
		return ""
	}
	return zones
}

// Command returns what starts a service.
func Command(s *app.Service) ([]string, error) {
	if s.Build.Kind == app.BuildStatic {
		return static.Command(s)
	}
	return golang.Command(s), nil
}

// Close saves what was learnt about files.
func (m *Maker) Close() error { return m.hashes.Save() }

// Inputs returns what decides a service's build.
func (m *Maker) Inputs(ctx context.Context, a *app.App, service *app.Service) (*image.Inputs, error) {
	b, err := m.builder(service)
	if err != nil {
		return nil, err
	}
	return b.Inputs(ctx, a, service)
}

// Build builds a service. changed, where it is not nil, is all that can have
// changed since the last build.
func (m *Maker) Build(ctx context.Context, a *app.App, service *app.Service, changed []string) (*image.Artifact, error) {
	b, err := m.builder(service)
	if err != nil {
		return nil, err
	}
	if r, ok := b.(image.Refresher); ok && changed != nil {
		return r.BuildChanged(ctx, a, service, changed)
	}
	return b.Build(ctx, a, service)
}

func (m *Maker) builder(service *app.Service) (image.Builder, error) {
	b := m.builders[service.Build.Kind]
	if b == nil {
		return nil, fmt.Errorf("service %s: nobody knows how to build %q", service.Name, service.Build.Kind)
	}
	return b, nil
}

// build builds services in parallel. It returns those that could be built; the
// error joins what went wrong with the others, which was reported already.
func (s *Session) build(ctx context.Context, services []*app.Service) ([]*image.Artifact, error) {
	var mu sync.Mutex
	var built []*image.Artifact
	var errs []error
	var g errgroup.Group
	for _, service := range services {
		g.Go(func() error {
			art, err := s.buildOne(ctx, service, nil)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			} else {
				built = append(built, art)
			}
			return nil
		})
	}
	_ = g.Wait()
	if err := s.maker.Close(); err != nil {
		s.Log.Debug("save file hashes", "error", err)
	}
	return built, errors.Join(errs...)
}

// buildOne builds a service and reports it.
func (s *Session) buildOne(ctx context.Context, service *app.Service, changed []string) (*image.Artifact, error) {
	began := time.Now()
	task := s.Printer.Task(term.Build, service.Name, "building")
	art, err := s.maker.Build(ctx, s.app, service, changed)
	switch {
	case ctx.Err() != nil:
		task.Drop()
		return nil, ctx.Err()
	case err != nil:
		task.Fail(err, "", "the rest keeps running; the next save is tried at once")
		s.mu.Lock()
		s.failures[service.Name] = "it does not build"
		s.mu.Unlock()
		return nil, reported{fmt.Errorf("build %s: %w", service.Name, err)}
	}
	s.setArtifact(art)
	why := ""
	if art.Cached {
		why = "same inputs as build " + art.Inputs.Short()
	}
	task.Done(term.Event{Text: "built", Why: why, Took: time.Since(began), Cached: art.Cached, Files: len(art.Tree)})
	for _, problem := range art.Problems {
		s.Printer.Warn(service.Name, problem.Error(), "the rest is in place; it is tried again with the next save")
	}
	return art, nil
}

// reported is an error that the user has been told of.
type reported struct{ error }

func (e reported) Unwrap() error { return e.error }

// IsReported tells whether all of err was shown to the user already.
func IsReported(err error) bool { return errors.As(err, new(reported)) }

// render pushes the images of what was built and returns the objects that run it.
// A service that could not be built keeps the image that it has in the cluster;
// one that never had any is left out.
func (s *Session) render(ctx context.Context, built []*image.Artifact) ([]deploy.Object, error) {
	images, err := s.push(ctx, built)
	if err != nil {
		return nil, err
	}
	if len(built) < len(s.app.Services) {
		if err := s.keepImages(ctx, images); err != nil {
			return nil, err
		}
	}
	s.pods.deployed(images)
	commands := map[string][]string{}
	deployed := *s.app
	deployed.Services = nil
	for _, service := range s.app.Services {
		if images[service.Name] != "" {
			if commands[service.Name], err = Command(service); err != nil {
				return nil, err
			}
			deployed.Services = append(deployed.Services, service)
		}
	}
	return deploy.Render(&deployed, deploy.RenderOptions{
		Environment: s.environment,
		Images:      images,
		Commands:    commands,
		Root:        image.Root,
		User:        image.User,
		Live:        &deploy.LiveOptions{AgentPath: image.AgentPath, Token: s.token},
	})
}

// keepImages adds the images that services without a new one have in the cluster,
// so that what does not build today goes on as it is.
func (s *Session) keepImages(ctx context.Context, images map[string]string) error {
	list, err := s.applier.Client.AppsV1().Deployments(s.environment).List(ctx, meta.ListOptions{LabelSelector: selector(s.app.Name)})
	if err != nil {
		return s.Cluster.Explain(err)
	}
	for _, d := range list.Items {
		service := d.Labels[nameLabel]
		if s.app.Service(service) != nil && images[service] == "" {
			images[service] = d.Spec.Template.Spec.Containers[0].Image
		}
	}
	return nil
}

// nameLabel has the service's name on every object of it.
const nameLabel = "app.kubernetes.io/name"

// selector finds what Bight has deployed of an app.
func selector(appName string) string {
	return "app.kubernetes.io/managed-by=bight,app.kubernetes.io/part-of=" + appName
}

// push brings the images of artifacts to the registry and returns their
// references by service.
func (s *Session) push(ctx context.Context, built []*image.Artifact) (map[string]string, error) {
	began := time.Now()
	targets := make([]image.Target, len(built))
	var g errgroup.Group
	for i, art := range built {
		g.Go(func() error {
			img, err := s.maker.Publisher.Image(ctx, art, image.Options{Agent: s.Agent, Title: art.Service})
			targets[i] = image.Target{Repository: s.repository(art.Service), Image: img}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("make images: %w", err)
	}
	pushed, err := s.maker.Publisher.Push(ctx, s.registry, targets...)
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
		s.Printer.Event(term.Event{
			Type: term.Push, Text: "pushed " + strings.Join(fresh, ", "), Why: "to " + s.registry.Push,
			Took: time.Since(began), Bytes: moved,
		})
	}
	return images, nil
}
