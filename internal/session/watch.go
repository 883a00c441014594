package session

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/ignore"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/live"
	"github.com/bightdev/bight/internal/tree"
	"github.com/bightdev/bight/internal/ui/term"
)

// watch follows the source until ctx ends.
func (s *Session) watch(ctx context.Context) error {
	rules := ignore.In(s.Dir, ".")
	w := &live.Watcher{
		Roots: []string{s.Dir},
		Ignore: func(path string, dir bool) bool {
			rel, ok := s.relative(path)
			return !ok || rel != "." && (ignoredAlways(rel) || rules.Ignored(rel, dir))
		},
		Log: s.Log,
	}
	f := &follower{session: s, running: map[string]*rebuild{}}
	defer f.group.Wait()
	batches := make(chan live.Batch)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.Run(ctx, batches) })
	group.Go(func() error {
		for {
			select {
			case b := <-batches:
				f.take(ctx, b)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return group.Wait()
}

// relative returns a path below the app's directory as the app names it.
func (s *Session) relative(path string) (string, bool) {
	rel, err := filepath.Rel(s.Dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}

// ignoredAlways reports directories that never hold source.
func ignoredAlways(rel string) bool {
	switch filepath.Base(rel) {
	case ".git", ".hg", ".svn", "node_modules":
		return true
	}
	return false
}

// take turns a watcher's batch into the app's terms.
func (f *follower) take(ctx context.Context, b live.Batch) {
	for _, problem := range b.Problems {
		f.session.Printer.Warn("", problem.Error(), "")
	}
	c := changes{all: b.Rescan, heard: time.Now()}
	for _, path := range b.Paths {
		if rel, ok := f.session.relative(path); ok {
			c.paths = append(c.paths, rel)
		}
	}
	if c.all || len(c.paths) > 0 {
		f.changed(ctx, c)
	}
}

// changes are paths, relative to the app's directory, that may have changed, or
// all of them.
type changes struct {
	paths []string
	all   bool
	heard time.Time
}

// follower turns batches of changed paths into builds, one at a time per service:
// a newer save ends the build that it makes useless.
type follower struct {
	session *Session
	group   sync.WaitGroup

	mu      sync.Mutex
	running map[string]*rebuild // by service
}

// rebuild is a build in progress and what it is for.
type rebuild struct {
	cancel  context.CancelFunc
	heard   time.Time
	changed []string
	all     bool // anything can have changed
}

// changed takes in a batch.
func (f *follower) changed(ctx context.Context, batch changes) {
	s := f.session
	if batch.all || slices.ContainsFunc(batch.paths, decidesShape) {
		if f.replan(ctx) {
			return
		}
	}
	for _, service := range s.app.Services {
		inputs, err := s.maker.Inputs(ctx, s.app, service)
		if err != nil && ctx.Err() == nil {
			// The builder will say the same, better.
			f.start(ctx, service, batch, batch.paths)
			continue
		}
		if err == nil {
			if paths := affected(inputs, service, batch.paths); batch.all || len(paths) > 0 {
				f.start(ctx, service, batch, paths)
			}
		}
	}
}

// decidesShape reports whether a change of the file can change what services
// there are and how they are deployed.
func decidesShape(path string) bool {
	base := filepath.Base(path)
	switch base {
	case "go.mod", "go.work", "bight.yaml", "index.html":
		return true
	}
	return strings.HasSuffix(base, ".go") && !strings.HasSuffix(base, "_test.go")
}

// affected returns those of the changed paths that matter to a service: its input
// files, what is below an input directory, and ignore rules.
func affected(in *image.Inputs, service *app.Service, changed []string) []string {
	var paths []string
	for _, path := range changed {
		_, isInput := in.Files[path]
		inDir := slices.ContainsFunc(in.Dirs, func(dir string) bool { return tree.Below(path, dir) })
		if isInput || inDir || ignore.IsRules(path) && service.Build.Kind == app.BuildStatic {
			paths = append(paths, path)
		}
	}
	return paths
}

// replan looks at the source anew. It reports whether the app is deployed anew,
// which takes care of everything.
func (f *follower) replan(ctx context.Context) bool {
	s := f.session
	a, err := Plan(ctx, s.Dir)
	switch {
	case ctx.Err() != nil:
		return true
	case err != nil:
		s.Printer.Fail("", err, "", "what is deployed keeps running")
		return true
	case len(a.Questions) > 0:
		s.Printer.Fail("", &QuestionsError{a.Questions}, "", "what is deployed keeps running")
		return true
	case reflect.DeepEqual(shape(a), shape(s.app)):
		s.app = a
		return false
	}
	s.Printer.Note("", "the plan has changed; deploying again")
	s.app = a
	f.cancelAll()
	if err := s.deploy(ctx, time.Now()); err != nil && ctx.Err() == nil && !IsReported(err) {
		s.Printer.Fail("", err, "", "the next save is tried at once")
	}
	s.proxy.Update(s.routes())
	return true
}

func (f *follower) cancelAll() {
	f.mu.Lock()
	for _, r := range f.running {
		r.cancel()
	}
	f.mu.Unlock()
	f.group.Wait()
}

// start builds a service and hands the result to its pods.
func (f *follower) start(ctx context.Context, service *app.Service, batch changes, paths []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := &rebuild{heard: batch.heard, changed: paths, all: batch.all}
	if old := f.running[service.Name]; old != nil {
		// What the old one was for is still to be done.
		old.cancel()
		next.heard, next.all = old.heard, next.all || old.all
		next.changed = append(slices.Clone(old.changed), next.changed...)
	}
	build, cancel := context.WithCancel(ctx)
	next.cancel = cancel
	f.running[service.Name] = next
	a := f.session.app
	f.group.Go(func() {
		defer cancel()
		f.build(build, a, service, next)
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.running[service.Name] == next {
			delete(f.running, service.Name)
		}
	})
}

// build builds a service once and says what comes of it.
func (f *follower) build(ctx context.Context, a *app.App, service *app.Service, r *rebuild) {
	s := f.session
	began := time.Now()
	changed := r.changed
	if r.all {
		changed = nil
	}
	files := s.meaningful(r.changed)
	s.Printer.Event(term.Event{Type: term.Change, Service: service.Name, Text: term.Files(files), Files: len(files), Quiet: true})
	task := s.Printer.Task(term.Build, service.Name, "building")
	art, err := s.maker.Build(ctx, a, service, changed)
	task.Drop()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.mu.Lock()
		s.failures[service.Name] = "it does not build"
		s.mu.Unlock()
		var compile *image.CompileError
		next := "the old one keeps running; the next save is tried at once"
		if errors.As(err, &compile) {
			s.Printer.Fail(service.Name, compile, "", next)
		} else {
			s.Printer.Fail(service.Name, err, "", next)
		}
		return
	}
	if old := s.artifact(service.Name); old != nil && old.Tree.Digest() == art.Tree.Digest() {
		s.setArtifact(art)
		return
	}
	s.setArtifact(art)
	took := time.Since(began)
	if service.Build.Kind == app.BuildStatic {
		took = 0 // reading files is part of sending them
	}
	s.Printer.Event(term.Event{Type: term.Build, Service: service.Name, Text: "built", Took: took, Cached: art.Cached, Quiet: true})
	s.pods.edited(art, &edit{
		heard: r.heard, build: took, files: files, tree: art.Tree.Digest(), restart: art.Restart,
		sent: map[string]live.Event{}, starts: map[string]live.Event{},
	})
}

// meaningful returns the changed paths that a person knows: not the files that an
// editor writes beside and renames.
func (s *Session) meaningful(changed []string) []string {
	var known []string
	for _, path := range slices.Compact(slices.Sorted(slices.Values(changed))) {
		if _, err := os.Lstat(filepath.Join(s.Dir, filepath.FromSlash(path))); err == nil {
			known = append(known, path)
		}
	}
	if len(known) == 0 {
		return slices.Compact(slices.Sorted(slices.Values(changed))) // they were deleted
	}
	return known
}

// edited hands a new artifact to the service's pods and remembers the save that it
// came from, unless they have it already.
func (p *pods) edited(art *image.Artifact, e *edit) {
	p.mu.Lock()
	old := p.wants[art.Service]
	if old == nil || old.Tree.Digest() != e.tree {
		p.edits[art.Service] = e
		for _, pod := range p.all {
			if pod.service == art.Service {
				pod.exits = 0
			}
		}
	}
	p.mu.Unlock()
	p.want(map[string]*image.Artifact{art.Service: art})
}
