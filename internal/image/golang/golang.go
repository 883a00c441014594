// Package golang builds Go services with the user's own toolchain and caches.
//
// The main type is [Builder], an image.Builder. It finds the exact files that
// decide a build by following imports itself, because asking the go command
// costs more than everything else when nothing has changed, and it repeats the
// compiler and linker runs that the go command made, where a save changed
// nothing but the content of files. It is safe for concurrent use.
package golang

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/ignore"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

// Builder builds services of kind app.BuildGo.
type Builder struct {
	// Store keeps the programs.
	Store *image.Store
	// Hashes remembers the source files' hashes; nil reads them every time.
	Hashes *tree.Cache

	// Go is the go command; "" looks it up on PATH.
	Go string
	// Arch is the GOARCH of the nodes; "" is this machine's.
	Arch string
	// Debug keeps what a debugger needs (DWARF), at nearly twice the time for
	// linking.
	Debug bool
	// Trimpath keeps this machine's paths out of the program, so that the same
	// source gives the same program in every directory and on every machine.
	// Without it the go command's cache of ordinary builds is shared: a first
	// build compiles only what the user never built.
	Trimpath bool
	// Env is the environment of the go command; nil is this process's.
	Env []string
	// Log gets what is built and how, at level debug. Nil is silence.
	Log *slog.Logger

	mu      sync.Mutex
	envs    map[tree.Hash]*goEnv
	graphs  map[string]*scanner      // by module directory
	recipes map[string]*recipe       // by service
	first   map[string]chan struct{} // by module: closed when its first build is over
}

// assembly is what one build starts from.
type assembly struct {
	inputs *image.Inputs
	env    *goEnv
	graph  *graph
	module string // absolute directory
	assets []placed
	lost   []tree.Problem
}

// placed is an asset's files: source path in the app -> path in the image.
type placed struct {
	source, target string
	entry          tree.Entry
}

// Inputs implements image.Builder.
func (b *Builder) Inputs(ctx context.Context, a *app.App, s *app.Service) (*image.Inputs, error) {
	as, err := b.assemble(ctx, a, s)
	if err != nil {
		return nil, err
	}
	return as.inputs, nil
}

func (b *Builder) assemble(ctx context.Context, a *app.App, s *app.Service) (*assembly, error) {
	module := filepath.Join(a.Dir, filepath.FromSlash(cmp.Or(s.Build.Module, ".")))
	env, err := b.goEnv(ctx, module)
	if broken, ok := errors.AsType[*image.CompileError](err); ok {
		// A go.mod that the go command does not understand, most likely.
		return nil, &image.CompileError{Service: s.Name, Output: broken.Output}
	}
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", s.Name, err)
	}
	g, err := b.scanner(module, env).scan(ctx, s.Build.Package)
	if err != nil {
		return nil, fmt.Errorf("read the source of service %s: %w", s.Name, err)
	}
	as := &assembly{env: env, graph: g, module: module, inputs: &image.Inputs{Files: tree.Tree{}}}
	dirs := map[string]bool{}
	for d := range g.dirs {
		dirs[relative(a.Dir, d)] = true
	}
	for file, e := range g.files {
		as.inputs.Files[relative(a.Dir, file)] = e
	}
	if err := b.addAssets(ctx, a, s, as, dirs); err != nil {
		return nil, err
	}
	for d := range dirs {
		as.inputs.Dirs = append(as.inputs.Dirs, d)
	}
	slices.Sort(as.inputs.Dirs)
	as.inputs.Digest = b.digest(a, s, as)
	return as, nil
}

// relative returns an absolute path as Inputs lists it.
func relative(dir, file string) string {
	rel, err := filepath.Rel(dir, file)
	if err != nil {
		return filepath.ToSlash(file)
	}
	return filepath.ToSlash(rel)
}

func (b *Builder) addAssets(ctx context.Context, a *app.App, s *app.Service, as *assembly, dirs map[string]bool) error {
	for _, asset := range s.Build.Assets {
		to := path.Clean(asset.As)
		if path.IsAbs(to) || to == ".." || strings.HasPrefix(to, "../") {
			return fmt.Errorf("%s:%d: service %s opens %s, which can't be put beside the program: correct services.%s.build.assets in bight.yaml",
				asset.From.File, asset.From.Line, s.Name, asset.As, s.Name)
		}
		from := path.Clean(asset.Path)
		t, lost, err := b.readAsset(ctx, a, from)
		if err != nil {
			return fmt.Errorf("read the assets of service %s: %w", s.Name, err)
		}
		as.lost = append(as.lost, lost...)
		dirs[path.Dir(from)] = true
		for _, p := range t.Paths() {
			target := image.Place(p, from, to)
			if target == "." && !t[p].Mode.IsDir() {
				target = path.Base(p)
			}
			if name := program(s); target != "." && tree.Below(target, name) {
				return fmt.Errorf("%s: service %s: asset %s would be %s in the image, and %s is the program: "+
					"delete it, name it in .gitignore, or put it elsewhere with services.%s.build.assets in bight.yaml",
					asset.From.Place(), s.Name, p, target, name, s.Name)
			}
			as.inputs.Files[p] = t[p]
			as.assets = append(as.assets, placed{source: p, target: target, entry: t[p]})
			for d := path.Dir(p); tree.Below(d, from); d = path.Dir(d) {
				dirs[d] = true
				if d == "." {
					break
				}
			}
			if t[p].Mode.IsDir() {
				dirs[p] = true
			}
		}
	}
	return nil
}

// readAsset reads a file or directory; paths are relative to the app.
func (b *Builder) readAsset(ctx context.Context, a *app.App, from string) (tree.Tree, []tree.Problem, error) {
	opts := tree.Options{Cache: b.Hashes}
	info, err := os.Stat(filepath.Join(a.Dir, filepath.FromSlash(from)))
	if err != nil {
		return nil, []tree.Problem{{Path: from, Err: err}}, nil
	}
	if info.IsDir() {
		rules := ignore.In(a.Dir, from)
		opts.Ignore = func(p string, dir bool) bool {
			rel := image.Place(p, from, ".")
			return rel != "" && rules.Ignored(rel, dir)
		}
	}
	return tree.ReadBelow(ctx, a.Dir, from, opts)
}

// digest is over everything that decides what a build gives.
func (b *Builder) digest(a *app.App, s *app.Service, as *assembly) tree.Hash {
	h := sha256.New()
	fmt.Fprintf(h, "go 1\n%q\n%q\n%q\n%q\n", s.Name, relative(a.Dir, as.module), s.Build.Package, b.flags(as.env))
	fmt.Fprintf(h, "%s\n", as.env.identity())
	if !b.trims(as.env) {
		// These paths are in the program.
		fmt.Fprintf(h, "%q\n%q\n%q\n", a.Dir, as.env.vars["GOMODCACHE"], as.env.vars["GOROOT"])
	}
	for _, p := range as.assets {
		fmt.Fprintf(h, "%q %q\n", p.source, p.target)
	}
	fmt.Fprintf(h, "%s\n", as.inputs.Files.Digest())
	return tree.Hash(h.Sum(nil))
}

// program is what the executable is called in the image. An asset may have the
// service's name already. Who has only the plan has to come to the same name
// ([Command]), so what is inside of an asset has no say: see addAssets.
func program(s *app.Service) string {
	name := s.Name
	taken := func(n string) bool {
		return slices.ContainsFunc(s.Build.Assets, func(a app.Asset) bool {
			first, _, _ := strings.Cut(path.Clean(a.As), "/")
			return first == n
		})
	}
	for taken(name) {
		name += ".bin"
	}
	return name
}

// Build implements image.Builder.
func (b *Builder) Build(ctx context.Context, a *app.App, s *app.Service) (*image.Artifact, error) {
	as, err := b.assemble(ctx, a, s)
	if err != nil {
		return nil, err
	}
	exe, recipe, err := b.compile(ctx, a, s, as)
	if err != nil {
		return nil, err
	}
	after, err := b.assemble(ctx, a, s)
	if err != nil {
		return nil, err
	}
	name := program(s)
	art := &image.Artifact{
		Service: s.Name, Tree: tree.Tree{name: exe}, Command: []string{"./" + name},
		Restart: true, Problems: as.lost,
	}
	for _, p := range as.assets {
		if p.target == "." {
			continue // an empty directory put at the root is the root
		}
		art.Tree[p.target] = p.entry
	}
	if after.inputs.Digest == as.inputs.Digest {
		art.Inputs = as.inputs.Digest
		if recipe != nil {
			b.keepRecipe(recipeID(a, s), recipe)
		}
	}
	return art, nil
}

func (b *Builder) arch() string { return cmp.Or(b.Arch, runtime.GOARCH) }

// flags are those of go build.
func (b *Builder) flags(env *goEnv) []string {
	ld := "-buildid="
	if !b.Debug {
		ld = "-w " + ld
	}
	if own := env.flag("-ldflags"); own != "" {
		ld = own + " " + ld
	}
	flags := []string{"-buildvcs=false", "-ldflags=" + ld}
	if b.Trimpath {
		flags = append(flags, "-trimpath")
	}
	return flags
}

func (b *Builder) trims(env *goEnv) bool {
	own := env.flag("-trimpath")
	return b.Trimpath || own == "true" || own == "1"
}

func (b *Builder) debug(ctx context.Context, msg string, args ...any) {
	if b.Log != nil {
		b.Log.DebugContext(ctx, msg, args...)
	}
}
