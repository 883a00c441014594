package cli

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/bightdev/bight/"

// mayImport is the direction of imports that docs/architecture.md tells: what each
// part of the house may use besides itself and what is below it. A name that begins
// with = is that package alone.
var mayImport = map[string][]string{
	"api/v1alpha1":       {},
	"internal/app":       {},
	"internal/tree":      {"internal/atomicfile"},
	"internal/ignore":    {},
	"internal/stream":    {},
	"internal/ui":        {},
	"internal/kube":      {},
	"internal/image":     {"internal/app", "internal/tree", "internal/ignore", "internal/atomicfile"},
	"internal/deploy":    {"internal/app", "internal/kube/follow"},
	"internal/forward":   {"internal/app"},
	"internal/live":      {"internal/tree", "internal/stream"},
	"internal/reach":     {"internal/stream", "internal/procnet"},
	"internal/steer":     {"internal/stream"},
	"internal/probe":     {},
	"internal/agent":     {"internal/tree", "internal/stream", "internal/live/wire", "internal/live/delta", "internal/reach", "internal/steer", "internal/procnet", "internal/probe"},
	"internal/bridge":    {"internal/intercept", "internal/kube", "internal/stream", "internal/reach", "internal/steer", "internal/procnet", "api/v1alpha1"},
	"internal/intercept": {"api/v1alpha1", "internal/steer"},
	"internal/install":   {"internal/kube", "api/v1alpha1"},
	"internal/nodeagent": {
		"internal/kube", "internal/agent/gate", "internal/agent/node", "internal/steer", "internal/intercept", "api/v1alpha1",
		"internal/release",
	},
	"internal/change":        {"api/v1alpha1"},
	"internal/change/review": {"internal/app", "internal/expr"},
	"internal/change/repo":   {"internal/bearer", "internal/diskspace"},
	"internal/change/host":   {},
	"internal/change/queue":  {},
	"internal/change/suite":  {"internal/diskspace"},
	"internal/change/attest": {},
	"internal/change/apart":  {"internal/image", "internal/kube/follow", "internal/change/suite"},
	"internal/change/work":   {},
	"internal/change/client": {"api/v1alpha1", "internal/kube", "=internal/change", "internal/release/evidence", "internal/release/spec"},
	"internal/change/ship":   {"api/v1alpha1", "internal/kube", "=internal/change", "internal/change/client"},
	"internal/change/tests":  {"internal/app", "internal/change/suite"},
	"internal/change/worker": {
		"api/v1alpha1", "internal/app", "internal/image", "internal/session", "internal/tree", "internal/deploy",
		"internal/change/work", "internal/change/repo", "internal/change/review", "internal/change/suite", "internal/change/tests", "internal/change/attest", "internal/change/apart",
	},
	"internal/change/controller": {
		"api/v1alpha1", "internal/app", "internal/deploy", "internal/kube", "internal/session",
		"=internal/change", "internal/change/work", "internal/change/repo", "internal/change/host", "internal/change/attest",
		"internal/change/suite", "internal/change/apart", "internal/release", "internal/replay", "internal/probe", "internal/ui", "internal/atomicfile", "internal/bearer", "=internal/stats",
	},
	"internal/stats":         {"api/v1alpha1", "=internal/change", "=internal/release"},
	"internal/stats/journal": {"=internal/stats"},
	"internal/stats/meter":   {"api/v1alpha1", "=internal/stats"},
	"internal/stats/traces":  {"api/v1alpha1", "=internal/stats"},
	"internal/stats/ledger":  {"api/v1alpha1", "=internal/stats", "internal/stats/journal", "internal/stats/meter", "internal/stats/traces"},
	"internal/doctor":        {"internal/app", "internal/kube", "internal/deploy", "internal/image", "internal/diskspace"},
	"internal/session": {
		"internal/app", "internal/tree", "internal/ignore", "internal/ui", "internal/kube",
		"internal/image", "internal/deploy", "internal/forward", "internal/live",
	},
	"internal/release/verdict":    {},
	"internal/release":            {"internal/release/verdict"},
	"internal/release/latency":    {},
	"internal/release/guard":      {"internal/release/verdict"},
	"internal/release/config":     {},
	"internal/release/control":    {"internal/atomicfile", "internal/bearer", "internal/release", "internal/kube", "api/v1alpha1"},
	"internal/release/spec":       {"internal/release", "api/v1alpha1"},
	"internal/release/evidence":   {},
	"internal/release/gateway":    {"api/v1alpha1"},
	"internal/release/bounds":     {"internal/release", "api/v1alpha1", "internal/expr"},
	"internal/expr":               {},
	"internal/atomicfile":         {},
	"internal/diskspace":          {},
	"internal/procnet":            {},
	"internal/bearer":             {},
	"internal/replay":             {"internal/release", "internal/live", "internal/ignore"},
	"internal/replay/calls":       {"internal/release/evidence"},
	"internal/replay/switchboard": {"=internal/replay/calls", "internal/release/evidence", "=internal/bridge/splice", "=internal/bridge/propagate", "internal/steer"},
	"internal/release/client":     {"internal/release", "internal/release/spec", "internal/kube", "api/v1alpha1"},
	"internal/cli": {
		"internal/release", "internal/app", "internal/ui", "internal/kube", "internal/deploy", "internal/image", "internal/session", "internal/doctor",
		"internal/bridge", "internal/steer", "internal/stream", "internal/reach", "internal/install", "internal/intercept", "internal/nodeagent", "internal/tree", "internal/change", "internal/replay", "internal/atomicfile", "api/v1alpha1", "=internal/stats",
	},
	"internal/outer":  {"internal/cli", "internal/stats", "internal/change", "internal/kube", "internal/session", "internal/install", "internal/release"},
	"cmd/bight":       {"internal/cli", "internal/bridge/jail"},
	"cmd/bight-outer": {"internal/cli", "internal/outer"},
	"cmd/bight-agent": {"internal/agent", "internal/steer", "internal/probe"},
}

func TestImportsGoOneWay(t *testing.T) {
	seen := map[string]bool{}
	for dir, p := range packages(t) {
		part := partOf(dir)
		allowed, known := mayImport[part]
		if !known {
			if strings.HasPrefix(dir, "internal/") || strings.HasPrefix(dir, "cmd/") {
				t.Errorf("%s is no part of the house: say in docs/architecture.md and here what it may import", dir)
			}
			continue
		}
		seen[part] = true
		for _, imported := range p.imports {
			if !below(imported, part) && !slices.ContainsFunc(allowed, func(a string) bool { return "="+imported == a || below(imported, a) }) {
				t.Errorf("%s imports %s, which %s may not", dir, imported, part)
			}
		}
	}
	for _, part := range slices.Sorted(maps.Keys(mayImport)) {
		if !seen[part] {
			t.Errorf("%s is listed and does not exist", part)
		}
	}
}

// partOf is the part of the house that a directory belongs to: the smallest.
func partOf(dir string) string {
	for d := dir; d != "."; d = path.Dir(d) {
		if _, ok := mayImport[d]; ok {
			return d
		}
	}
	return dir
}

func below(dir, parent string) bool { return dir == parent || strings.HasPrefix(dir, parent+"/") }

func TestEveryPackageHasOneComment(t *testing.T) {
	for dir, p := range packages(t) {
		if len(p.comments) != 1 {
			t.Errorf("package %s has %d package comments (%s), want 1", dir, len(p.comments), strings.Join(p.comments, ", "))
		}
	}
}

// pkg is what matters here of a package.
type pkg struct {
	imports  []string // of this module, without its path
	comments []string // files with a package comment
}

// packages reads every package of the module, for every platform. Of a package of
// tests only the tests are read, of any other they are left out.
func packages(t *testing.T) map[string]*pkg {
	t.Helper()
	root := moduleRoot(t)
	files := map[string][]string{}
	err := filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			_, nested := os.Stat(filepath.Join(file, "go.mod"))
			if file != root && (nested == nil || e.Name() == "testdata" || strings.HasPrefix(e.Name(), ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(file, ".go") {
			files[filepath.Dir(file)] = append(files[filepath.Dir(file)], file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*pkg{}
	for dir, list := range files {
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.ToSlash(rel)] = read(t, list)
	}
	return all
}

func read(t *testing.T, files []string) *pkg {
	t.Helper()
	isTest := func(file string) bool { return strings.HasSuffix(file, "_test.go") }
	if slices.ContainsFunc(files, func(f string) bool { return !isTest(f) }) {
		files = slices.DeleteFunc(files, isTest)
	}
	p := &pkg{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if f.Doc != nil {
			p.comments = append(p.comments, filepath.Base(file))
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if own, ok := strings.CutPrefix(name, module); ok && !slices.Contains(p.imports, own) {
				p.imports = append(p.imports, own)
			}
		}
	}
	return p
}

// moduleRoot is the directory of the main module.
func moduleRoot(t *testing.T) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("there is no source to look at")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}
