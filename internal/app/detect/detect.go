// Package detect reads a source tree and says what application it is: which
// services there are, which ports they open, what they read from their
// environment and which of them talk to which. Every fact carries the file and
// line that it was read from and how sure it is.
//
// The entry point is [Detect]. It looks at Go and at static sites, runs no tool
// and changes nothing; what it cannot tell it asks. It may be called from many
// goroutines.
package detect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect/flow"
	"github.com/bightdev/bight/internal/app/project"
)

// ErrNoService is the cause when a directory has nothing that can be run.
var ErrNoService = errors.New("nothing to run")

// Detect reads the source tree in dir and its bight.yaml, if it has one.
// Questions that are open are in the App; an error means that there is no app,
// or not one that could be deployed.
func Detect(ctx context.Context, dir string) (*app.App, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", dir, err)
	}
	if st, err := os.Stat(root); err != nil {
		return nil, fmt.Errorf("read the source: %w; run bight in the directory of your code, or name it", err)
	} else if !st.IsDir() {
		return nil, fmt.Errorf("%s is a file; name the directory of your code", dir)
	}
	file, err := project.Load(root)
	if err != nil {
		return nil, err
	}
	tree, err := list(ctx, root)
	if err != nil {
		return nil, err
	}
	mods, err := readModules(root, tree.modules)
	if err != nil {
		return nil, err
	}
	d := &detection{root: root, file: file, tree: tree, mods: mods}
	a, err := d.run(ctx)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// detection is one run.
type detection struct {
	root  string
	file  *project.File
	tree  *listing
	mods  *modules
	notes []app.Note

	unreadable []app.Note
}

func (d *detection) run(ctx context.Context) (*app.App, error) {
	programs, err := d.programs(ctx)
	if err != nil {
		return nil, err
	}
	name := d.appName()
	services := d.services(programs)
	sites, notes := staticSites(d.root, d.tree, services, name)
	a := &app.App{Name: name, Dir: d.root, Services: []*app.Service{}, Unreadable: d.unreadable}
	a.Notes = append(append(append(a.Notes, d.tree.notes...), d.notes...), notes...)
	var candidates []app.Candidate
	byService := map[*app.Service]built{}
	for _, b := range services {
		a.Services = append(a.Services, b.svc)
		byService[b.svc] = b
	}
	a.Services = append(a.Services, sites...)
	a.Normalize()
	if err := d.file.Apply(a); err != nil {
		return nil, err
	}
	if len(a.Services) == 0 {
		return nil, d.nothing(a)
	}
	a.Normalize()
	if err := a.Validate(); err != nil {
		return nil, err
	}
	for _, s := range a.Services {
		b := byService[s]
		for _, c := range b.candidates {
			c.Service = s.Name // bight.yaml may have named it
			if c.Env != "" && s.EnvVar(c.Env) != nil && s.EnvVar(c.Env).Set {
				continue
			}
			if c.Flag != "" && s.HasFlag(c.Flag) {
				continue
			}
			candidates = append(candidates, c)
		}
		a.Notes = append(a.Notes, b.notes...)
	}
	wiring := app.Wire(a.Name, a.Services, candidates)
	d.connect(a, wiring)
	if err := d.file.Link(a); err != nil {
		return nil, err
	}
	for _, n := range wiring.Notes {
		if !d.settled(a, n, candidates) {
			a.Notes = append(a.Notes, n)
		}
	}
	a.Questions = append(a.Questions, a.Ask(wiring)...)
	for _, s := range a.Services {
		a.Questions = append(a.Questions, d.open(s, byService[s])...)
	}
	a.Normalize()
	if err := a.Validate(); err != nil {
		return nil, err
	}
	return a, nil
}

// settled reports whether bight.yaml has set what a note speaks of.
func (d *detection) settled(a *app.App, n app.Note, candidates []app.Candidate) bool {
	for _, c := range candidates {
		if c.From == n.From && c.Env != "" {
			s := a.Service(c.Service)
			return s != nil && s.EnvVar(c.Env) != nil && s.EnvVar(c.Env).Set
		}
	}
	return false
}

// open are the questions of a program that bight.yaml has not answered.
func (d *detection) open(s *app.Service, b built) []app.Question {
	var out []app.Question
	for _, q := range b.questions {
		q.Service = s.Name
		o := d.file.Services[s.Name]
		if strings.HasPrefix(q.Text, "Which port") && o.Ports != nil || !strings.HasPrefix(q.Text, "Which port") && o.Args != nil {
			continue
		}
		out = append(out, q)
	}
	for _, f := range b.flags {
		if slices.ContainsFunc(s.Args, func(a string) bool { return strings.HasPrefix(strings.TrimLeft(a, "-"), f.name) }) {
			continue
		}
		out = append(out, app.Question{
			Service: s.Name,
			Text: fmt.Sprintf(`--%s has no value: %s ends without one. Give it one in bight.yaml: services: {%s: {args: ["--%s=VALUE"]}}`,
				f.name, s.Name, s.Name, f.name),
			From: f.from,
		})
	}
	return out
}

// connect gives services the addresses of those that they reach.
func (d *detection) connect(a *app.App, w app.Wiring) {
	for _, s := range a.Services {
		s.Links = append(s.Links, w.Links[s.Name]...)
		for _, l := range w.Links[s.Name] {
			switch {
			case l.Env != "":
				e := s.EnvVar(l.Env)
				e.Value, e.Set = l.Value, true
			case l.Flag != "":
				s.SetFlag(l.Flag, l.Value)
			}
		}
	}
}

func (d *detection) appName() string {
	for _, m := range d.mods.list {
		if m.dir == "." {
			return rootName(d.root, m)
		}
	}
	return rootName(d.root, nil)
}

// programs reads every package main, in parallel.
func (d *detection) programs(ctx context.Context) ([]*program, error) {
	dirs := slices.Clone(d.tree.mains)
	for _, dir := range d.file.Dirs() {
		abs := filepath.Join(d.root, filepath.FromSlash(dir))
		if st, err := os.Stat(abs); err == nil && st.IsDir() && !slices.Contains(dirs, dir) && isMain(abs) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	loader := &flow.Loader{Root: d.root, Resolve: d.mods.resolve}
	out := make([]*program, len(dirs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, dir := range dirs {
		g.Go(func() error {
			p, err := readProgram(gctx, loader, d.mods, dir)
			out[i] = p
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, e := range loader.Broken() {
		d.unreadable = append(d.unreadable, app.Note{
			Text: e.Msg, From: app.From{File: e.Pos.Filename, Line: e.Pos.Line, Confidence: app.Certain, Why: "the file does not parse"},
		})
	}
	return out, nil
}

func isMain(abs string) bool {
	files, err := filepath.Glob(filepath.Join(escapeGlob(abs), "*.go"))
	if err != nil {
		return false
	}
	var names []string
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			names = append(names, filepath.Base(f))
		}
	}
	return packageName(abs, names) == "main"
}

// services makes services of the programs that serve, and notes of the others.
func (d *detection) services(programs []*program) []built {
	asked := map[string]string{}
	for name, dir := range d.file.Dirs() {
		asked[dir] = name
	}
	var chosen, apart []*program
	for _, g := range programs {
		_, wanted := asked[g.dir]
		_, isAside := aside(g.dir)
		switch {
		case wanted:
			chosen = append(chosen, g)
		case g.p.Main.Name == "":
			// No file for linux, or none that parses: told of as unreadable.
		case g.mod == nil:
			d.note(g, "%s is in no Go module; left alone. %s", shown(g.dir), d.moduleHint())
		case !g.serves():
			d.note(g, "%s does not listen on any port; left alone", shown(g.dir))
		case isAside:
			apart = append(apart, g)
		default:
			chosen = append(chosen, g)
		}
	}
	if len(chosen) == 0 && len(d.tree.sites) == 0 {
		chosen, apart = apart, nil
	}
	for _, g := range apart {
		p, _ := aside(g.dir)
		d.note(g, "%s listens, but is below %s/; left alone. To run it: services: {%s: {source: %s}} in bight.yaml", g.dir, p, serviceName(g.dir, d.root, g.mod), g.dir)
	}
	out := make([]built, len(chosen))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, g := range chosen {
		name := asked[g.dir]
		if name == "" {
			name = serviceName(g.dir, d.root, g.mod)
		}
		group.Go(func() error {
			out[i] = g.build(name)
			return nil
		})
	}
	_ = group.Wait() // building a service from what was read cannot fail
	return out
}

// moduleHint says what to do about code that is in no module of the tree.
func (d *detection) moduleHint() string {
	for dir := d.root; dir != filepath.Dir(dir); {
		dir = filepath.Dir(dir)
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return "Its go.mod is in " + dir + ": run bight there"
		}
	}
	return "Run go mod init at the root of your code"
}

// shown is a directory as it reads in a sentence.
func shown(dir string) string {
	if dir == "." {
		return "the program at the root"
	}
	return dir
}

func (d *detection) note(g *program, format string, args ...any) {
	file, line := g.p.Loader.Position(g.p.MainPos())
	d.notes = append(d.notes, app.Note{
		Text: fmt.Sprintf(format, args...),
		From: app.From{File: file, Line: line, Confidence: app.Certain},
	})
}

// nothing says why there is no app in the directory.
func (d *detection) nothing(a *app.App) error {
	var b strings.Builder
	switch {
	case len(d.tree.mains) > 0:
		fmt.Fprintf(&b, "%s: no runnable service: a Go program that listens on a port, or a static site with an index.html", d.root)
	case d.tree.goFiles:
		fmt.Fprintf(&b, "%s: there is Go code, but no package main that listens on a port, and no static site with an index.html", d.root)
	default:
		fmt.Fprintf(&b, "%s is no source tree that bight can run: it has no Go code and no index.html; run bight in the directory of your code", d.root)
	}
	for _, n := range slices.Concat(a.Unreadable, a.Notes) {
		fmt.Fprintf(&b, "\n  %s: %s", n.From.Place(), n.Text)
	}
	if len(d.tree.mains) > 0 {
		b.WriteString("\nTo run a program all the same, write in bight.yaml: services: {NAME: {source: DIR}}")
	}
	return fmt.Errorf("%w: %s", ErrNoService, b.String())
}
