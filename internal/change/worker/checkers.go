package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/contract"
	"github.com/bightdev/bight/internal/change/review/external"
	"github.com/bightdev/bight/internal/change/review/goanalysis"
	"github.com/bightdev/bight/internal/change/review/manifest"
	"github.com/bightdev/bight/internal/change/review/policy"
	"github.com/bightdev/bight/internal/change/review/secrets"
	"github.com/bightdev/bight/internal/change/review/vulns"
)

// Checkers returns all that a worker reviews with. schemas are the API of the cluster
// that is deployed to, nil where nobody knows it, and database is a copy of Go's
// vulnerability database, "" for none; the report says what is not checked for want of
// them. The slowest is first, and last what waits for the objects of the base.
func Checkers(schemas manifest.Schemas, database string) ([]review.Checker, []review.Gate) {
	return []review.Checker{
		&goanalysis.Checker{}, &vulns.Checker{Database: database}, &secrets.Checker{}, &contract.Checker{},
		&manifest.Checker{Schemas: schemas}, &policy.Checker{},
	}, []review.Gate{&policy.Gate{}}
}

// Database is the vulnerability database to use: the one that is named, or that of the
// go command if it is on this machine, so that a review never depends on the internet
// unless somebody says so.
func Database(named, env string) string {
	if named != "" {
		return named
	}
	if strings.HasPrefix(env, "file://") {
		return env
	}
	if info, err := os.Stat(env); err == nil && info.IsDir() {
		return env
	}
	return ""
}

// linters are the programs that the app's bight.yaml names, which look at a copy that
// is their own, dir.
func linters(a *app.App, dir string) []review.Checker {
	var out []review.Checker
	for _, l := range a.Linters {
		out = append(out, &elsewhere{dir: dir, Checker: external.Checker{
			Tool: l.Name, Command: l.Command, Patterns: l.Files, Env: lintEnv(os.LookupEnv),
		}})
	}
	return out
}

// elsewhere runs a linter in a directory of its own: what it writes there, no build
// gets to see.
type elsewhere struct {
	external.Checker
	dir string
}

// Check implements [review.Checker].
func (e *elsewhere) Check(ctx context.Context, in *review.Input) (review.Result, error) {
	return e.Checker.Check(ctx, &review.Input{Dir: e.dir, Diff: in.Diff, Base: in.Base, Head: in.Head, App: in.App})
}

// unrun stands for linters that are not run.
type unrun struct {
	name, why string
}

// Name implements [review.Checker].
func (u unrun) Name() string { return u.name }

// Check implements [review.Checker].
func (u unrun) Check(context.Context, *review.Input) (review.Result, error) {
	return review.Result{}, errors.New(u.why)
}

// notRun says of each linter why it is not run.
func notRun(a *app.App, format string, args ...any) []review.Checker {
	var out []review.Checker
	for _, l := range a.Linters {
		out = append(out, unrun{l.Name, fmt.Sprintf(format, args...)})
	}
	return out
}

// lintVariables are what linters see of the worker's environment. Everything else, and
// with it every credential, is left out.
var lintVariables = []string{
	"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME",
	"GOROOT", "GOPATH", "GOCACHE", "GOMODCACHE", "GOFLAGS", "GOTOOLCHAIN", "CGO_ENABLED", "NODE_PATH", "JAVA_HOME", "VIRTUAL_ENV",
	"SystemRoot", "ComSpec", "PATHEXT", "TEMP", "TMP", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
}

func lintEnv(get func(string) (string, bool)) []string {
	out := []string{}
	for _, name := range lintVariables {
		if v, set := get(name); set {
			out = append(out, name+"="+v)
		}
	}
	return out
}
