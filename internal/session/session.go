// Package session is `bight up`: it plans, builds, deploys, opens URLs and then
// keeps the running application equal to the source until it is told to stop.
//
// The main type is [Session]. It ties the domain packages together and decides
// little itself; what it decides is in pure functions ([sameShape], [affected],
// [leaseFree]). One Session is used by one goroutine; it waits for those it starts.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/forward"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/ui/term"
)

// Config is what a Session is made of.
type Config struct {
	Dir       string // the app's directory
	Cluster   *kube.Cluster
	Namespace string   // "" means <app>-<user>
	User      string   // who the environment is for
	Allowed   []string // contexts that are used although they look like production
	TakeOver  bool     // fields that somebody else has set
	Registry  string   // host to push to; "" means the one that the cluster announces
	Agent     string   // path of the agent's program for the nodes
	CacheDir  string

	// Reproducible builds give the same images wherever the source lies.
	Reproducible bool

	Port    int // of the URLs; 0 means any free one, preferably 8000
	Version string
	Printer *term.Printer
	Log     *slog.Logger
}

// Session is one run of `bight up`.
type Session struct {
	Config

	app         *app.App
	environment string
	maker       *Maker
	applier     *deploy.Applier
	token       string
	registry    image.Registry
	pods        *pods
	proxy       *forward.Proxy

	mu        sync.Mutex
	artifacts map[string]*image.Artifact // by service: what the pods should have
	failures  map[string]string          // by service: why there is none
}

// Open plans the app and finds its environment. Nothing is changed yet.
func Open(ctx context.Context, c Config) (*Session, error) {
	s := &Session{Config: c, artifacts: map[string]*image.Artifact{}, failures: map[string]string{}}
	a, err := Plan(ctx, c.Dir)
	if err != nil {
		return nil, err
	}
	s.app = a
	if s.environment = c.Namespace; s.environment == "" {
		s.environment = Environment(a.Name, c.User)
	}
	if s.maker, err = NewMaker(c.CacheDir, c.Reproducible, c.Log); err != nil {
		return nil, err
	}
	return s, nil
}

// Plan detects the app in dir and checks it.
func Plan(ctx context.Context, dir string) (*app.App, error) {
	a, err := detect.Detect(ctx, dir)
	if err != nil {
		return nil, err
	}
	return a, a.Validate()
}

// QuestionsError is that the app cannot be deployed before the user has said
// something that nobody else knows.
type QuestionsError struct{ Questions []app.Question }

func (e *QuestionsError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s to answer before anything is deployed:", term.Count(len(e.Questions), "question"))
	for _, q := range e.Questions {
		fmt.Fprintf(&b, "\n%s:%d: %s", q.From.File, q.From.Line, q.Text)
	}
	return b.String()
}

// Environment is the namespace of a user's own sandbox of an app.
func Environment(appName, user string) string {
	return app.Label(appName + "-" + user)
}

// Up brings the app up. With once it returns when every service is ready and its
// pods have the present source, or an error when that can't be; else it follows
// the source until ctx ends, which is no error.
func (s *Session) Up(ctx context.Context, once bool) error {
	began := time.Now()
	if err := s.Cluster.Guard(s.Allowed); err != nil {
		return err
	}
	var names []string
	for _, service := range s.app.Services {
		names = append(names, service.Name)
	}
	s.Printer.Header(term.Header{App: s.app.Name, Services: names, Context: s.Cluster.Context, Namespace: s.environment})
	if len(s.app.Questions) > 0 {
		return &QuestionsError{s.app.Questions}
	}
	s.printPlan()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	lease, err := s.claim(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	run, stop := context.WithCancel(ctx)
	group.Go(func() error { return lease.keep(run) })
	group.Go(func() error {
		defer stop()
		return s.up(run, once, began, lease)
	})
	return group.Wait()
}

// prepare makes ready what every deploy needs: the environment, the agents' token
// and the registry.
func (s *Session) prepare(ctx context.Context) error {
	client, err := s.Cluster.Typed()
	if err != nil {
		return err
	}
	dynamic, err := s.Cluster.Dynamic()
	if err != nil {
		return err
	}
	s.applier = &deploy.Applier{Client: client, Dynamic: dynamic, TakeOver: s.TakeOver, Log: s.Log, Note: func(text string) { s.Printer.Note("", text) }}
	var g errgroup.Group
	g.Go(func() error {
		created, err := s.applier.EnsureNamespace(ctx, s.environment, map[string]string{"bight.dev/app": s.app.Name})
		if err != nil {
			return s.Cluster.Explain(err)
		}
		if created {
			s.Printer.Event(term.Event{Type: term.Deploy, Text: "made namespace " + s.environment})
		}
		s.token, err = s.applier.Token(ctx, s.environment, s.app.Name)
		return s.Cluster.Explain(err)
	})
	g.Go(func() (err error) {
		s.registry, err = FindRegistry(ctx, s.Cluster, s.Registry)
		return err
	})
	return g.Wait()
}

// FindRegistry returns the registry to use: the one that was named, else the one
// that the cluster announces.
func FindRegistry(ctx context.Context, c *kube.Cluster, named string) (image.Registry, error) {
	if named != "" {
		return image.Registry{Push: named}, nil
	}
	r, err := c.LocalRegistry(ctx)
	if err != nil {
		return image.Registry{}, err
	}
	if r == nil || r.Host == "" {
		return image.Registry{}, fmt.Errorf("context %q announces no registry (ConfigMap kube-public/local-registry-hosting), so there is nowhere to push images: name one with --registry HOST/PATH", c.Context)
	}
	return image.Registry{Push: r.Host, Pull: r.PullHost()}, nil
}

// up deploys and, unless once, follows the source.
func (s *Session) up(ctx context.Context, once bool, began time.Time, l *lease) error {
	s.pods = newPods(s)
	group, ctx := errgroup.WithContext(ctx)
	run, stop := context.WithCancel(ctx)
	defer stop()
	group.Go(func() error { return s.pods.follow(run) })
	group.Go(func() error {
		defer stop()
		if err := s.deploy(run, began); err != nil && (once || !s.carryOn(run, err)) {
			return err
		}
		if once {
			return s.finish(run, began)
		}
		return s.stay(run, l)
	})
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// carryOn reports whether a session goes on after a failed deploy: it does when
// the next save can heal what is wrong, and then says so.
func (s *Session) carryOn(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	var compile *image.CompileError
	var rollout *deploy.RolloutError
	if !errors.As(err, &compile) && !errors.As(err, &rollout) {
		return false
	}
	s.Printer.Note("", "waiting for a save that mends it")
	return true
}

// deploy builds what has to be built, pushes and applies it and waits until it
// runs. A service that does not compile keeps the others from nothing: they are
// deployed, and the error says which is missing.
func (s *Session) deploy(ctx context.Context, began time.Time) error {
	built, buildErr := s.build(ctx, s.app.Services)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if buildErr != nil && s.app.Services == nil {
		return buildErr
	}
	objects, err := s.render(ctx, built)
	if err != nil {
		return errors.Join(buildErr, err)
	}
	started := time.Now()
	result, err := s.applier.Apply(ctx, s.app.Name, s.environment, objects)
	if err != nil {
		return errors.Join(buildErr, s.Cluster.Explain(err))
	}
	s.printApplied(result, time.Since(started))
	s.pods.want(s.wanted())
	err = s.wait(ctx, started)
	return errors.Join(buildErr, err)
}

// wait waits until every service that could be built is ready.
func (s *Session) wait(ctx context.Context, start time.Time) error {
	deployed := *s.app
	deployed.Services = nil
	for _, service := range s.app.Services {
		if s.artifact(service.Name) != nil {
			deployed.Services = append(deployed.Services, service)
		}
	}
	waiter := &deploy.Waiter{Client: s.applier.Client, Log: s.Log, Exits: s.pods.exits, KeepGoing: true, Progress: s.printProgress}
	return waiter.Wait(ctx, deploy.Rollout{App: &deployed, Namespace: s.environment, Start: start})
}

// finish waits until the pods have confirmed the present source.
func (s *Session) finish(ctx context.Context, began time.Time) error {
	if err := s.pods.synced(ctx); err != nil {
		return err
	}
	s.Printer.Event(term.Event{Type: term.Ready, Text: "all of " + s.app.Name + " is ready and in sync", Took: time.Since(began)})
	return nil
}

// stay opens the URLs and follows the source until ctx ends.
func (s *Session) stay(ctx context.Context, l *lease) error {
	group, ctx := errgroup.WithContext(ctx)
	if err := s.openProxy(ctx, l); err != nil {
		return err
	}
	group.Go(func() error { return s.proxy.Serve(ctx) })
	group.Go(func() error { return s.pods.logs(ctx) })
	group.Go(func() error { return s.watch(ctx) })
	err := group.Wait()
	if errors.Is(err, context.Canceled) || err == nil {
		s.Printer.Note("", fmt.Sprintf("%s keeps running in namespace %s; bight up goes on where you left, bight down removes it", s.app.Name, s.environment))
	}
	return err
}

func (s *Session) artifact(service string) *image.Artifact {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.artifacts[service]
}

func (s *Session) setArtifact(art *image.Artifact) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.artifacts[art.Service] = art
	delete(s.failures, art.Service)
}

// wanted returns what each service's pods should have.
func (s *Session) wanted() map[string]*image.Artifact {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]*image.Artifact{}
	for name, art := range s.artifacts {
		all[name] = art
	}
	return all
}

// repository is where a service's images go.
func (s *Session) repository(service string) string {
	return strings.ToLower(filepath.ToSlash(filepath.Join(s.app.Name, service)))
}
