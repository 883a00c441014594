// Package tests knows the tests of an app: which there are, which of them are about a
// service, and where a machine keeps what they have shown. bight test and the workers
// share it, so that neither does again what the other has done.
//
// It has no state; what it returns is of package [suite].
package tests

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/suite"
)

// Of is where the tests of an app are whose source is in a directory.
func Of(a *app.App, root string) suite.Source {
	return suite.Source{Root: root, Modules: modules(a, root), Commands: commands(a)}
}

// Results is where this machine keeps what tests have shown, below a directory that it
// shares with nobody.
func Results(dir string) suite.Dir { return suite.Dir(filepath.Join(dir, "tests")) }

// History is where this machine keeps how long the tests of an app took, and which are
// flaky.
func History(dir, namespace, app string) *suite.File {
	return &suite.File{Path: filepath.Join(dir, "history", namespace+"."+app+".jsonl")}
}

// modules are the directories with a go.mod, below that of the app.
func modules(a *app.App, root string) []string {
	dirs := []string{}
	add := func(dir string) {
		dir = filepath.ToSlash(filepath.Clean(dir))
		if _, err := os.Stat(filepath.Join(root, dir, "go.mod")); err == nil && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	add(".")
	for _, s := range a.Services {
		if s.Build.Module != "" {
			add(s.Build.Module)
		}
	}
	return dirs
}

// commands are the tests that services name themselves.
func commands(a *app.App) []suite.Command {
	var out []suite.Command
	for _, s := range a.Services {
		if s.Test != nil {
			out = append(out, suite.Command{Service: s.Name, Dir: s.Source.Dir, Run: s.Test.Command, Report: s.Test.Report})
		}
	}
	return out
}
