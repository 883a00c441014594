package session

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/ignore"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/live"
	"github.com/bightdev/bight/internal/ui/term"
)

// follower decides what happens after a save. One goroutine, that of run, has all
// of its state; what it starts reports by a function on news.
type follower struct {
	session *Session
	news    chan func(ctx context.Context) error
	work    sync.WaitGroup

	watcher *live.Watcher
	scope   atomic.Pointer[scope] // of what the watcher tells; stored by run's goroutine

	rebuilds map[string]*rebuild      // by service: builds in progress
	inputs   map[string]*image.Inputs // by service, of the last build that read them
	rollout  *rollout                 // in progress, or nil
	late     changes                  // what came while a rollout was not to be disturbed
	dirty    bool                     // the cluster is not what the plan says
	because  string                   // it is dirty, for people
	planning context.CancelFunc       // of the plan that is being made, or nil
	told     string                   // what was last said to be wrong with the plan
}

func newFollower(s *Session) *follower {
	f := &follower{
		session: s, news: make(chan func(context.Context) error),
		rebuilds: map[string]*rebuild{}, inputs: map[string]*image.Inputs{},
	}
	f.watcher = &live.Watcher{
		Ignore: func(path string, dir bool) bool { return f.scope.Load().ignores(s.relative(path), dir) },
		Log:    s.Log,
	}
	return f
}

// run deploys what was built first and then follows the source until ctx ends.
func (f *follower) run(ctx context.Context, built []*image.Artifact, buildErr error) error {
	group, ctx := errgroup.WithContext(ctx)
	batches := make(chan live.Batch)
	f.look(ctx)
	group.Go(func() error { return f.watcher.Run(ctx, batches) })
	group.Go(func() error {
		defer f.work.Wait()
		f.deploy(ctx, &rollout{plan: f.session.plan(), first: true, built: built, buildErr: buildErr})
		for {
			var err error
			select {
			case b := <-batches:
				f.take(ctx, b)
			case tell := <-f.news:
				err = tell(ctx)
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
			if err != nil {
				return err
			}
		}
	})
	return group.Wait()
}

// start does work in a goroutine of its own. What the work returns is called by
// run's goroutine.
func (f *follower) start(ctx context.Context, work func() func(context.Context) error) {
	f.work.Go(func() {
		tell := work()
		select {
		case f.news <- tell:
		case <-ctx.Done():
		}
	})
}

// look reads the services' inputs for the first time and has the watcher watch the
// app's directory, and what its services are built from outside of it.
func (f *follower) look(ctx context.Context) {
	s := f.session
	a := s.plan()
	for _, service := range a.Services {
		if service.Build.Kind == app.BuildStatic {
			continue // its directory decides
		}
		in, err := s.maker.Inputs(ctx, a, service)
		if err != nil {
			continue // its build has said why
		}
		f.inputs[service.Name] = in
	}
	sc := newScope(nil, readRules(s.Dir), a, slices.Collect(maps.Values(f.inputs))...)
	f.scope.Store(sc)
	f.watcher.Roots = append([]string{s.Dir}, s.absolute(sc.outside())...)
}

// rescope finds out what has to be watched now, for other inputs of a program or
// another plan, and has the watcher watch it.
func (f *follower) rescope(inputs ...*image.Inputs) {
	s := f.session
	old := f.scope.Load()
	sc := newScope(old, old.rules, s.plan(), inputs...)
	f.scope.Store(sc)
	if opened := sc.opened(old); len(opened) > 0 {
		f.watcher.Watch(s.absolute(opened)...)
	}
}

// rule reads the ignore rules anew, of which some have changed. The watcher tells of
// the app's directory when it watches what is not ignored any more.
func (f *follower) rule() {
	s := f.session
	f.scope.Store(newScope(f.scope.Load(), readRules(s.Dir), s.plan()))
	f.watcher.Watch(s.Dir)
}

// absolute returns directories that are named as the app names them by their
// absolute paths, without those that are below others.
func (s *Session) absolute(dirs []string) []string {
	var all []string
	for _, dir := range dirs {
		all = append(all, filepath.Join(s.Dir, filepath.FromSlash(dir)))
	}
	return topmost(all)
}

// topmost leaves out the directories that are below others.
func topmost(dirs []string) []string {
	slices.Sort(dirs)
	var top []string
	for _, dir := range dirs {
		above := func(t string) bool { return dir == t || strings.HasPrefix(dir, t+string(filepath.Separator)) }
		if !slices.ContainsFunc(top, above) {
			top = append(top, dir)
		}
	}
	return top
}

// relative returns a path as the app names it.
func (s *Session) relative(path string) string {
	rel, err := filepath.Rel(s.Dir, path)
	if err != nil {
		return filepath.ToSlash(path)
	}
	return filepath.ToSlash(rel)
}

// take takes in what the watcher has seen.
func (f *follower) take(ctx context.Context, b live.Batch) {
	for _, problem := range b.Problems {
		f.session.Printer.Warn("", problem.Error(), "")
	}
	c := changes{all: b.Rescan, heard: time.Now()}
	for _, path := range b.Paths {
		if rel := f.session.relative(path); rel == "." && !gone(f.session.Dir, rel) {
			c.all = true
		} else {
			c.paths = append(c.paths, rel)
		}
	}
	if slices.ContainsFunc(c.paths, ignore.IsRules) {
		f.rule()
	}
	if !c.empty() {
		f.changed(ctx, c)
	}
}

// changed takes in a save: it starts a build of each service that it concerns, and
// looks at the plan again where it may be another one now.
func (f *follower) changed(ctx context.Context, c changes) {
	if r := f.rollout; r != nil && !r.applied {
		f.late = f.late.merge(c)
		if r.cancel != nil && !r.first && len(c.paths) > 0 {
			r.cancel() // what it builds is old now
		}
		return
	}
	a := f.session.plan()
	if f.dirty || c.all || slices.ContainsFunc(c.paths, func(path string) bool { return decidesShape(a, path) }) {
		f.replan(ctx, c)
	}
	for _, service := range a.Services {
		paths := affects(a, service, f.inputs[service.Name], c.paths)
		if c.all || len(paths) > 0 {
			f.rebuild(ctx, a, service, changes{paths: paths, all: c.all, heard: c.heard})
		}
	}
}

// replan looks at the source anew.
func (f *follower) replan(ctx context.Context, c changes) {
	if f.planning != nil {
		f.planning()
	}
	plan, cancel := context.WithCancel(ctx)
	f.planning = cancel
	f.start(ctx, func() func(context.Context) error {
		defer cancel()
		a, err := Plan(plan, f.session.Dir)
		stale := plan.Err() != nil
		return func(ctx context.Context) error {
			if !stale {
				f.planning = nil
				f.planned(ctx, c, a, err)
			}
			return nil
		}
	})
}

// planned takes in a new plan.
func (f *follower) planned(ctx context.Context, c changes, a *app.App, err error) {
	s := f.session
	old := s.plan()
	if r := f.rollout; r != nil && !r.applied {
		f.late = f.late.merge(c) // it is looked at again
		return
	}
	if err == nil && len(a.Questions) > 0 {
		err = &QuestionsError{a.Questions}
	}
	if err == nil && a.Name != old.Name {
		err = renamedError{old.Name, a.Name}
	}
	switch {
	case err != nil:
		f.tell(err)
	case len(a.Unreadable) > 0:
		f.tell(f.unread(a))
	default:
		f.told = ""
		diff := difference(old, a)
		if diff == "" && !f.dirty {
			s.setPlan(a) // the lines of its facts may be others
			return
		}
		if diff == "" {
			diff = f.because
		}
		s.Printer.Event(term.Event{Type: term.Plan, Text: diff + "; deploying again"})
		f.redeploy(ctx, a)
	}
}

// tell says what is wrong with the source, once.
func (f *follower) tell(err error) {
	if err == nil || err.Error() == f.told {
		return
	}
	f.told = err.Error()
	f.session.Printer.Fail("", errors.New(firstLine(err.Error())), rest(err.Error()), "what is deployed keeps running; the next save is tried at once")
}

// unread is the error of files that do not parse, but for those that a builder
// tells of in the compiler's words.
func (f *follower) unread(a *app.App) error {
	e := &syntaxError{}
	for _, file := range a.Unreadable {
		builds := false
		for _, in := range f.inputs {
			if _, ok := in.Files[file.From.File]; ok {
				builds = true
			}
		}
		if !builds {
			e.files = append(e.files, file)
		}
	}
	if len(e.files) == 0 {
		return nil
	}
	return e
}

// rebuild is a build in progress and what it is for.
type rebuild struct {
	changes
	cancel context.CancelFunc
}

// rebuild builds a service and hands the result to its pods. A newer save ends the
// build that it makes useless.
func (f *follower) rebuild(ctx context.Context, a *app.App, service *app.Service, c changes) {
	if gone(f.session.Dir, service.Source.Dir) {
		return // it is no service any more, as the next plan says
	}
	next := &rebuild{changes: c}
	if old := f.rebuilds[service.Name]; old != nil {
		old.cancel()
		next.changes = old.changes.merge(c) // what the old one was for is still to be done
	}
	build, cancel := context.WithCancel(ctx)
	next.cancel = cancel
	f.rebuilds[service.Name] = next
	s := f.session
	files := s.meaningful(next.paths)
	if len(files) > 0 {
		s.Printer.Event(term.Event{Type: term.Change, Service: service.Name, Text: term.Files(files), Files: len(files), Quiet: true})
	}
	changed := next.paths
	if next.all || f.rebuilt(service) {
		changed = nil
	}
	f.start(ctx, func() func(context.Context) error {
		defer cancel()
		began := time.Now()
		task := s.Printer.Task(term.Build, service.Name, "building")
		art, err := s.maker.Build(build, a, service, changed)
		task.Drop()
		took := time.Since(began)
		return func(ctx context.Context) error {
			if f.rebuilds[service.Name] != next {
				return nil // a newer one has taken over
			}
			delete(f.rebuilds, service.Name)
			f.finish(ctx, a, service, next.changes, files, art, took, err)
			return nil
		}
	})
}

// rebuilt reports whether the last build of a service failed, so that its builder
// may not have taken in all that has changed.
func (f *follower) rebuilt(service *app.Service) bool { return f.session.failure(service.Name) != "" }

// finish takes in what a build gave.
func (f *follower) finish(ctx context.Context, a *app.App, service *app.Service, c changes, files []string, art *image.Artifact, took time.Duration, err error) {
	s := f.session
	if ctx.Err() != nil || gone(s.Dir, service.Source.Dir) {
		return
	}
	if err != nil {
		s.setFailure(service.Name, "it does not build")
		s.Printer.Fail(service.Name, err, "", "the old one keeps running; the next save is tried at once")
		f.learn(ctx, a, service) // what mends it may be in a directory that nobody watches yet
		return
	}
	old, failed := s.artifact(service.Name), s.failure(service.Name)
	s.setArtifact(art)
	f.learn(ctx, a, service)
	switch {
	case !s.pods.isDeployed(service.Name):
		f.redeploy(ctx, s.plan())
		return
	case old != nil && old.TreeDigest() == art.TreeDigest():
		if failed != "" || len(c.paths) > 0 {
			s.Printer.Event(term.Event{Type: term.Build, Service: service.Name, Text: "comes to what is running", Took: took, Quiet: failed == "" && art.Cached})
		}
		return
	}
	if service.Build.Kind == app.BuildStatic {
		took = 0 // reading files is part of sending them
	}
	s.Printer.Event(term.Event{Type: term.Build, Service: service.Name, Text: built(service, art), Took: took, Cached: art.Cached, Quiet: true})
	if art.Restart {
		s.door.renew(service.Name)
	}
	s.pods.edited(art, &edit{
		heard: c.heard, build: took, files: files, tree: art.TreeDigest(), restart: art.Restart,
		sent: map[string]live.Event{}, starts: map[string]live.Event{},
	})
}

// learn reads again what decides a service's build, which a build may have found
// to be other files than before. A build that failed may not have got to some of them.
func (f *follower) learn(ctx context.Context, a *app.App, service *app.Service) {
	if service.Build.Kind == app.BuildStatic {
		return // its directory decides
	}
	f.start(ctx, func() func(context.Context) error {
		in, err := f.session.maker.Inputs(ctx, a, service)
		return func(context.Context) error {
			if err != nil {
				return nil
			}
			if old := f.inputs[service.Name]; old != nil && f.rebuilt(service) {
				in = both(old, in)
			}
			f.inputs[service.Name] = in
			f.rescope(in)
			return nil
		}
	})
}

// rollout is a deployment in progress: it builds where it has to, applies, and
// then waits until all is ready, when saves may go on.
type rollout struct {
	plan     *app.App
	first    bool // of the session: what goes wrong may end it
	built    []*image.Artifact
	buildErr error

	old     *app.App // the plan before, nil for the first
	cancel  context.CancelFunc
	applied bool
}

// redeploy builds and deploys an app anew.
func (f *follower) redeploy(ctx context.Context, a *app.App) {
	for name, r := range f.rebuilds {
		r.cancel()
		delete(f.rebuilds, name)
	}
	f.dirty, f.because = true, "a save came while the one before was being deployed"
	old := f.session.plan()
	f.session.setPlan(a)
	f.rescope()
	f.deploy(ctx, &rollout{plan: a, old: old})
}

// renewed returns the artifacts that need an image, because their service is new or
// its pods are replaced anyway. Of the others the pods have the files already, or get
// them live: nothing of what is there is restarted because of another service.
func (s *Session) renewed(old, now *app.App, built []*image.Artifact) []*image.Artifact {
	was, is := shape(old), shape(now)
	return slices.DeleteFunc(slices.Clone(built), func(art *image.Artifact) bool {
		before, after := was.Service(art.Service), is.Service(art.Service)
		return before != nil && len(aspects(before, after)) == 0 && s.pods.isDeployed(art.Service)
	})
}

// deploy starts a rollout. One that still goes on is given up.
func (f *follower) deploy(ctx context.Context, r *rollout) {
	if f.rollout != nil {
		f.rollout.cancel()
	}
	f.rollout = r
	run, cancel := context.WithCancel(ctx)
	r.cancel = cancel
	s := f.session
	f.start(ctx, func() func(context.Context) error {
		if !r.first {
			if r.built, r.buildErr = s.build(run, r.plan, s.wanted()); run.Err() != nil {
				return func(ctx context.Context) error { return f.applied(ctx, r, nil, time.Time{}, run.Err()) }
			}
			r.built = s.renewed(r.old, r.plan, r.built)
		}
		began := time.Now()
		changed, err := s.apply(run, r.plan, r.built)
		return func(ctx context.Context) error { return f.applied(ctx, r, changed, began, err) }
	})
}

// applied takes in that the cluster has the app's objects, or why not.
func (f *follower) applied(ctx context.Context, r *rollout, changed map[string]bool, began time.Time, err error) error {
	if f.rollout != r {
		return nil // another has taken over
	}
	s := f.session
	var unread *UnreadableError
	switch {
	case err == nil:
		r.applied, f.dirty = true, false
		s.door.update(r.plan)
		for _, service := range r.plan.Services {
			if !r.first {
				f.learn(ctx, r.plan, service)
			}
		}
		f.await(ctx, r, changed, began)
	case r.first && !errors.As(err, &unread):
		return errors.Join(r.buildErr, err)
	default:
		f.rollout, f.dirty = nil, true
		if !errors.Is(err, context.Canceled) {
			f.because = "the deployment before this has failed"
			s.Printer.Fail("", err, "", "the next save is tried at once")
		}
	}
	if late := f.late; !late.empty() {
		f.late = changes{}
		f.changed(ctx, late)
	}
	return nil
}

// await waits for the pods of a rollout.
func (f *follower) await(ctx context.Context, r *rollout, changed map[string]bool, began time.Time) {
	run, cancel := context.WithCancel(ctx)
	r.cancel = cancel
	f.start(ctx, func() func(context.Context) error {
		defer cancel()
		err := f.session.wait(run, r.plan, changed, began)
		return func(ctx context.Context) error {
			if f.rollout != r {
				return nil
			}
			f.rollout = nil
			return f.ready(ctx, r, began, err)
		}
	})
}

// ready says how a rollout ended.
func (f *follower) ready(ctx context.Context, r *rollout, began time.Time, err error) error {
	s := f.session
	if err != nil && !IsReported(err) {
		if r.first {
			return err
		}
		s.Printer.Fail("", err, "", "saves go on; the next change of the plan deploys again")
	}
	if err == nil && r.buildErr == nil {
		s.Printer.Event(term.Event{Type: term.Ready, Text: "all of " + r.plan.Name, Took: time.Since(began)})
	}
	if err := s.door.show(ctx); err != nil {
		return err
	}
	f.work.Go(debug.FreeOSMemory) // building and deploying took much, following takes little
	if err != nil || r.buildErr != nil || len(r.plan.Unreadable) > 0 {
		s.Printer.Note("", "waiting for a save that mends it")
	}
	return nil
}
