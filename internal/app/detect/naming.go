package detect

import (
	"path"
	"path/filepath"
	"strings"

	"github.com/bightdev/bight/internal/app"
)

// plainDirs are directories whose names say nothing about the program in them.
var plainDirs = map[string]bool{"cmd": true, "main": true, "src": true, "bin": true, "go": true}

// roleDirs say what a program is, but not of what.
var roleDirs = map[string]bool{"server": true, "service": true, "svc": true, "app": true, "api": true, "grpc": true, "http": true, "web": true, "daemon": true}

// holderDirs hold several services.
var holderDirs = map[string]bool{
	"cmd": true, "services": true, "apps": true, "src": true, "internal": true, "pkg": true, "backend": true, "go": true,
	"servers": true, "microservices": true, "packages": true, "modules": true, "bin": true, "examples": true, "example": true,
}

// serviceName is what the program in dir is called: its directory, or the
// nearest one above that says more.
func serviceName(dir, root string, mod *module) string {
	parts := strings.Split(dir, "/")
	if dir == "." {
		parts = nil
	}
	viaCmd := false
	for len(parts) > 0 && plainDirs[parts[len(parts)-1]] {
		viaCmd = viaCmd || parts[len(parts)-1] == "cmd"
		parts = parts[:len(parts)-1]
	}
	own := strings.Join(parts, "/")
	if own == "" {
		own = "."
	}
	if len(parts) == 0 || mod != nil && own == mod.dir && own == "." {
		return rootName(root, mod)
	}
	last := parts[len(parts)-1]
	if roleDirs[last] {
		up := parts[:len(parts)-1]
		for len(up) > 0 && plainDirs[up[len(up)-1]] {
			up = up[:len(up)-1]
		}
		if len(up) > 0 && !holderDirs[up[len(up)-1]] {
			last = up[len(up)-1]
		}
	}
	return app.Label(last)
}

// rootName is the name of what is at the root: the module's, or the directory's.
func rootName(root string, mod *module) string {
	if mod != nil {
		if n := app.Label(moduleName(mod.path)); n != "" {
			return n
		}
	}
	if n := app.Label(filepath.Base(root)); n != "" {
		return n
	}
	return "app"
}

// moduleName is the last element of a module path, without a major version.
func moduleName(p string) string {
	last := path.Base(p)
	if len(last) > 1 && last[0] == 'v' && strings.Trim(last[1:], "0123456789") == "" && path.Dir(p) != "." {
		last = path.Base(path.Dir(p))
	}
	if i := strings.LastIndex(last, ".v"); i > 0 {
		last = last[:i]
	}
	return last
}

// asideDirs hold programs that are not part of the app: they are left alone
// unless there is nothing else.
var asideDirs = map[string]bool{
	"examples": true, "example": true, "samples": true, "sample": true, "tools": true, "tool": true, "hack": true, "scripts": true,
	"script": true, "test": true, "tests": true, "e2e": true, "testing": true, "testutil": true, "benchmarks": true, "benchmark": true,
	"bench": true, "ci": true, "docs": true, "doc": true, "third_party": true, "contrib": true, "demo": true, "demos": true,
	"coverage": true, "fixtures": true, "fixture": true, "mocks": true, "mock": true, "integration-test": true, "integration-tests": true, "integration_test": true, "internal-tools": true,
}

// aside reports whether a directory is below one that holds examples, tools or
// tests, and which.
func aside(dir string) (string, bool) {
	for p := range strings.SplitSeq(dir, "/") {
		if asideDirs[strings.ToLower(p)] {
			return p, true
		}
	}
	return "", false
}
