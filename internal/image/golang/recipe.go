package golang

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/tree"
)

// recipe is what the go command did to build a service, so that it can be done
// again without the go command: which archive of which package went into the
// program, and how each was compiled. It holds for as long as nothing changes
// but the content of files; see shape. A recipe is never changed.
//
// The commands are the go command's own, so nothing is assumed about how a
// version of Go calls its compiler. A package that it took from its cache has no
// command yet; the first change of it goes through the go command, which tells.
type recipe struct {
	Shape    tree.Hash        `json:"shape"`
	Link     []string         `json:"link"`     // the linker's command line
	LinkConf string           `json:"linkConf"` // the content of its -importcfg
	Units    map[string]*unit `json:"units"`    // by import path
	Main     string           `json:"main"`     // the import path of the program
	Program  stored           `json:"program"`
}

// unit is one package that is made from source at hand.
type unit struct {
	Shape     tree.Hash `json:"shape"`             // what Compile is valid for, see shape
	Compile   []string  `json:"compile,omitempty"` // the compiler's command line
	Conf      string    `json:"conf,omitempty"`    // the content of its -importcfg
	EmbedConf string    `json:"embedConf,omitempty"`
	Source    tree.Hash `json:"source"`  // of the content of the files
	Archive   string    `json:"archive"` // what the compiler made of them
	Export    tree.Hash `json:"export"`  // of what importing packages see of it
	Stored    *stored   `json:"stored,omitempty"`
}

// stored is a file in the store.
type stored struct {
	Mode  fs.FileMode `json:"mode"`
	Size  int64       `json:"size"`
	Hash  tree.Hash   `json:"hash"`
	Local string      `json:"local"`
}

func (s stored) entry() tree.Entry {
	return tree.Entry(struct {
		Mode  fs.FileMode
		Size  int64
		Hash  tree.Hash
		Link  string
		Local string
	}{s.Mode, s.Size, s.Hash, "", s.Local})
}

func storedOf(e tree.Entry) stored { return stored{e.Mode, e.Size, e.Hash, e.Local} }

// errNoRecipe tells why a build can't be repeated.
var errNoRecipe = errors.New("no recipe")

// shapes are over everything that decides how the compiler and the linker are
// called: all but the content of Go and embedded files. There is one for each
// package, by directory, and one for the whole.
func (b *Builder) shapes(s *app.Service, as *assembly) (map[string]tree.Hash, tree.Hash) {
	h := newHash()
	fmt.Fprintf(h, "shape 1\n%s\n%q\n%q\n%q\n", as.env.identity(), b.flags(as.env), as.graph.main, s.Build.Package)
	fmt.Fprintf(h, "%q\n%q\n", as.env.vars["GOMODCACHE"], as.env.vars["GOROOT"])
	for _, file := range as.graph.modules.files {
		fmt.Fprintf(h, "%q %s\n", file, as.graph.files[file].Hash)
	}
	common := h.sum()
	units := map[string]tree.Hash{}
	for _, dir := range slices.Sorted(maps.Keys(as.graph.packages)) {
		n := as.graph.packages[dir]
		u := newHash()
		fmt.Fprintf(u, "%s\n%q %q %q %q %q %v %q\n", common, dir, n.Files, n.Imports, n.Embeds, n.Directives, n.Plain, n.embedded)
		units[dir] = u.sum()
		fmt.Fprintf(h, "%s\n", units[dir])
	}
	return units, h.sum()
}

// source is over the content of a package's files.
func (g *graph) source(dir string) tree.Hash {
	h := newHash()
	n := g.packages[dir]
	for _, name := range n.Files {
		fmt.Fprintf(h, "%s\n", g.files[filepath.Join(dir, name)].Hash)
	}
	for _, file := range n.embedded {
		fmt.Fprintf(h, "%s\n", g.files[file].Hash)
	}
	return h.sum()
}

// repeatable reports whether all the flags in GOFLAGS are known to leave the
// compiler's and linker's command lines to themselves.
func (e *goEnv) repeatable() bool {
	for _, f := range splitQuoted(e.vars["GOFLAGS"]) {
		name, _, _ := strings.Cut(strings.TrimLeft(f, "-"), "=")
		if !slices.Contains([]string{"mod", "modcacherw", "buildvcs", "trimpath", "tags", "p", "ldflags"}, name) {
			return false
		}
	}
	return true
}

// recipe returns the recipe for that shape, or the last one of the service, or
// nil.
func (b *Builder) recipe(id string, shape tree.Hash) *recipe {
	b.mu.Lock()
	last := b.recipes[id]
	b.mu.Unlock()
	if last != nil && last.Shape == shape {
		return last
	}
	r := &recipe{}
	if b.Store.Recall("recipe", shape, r) && r.Shape == shape {
		return r
	}
	return last
}

func (b *Builder) keepRecipe(id string, r *recipe) {
	b.mu.Lock()
	if b.recipes == nil {
		b.recipes = map[string]*recipe{}
	}
	b.recipes[id] = r
	b.mu.Unlock()
	files := []string{r.Program.Hash.String() + "x"}
	for _, u := range r.Units {
		if u.Stored != nil {
			files = append(files, u.Stored.Hash.String())
		}
	}
	// Without the record only another process has to ask the go command.
	_ = b.Store.Remember("recipe", r.Shape, r, files)
}

// action is a step of the go command, as it tells with -debug-actiongraph.
type action struct {
	Mode, Package, Objdir string
	Cmd                   []string
}

// learn makes a recipe of what go build has just done. What it took from its
// cache this time, it may have told before: old has that.
func (b *Builder) learn(as *assembly, units map[string]tree.Hash, shape tree.Hash, old *recipe, tmp string, exe tree.Entry) (*recipe, error) {
	main := as.graph.packages[as.graph.main]
	if !as.env.repeatable() || !main.Plain {
		return nil, errNoRecipe
	}
	text, err := os.ReadFile(filepath.Join(tmp, actionsFile))
	if err != nil {
		return nil, err
	}
	var actions []action
	if err := json.Unmarshal(text, &actions); err != nil {
		return nil, err
	}
	r := &recipe{Shape: shape, Units: map[string]*unit{}, Main: as.graph.modules.importPath(as.graph.main), Program: storedOf(exe)}
	if err := r.learnLink(actions); err != nil {
		return nil, err
	}
	archives := configFiles(r.LinkConf)
	archives[r.Main] = r.Link[len(r.Link)-1]
	for dir := range as.graph.packages {
		path := as.graph.modules.importPath(dir)
		u := &unit{Shape: units[dir], Archive: archives[path], Source: as.graph.source(dir)}
		if old != nil && old.Units[path] != nil && old.Units[path].Shape == u.Shape {
			was := old.Units[path]
			u.Compile, u.Conf, u.EmbedConf = was.Compile, was.Conf, was.EmbedConf
		}
		if err := b.learnUnit(u, path, actions, tmp); err != nil {
			return nil, fmt.Errorf("package %s: %w", path, err)
		}
		r.Units[path] = u
	}
	return r, b.settle(r, as.env.vars["GOCACHE"], tmp)
}

// settle replaces archives that are about to be removed with tmp, of packages that
// are not made from source at hand: what the go command has compiled this time is in
// its cache, by the SHA-256 of the content.
func (b *Builder) settle(r *recipe, cache, tmp string) error {
	settled := map[string]string{}
	var failed error
	lasting := func(path string) (string, bool) {
		file := settled[path]
		return file, file != ""
	}
	settleConf := func(conf string) string {
		for path, file := range configFiles(conf) {
			if _, known := settled[path]; known || r.Units[path] != nil || !strings.HasPrefix(file, tmp+string(filepath.Separator)) {
				continue
			}
			var err error
			if settled[path], err = b.lasting(file, cache); err != nil {
				failed = errors.Join(failed, fmt.Errorf("package %s: %w", path, err))
			}
		}
		return withArchives(conf, lasting)
	}
	r.LinkConf = settleConf(r.LinkConf)
	for _, u := range r.Units {
		u.Conf = settleConf(u.Conf)
	}
	return failed
}

// lasting returns where the content of an archive stays: in the go command's cache,
// or else in the store.
func (b *Builder) lasting(file, cache string) (string, error) {
	var once *tree.Cache
	e, err := once.Stat(file)
	if err != nil {
		return "", err
	}
	name := e.Hash.String()
	cached := filepath.Join(cache, name[:2], name+"-d")
	if info, err := os.Stat(cached); err == nil && info.Size() == e.Size {
		return cached, nil
	}
	if e, err = b.Store.Put(file); err != nil {
		return "", err
	}
	return e.Local, nil
}

func (r *recipe) learnLink(actions []action) error {
	for _, a := range actions {
		if a.Mode != "link" || len(a.Cmd) != 1 {
			continue
		}
		args, err := splitCommand(a.Cmd[0])
		if err != nil {
			return err
		}
		conf, err := os.ReadFile(filepath.Join(a.Objdir, "importcfg.link"))
		if err != nil {
			return err
		}
		r.Link, r.LinkConf = args, string(conf)
		return nil
	}
	return fmt.Errorf("%w: the go command did not say how it linked", errNoRecipe)
}

func (b *Builder) learnUnit(u *unit, path string, actions []action, tmp string) error {
	if u.Archive == "" {
		return fmt.Errorf("%w: it has no archive", errNoRecipe)
	}
	export, err := exportData(u.Archive)
	if err != nil {
		return err
	}
	u.Export = export
	if strings.HasPrefix(u.Archive, tmp+string(filepath.Separator)) {
		e, err := b.Store.Put(u.Archive)
		if err != nil {
			return err
		}
		s := storedOf(e)
		u.Archive, u.Stored = e.Local, &s
	}
	i := slices.IndexFunc(actions, func(a action) bool { return a.Mode == "build" && a.Package == path && len(a.Cmd) == 1 })
	if i < 0 {
		return nil
	}
	args, err := splitCommand(actions[i].Cmd[0])
	if err != nil {
		return err
	}
	conf, err := os.ReadFile(filepath.Join(actions[i].Objdir, "importcfg"))
	if err != nil {
		return err
	}
	u.Compile, u.Conf = args, string(conf)
	if embed, err := os.ReadFile(filepath.Join(actions[i].Objdir, "embedcfg")); err == nil {
		u.EmbedConf = string(embed)
	}
	return nil
}

// splitCommand undoes the quoting of a command line in the action graph.
func splitCommand(line string) ([]string, error) {
	var args []string
	for line != "" {
		if line[0] == ' ' {
			line = line[1:]
			continue
		}
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("command line %q: %w", line, err)
			}
			arg, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, fmt.Errorf("command line %q: %w", line, err)
			}
			args, line = append(args, arg), line[len(quoted):]
			continue
		}
		arg, rest, _ := strings.Cut(line, " ")
		args, line = append(args, arg), rest
	}
	if len(args) < 2 {
		return nil, fmt.Errorf("command line %q is too short", line)
	}
	return args, nil
}

// configFiles returns the archives that an import configuration names, by
// import path.
func configFiles(conf string) map[string]string {
	files := map[string]string{}
	for line := range strings.Lines(conf) {
		if rest, ok := strings.CutPrefix(line, "packagefile "); ok {
			path, file, _ := strings.Cut(strings.TrimRight(rest, "\n"), "=")
			files[path] = file
		}
	}
	return files
}

// withArchives puts other archives into an import configuration.
func withArchives(conf string, archive func(path string) (string, bool)) string {
	var out strings.Builder
	for line := range strings.Lines(conf) {
		if rest, ok := strings.CutPrefix(line, "packagefile "); ok {
			path, _, _ := strings.Cut(rest, "=")
			if file, ok := archive(path); ok {
				line = "packagefile " + path + "=" + file + "\n"
			}
		}
		out.WriteString(line)
	}
	return out.String()
}

// exportData hashes what an archive shows to the packages that import it. Of
// the archive's first member that is all but the header, which has a build ID.
func exportData(file string) (tree.Hash, error) {
	f, err := os.Open(file)
	if err != nil {
		return tree.Hash{}, err
	}
	defer f.Close()
	const magic, header = "!<arch>\n", 60
	head := make([]byte, len(magic)+header)
	if _, err := f.Read(head); err != nil {
		return tree.Hash{}, err
	}
	if !bytes.HasPrefix(head, []byte(magic+"__.PKGDEF")) {
		return tree.Hash{}, fmt.Errorf("%s is no archive of a package", file)
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(head[len(magic)+48:len(magic)+58])), 10, 64)
	if err != nil || size < 0 || size > 1<<30 {
		return tree.Hash{}, fmt.Errorf("%s is no archive of a package", file)
	}
	member := make([]byte, size)
	if _, err := f.ReadAt(member, int64(len(head))); err != nil {
		return tree.Hash{}, err
	}
	_, data, ok := bytes.Cut(member, []byte("\n$$B\n"))
	if !ok {
		return tree.Hash{}, fmt.Errorf("%s has no export data", file)
	}
	h := newHash()
	h.Write(data)
	return h.sum(), nil
}
