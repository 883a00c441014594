package detect

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// module is one go.mod of the tree.
type module struct {
	dir      string // relative to the root
	path     string
	replaced []replacement
}

type replacement struct {
	old string
	dir string // relative to the root
}

// modules resolves import paths to directories of the tree.
type modules struct {
	list   []*module // by directory, the longest first
	byPath []*module // by path, the longest first
}

func readModules(root string, dirs []string) (*modules, error) {
	m := &modules{}
	for _, dir := range dirs {
		rel := path.Join(dir, "go.mod")
		data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(rel)))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", rel, err)
		}
		f, err := modfile.ParseLax(rel, data, nil)
		if err != nil {
			return nil, fmt.Errorf("%w; mend it so that go list works there", err)
		}
		if f.Module == nil || f.Module.Mod.Path == "" {
			return nil, fmt.Errorf("%s: no module line; run go mod init there", rel)
		}
		mod := &module{dir: dir, path: f.Module.Mod.Path}
		// ParseLax leaves replacements out, which are what is wanted here.
		full, err := modfile.Parse(rel, data, func(_, v string) (string, error) { return v, nil })
		if err == nil {
			for _, r := range full.Replace {
				if r.New.Version == "" && (strings.HasPrefix(r.New.Path, "./") || strings.HasPrefix(r.New.Path, "../")) {
					mod.replaced = append(mod.replaced, replacement{r.Old.Path, path.Join(dir, filepath.ToSlash(r.New.Path))})
				}
			}
		}
		m.list = append(m.list, mod)
	}
	m.byPath = slices.Clone(m.list)
	slices.SortStableFunc(m.list, func(a, b *module) int { return len(b.dir) - len(a.dir) })
	slices.SortStableFunc(m.byPath, func(a, b *module) int { return len(b.path) - len(a.path) })
	return m, nil
}

// of is the module that a directory belongs to, or nil.
func (m *modules) of(dir string) *module {
	for _, mod := range m.list {
		if under(dir, mod.dir) {
			return mod
		}
	}
	return nil
}

// under reports whether dir is parent or below it.
func under(dir, parent string) bool {
	return parent == "." || dir == parent || strings.HasPrefix(dir, parent+"/")
}

// resolve finds the directory of an imported package of the tree.
func (m *modules) resolve(from, importPath string) (string, bool) {
	if mod := m.of(from); mod != nil {
		for _, r := range mod.replaced {
			if rest, ok := below(importPath, r.old); ok {
				dir := path.Join(r.dir, rest)
				return dir, dir != ".." && !strings.HasPrefix(dir, "../")
			}
		}
	}
	for _, mod := range m.byPath {
		if rest, ok := below(importPath, mod.path); ok {
			return path.Join(mod.dir, rest), true
		}
	}
	return "", false
}

func below(importPath, module string) (string, bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}
