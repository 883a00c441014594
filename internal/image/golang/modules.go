package golang

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"hash"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"

	"github.com/bightdev/bight/internal/tree"
)

type digester struct{ hash.Hash }

func newHash() digester { return digester{sha256.New()} }

func (d digester) sum() tree.Hash { return tree.Hash(d.Sum(nil)) }

// modules are the modules whose source is at hand: those of the workspace, and
// those that a replace directive puts into a directory.
type modules struct {
	local  []module // the longest path first
	vendor string   // the directory of vendored packages, "" when unused
	files  []string // go.mod, go.work and the like that were read or looked for
	work   string   // the go.work, "" without
}

type module struct{ path, dir string }

// findWork returns the go.work that counts for a directory, or "". setting is
// the value of GOWORK: "off", a file, or "" to look upwards.
func findWork(dir, setting string) string {
	if setting != "" {
		if setting == "off" {
			return ""
		}
		return setting
	}
	for {
		file := filepath.Join(dir, "go.work")
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			return file
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

// loadModules reads the go.work, if there is one, and go.mod files. What is wrong with them is left
// for the go command to say.
func loadModules(dir, work, modFlag string) *modules {
	m := &modules{work: work}
	seen := map[string]bool{}
	vendorRoot, goVersion := dir, ""
	if work == "" {
		goVersion = m.addModule(dir, seen)
	} else {
		m.files = append(m.files, work, work+".sum")
		vendorRoot = filepath.Dir(work)
		goVersion = m.addWork(work, seen)
		m.addModule(dir, seen)
	}
	least := "v1.14"
	if work != "" {
		least = "v1.22"
	}
	vendor := filepath.Join(vendorRoot, "vendor")
	list := filepath.Join(vendor, "modules.txt")
	if modFlag == "vendor" || modFlag == "" && semver.Compare("v"+cmp.Or(goVersion, "1.16"), least) >= 0 {
		m.files = append(m.files, list)
		if _, err := os.Stat(list); err == nil {
			m.vendor = vendor
		}
	}
	slices.SortFunc(m.local, func(a, b module) int { return len(b.path) - len(a.path) })
	return m
}

func (m *modules) addWork(file string, seen map[string]bool) (goVersion string) {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	w, err := modfile.ParseWork(file, b, nil)
	if err != nil {
		return ""
	}
	dir := filepath.Dir(file)
	for _, use := range w.Use {
		m.addModule(joinPath(dir, use.Path), seen)
	}
	m.addReplaced(dir, w.Replace, seen)
	if w.Go != nil {
		goVersion = w.Go.Version
	}
	return goVersion
}

// addModule adds a main module and what it replaces by directories.
func (m *modules) addModule(dir string, seen map[string]bool) (goVersion string) {
	f := m.addDir("", dir, seen)
	if f == nil {
		return ""
	}
	m.addReplaced(dir, f.Replace, seen)
	if f.Go != nil {
		goVersion = f.Go.Version
	}
	return goVersion
}

func (m *modules) addReplaced(dir string, replaces []*modfile.Replace, seen map[string]bool) {
	for _, r := range replaces {
		if r.New.Version == "" {
			m.addDir(r.Old.Path, joinPath(dir, r.New.Path), seen)
		}
	}
}

// addDir adds the module in dir; importPath is what it is imported as, "" for
// what its go.mod says.
func (m *modules) addDir(importPath, dir string, seen map[string]bool) *modfile.File {
	if seen[dir] {
		return nil
	}
	seen[dir] = true
	file := filepath.Join(dir, "go.mod")
	m.files = append(m.files, file, filepath.Join(dir, "go.sum"))
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	f, err := modfile.ParseLax(file, b, nil)
	if err != nil {
		return nil
	}
	if importPath == "" && f.Module != nil {
		importPath = f.Module.Mod.Path
	}
	m.local = append(m.local, module{importPath, dir})
	// Only a main module's replace directives count, and ParseLax drops them.
	if full, err := modfile.Parse(file, b, nil); err == nil {
		return full
	}
	return f
}

func joinPath(dir, p string) string {
	p = filepath.FromSlash(p)
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(dir, p)
}

// find returns the directory of an imported package, or "" where its content is
// fixed by the toolchain's version or by go.sum. A directory that is missing is
// returned where the package could only be there.
func (m *modules) find(importPath string) string {
	missing := ""
	for _, mod := range m.local {
		rest, ok := strings.CutPrefix(importPath, mod.path)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		dir := filepath.Join(mod.dir, filepath.FromSlash(rest))
		if crossesModule(mod.dir, dir) {
			continue
		}
		if isDir(dir) {
			return dir
		}
		missing = cmp.Or(missing, dir)
	}
	if m.vendor != "" {
		dir := filepath.Join(m.vendor, filepath.FromSlash(path.Clean(importPath)))
		if isDir(dir) {
			return dir
		}
	}
	return missing
}

func isDir(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}

// crossesModule reports whether another module begins between root and dir.
func crossesModule(root, dir string) bool {
	for ; len(dir) > len(root); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return true
		}
	}
	return false
}

// importPath is the inverse of find.
func (m *modules) importPath(dir string) string {
	if rest, ok := strings.CutPrefix(dir, m.vendor+string(filepath.Separator)); ok && m.vendor != "" {
		return filepath.ToSlash(rest)
	}
	best := module{}
	for _, mod := range m.local {
		if (dir == mod.dir || strings.HasPrefix(dir, mod.dir+string(filepath.Separator))) && len(mod.dir) > len(best.dir) {
			best = mod
		}
	}
	return path.Join(best.path, filepath.ToSlash(strings.TrimPrefix(dir, best.dir)))
}

// key stands for the content of all the files.
func (m *modules) key(hashes *tree.Cache) tree.Hash {
	h := newHash()
	for _, file := range m.files {
		e, err := hashes.Stat(file)
		fmt.Fprintf(h, "%q %s %v\n", file, e.Hash, err == nil)
	}
	return h.sum()
}
