package suite

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Source is a source tree with tests.
type Source struct {
	// Root is its directory, absolute.
	Root string
	// Modules are the directories of its Go modules, relative to Root; none is Root
	// itself, if it has a go.mod.
	Modules []string
	// Commands are the tests of services that are not Go's.
	Commands []Command
	// Flags are further flags of go test, such as -race or -tags=x.
	Flags []string
	// Env names the variables of this process that tests see, besides those that
	// the toolchain needs. Their values are part of each key.
	Env []string
	// Fixed are variables, as "NAME=value", that the toolchain has whatever this process
	// has: see [Guarded].
	Fixed []string
	// Go is the go program; "" is the one on the path.
	Go string
}

// Command is a service's own way to test it.
type Command struct {
	Service string
	Dir     string // relative to the root; all below it is its input
	Run     string // for a shell
	// Report is a pattern of JUnit files that it writes, relative to Dir; "" if none.
	Report string
	// Inputs are further files and directories that it reads, relative to the root.
	Inputs []string
}

// Discover finds the units of the tree, in the order of their names.
func (s Source) Discover(ctx context.Context) ([]Unit, error) {
	root, err := filepath.EvalSymlinks(s.Root)
	if err != nil {
		return nil, fmt.Errorf("find the tests: %w", err)
	}
	s.Root = root
	files := newHashes(s.Root)
	env := s.environment(os.Getenv)
	var units []Unit
	for _, dir := range s.modules() {
		files.modules[filepath.Join(s.Root, dir)] = true
	}
	for _, dir := range s.modules() {
		found, err := s.goUnits(ctx, dir, env, files)
		if err != nil {
			return nil, err
		}
		units = append(units, found...)
	}
	for _, c := range s.Commands {
		u, err := s.commandUnit(c, env, files)
		if err != nil {
			return nil, err
		}
		units = append(units, u)
	}
	slices.SortFunc(units, func(a, b Unit) int {
		return strings.Compare(a.Name+"\x00"+string(a.Kind), b.Name+"\x00"+string(b.Kind))
	})
	return units, nil
}

func (s Source) modules() []string {
	if s.Modules != nil {
		return s.Modules
	}
	if _, err := os.Stat(filepath.Join(s.Root, "go.mod")); err == nil {
		return []string{"."}
	}
	return nil
}

func (s Source) commandUnit(c Command, env []string, files *hashes) (Unit, error) {
	k := newKey("command", c.Run, c.Dir, c.Report)
	k.add(s.keyEnv(env)...)
	for _, in := range append([]string{c.Dir}, c.Inputs...) {
		if !filepath.IsLocal(in) && in != "" {
			return Unit{}, fmt.Errorf("tests of service %s: %q is outside the app's directory; name paths below it", c.Service, in)
		}
		sum, err := files.tree(filepath.Join(s.Root, in))
		if err != nil {
			return Unit{}, fmt.Errorf("tests of service %s: %w", c.Service, err)
		}
		k.add(in, sum)
	}
	return Unit{Name: c.Service, Kind: Shell, Dir: c.Dir, Key: k.sum(), Command: c.Run, Report: c.Report}, nil
}

// listed is what go list tells about a package.
type listed struct {
	ImportPath, Name, Dir, ForTest string
	Standard, DepOnly              bool
	Module                         *module
	Deps                           []string
	Error                          *struct{ Err, Pos string }

	GoFiles, CgoFiles, CFiles, CXXFiles, MFiles, HFiles, FFiles, SFiles, SwigFiles, SwigCXXFiles, SysoFiles,
	EmbedFiles, TestGoFiles, TestEmbedFiles, XTestGoFiles, XTestEmbedFiles []string
}

type module struct {
	Path, Version, GoVersion, Sum string
	Main                          bool
	Replace                       *module
}

// named reports whether a package is one of the module's own, as it is without tests.
func (p *listed) named() bool {
	return !p.DepOnly && p.ForTest == "" && !strings.HasSuffix(p.ImportPath, ".test")
}

// from is the module that a package's files are of; nil in the standard library.
func (p *listed) from() *module {
	if p.Module != nil && p.Module.Replace != nil {
		return p.Module.Replace
	}
	return p.Module
}

// tested are the packages that the tests of p are compiled with, but for those of the
// standard library, in the order of their names.
func tested(p *listed, all map[string]*listed) []*listed {
	t := all[p.ImportPath+".test"]
	if t == nil {
		return nil
	}
	var out []*listed
	for _, d := range slices.Sorted(slices.Values(t.Deps)) {
		if dep := all[d]; dep != nil && !dep.Standard {
			out = append(out, dep)
		}
	}
	return out
}

func (s Source) goUnits(ctx context.Context, dir string, env []string, files *hashes) ([]Unit, error) {
	abs := filepath.Join(s.Root, dir)
	var packages map[string]*listed
	var world []string
	both, bctx := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		packages, err = s.list(bctx, abs, env)
		return err
	})
	both.Go(func() (err error) {
		world, err = s.world(bctx, abs, env, files)
		return err
	})
	err := both.Wait()
	if err != nil {
		return nil, fmt.Errorf("find the tests of module %s: %w", dir, err)
	}
	for _, p := range packages {
		if p.named() {
			files.packages[p.Dir] = true
		}
	}
	reaches := newReaches(s.Root, packages)
	var units []Unit
	for _, p := range packages {
		if !p.named() || len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 {
			continue
		}
		u := Unit{Name: p.ImportPath, Kind: GoPackage, Module: dir}
		if u.Dir, err = filepath.Rel(s.Root, p.Dir); err != nil {
			return nil, err
		}
		if u.Wide, err = reaches.wide(p); err != nil {
			return nil, err
		}
		if u.Key, u.Shape, err = s.goKeys(p, packages, world, u.Wide != "", files); err != nil {
			return nil, fmt.Errorf("inputs of the tests of %s: %w", p.ImportPath, err)
		}
		units = append(units, u)
	}
	return units, nil
}

func (s Source) list(ctx context.Context, dir string, env []string) (map[string]*listed, error) {
	fields := "ImportPath,Name,Dir,ForTest,Standard,DepOnly,Module,Deps,Error,GoFiles,CgoFiles,CFiles,CXXFiles,MFiles,HFiles,FFiles," +
		"SFiles,SwigFiles,SwigCXXFiles,SysoFiles,EmbedFiles,TestGoFiles,TestEmbedFiles,XTestGoFiles,XTestEmbedFiles"
	args := append([]string{"list", "-e", "-deps", "-test", "-json=" + fields}, buildFlags(s.Flags)...)
	out, err := s.goOutput(ctx, dir, env, append(args, "./...")...)
	if err != nil {
		return nil, err
	}
	packages := map[string]*listed{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(listed)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("read what go list tells: %w", err)
		}
		packages[p.ImportPath] = p
	}
}

// Imported returns the packages that a program of a module is made of, itself among
// them, but for those of the standard library.
func (s Source) Imported(ctx context.Context, module, program string) ([]string, error) {
	out, err := s.goOutput(ctx, filepath.Join(s.Root, module), s.environment(os.Getenv), "list", "-e", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", program)
	if err != nil {
		return nil, fmt.Errorf("find what %s is made of: %w", program, err)
	}
	return strings.Fields(string(out)), nil
}

// buildFlags are those of go test's flags that go list has as well.
func buildFlags(flags []string) []string {
	var out []string
	for i, f := range flags {
		name, _, joined := strings.Cut(strings.TrimLeft(f, "-"), "=")
		switch name {
		case "race", "msan", "asan", "cover":
			out = append(out, f)
		case "tags", "mod", "modfile", "gcflags", "ldflags":
			out = append(out, f)
			if !joined && i+1 < len(flags) {
				out = append(out, flags[i+1])
			}
		}
	}
	return out
}

func (s Source) goOutput(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.goProgram(), args...)
	cmd.Dir, cmd.Env = dir, env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

func (s Source) goProgram() string {
	if s.Go != "" {
		return s.Go
	}
	return "go"
}

// world is what all Go keys of a module have in common.
func (s Source) world(ctx context.Context, dir string, env []string, files *hashes) ([]string, error) {
	out, err := s.goOutput(ctx, dir, env, "env", "GOVERSION", "GOOS", "GOARCH", "GOFLAGS", "CGO_ENABLED", "GOEXPERIMENT", "GODEBUG", "GOWORK", "GOAMD64", "GOARM64")
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(out), "\n")
	world := append([]string{"go"}, s.Flags...)
	for i, l := range lines {
		if i == 3 {
			l = strings.Join(slices.DeleteFunc(strings.Fields(l), harmless), " ")
		}
		if i == 7 && l != "" && l != "off" { // where the workspace is does not matter, what is in it does
			sum, err := files.file(l)
			if err != nil {
				return nil, err
			}
			l = sum
		}
		world = append(world, l)
	}
	settings, err := moduleSettings(filepath.Join(dir, "go.mod"))
	if err != nil {
		return nil, err
	}
	return append(append(world, settings...), s.keyEnv(env)...), nil
}

// harmless reports whether a flag in GOFLAGS has no part in what tests do.
func harmless(flag string) bool {
	name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
	return slices.Contains([]string{"p", "v", "x", "n", "modcacherw", "buildvcs"}, name)
}

// goKeys are the digest of what the tests of a package can read, and where that is
// everything, the shape of it.
func (s Source) goKeys(p *listed, all map[string]*listed, world []string, wide bool, files *hashes) (whole, shape string, err error) {
	k := newKey(world...)
	k.add("package", p.ImportPath)
	for _, dep := range tested(p, all) {
		if dep.Error != nil {
			k.add("error", dep.Error.Err)
		}
		if err := s.addPackage(k, dep, files); err != nil {
			return "", "", err
		}
	}
	if wide {
		names, err := files.names(s.Root)
		if err != nil {
			return "", "", err
		}
		shape = newKey("shape", k.sum(), names).sum()
	}
	// Its own directory is read as it is: tests open files there, and below.
	sum, err := files.below(p.Dir)
	if err != nil {
		return "", "", err
	}
	k.add("dir", sum)
	if wide {
		if sum, err = files.tree(s.Root); err != nil {
			return "", "", err
		}
		k.add("tree", sum)
	}
	return k.sum(), shape, nil
}

// addPackage adds a package by its module's version, where that says all, or else
// by its files.
func (s Source) addPackage(k *key, p *listed, files *hashes) error {
	k.add("import", p.ImportPath)
	m := p.from()
	if m != nil && !m.Main && m.Version != "" && !within(s.Root, p.Dir) {
		k.add(m.Path, m.Version, m.Sum)
		return nil
	}
	if m != nil {
		k.add(m.GoVersion)
	}
	for _, f := range slices.Concat(p.GoFiles, p.CgoFiles, p.CFiles, p.CXXFiles, p.MFiles, p.HFiles, p.FFiles, p.SFiles,
		p.SwigFiles, p.SwigCXXFiles, p.SysoFiles, p.EmbedFiles) {
		name := f
		if !filepath.IsAbs(f) {
			f = filepath.Join(p.Dir, f)
		}
		if !within(p.Dir, f) {
			continue // the test's main, which the go command writes
		}
		sum, err := files.file(f)
		if errors.Is(err, os.ErrNotExist) {
			sum = "missing"
		} else if err != nil {
			return err
		}
		k.add(name, sum)
	}
	return nil
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func hexSum(b []byte) string { return hex.EncodeToString(b) }
