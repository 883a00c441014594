// Package static builds services that are nothing but files: the files below
// the service's root are what its container has, and the agent serves them.
//
// The main type is [Builder], an image.Refresher. It keeps the last tree of each
// service, so that a save among tens of thousands of files costs no walk over
// all of them. It is safe for concurrent use.
package static

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/ignore"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

// Builder builds services of kind app.BuildStatic.
type Builder struct {
	// Hashes remembers the files' hashes; nil reads every file every time.
	Hashes *tree.Cache

	mu    sync.Mutex
	sites map[string]*slot
}

// slot has the site of one service. Who reads it, or writes it, has it to himself: of
// two builds at a time, the one that knows less could be the last to write.
type slot struct {
	turn chan struct{} // has room for who has it
	site *site         // nil before the first build
}

// slot returns a service's once it is free. leave has to be called.
func (b *Builder) slot(ctx context.Context, a *app.App, s *app.Service) (sl *slot, leave func(), err error) {
	b.mu.Lock()
	if b.sites == nil {
		b.sites = map[string]*slot{}
	}
	if sl = b.sites[key(a, s)]; sl == nil {
		sl = &slot{turn: make(chan struct{}, 1)}
		b.sites[key(a, s)] = sl
	}
	b.mu.Unlock()
	select {
	case sl.turn <- struct{}{}:
		return sl, func() { <-sl.turn }, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// site is what was read of one service's root. It is never changed.
type site struct {
	rules    *ignore.Rules
	tree     tree.Tree
	problems []tree.Problem
}

// projectFile is the app's own definition, which is not part of a site.
const projectFile = "bight.yaml"

// Inputs implements image.Builder.
func (b *Builder) Inputs(ctx context.Context, a *app.App, s *app.Service) (*image.Inputs, error) {
	st, err := b.read(ctx, a, s)
	if err != nil {
		return nil, err
	}
	return inputs(s, st.tree)
}

// Build implements image.Builder.
func (b *Builder) Build(ctx context.Context, a *app.App, s *app.Service) (*image.Artifact, error) {
	st, err := b.read(ctx, a, s)
	if err != nil {
		return nil, err
	}
	return artifact(s, st)
}

// BuildChanged implements image.Refresher.
func (b *Builder) BuildChanged(ctx context.Context, a *app.App, s *app.Service, changed []string) (*image.Artifact, error) {
	sl, leave, err := b.slot(ctx, a, s)
	if err != nil {
		return nil, err
	}
	defer leave()
	old := sl.site
	below, whole := within(path.Clean(s.Build.Root), changed)
	if old == nil || whole {
		if err := b.fill(ctx, sl, a, s); err != nil {
			return nil, err
		}
		return artifact(s, sl.site)
	}
	st := *old
	if len(below) > 0 {
		now, problems, err := tree.Update(ctx, dir(a, s), old.tree, below, b.options(s, old.rules))
		if err != nil {
			return nil, fmt.Errorf("read the files of service %s: %w", s.Name, err)
		}
		for _, p := range old.problems {
			if !slices.ContainsFunc(below, func(c string) bool { return tree.Below(p.Path, c) }) {
				problems = append(problems, p)
			}
		}
		st.tree, st.problems = now, problems
		sl.site = &st
	}
	return artifact(s, &st)
}

// within returns the changed paths relative to root, and whether the whole root
// has to be read: when it, a directory above it or the ignore rules changed.
func within(root string, changed []string) (below []string, whole bool) {
	for _, p := range changed {
		switch rel := image.Place(p, root, "."); {
		case ignore.IsRules(p), rel == ".", rel == "" && tree.Below(root, p):
			return nil, true
		case rel != "":
			below = append(below, rel)
		}
	}
	return below, false
}

func key(a *app.App, s *app.Service) string { return a.Dir + "\x00" + s.Name + "\x00" + s.Build.Root }

func dir(a *app.App, s *app.Service) string {
	return filepath.Join(a.Dir, filepath.FromSlash(s.Build.Root))
}

func (b *Builder) options(s *app.Service, rules *ignore.Rules) tree.Options {
	atTop := path.Clean(s.Build.Root) == "."
	return tree.Options{Cache: b.Hashes, Ignore: func(p string, isDir bool) bool {
		return atTop && p == projectFile || rules.Ignored(p, isDir)
	}}
}

// read reads the whole root.
func (b *Builder) read(ctx context.Context, a *app.App, s *app.Service) (*site, error) {
	sl, leave, err := b.slot(ctx, a, s)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := b.fill(ctx, sl, a, s); err != nil {
		return nil, err
	}
	return sl.site, nil
}

// fill reads the whole root into a slot.
func (b *Builder) fill(ctx context.Context, sl *slot, a *app.App, s *app.Service) error {
	st := &site{rules: ignore.In(a.Dir, s.Build.Root)}
	var err error
	st.tree, st.problems, err = tree.ReadDir(ctx, dir(a, s), b.options(s, st.rules))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("service %s: its directory %s does not exist: correct services.%s.build.static in %s", s.Name, s.Build.Root, s.Name, projectFile)
	}
	if err != nil {
		return fmt.Errorf("read the files of service %s: %w", s.Name, err)
	}
	sl.site = st
	return nil
}

func inputs(s *app.Service, t tree.Tree) (*image.Inputs, error) {
	command, err := command(s)
	if err != nil {
		return nil, err
	}
	in := &image.Inputs{Files: make(tree.Tree, len(t)), Digest: digest(s, command, t.Digest())}
	// The directories above the root may hold ignore rules.
	dirs := map[string]bool{".": true}
	add := func(d string) {
		for ; !dirs[d]; d = path.Dir(d) {
			dirs[d] = true
		}
	}
	add(path.Clean(s.Build.Root))
	for p, e := range t {
		p = path.Join(s.Build.Root, p)
		in.Files[p] = e
		if e.Mode.IsDir() {
			add(p)
		}
		add(path.Dir(p))
	}
	for d := range dirs {
		in.Dirs = append(in.Dirs, d)
	}
	slices.Sort(in.Dirs)
	return in, nil
}

func digest(s *app.Service, command []string, files tree.Hash) tree.Hash {
	return sha256.Sum256(fmt.Appendf(nil, "static 1\n%q\n%q\n%s", s.Name, command, files))
}

func command(s *app.Service) ([]string, error) {
	port := s.Port()
	if port == nil {
		return nil, fmt.Errorf("service %s serves files but has no port: name one under services.%s.ports in %s", s.Name, s.Name, projectFile)
	}
	return []string{image.AgentPath, "static", "--root", image.Root, "--listen", ":" + strconv.Itoa(port.Number)}, nil
}

func artifact(s *app.Service, st *site) (*image.Artifact, error) {
	command, err := command(s)
	if err != nil {
		return nil, err
	}
	art := &image.Artifact{
		Service: s.Name, Tree: st.tree, Command: command, NeedsAgent: true, Problems: st.problems,
	}
	art.Inputs = digest(s, command, art.TreeDigest())
	return art, nil
}
