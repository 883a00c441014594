package golang

import (
	"context"
	"fmt"
	"go/build"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/bightdev/bight/internal/tree"
)

// scanner follows imports from the packages of one module. What it read of a
// package stands until a file of it changes.
type scanner struct {
	dir     string
	env     *goEnv
	context build.Context
	hashes  *tree.Cache
	work    string // the setting of GOWORK
	recall  func(v any) bool
	keep    func(v any) error

	mu       sync.Mutex
	modules  *modules
	key      tree.Hash // of modules
	packages map[string]*pkg
	dirty    bool
}

// pkg is what the files of one package directory say.
type pkg struct {
	State   tree.Hash `json:"state"`             // of the names and contents of the files that can matter
	Files   []string  `json:"files"`             // names of those that do matter
	Imports []string  `json:"imports,omitempty"` // sorted
	Embeds  []string  `json:"embeds,omitempty"`  // patterns of //go:embed
	// Plain tells that the package is Go and nothing else, so that compiling it
	// is one run of the compiler.
	Plain bool `json:"plain,omitempty"`
	// Directives are //go:debug lines and the like, which the go command reads.
	Directives []string `json:"directives,omitempty"`
}

// graph is all that decides the build of one package main.
type graph struct {
	main     string // absolute directory
	modules  *modules
	files    map[string]tree.Entry // by absolute path
	dirs     map[string]bool       // absolute directories to watch
	found    map[string]string     // directories by import path, as modules.find gave them
	packages map[string]*node      // by absolute directory
}

// node is a package in a graph.
type node struct {
	*pkg
	embedded []string // absolute paths, sorted
	deps     []string // directories of imported packages of the graph
}

// scanner returns the scanner of a module.
func (b *Builder) scanner(module string, env *goEnv) *scanner {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := module + "\n" + env.identity()
	if s := b.graphs[id]; s != nil {
		return s
	}
	h := newHash()
	fmt.Fprintf(h, "packages 1\n%q", id)
	key := h.sum()
	s := &scanner{
		dir: module, env: env, hashes: b.Hashes,
		recall: func(v any) bool { return b.Store.Recall("packages", key, v) },
		keep:   func(v any) error { return b.Store.Remember("packages", key, v, nil) },
		context: build.Context{
			GOARCH: env.vars["GOARCH"], GOOS: env.vars["GOOS"], Compiler: "gc",
			BuildTags: env.tags.Build, ToolTags: env.tags.Tool, ReleaseTags: env.tags.Release,
		},
	}
	for _, kv := range b.environ() {
		if v, ok := strings.CutPrefix(kv, "GOWORK="); ok {
			s.work = v
		}
	}
	if b.graphs == nil {
		b.graphs = map[string]*scanner{}
	}
	b.graphs[id] = s
	return s
}

// scan finds everything that decides the build of the package at the given path
// relative to the module ("./cmd/cart").
func (s *scanner) scan(ctx context.Context, main string) (*graph, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.packages == nil {
		s.packages = map[string]*pkg{}
		if !s.recall(&s.packages) || s.packages == nil {
			s.packages = map[string]*pkg{}
		}
	}
	s.loadModules()
	g := &graph{
		main: joinPath(s.dir, main), modules: s.modules,
		files: map[string]tree.Entry{}, dirs: map[string]bool{}, packages: map[string]*node{},
		found: map[string]string{},
	}
	if !isDir(g.main) {
		return nil, fmt.Errorf("its package %s does not exist in %s", main, s.dir)
	}
	for _, file := range s.modules.files {
		g.dirs[filepath.Dir(file)] = true
		if e, err := s.hashes.Stat(file); err == nil {
			g.files[file] = e
		}
	}
	for todo := []string{g.main}; len(todo) > 0; {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if g.packages[dir] != nil {
			continue
		}
		n, err := s.visit(g, dir)
		if err != nil {
			return nil, err
		}
		todo = append(todo, n.deps...)
	}
	for dir := range g.dirs {
		if !isDir(dir) {
			delete(g.dirs, dir)
		}
	}
	if s.dirty {
		// What could not be remembered is read again.
		_ = s.keep(s.packages)
		s.dirty = false
	}
	return g, nil
}

func (s *scanner) loadModules() {
	work := findWork(s.dir, s.work)
	if s.modules != nil && s.modules.work == work && s.modules.key(s.hashes) == s.key {
		return
	}
	s.modules = loadModules(s.dir, work, s.env.flag("-mod"))
	s.key = s.modules.key(s.hashes)
}

// visit adds one package to the graph.
func (s *scanner) visit(g *graph, dir string) (*node, error) {
	p, err := s.read(g, dir)
	if err != nil {
		return nil, err
	}
	n := &node{pkg: p}
	g.packages[dir] = n
	g.dirs[dir] = true
	for _, pattern := range p.Embeds {
		files, dirs := embedded(dir, pattern)
		for _, d := range dirs {
			g.dirs[d] = true
		}
		n.embedded = append(n.embedded, files...)
	}
	slices.Sort(n.embedded)
	n.embedded = slices.Compact(n.embedded)
	for _, file := range n.embedded {
		if e, err := s.hashes.Stat(file); err == nil {
			g.files[file] = e
		}
	}
	for _, path := range p.Imports {
		to, known := g.found[path]
		if !known {
			to = s.modules.find(path)
			g.found[path] = to
		}
		switch {
		case to == "":
		case isDir(to):
			n.deps = append(n.deps, to)
		default:
			g.watchMissing(to)
		}
	}
	return n, nil
}

// watchMissing watches the place where an imported package may appear.
func (g *graph) watchMissing(dir string) {
	for !isDir(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	g.dirs[dir] = true
}

// read returns what the package in dir is, and adds its files to the graph.
func (s *scanner) read(g *graph, dir string) (*pkg, error) {
	names, state, err := s.state(g, dir)
	if err != nil {
		return nil, err
	}
	p := s.packages[dir]
	if p == nil || p.State != state {
		p = s.parse(dir, names)
		p.State = state
		// A file that changed since belongs to another state.
		if _, again, err := s.state(nil, dir); err == nil && again == state {
			s.packages[dir] = p
			s.dirty = true
		}
	}
	for name := range names {
		if !slices.Contains(p.Files, name) {
			delete(g.files, filepath.Join(dir, name))
		}
	}
	return p, nil
}

// state hashes the files of a directory that can be part of a package, and adds
// them to the graph if there is one.
func (s *scanner) state(g *graph, dir string) (map[string]bool, tree.Hash, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, tree.Hash{}, err
	}
	names := map[string]bool{}
	h := newHash()
	for _, d := range entries {
		name := d.Name()
		if d.IsDir() || !canMatter(name) {
			continue
		}
		file := filepath.Join(dir, name)
		e, err := s.stat(file)
		if err != nil {
			continue
		}
		names[name] = true
		fmt.Fprintf(h, "%q %s\n", name, e.Hash)
		if g != nil {
			g.files[file] = e
		}
	}
	return names, h.sum(), nil
}

// stat hashes a file; unlike a tree, the compiler follows links.
func (s *scanner) stat(file string) (tree.Entry, error) {
	e, err := s.hashes.Stat(file)
	if err != nil || e.Mode.Type() != fs.ModeSymlink {
		return e, err
	}
	to, err := filepath.EvalSymlinks(file)
	if err != nil {
		return tree.Entry{}, err
	}
	return s.hashes.Stat(to)
}

// canMatter reports whether a file of that name may be part of a package's
// build.
func canMatter(name string) bool {
	if name[0] == '_' || name[0] == '.' || strings.HasSuffix(name, "_test.go") {
		return false
	}
	switch filepath.Ext(name) {
	case ".go", ".c", ".cc", ".cpp", ".cxx", ".m", ".h", ".hh", ".hpp", ".hxx", ".f", ".F", ".for", ".f90",
		".s", ".S", ".sx", ".swig", ".swigcxx", ".syso", ".pgo":
		return true
	}
	return false
}

// profile is what the go command optimizes by when package main has it.
const profile = "default.pgo"

// parse reads imports, embed patterns and build constraints. Files that do not
// parse are part of the package: the compiler will say what is wrong with them.
func (s *scanner) parse(dir string, names map[string]bool) *pkg {
	b, err := s.context.ImportDir(dir, 0)
	p := &pkg{}
	if b == nil {
		b = &build.Package{}
	}
	goFiles := slices.Concat(b.GoFiles, b.CgoFiles, b.InvalidGoFiles)
	other := slices.Concat(b.CFiles, b.CXXFiles, b.MFiles, b.HFiles, b.FFiles, b.SFiles, b.SwigFiles, b.SwigCXXFiles, b.SysoFiles)
	files := map[string]bool{}
	for _, f := range slices.Concat(goFiles, other) {
		files[f] = true
	}
	if _, two := err.(*build.MultiplePackageError); two {
		maps.Copy(files, names)
	}
	if names[profile] {
		files[profile] = true
	}
	p.Files = slices.Sorted(maps.Keys(files))
	p.Plain = err == nil && len(other) == 0 && len(b.CgoFiles) == 0 && !names[profile]
	p.Imports = slices.Sorted(slices.Values(b.Imports))
	p.Embeds = slices.Sorted(slices.Values(b.EmbedPatterns))
	for _, d := range b.Directives {
		p.Directives = append(p.Directives, d.Text)
	}
	return p
}
