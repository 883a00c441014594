package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/apart"
	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/goanalysis"
	"github.com/bightdev/bight/internal/change/review/vulns"
	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/tests"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

// checkers are those that review a change. With what strangers have made, the go command
// has settings under which it runs nothing that the source names.
func (w *Worker) checkers(ctx context.Context, j *job) ([]review.Checker, error) {
	if !j.Untrusted {
		return w.Checkers, nil
	}
	guarded, err := suite.Guarded(ctx, suite.Source{})
	if err != nil {
		return nil, err
	}
	env := append(os.Environ(), guarded.Fixed...)
	out := slices.Clone(w.Checkers)
	for i, c := range out {
		switch c := c.(type) {
		case *goanalysis.Checker:
			out[i] = &goanalysis.Checker{Env: env}
		case *vulns.Checker:
			out[i] = &vulns.Checker{Database: c.Database, Env: env}
		}
	}
	return out, nil
}

// compileTests compiles the Go tests of what a stranger has made into an image, for the
// controller to run apart. Nothing of the source is run here; see [suite.Guarded].
func (w *Worker) compileTests(ctx context.Context, j *job) work.Result {
	a, err := j.plan(ctx)
	if err != nil {
		return failed(err)
	}
	own := tests.Of(a, j.dir)
	if len(own.Commands) > 0 {
		var names []string
		for _, c := range own.Commands {
			names = append(names, c.Service)
		}
		return work.Result{State: work.Failed, Message: fmt.Sprintf("the tests of %s are a command, and of what strangers have made only Go tests can be run apart: whoever may push looks at the commit and pushes it to a branch of the repository",
			strings.Join(names, ", "))}
	}
	source, err := suite.Guarded(ctx, own)
	if err != nil {
		return erred(err)
	}
	units, err := source.Discover(ctx)
	if err != nil {
		fmt.Fprintln(j.out, err)
		return work.Result{State: work.Failed, Message: firstLines(err.Error(), 4)}
	}
	if len(units) == 0 {
		return work.Result{State: work.Skipped, Message: "there are no tests"}
	}
	made, err := w.testImage(ctx, j, a, source, units)
	var compile *suite.CompileError
	switch {
	case errors.As(err, &compile):
		fmt.Fprintln(j.out, compile.Output)
		return work.Result{State: work.Failed, Message: firstLines(compile.Output, 6)}
	case err != nil:
		return erred(err)
	}
	b, err := json.Marshal(made)
	if err != nil {
		return erred(err)
	}
	return work.Result{
		State: work.Passed, Key: suite.KeyOf(units), Files: map[string][]byte{apart.File: b},
		Message: "compiled the tests of " + count(len(units), "package") + ", to be run apart",
	}
}

// testImage compiles tests and pushes an image with them and the repository's files.
func (w *Worker) testImage(ctx context.Context, j *job, a *app.App, source suite.Source, units []suite.Unit) (*apart.Suite, error) {
	dir, err := os.MkdirTemp(w.Dir, "programs-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for compiled tests: %w", err)
	}
	defer os.RemoveAll(dir)
	compiler := &suite.Compiler{Source: source, Within: j.copy.Dir, Total: j.Timeout, Output: j.out}
	programs, err := compiler.Compile(ctx, units, dir)
	if err != nil {
		return nil, err
	}
	files := tree.Tree{}
	for name, from := range map[string]string{apart.Source: j.copy.Dir, apart.Programs: dir} {
		t, problems, err := tree.ReadDir(ctx, from, tree.Options{})
		if err != nil {
			return nil, fmt.Errorf("read what goes into the image of the tests: %w", err)
		}
		for _, p := range problems {
			fmt.Fprintf(j.out, "the tests don't have %s\n", p)
		}
		graft(files, name, t)
	}
	art := &image.Artifact{Service: "tests", Tree: files, Command: []string{"./" + path.Join(apart.Programs, suite.Converter)}}
	img, err := w.Maker.Publisher.Image(ctx, art, image.Options{Agent: w.Agent, Title: "tests"})
	if err != nil {
		return nil, err
	}
	// Nothing else is ever taken from there.
	repository := "strangers/" + app.Label(j.Namespace) + "/" + a.Name
	pushed, err := w.Maker.Publisher.Push(ctx, w.Registry, image.Target{Repository: repository, Image: img})
	if err != nil {
		return nil, err
	}
	return &apart.Suite{Image: pushed[0].Ref, Directory: j.Directory, Programs: programs}, nil
}

// graft puts a tree below a directory of another, where whatever user the tests run as
// may write, as go test lets them.
func graft(into tree.Tree, below string, t tree.Tree) {
	open := func(dir string) {
		for ; dir != "." && dir != "/"; dir = path.Dir(dir) {
			into[dir] = tree.Entry{Mode: fs.ModeDir | 0o777}
		}
	}
	open(below)
	for name, e := range t {
		name = path.Join(below, name)
		open(path.Dir(name))
		switch {
		case e.Mode.IsDir():
			e.Mode = fs.ModeDir | 0o777
		case e.Mode.IsRegular():
			e.Mode |= 0o666
		}
		into[name] = e
	}
}
