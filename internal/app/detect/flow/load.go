package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/scanner"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Loader parses the packages of a source tree, each at most once.
type Loader struct {
	// Root is the absolute directory that all others are relative to.
	Root string
	// Resolve returns the directory (relative to Root, slash separated) of the
	// package that a file in the directory from imports by that path, and
	// whether the source tree has it.
	Resolve func(from, importPath string) (dir string, ok bool)

	fset token.FileSet

	mu     sync.Mutex
	pkgs   map[string]*loading
	broken []scanner.Error
}

type loading struct {
	once sync.Once
	pkg  *Package
	err  error
}

// Package is one parsed package.
type Package struct {
	Dir  string // relative to the loader's root
	Name string

	// Embeds are the //go:embed patterns of its files.
	Embeds []Embed

	files   []*file
	imports []string // directories of the imported packages that the tree has
	funcs   map[string]*fn
	methods map[string][]*fn
	vars    map[string]*global
	types   map[string]*typeDecl
}

// Embed is one pattern of a //go:embed directive.
type Embed struct {
	Pattern string
	File    string
	Line    int
}

type file struct {
	pkg     *Package
	name    string // relative to the loader's root
	ast     *ast.File
	imports map[string]string // local name -> import path
	local   map[string]string // import path -> directory, of those that the tree has
	inits   *fn               // the initial values of the package's variables
}

type global struct {
	file  *file
	expr  ast.Expr // nil without an initial value
	index int      // of the result when expr is a call with several; else -1
	typ   ast.Expr
}

type typeDecl struct {
	file *file
	spec *ast.TypeSpec
}

// fn is a function or method with a body, or the initial values of a file's
// variables.
type fn struct {
	file *file
	name string
	recv string // name of the receiver's type
	decl *ast.FuncDecl
	body []ast.Node // what to walk

	once sync.Once
	info *info
}

func (f *fn) pkg() *Package { return f.file.pkg }

// Position tells where pos is: a file relative to the root, and a line.
func (l *Loader) Position(pos token.Pos) (file string, line int) {
	if !pos.IsValid() {
		return "", 0
	}
	p := l.fset.Position(pos)
	return p.Filename, p.Line
}

// noteBroken remembers the first error of a file. That of an empty one has no position.
func (l *Loader) noteBroken(name string, err error) {
	var list scanner.ErrorList
	if errors.As(err, &list) && len(list) > 0 {
		first := *list[0]
		if first.Pos.Filename == "" {
			first.Pos.Filename, first.Pos.Line = name, 1
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.broken = append(l.broken, first)
	}
}

// Broken returns the first syntax error of each file that has one, of those
// that were read, sorted by file.
func (l *Loader) Broken() []scanner.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(slices.Values(l.broken), func(a, b scanner.Error) int { return strings.Compare(a.Pos.Filename, b.Pos.Filename) })
}

// Package parses the package in dir, for linux and without tests.
func (l *Loader) Package(dir string) (*Package, error) {
	l.mu.Lock()
	if l.pkgs == nil {
		l.pkgs = map[string]*loading{}
	}
	e := l.pkgs[dir]
	if e == nil {
		e = &loading{}
		l.pkgs[dir] = e
	}
	l.mu.Unlock()
	e.once.Do(func() { e.pkg, e.err = l.parse(dir) })
	return e.pkg, e.err
}

// closure parses the package in dir and all that it reaches by imports.
func (l *Loader) closure(ctx context.Context, dir string) ([]*Package, error) {
	first, err := l.Package(dir)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{dir: true}
	all, wave := []*Package{first}, []*Package{first}
	for len(wave) > 0 {
		var next []string
		for _, p := range wave {
			for _, d := range p.imports {
				if !seen[d] {
					seen[d] = true
					next = append(next, d)
				}
			}
		}
		wave = make([]*Package, len(next))
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(runtime.GOMAXPROCS(0))
		for i, d := range next {
			g.Go(func() error {
				if gctx.Err() != nil {
					return gctx.Err()
				}
				p, err := l.Package(d)
				if errors.Is(err, fs.ErrNotExist) {
					err = nil // the compiler says it better
				}
				wave[i] = p
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		n := 0
		for _, p := range wave {
			if p != nil {
				wave[n] = p
				n++
			}
		}
		wave = wave[:n]
		all = append(all, wave...)
	}
	return all, nil
}

// generated are the names of machine-written files that are large and say
// nothing about how a program is run.
func generated(name string) bool {
	for _, s := range []string{".pb.go", ".pb.gw.go", ".pb.validate.go", "zz_generated.deepcopy.go"} {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return false
}

// BuildContext decides which files belong to a build of ours: for linux, and
// without cgo.
func BuildContext() *build.Context {
	c := build.Default
	c.GOOS, c.CgoEnabled, c.BuildTags, c.Compiler = "linux", false, nil, "gc"
	return &c
}

func (l *Loader) parse(dir string) (*Package, error) {
	abs := filepath.Join(l.Root, filepath.FromSlash(dir))
	entries, err := os.ReadDir(abs)
	if err != nil {
		return nil, fmt.Errorf("read package %s: %w", dir, err)
	}
	p := &Package{
		Dir: dir, funcs: map[string]*fn{}, methods: map[string][]*fn{},
		vars: map[string]*global{}, types: map[string]*typeDecl{},
	}
	bc := BuildContext()
	var data []byte
	bc.OpenFile = func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || generated(name) || !e.Type().IsRegular() {
			continue
		}
		rel := path.Join(dir, name)
		if data, err = os.ReadFile(filepath.Join(abs, name)); err != nil {
			return nil, fmt.Errorf("read %s: %w", rel, err)
		}
		if ok, err := bc.MatchFile(abs, name); err == nil && !ok {
			continue
		}
		// A file with a syntax error still says most of what is needed, and the
		// compiler reports the error better.
		f, err := parser.ParseFile(&l.fset, rel, data, parser.SkipObjectResolution)
		l.noteBroken(rel, err)
		if f == nil || f.Name == nil || f.Name.Name == "_" || f.Name.Name == "" {
			continue
		}
		if p.Name == "" {
			p.Name = f.Name.Name
		}
		if f.Name.Name != p.Name {
			continue
		}
		l.add(p, rel, f, data)
	}
	return p, nil
}

func (l *Loader) add(p *Package, rel string, f *ast.File, data []byte) {
	fl := &file{pkg: p, name: rel, ast: f, imports: map[string]string{}, local: map[string]string{}}
	fl.inits = &fn{file: fl, name: "package variables"}
	p.files = append(p.files, fl)
	p.Embeds = append(p.Embeds, embeds(rel, data)...)
	guesses := map[string]string{}
	for _, im := range f.Imports {
		ip, err := strconv.Unquote(im.Path.Value)
		if err != nil {
			continue
		}
		if d, ok := l.Resolve(p.Dir, ip); ok {
			p.imports = append(p.imports, d)
			fl.local[ip] = d
		}
		switch {
		case im.Name == nil:
			names := guessNames(ip)
			fl.imports[names[0]] = ip
			for _, n := range names[1:] {
				guesses[n] = ip
			}
		case im.Name.Name != "_" && im.Name.Name != ".":
			fl.imports[im.Name.Name] = ip
		}
	}
	for n, ip := range guesses {
		if _, taken := fl.imports[n]; !taken {
			fl.imports[n] = ip
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			p.addFunc(fl, d)
		case *ast.GenDecl:
			p.addDecl(fl, d)
		}
	}
}

func (p *Package) addFunc(fl *file, d *ast.FuncDecl) {
	if d.Body == nil {
		return
	}
	f := &fn{file: fl, name: d.Name.Name, decl: d, body: []ast.Node{d}}
	if d.Recv != nil && len(d.Recv.List) == 1 {
		f.recv = baseName(d.Recv.List[0].Type)
		p.methods[f.name] = append(p.methods[f.name], f)
		return
	}
	if f.name == "init" {
		f.name = "init " + strconv.Itoa(int(d.Pos()))
	}
	p.funcs[f.name] = f
}

func (p *Package) addDecl(fl *file, d *ast.GenDecl) {
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			p.types[s.Name.Name] = &typeDecl{file: fl, spec: s}
		case *ast.ValueSpec:
			for i, n := range s.Names {
				g := &global{file: fl, typ: s.Type, index: -1}
				switch {
				case len(s.Values) == len(s.Names):
					g.expr = s.Values[i]
				case len(s.Values) == 1:
					g.expr, g.index = s.Values[0], i
				}
				p.vars[n.Name] = g
			}
			fl.inits.body = append(fl.inits.body, s)
		}
	}
}

// baseName is the name of the type in a receiver: T of *T, T[K], ...
func baseName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return baseName(e.X)
	case *ast.ParenExpr:
		return baseName(e.X)
	case *ast.IndexExpr:
		return baseName(e.X)
	case *ast.IndexListExpr:
		return baseName(e.X)
	}
	return ""
}

// guessNames are the names that a package of that import path may have.
func guessNames(ip string) []string {
	last := path.Base(ip)
	if isMajor(last) && last != ip {
		last = path.Base(path.Dir(ip))
	}
	if i := strings.LastIndex(last, ".v"); i > 0 {
		last = last[:i]
	}
	names := []string{last}
	for _, n := range []string{
		strings.TrimPrefix(last, "go-"), strings.TrimSuffix(last, "-go"), strings.TrimSuffix(last, ".go"),
		strings.ReplaceAll(last, "-", ""), strings.ReplaceAll(last, "-", "_"),
	} {
		if n != last {
			names = append(names, n)
		}
	}
	if i := strings.LastIndexByte(last, '-'); i >= 0 {
		names = append(names, last[i+1:])
	}
	return names
}

// isMajor reports whether s is a major version suffix of a module path: v2, v3, ...
func isMajor(s string) bool {
	if len(s) < 2 || s[0] != 'v' {
		return false
	}
	_, err := strconv.Atoi(s[1:])
	return err == nil
}

// embeds finds the //go:embed directives of a file.
func embeds(name string, data []byte) []Embed {
	const mark = "\n//go:embed "
	var out []Embed
	for at := 0; ; {
		i := bytes.Index(data[at:], []byte(mark))
		if i < 0 {
			return out
		}
		at += i + len(mark)
		rest := data[at:]
		if j := bytes.IndexByte(rest, '\n'); j >= 0 {
			rest = rest[:j]
		}
		line := 1 + bytes.Count(data[:at], []byte{'\n'})
		for _, f := range strings.Fields(string(rest)) {
			if s, err := strconv.Unquote(f); err == nil {
				f = s
			}
			out = append(out, Embed{Pattern: strings.TrimPrefix(f, "all:"), File: name, Line: line})
		}
	}
}
