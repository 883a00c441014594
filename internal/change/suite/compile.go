package suite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Compiler compiles the tests of Go packages that strangers have made, and runs nothing
// of them. The go command is safe for that under the settings of [Guarded]: the
// compiler, assembler and linker are this toolchain's own and take source as data.
type Compiler struct {
	Source Source // guarded
	// Within is the directory that go.mod and go.work may not lead out of, except to
	// downloaded modules; "" is the source's root.
	Within string
	// Total is the longest that it may take, with the default of [Limits].
	Total time.Duration
	// Output gets what the go command prints; nil drops it. Temp is as a Runner's.
	Output io.Writer
	Temp   string
}

// Program is the compiled tests of a unit.
type Program struct {
	Unit
	File string `json:"file"` // its name among the programs
}

// Converter is the name of the toolchain's own test2json among the programs: it makes
// the events of go test -json of what a test program prints.
const Converter = "test2json"

// CompileError is what the author of the tests has to mend.
type CompileError struct{ Output string }

func (e *CompileError) Error() string { return e.Output }

// Guarded returns the source with settings under which the go command neither runs what
// the source names nor fetches it from where the source says:
//
//   - CGO_ENABLED=0: no C compiler, no flags for one;
//   - GOFLAGS and GOENV fixed: no -toolexec, no -mod=mod, no overlay;
//   - GOTOOLCHAIN=local: no toolchain that go.mod names is fetched and run;
//   - GOVCS=*:off, GOPROXY without "direct", GONOPROXY=none: no git, and modules from
//     the worker's proxies alone, checked by go.sum;
//   - go generate and the tools of go.mod are never asked for.
func Guarded(ctx context.Context, s Source) (Source, error) {
	out, err := s.goOutput(ctx, os.TempDir(), s.environment(os.Getenv), "env", "GOPROXY", "GOSUMDB", "GONOSUMDB")
	if err != nil {
		return s, err
	}
	set := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(set) != 3 {
		return s, fmt.Errorf("go env: %d lines, want 3", len(set))
	}
	s.Env = nil
	s.Fixed = []string{
		"CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=-trimpath -buildvcs=false", "GOENV=off", "GOTOOLCHAIN=local", "GOVCS=*:off",
		"GOPROXY=" + withoutDirect(set[0]), "GONOPROXY=none", "GOSUMDB=" + set[1], "GONOSUMDB=" + set[2], "GOPRIVATE=", "GOINSECURE=",
		"GOEXPERIMENT=", "GODEBUG=", "CC=false", "CXX=false", "GO_EXTLINK_ENABLED=0",
	}
	return s, nil
}

// withoutDirect leaves the proxies of a list; with none, nothing is fetched.
func withoutDirect(proxies string) string {
	var kept []string
	for _, p := range strings.FieldsFunc(withoutPasswords(proxies), func(r rune) bool { return r == ',' || r == '|' }) {
		if p = strings.TrimSpace(p); p != "direct" && p != "off" {
			kept = append(kept, p)
		}
	}
	if len(kept) == 0 {
		return "off"
	}
	return strings.Join(kept, ",")
}

// Compile compiles the tests of units into files of dir, beside the [Converter]. What
// the author has to mend is a *CompileError.
func (c *Compiler) Compile(ctx context.Context, units []Unit, dir string) ([]Program, error) {
	root, err := filepath.EvalSymlinks(c.Source.Root)
	if err != nil {
		return nil, fmt.Errorf("compile tests: %w", err)
	}
	if c.Output == nil {
		c.Output = io.Discard
	}
	for _, m := range modulesOf(units) {
		if err := c.inside(ctx, root, m); err != nil {
			return nil, err
		}
	}
	temp, remove, err := scratch(c.Temp)
	if err != nil {
		return nil, err
	}
	defer remove()
	// Outside of any module, so that nothing of the source has a say in it.
	if err := c.run(ctx, temp, temp, "build", "-o", filepath.Join(dir, Converter), "cmd/test2json"); err != nil {
		return nil, fmt.Errorf("build test2json of this machine's Go: %w", err)
	}
	var out []Program
	for i, group := range groups(units) {
		to := filepath.Join(temp, "out", fmt.Sprint(i))
		if err := os.MkdirAll(to, 0o700); err != nil {
			return nil, err
		}
		args := []string{"test", "-c", "-o", to + "/"}
		for _, u := range group {
			args = append(args, u.Name)
		}
		if err := c.run(ctx, filepath.Join(root, group[0].Module), temp, args...); err != nil {
			return nil, err
		}
		for _, u := range group {
			p := Program{Unit: u, File: fmt.Sprintf("%d.test", len(out))}
			if err := os.Rename(filepath.Join(to, programName(u.Name)+".test"), filepath.Join(dir, p.File)); err != nil {
				return nil, fmt.Errorf("find the tests of %s that go test -c has compiled: %w", u.Name, err)
			}
			out = append(out, p)
		}
	}
	return out, nil
}

func modulesOf(units []Unit) []string {
	var out []string
	for _, u := range units {
		if !slices.Contains(out, u.Module) {
			out = append(out, u.Module)
		}
	}
	return out
}

// groups are units of one module each whose programs have different names.
func groups(units []Unit) [][]Unit {
	var out [][]Unit
	for _, u := range units {
		i := slices.IndexFunc(out, func(g []Unit) bool {
			return g[0].Module == u.Module && !slices.ContainsFunc(g, func(o Unit) bool { return programName(o.Name) == programName(u.Name) })
		})
		if i < 0 {
			out = append(out, nil)
			i = len(out) - 1
		}
		out[i] = append(out[i], u)
	}
	return out
}

var majorVersion = regexp.MustCompile(`^v[1-9][0-9]*$`)

// programName is what the go command calls a package's program: its last element, or
// the one before where that is a major version.
func programName(importPath string) string {
	name := path.Base(importPath)
	if name != importPath && name != "v1" && majorVersion.MatchString(name) {
		return path.Base(path.Dir(importPath))
	}
	return name
}

// inside sees to it that everything that is compiled lies in the repository or is a
// module that was downloaded: go.mod could name any directory of this machine.
func (c *Compiler) inside(ctx context.Context, root, module string) error {
	within := root
	if c.Within != "" {
		var err error
		if within, err = filepath.EvalSymlinks(c.Within); err != nil {
			return err
		}
	}
	env := c.Source.environment(os.Getenv)
	out, err := c.Source.goOutput(ctx, filepath.Join(root, module), env, "list", "-e", "-deps", "-test", "-json=ImportPath,Dir,Standard", "./...")
	if err != nil {
		return &CompileError{err.Error()}
	}
	mods := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "GOMODCACHE="); ok {
			mods = v
		}
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read what go list tells: %w", err)
		}
		if p.Standard || p.Dir == "" || in(within, p.Dir) || in(mods, p.Dir) {
			continue
		}
		return &CompileError{fmt.Sprintf("go.mod or go.work leads package %s to a directory that is not in the repository", p.ImportPath)}
	}
}

// in reports whether a directory is below another, by whatever links lead there.
func in(parent, dir string) bool {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	if p, err := filepath.EvalSymlinks(parent); err == nil {
		parent = p
	}
	return within(parent, real)
}

// run runs the go command within limits.
func (c *Compiler) run(ctx context.Context, dir, temp string, args ...string) error {
	limits := Limits{Total: c.Total}.withDefaults()
	home := filepath.Join(temp, "home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	env := slices.DeleteFunc(c.Source.environment(os.Getenv), func(e string) bool { return strings.HasPrefix(e, "HOME=") })
	out := &lines{log: c.Output}
	end := job{
		dir: dir, args: append([]string{c.Source.goProgram()}, args...), env: append(env, "HOME="+home, "TMPDIR="+temp, "GOTMPDIR="+temp),
		stdout: out, stderr: out, temp: temp, limits: limits, time: limits.Total,
	}.run(ctx)
	var exit *exec.ExitError
	switch {
	case end.stop == StopCancelled:
		return context.Cause(ctx)
	case end.stop != "":
		return &CompileError{"the tests were not compiled: " + end.reason}
	case errors.As(end.err, &exit) && exit.Exited():
		return &CompileError{strings.TrimSpace(strings.Join(out.all(), "\n"))}
	case end.err != nil:
		return fmt.Errorf("run go %s: %w", args[0], end.err)
	}
	return nil
}
