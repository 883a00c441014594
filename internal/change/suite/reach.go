package suite

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// reaches tells which tests may read more than what they import and what is below their
// directory. It reads each source once.
type reaches struct {
	root     string
	packages map[string]*listed
	made     map[string]bool  // the packages that the module's programs are made of
	sources  map[string]reach // by path
}

// reach is how a source leads out of its package; "" is not at all.
type reach struct {
	// paths tells that it comes to files elsewhere by their paths.
	paths string
	// tools tells that it has what helpers of tests build programs and find the repository
	// with. Services have that as well, to other ends: they run where there is no source.
	tools string
}

func newReaches(root string, packages map[string]*listed) *reaches {
	r := &reaches{root: root, packages: packages, made: map[string]bool{}, sources: map[string]reach{}}
	for _, p := range packages {
		if p.Name == "main" && p.named() {
			for _, d := range p.Deps {
				r.made[d] = true
			}
		}
	}
	return r
}

// wide tells why the tests of a package may read anything: a source that they are compiled
// with leads there. In a package that p needs without its tests, and a program needs too,
// only paths count.
func (r *reaches) wide(p *listed) (string, error) {
	for _, dep := range tested(p, r.packages) {
		if m := dep.from(); m != nil && m.Version != "" {
			continue // it knows nothing of this source
		}
		served := r.made[dep.ImportPath] && slices.Contains(p.Deps, dep.ImportPath)
		for _, f := range slices.Concat(dep.GoFiles, dep.CgoFiles) {
			path := filepath.Join(dep.Dir, f)
			found, err := r.source(path)
			if err != nil {
				return "", err
			}
			why := found.paths
			if why == "" && !served {
				why = found.tools
			}
			if why == "" {
				continue
			}
			rel, err := filepath.Rel(r.root, path)
			return filepath.ToSlash(rel) + " " + why, err
		}
	}
	return "", nil
}

// source looks at a file, once.
func (r *reaches) source(path string) (reach, error) {
	if known, ok := r.sources[path]; ok {
		return known, nil
	}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return reach{}, err
	}
	// What can't be parsed does not compile, so nothing is remembered of its tests.
	if f, err := parser.ParseFile(token.NewFileSet(), path, data, parser.SkipObjectResolution); err == nil {
		r.sources[path] = reachOf(f)
	} else {
		r.sources[path] = reach{}
	}
	return r.sources[path], nil
}

// upwards is a path that leads out of a directory, in a string.
var upwards = regexp.MustCompile(`(^|[^.])\.\./|(^|[^\w.])\.\.([^\w.]|$)`)

// reachOf finds what leads out of a source's package. Strings that others are compared with,
// as services do before they open what they are asked for, are no paths of theirs.
func reachOf(f *ast.File) reach {
	var found reach
	compared := map[ast.Expr]bool{}
	compare := func(all ...ast.Expr) {
		for _, e := range all {
			compared[e] = true
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			if n.Path.Value == `"os/exec"` {
				found.tools = "starts programs"
			}
			return false
		case *ast.BinaryExpr:
			if n.Op == token.EQL || n.Op == token.NEQ {
				compare(n.X, n.Y)
			}
		case *ast.CaseClause:
			compare(n.List...)
		case *ast.CallExpr:
			switch called(n) {
			case "strings.Contains", "strings.CutPrefix", "strings.HasPrefix", "strings.HasSuffix", "strings.TrimPrefix":
				compare(n.Args...)
			case "runtime.Caller":
				found.tools = "asks where it is"
			case "os.Getwd":
				found.paths = "asks where it runs"
			}
		case *ast.BasicLit:
			if n.Kind != token.STRING || compared[n] {
				return true
			}
			if s, err := strconv.Unquote(n.Value); err == nil && upwards.MatchString(s) {
				found.paths = "names a path outside its directory"
			}
		}
		return true
	})
	return found
}

// called is the function that a call names with its package.
func called(n *ast.CallExpr) string {
	if f, ok := n.Fun.(*ast.SelectorExpr); ok {
		if pkg, ok := f.X.(*ast.Ident); ok {
			return pkg.Name + "." + f.Sel.Name
		}
	}
	return ""
}
