package tests

import (
	"cmp"
	"context"
	"path"
	"path/filepath"
	"slices"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/suite"
)

// Choose returns the units that test some services: a service's own command, the
// packages below its directory, and the packages of the app that its program is made
// of.
func Choose(ctx context.Context, source suite.Source, units []suite.Unit, services []*app.Service) ([]suite.Unit, error) {
	var chosen []suite.Unit
	for _, s := range services {
		var made []string
		if s.Build.Kind == app.BuildGo {
			var err error
			if made, err = source.Imported(ctx, cmp.Or(s.Build.Module, "."), s.Build.Package); err != nil {
				return nil, err
			}
		}
		for _, u := range units {
			if of(u, s, made) && !slices.Contains(chosen, u) {
				chosen = append(chosen, u)
			}
		}
	}
	return chosen, nil
}

// of reports whether a unit tests a service whose program is made of some packages.
func of(u suite.Unit, s *app.Service, made []string) bool {
	if u.Kind == suite.Shell {
		return u.Name == s.Name
	}
	dir := path.Clean(s.Source.Dir)
	if rel, err := filepath.Rel(dir, u.Dir); err == nil && filepath.IsLocal(rel) && dir != "." {
		return true
	}
	return slices.Contains(made, u.Name)
}
