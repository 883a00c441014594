package detect

import (
	"bytes"
	"context"
	"fmt"
	"go/build"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect/flow"
)

// maxEntries is how many files and directories a source tree may have before it
// is taken for something else, such as a home directory.
const maxEntries = 2_000_000

// listing is what a source tree has that matters here. All paths are relative
// to the root and slash separated.
type listing struct {
	mains   []string // directories of packages main
	modules []string // directories with a go.mod
	work    bool     // there is a go.work at the root
	sites   []string // directories with an index.html
	goFiles bool     // there is any Go at all
	goDirs  map[string]bool
	scripts map[string]bool
	notes   []app.Note
}

// directory is what one directory has.
type directory struct {
	rel     string
	entries int
	subdirs []string
	ig      *ignores
	isMain  bool
	isMod   bool
	isWork  bool
	hasGo   bool
	site    bool
	script  bool // package.json
	ignored []app.Note
	up      *ignores
}

// list reads the tree level by level, each level in parallel. Symbolic links to
// directories are not followed, so a loop of them does no harm.
func list(ctx context.Context, root string) (*listing, error) {
	out := &listing{scripts: map[string]bool{}, goDirs: map[string]bool{}}
	level := []*directory{{rel: "."}}
	total := 0
	for len(level) > 0 {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(2 * runtime.GOMAXPROCS(0))
		for part := range slices.Chunk(level, 32) {
			g.Go(func() error {
				for _, d := range part {
					if err := gctx.Err(); err != nil {
						return err
					}
					if err := d.read(root); err != nil {
						if d.rel == "." {
							return err
						}
						d.ignored = append(d.ignored, app.Note{
							Text: fmt.Sprintf("%s cannot be read and was left out: %v", d.rel, err),
							From: app.From{File: d.rel, Confidence: app.Certain},
						})
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return nil, fmt.Errorf("read %s: %w", root, err)
		}
		var next []*directory
		for _, d := range level {
			total += d.entries
			out.take(d)
			for _, s := range d.subdirs {
				next = append(next, &directory{rel: path.Join(d.rel, s), up: d.ig})
			}
		}
		if total > maxEntries {
			return nil, fmt.Errorf("%s has more than %d files: that is no source tree; run bight in the directory of your code", root, maxEntries)
		}
		level = next
	}
	slices.Sort(out.mains)
	slices.Sort(out.modules)
	slices.Sort(out.sites)
	return out, nil
}

func (l *listing) take(d *directory) {
	if d.isMain {
		l.mains = append(l.mains, d.rel)
	}
	if d.isMod {
		l.modules = append(l.modules, d.rel)
	}
	if d.site {
		l.sites = append(l.sites, d.rel)
	}
	l.work = l.work || d.isWork && d.rel == "."
	if d.hasGo {
		l.goFiles = true
		l.goDirs[d.rel] = true
	}
	l.scripts[d.rel] = l.scripts[d.rel] || d.script
	l.notes = append(l.notes, d.ignored...)
}

// skipDir reports whether a directory never has a service in it.
func skipDir(name string) bool {
	return name == "vendor" || name == "node_modules" || name == "testdata" || name[0] == '.' || name[0] == '_'
}

func (d *directory) read(root string) error {
	abs := filepath.Join(root, filepath.FromSlash(d.rel))
	entries, err := os.ReadDir(abs)
	if err != nil {
		return err
	}
	d.entries, d.ig = len(entries), d.up
	for _, e := range entries {
		if e.Name() == ".gitignore" && e.Type().IsRegular() {
			data, err := os.ReadFile(filepath.Join(abs, ".gitignore"))
			if err == nil {
				d.ig = parseIgnore(d.up, d.rel, data)
			}
			break
		}
	}
	var goFiles []string
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() {
			if !skipDir(name) {
				d.directory(root, name)
			}
			continue
		}
		if !e.Type().IsRegular() {
			continue
		}
		switch {
		case name == "go.mod":
			d.isMod = true
		case name == "go.work":
			d.isWork = true
		case name == "package.json":
			d.script = true
		case name == "index.html":
			_, _, ignored := d.ig.match(path.Join(d.rel, name), false)
			d.site = !ignored
		case strings.HasSuffix(name, ".go"):
			d.hasGo = true
			if !strings.HasSuffix(name, "_test.go") {
				goFiles = append(goFiles, name)
			}
		}
	}
	switch packageName(abs, goFiles) {
	case "main":
		d.isMain = true
	case "":
		d.isMain = len(goFiles) > 0 // it may be: reading it tells why it has no name
	}
	return nil
}

func (d *directory) directory(root, name string) {
	rel := path.Join(d.rel, name)
	file, line, ignored := d.ig.match(rel, true)
	if !ignored {
		d.subdirs = append(d.subdirs, name)
		return
	}
	// A pattern that is meant for a binary often hides the directory of its source.
	abs := filepath.Join(root, filepath.FromSlash(rel))
	files, err := filepath.Glob(filepath.Join(escapeGlob(abs), "*.go"))
	if err != nil || len(files) == 0 {
		return
	}
	var names []string
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			names = append(names, filepath.Base(f))
		}
	}
	if packageName(abs, names) == "main" {
		d.ignored = append(d.ignored, app.Note{
			Text: fmt.Sprintf("%s is ignored by git and was left out. Where only the binary is meant, write the pattern with a leading slash", rel),
			From: app.From{File: file, Line: line, Confidence: app.Certain, Why: "the pattern matches the directory"},
		})
	}
}

func escapeGlob(s string) string {
	return strings.NewReplacer("*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}

// packageName is the name of the package that the first of the files that is
// built for linux belongs to.
func packageName(abs string, files []string) string {
	if len(files) == 0 {
		return ""
	}
	bc := flow.BuildContext()
	for _, name := range files {
		if n, ok := clause(bc, abs, name); ok {
			return n
		}
	}
	return ""
}

// clause reads a file's package name, if the file is built for linux.
func clause(bc *build.Context, abs, name string) (string, bool) {
	f, err := os.Open(filepath.Join(abs, name))
	if err != nil {
		return "", false
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	head = head[:n]
	if err == nil && !bytes.Contains(head, []byte("\npackage ")) && !bytes.HasPrefix(head, []byte("package ")) {
		rest, err := io.ReadAll(io.LimitReader(f, 1<<20)) // a long licence
		if err != nil {
			return "", false
		}
		head = append(head, rest...)
	}
	bc.OpenFile = func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(head)), nil }
	if ok, err := bc.MatchFile(abs, name); err == nil && !ok {
		return "", false
	}
	ast, _ := parser.ParseFile(token.NewFileSet(), name, head, parser.PackageClauseOnly)
	if ast == nil || ast.Name == nil || ast.Name.Name == "_" || ast.Name.Name == "" {
		return "", false
	}
	return ast.Name.Name, true
}
