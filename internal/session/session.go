// Package session is `bight up`: it plans, builds, deploys, opens URLs and then
// keeps the running application equal to the source until it is told to stop.
//
// The main type is [Session]. It ties the domain packages together and decides
// little itself; what it decides is in pure functions ([shape], [affects],
// [leaseFree], [rank]). One Session is used by one goroutine; it waits for those
// it starts. Of these, the follower alone decides what happens after a save.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect"
	"github.com/bightdev/bight/internal/deploy"
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

	// By is what it makes things for: "bight up". It is told when they are used again.
	By string

	Port    int // of the URLs; 0 means any free one, preferably 8000
	Version string
	Printer *term.Printer
	Log     *slog.Logger
}

// Session is one run of `bight up`.
type Session struct {
	Config

	environment string
	maker       *Maker

	// Set before goroutines are started, and not changed after.
	applier  *deploy.Applier
	token    string
	registry image.Registry
	pods     *pods
	door     *door // nil unless the session stays

	mu        sync.Mutex
	app       *app.App
	artifacts map[string]*image.Artifact // by service: what the pods should have
	failures  map[string]string          // by service: why there is none
}

// Open plans the app and finds its environment. Nothing is changed yet.
func Open(ctx context.Context, c Config) (*Session, error) {
	a, err := Plan(ctx, c.Dir)
	if err != nil {
		return nil, err
	}
	return Planned(a, c)
}

// Planned is Open for an app that has been planned already.
func Planned(a *app.App, c Config) (s *Session, err error) {
	s = &Session{Config: c, app: a, artifacts: map[string]*image.Artifact{}, failures: map[string]string{}}
	if s.environment = c.Namespace; s.environment == "" {
		s.environment = Environment(a.Name, c.User)
	}
	if s.maker, err = NewMaker(c.CacheDir, c.By, c.Log); err != nil {
		return nil, err
	}
	return s, nil
}

// Deployed is a session of an app that is known from what is deployed alone, in
// Config.Namespace: it can be asked for its Status, and nothing else.
func Deployed(a *app.App, c Config) *Session {
	return &Session{Config: c, app: a, environment: c.Namespace}
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
	a := s.plan()
	var names []string
	for _, service := range a.Services {
		names = append(names, service.Name)
	}
	s.Printer.Header(term.Header{App: a.Name, Services: names, Context: s.Cluster.Context, Namespace: s.environment})
	if len(a.Questions) > 0 {
		return &QuestionsError{a.Questions}
	}
	s.printPlan(a)
	if err := s.reach(); err != nil {
		return err
	}
	if err := s.check(ctx, once); err != nil {
		return err
	}
	return s.claimed(ctx, once, func(run context.Context, l *lease, built []*image.Artifact, buildErr error) error {
		return s.up(run, once, began, l, built, buildErr)
	})
}

// claimed prepares and goes on with what that gave. The lease is kept from when it is
// had until everything else has ended, and ends everything when it is lost: a build,
// too, which may take longer than a lease lasts.
func (s *Session) claimed(ctx context.Context, once bool, goOn func(context.Context, *lease, []*image.Artifact, error) error) error {
	run, stop := context.WithCancel(ctx)
	defer stop()
	group, run := errgroup.WithContext(run)
	l, built, buildErr := s.prepare(run, once, func(l *lease) {
		group.Go(func() error { return l.keep(run) })
	})
	if l == nil {
		stop()
		if err := group.Wait(); err != nil {
			return err // which is why nothing came of it
		}
		return buildErr
	}
	group.Go(func() error {
		defer stop()
		return goOn(run, l, built, buildErr)
	})
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// reach makes the clients.
func (s *Session) reach() error {
	client, err := s.Cluster.Typed()
	if err != nil {
		return err
	}
	dynamic, err := s.Cluster.Dynamic()
	if err != nil {
		return err
	}
	s.applier = &deploy.Applier{
		Client: client, Dynamic: dynamic, TakeOver: s.TakeOver, Log: s.Log,
		Note: func(text string) { s.Printer.Note("", text) },
	}
	return nil
}

// prepare builds, and meanwhile finds the registry and claims the environment. keep
// is handed the lease as soon as there is one, and gives it back when ctx ends.
// A build that fails is reported and returned with the lease. Where there is no
// environment yet, and nothing that could run in it, none is made for one run.
func (s *Session) prepare(ctx context.Context, once bool, keep func(*lease)) (l *lease, built []*image.Artifact, buildErr error) {
	exists := false
	g, run := errgroup.WithContext(ctx)
	g.Go(func() error {
		built, buildErr = s.build(run, s.plan(), nil)
		return context.Cause(run)
	})
	g.Go(func() (err error) {
		s.registry, err = FindRegistry(run, s.Cluster, s.Registry)
		return err
	})
	g.Go(func() (err error) {
		if _, err = s.applier.Client.CoreV1().Namespaces().Get(run, s.environment, meta.GetOptions{}); apierrors.IsNotFound(err) {
			return nil
		}
		exists = true // or we are not the ones to say
		if l, err = s.enter(run); err == nil {
			keep(l)
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	if !exists {
		if once && len(built) == 0 {
			return nil, nil, buildErr
		}
		var err error
		if l, err = s.enter(ctx); err != nil {
			return nil, nil, err
		}
		keep(l)
	}
	return l, built, buildErr
}

// leave gives a claim back that came to nothing.
func (s *Session) leave(ctx context.Context, l *lease) {
	if l != nil {
		l.giveBack(ctx)
	}
}

// enter makes the environment and claims it.
func (s *Session) enter(ctx context.Context) (*lease, error) {
	created, err := s.applier.EnsureNamespace(ctx, s.environment, map[string]string{"bight.dev/app": s.plan().Name})
	if err != nil {
		return nil, s.Cluster.Explain(err)
	}
	if created {
		s.Printer.Event(term.Event{Type: term.Deploy, Text: "made namespace " + s.environment})
	}
	var l *lease
	g, run := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		s.token, err = s.applier.Token(run, s.environment, s.plan().Name)
		return s.Cluster.Explain(err)
	})
	g.Go(func() (err error) {
		l, err = s.claim(run)
		return err
	})
	if err := g.Wait(); err != nil {
		s.leave(ctx, l)
		return nil, err
	}
	return l, nil
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

// up deploys what was built and, unless once, follows the source.
func (s *Session) up(ctx context.Context, once bool, began time.Time, l *lease, built []*image.Artifact, buildErr error) error {
	s.pods = newPods(s)
	if !once {
		s.door = &door{session: s, lease: l}
	}
	run, stop := context.WithCancel(ctx)
	group, run := errgroup.WithContext(run)
	group.Go(func() error { return s.pods.follow(run) })
	group.Go(func() error {
		defer stop()
		if once {
			return s.once(run, began, built, buildErr)
		}
		return s.stay(run, built, buildErr)
	})
	return group.Wait()
}

// once deploys what was built and waits until the pods have it.
func (s *Session) once(ctx context.Context, began time.Time, built []*image.Artifact, buildErr error) error {
	started := time.Now()
	a := s.plan()
	changed, err := s.apply(ctx, a, built)
	if err != nil {
		return errors.Join(buildErr, err)
	}
	if err := s.wait(ctx, a, changed, started); err != nil || buildErr != nil || len(a.Unreadable) > 0 {
		return errors.Join(buildErr, unreadable(a), err)
	}
	if err := s.pods.synced(ctx); err != nil {
		return err
	}
	s.Printer.Event(term.Event{Type: term.Ready, Text: "all of " + a.Name + " is ready and in sync", Took: time.Since(began)})
	return nil
}

// stay opens the URLs and follows the source until ctx ends.
func (s *Session) stay(ctx context.Context, built []*image.Artifact, buildErr error) error {
	if err := s.door.open(); err != nil {
		return err
	}
	group, run := errgroup.WithContext(ctx)
	group.Go(func() error { return s.door.proxy.Serve(run) })
	group.Go(func() error { return s.pods.logs(run) })
	group.Go(func() error { return newFollower(s).run(run, built, buildErr) })
	err := group.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		s.Printer.Note("", s.farewell())
	}
	return err
}

// farewell says what stays behind.
func (s *Session) farewell() string {
	text := fmt.Sprintf("%s keeps running in namespace %s; bight up goes on where you left, bight down removes it", s.plan().Name, s.environment)
	if ahead := s.pods.ahead(); len(ahead) > 0 {
		text += fmt.Sprintf(". A pod of %s that is replaced before that starts with the files of its last deploy, not of its last save", strings.Join(ahead, ", "))
	}
	return text
}

// plan returns the app as it was planned last.
func (s *Session) plan() *app.App {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.app
}

func (s *Session) setPlan(a *app.App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.app = a
	for name := range s.artifacts {
		if a.Service(name) == nil {
			delete(s.artifacts, name)
			delete(s.failures, name)
		}
	}
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

// setFailure remembers why a service has no present artifact, and failure tells.
func (s *Session) setFailure(service, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures[service] = why
}

func (s *Session) failure(service string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures[service]
}

// wanted returns what each service's pods should have.
func (s *Session) wanted() map[string]*image.Artifact {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.artifacts)
}

// repository is where a service's images go.
func repository(appName, service string) string { return path.Join(appName, service) }
