package golang

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// repeat compiles the packages whose files changed, and those that import a
// package whose face changed, and links the program: the same program that go
// build would make. Any error means that the go command has to be asked.
func (b *Builder) repeat(ctx context.Context, as *assembly, old *recipe, tmp string) (*recipe, error) {
	next := *old
	next.Units = maps.Clone(old.Units)
	env := b.toolEnv(as.env)
	changed := false
	for _, dir := range as.graph.order() {
		path := as.graph.modules.importPath(dir)
		was := old.Units[path]
		if was == nil {
			return nil, errNoRecipe
		}
		source := as.graph.source(dir)
		if source == was.Source && !importsChanged(as.graph, dir, was, old, &next) {
			continue
		}
		if was.Compile == nil || !as.graph.packages[dir].Plain {
			return nil, fmt.Errorf("%w: how %s is compiled is not known yet", errNoRecipe, path)
		}
		u, err := b.recompile(ctx, was, &next, as.module, env, tmp)
		if err != nil {
			return nil, fmt.Errorf("compile %s: %w", path, err)
		}
		u.Source = source
		next.Units[path] = u
		changed = true
	}
	if !changed {
		// An asset changed, say. The program is there, or the store lost it.
		if e := old.Program.entry(); !b.Store.Holds(&e) {
			return nil, fmt.Errorf("%w: the program is gone", errNoRecipe)
		}
		return old, nil
	}
	if err := b.relink(ctx, &next, as.module, env, as.env, tmp); err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	return &next, nil
}

// order returns the directories of the packages, imported ones first. Packages
// that import each other are the compiler's to refuse.
func (g *graph) order() []string {
	var sorted []string
	seen := map[string]bool{}
	var visit func(dir string)
	visit = func(dir string) {
		if seen[dir] || g.packages[dir] == nil {
			return
		}
		seen[dir] = true
		for _, d := range g.packages[dir].deps {
			visit(d)
		}
		sorted = append(sorted, dir)
	}
	visit(g.main)
	return sorted
}

// importsChanged reports whether a package that the compiler reads for dir looks
// different in next.
func importsChanged(g *graph, dir string, u *unit, old, next *recipe) bool {
	changed := func(path string) bool {
		return old.Units[path] == nil || next.Units[path] == nil || old.Units[path].Export != next.Units[path].Export
	}
	for path := range configFiles(u.Conf) {
		if old.Units[path] != nil && changed(path) {
			return true
		}
	}
	return slices.ContainsFunc(g.packages[dir].deps, func(d string) bool { return changed(g.modules.importPath(d)) })
}

// toolEnv is the environment that the go command gives to its tools.
func (b *Builder) toolEnv(env *goEnv) []string {
	tool := b.environ()
	for k, v := range env.vars {
		tool = append(tool, k+"="+v)
	}
	return slices.Clip(tool)
}

// archiveOf finds a package's archive in the recipe.
func (r *recipe) archiveOf(path string) (string, bool) {
	u, ok := r.Units[path]
	if !ok {
		return "", false
	}
	return u.Archive, true
}

// recompile runs the compiler as the go command did, on the present files.
func (b *Builder) recompile(ctx context.Context, was *unit, r *recipe, module string, env []string, tmp string) (*unit, error) {
	u := *was
	work, err := os.MkdirTemp(tmp, "unit-*")
	if err != nil {
		return nil, err
	}
	out := filepath.Join(work, "archive")
	conf := filepath.Join(work, "importcfg")
	embed := filepath.Join(work, "embedcfg")
	if err := os.WriteFile(conf, []byte(withArchives(u.Conf, r.archiveOf)), 0o644); err != nil {
		return nil, err
	}
	set := map[string]string{"-o": out, "-importcfg": conf, "-buildid": "bight/bight"}
	if u.EmbedConf != "" {
		if err := os.WriteFile(embed, []byte(u.EmbedConf), 0o644); err != nil {
			return nil, err
		}
		set["-embedcfg"] = embed
	}
	args, err := withFlags(u.Compile, set)
	if err != nil {
		return nil, err
	}
	if err := runTool(ctx, module, env, args); err != nil {
		return nil, err
	}
	if u.Export, err = exportData(out); err != nil {
		return nil, err
	}
	e, err := b.Store.Put(out)
	if err != nil {
		return nil, err
	}
	s := storedOf(e)
	u.Archive, u.Stored = e.Local, &s
	return &u, nil
}

// relink runs the linker as the go command did, on the recipe's archives.
func (b *Builder) relink(ctx context.Context, r *recipe, module string, env []string, goEnv *goEnv, tmp string) error {
	out := filepath.Join(tmp, programFile+"-again")
	conf := filepath.Join(tmp, "importcfg.link")
	if err := os.WriteFile(conf, []byte(withArchives(r.LinkConf, r.archiveOf)), 0o644); err != nil {
		return err
	}
	args, err := withFlags(r.Link, map[string]string{"-o": out, "-importcfg": conf})
	if err != nil {
		return err
	}
	args[len(args)-1] = r.Units[r.Main].Archive
	root := goEnv.vars["GOROOT"]
	if b.trims(goEnv) {
		root = ""
	}
	if err := runTool(ctx, module, append(env, "GOROOT="+root), args); err != nil {
		return err
	}
	e, err := b.Store.Put(out)
	if err != nil {
		return err
	}
	r.Program = storedOf(e)
	return nil
}

// withFlags returns the command line with other values of some flags, all of
// which must be there.
func withFlags(args []string, set map[string]string) ([]string, error) {
	args = slices.Clone(args)
	for name, value := range set {
		i := slices.Index(args, name)
		if i < 0 || i+1 >= len(args) {
			return nil, fmt.Errorf("%w: there is no %s in %q", errNoRecipe, name, args)
		}
		args[i+1] = value
	}
	return args, nil
}

func runTool(ctx context.Context, dir string, env, args []string) error {
	cmd := newCommand(ctx, dir, env, args[0], args[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, out.String())
	}
	return nil
}
