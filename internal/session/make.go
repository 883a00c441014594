package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/app"
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

// NewMaker returns a Maker that remembers what it made in cacheDir, and that it was
// made by, such as "bight up". What it makes depends on the source alone, not on where
// that lies: so what one loop has built, the other takes.
func NewMaker(cacheDir, by string, log *slog.Logger) (*Maker, error) {
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w; set XDG_CACHE_HOME to one that can be written", err)
	}
	store := image.OpenStore(filepath.Join(cacheDir, "store"))
	hashes := tree.OpenCache(filepath.Join(cacheDir, "hashes"))
	return &Maker{
		Publisher: &image.Publisher{Store: store, Zones: timeZones(), Log: log},
		hashes:    hashes,
		builders: map[string]image.Builder{
			app.BuildGo:     image.Cached(&golang.Builder{Store: store, Hashes: hashes, Trimpath: true, Log: log}, store, by),
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

// Known returns what a service's present inputs gave before, or nil, and their digest,
// which is zero for a service that is not worth remembering.
func (m *Maker) Known(ctx context.Context, a *app.App, service *app.Service) (*image.Artifact, tree.Hash, error) {
	b, err := m.builder(service)
	if err != nil {
		return nil, tree.Hash{}, err
	}
	if f, ok := b.(image.Finder); ok {
		return f.Find(ctx, a, service)
	}
	return nil, tree.Hash{}, nil
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

// build builds the app's services in parallel. It returns those that could be
// built; the error joins what went wrong with the others, which was reported. known
// are services whose present build is no news.
func (s *Session) build(ctx context.Context, a *app.App, known map[string]*image.Artifact) ([]*image.Artifact, error) {
	var mu sync.Mutex
	var built []*image.Artifact
	var errs []error
	var group sync.WaitGroup
	for _, service := range a.Services {
		group.Go(func() {
			art, err := s.buildOne(ctx, a, service, known[service.Name])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			} else {
				built = append(built, art)
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if known == nil {
		s.printCached(built)
	}
	if err := s.maker.Close(); err != nil {
		s.Log.Debug("save file hashes", "error", err)
	}
	return built, errors.Join(errs...)
}

// buildOne builds a service and reports it, unless it comes to what was known.
func (s *Session) buildOne(ctx context.Context, a *app.App, service *app.Service, known *image.Artifact) (*image.Artifact, error) {
	began := time.Now()
	task := s.Printer.Task(term.Build, service.Name, "building")
	art, err := s.maker.Build(ctx, a, service, nil)
	switch {
	case ctx.Err() != nil:
		task.Drop()
		return nil, ctx.Err()
	case err != nil:
		task.Fail(err, "", "")
		s.setFailure(service.Name, "it does not build")
		return nil, reported{fmt.Errorf("build %s: %w", service.Name, err)}
	}
	s.setArtifact(art)
	done := term.Event{Text: built(service, art), Took: time.Since(began), Cached: art.Cached}
	if art.Cached {
		done.Why = "same inputs as build " + art.Inputs.Short()
	}
	done.Quiet = art.Cached || known != nil && known.TreeDigest() == art.TreeDigest()
	task.Done(done)
	for _, problem := range art.Problems {
		s.Printer.Warn(service.Name, problem.Error(), "the rest is in place; it is tried again with the next save")
	}
	return art, nil
}

// printCached says in one line what had not to be built.
func (s *Session) printCached(built []*image.Artifact) {
	var names []string
	for _, art := range built {
		if art.Cached {
			names = append(names, art.Service)
		}
	}
	if len(names) > 0 {
		s.Printer.Event(term.Event{Type: term.Build, Text: few(names, "service"), Why: "same inputs as before", Cached: true})
	}
}

// built says in a few words what a build gave.
func built(service *app.Service, art *image.Artifact) string {
	files := 0
	var size int64
	for _, e := range art.Tree {
		if !e.Mode.IsDir() {
			files++
			size += e.Size
		}
	}
	if service.Build.Kind == app.BuildStatic {
		return term.Count(files, "file") + ", " + term.Bytes(size)
	}
	text := "program"
	if files > 1 {
		text += " and " + term.Count(files-1, "file")
	}
	return text + ", " + term.Bytes(size)
}

// reported is an error that the user has been told of.
type reported struct{ error }

func (e reported) Unwrap() error { return e.error }

// IsReported tells whether all of err was shown to the user already.
func IsReported(err error) bool {
	if _, ok := err.(reported); ok {
		return true
	}
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		all := e.Unwrap()
		return len(all) > 0 && !slices.ContainsFunc(all, func(err error) bool { return !IsReported(err) })
	case interface{ Unwrap() error }:
		return IsReported(e.Unwrap())
	}
	return false
}
