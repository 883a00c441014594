package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/tests"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

// testOptions are the flags of bight test.
type testOptions struct {
	junit   string
	noCache bool
	verbose bool
	json    bool
}

func (p *Program) testCommand() *cobra.Command {
	var o testOptions
	var output, dir string
	c := &cobra.Command{
		Use:   "test [SERVICE...]",
		Short: "Run the tests whose inputs are not known to pass",
		Long: `Run the tests of the app, or of the services named: those of its Go packages, and the
test commands of bight.yaml. It takes this machine's toolchains and no cluster.

A package whose tests can read nothing that has changed is not run again, and the
result says whose it is. What passed here is not run again by bight ship on this machine
either, as long as the commit has the same files.

A service's tests are its own command, those of the packages below its directory, and
those of the app's packages that its program is made of. Exit code 0: they passed, or
there are none; 1: one failed.`,
		Example: `  bight test
  bight test cart --junit cart.xml
  bight test --no-cache -v`,
		RunE: func(c *cobra.Command, args []string) error {
			source, err := directory([]string{dir})
			if err != nil {
				return err
			}
			o.json = output == "json"
			return p.runTest(c.Context(), source, args, o)
		},
		ValidArgsFunction: completeServices(&dir, -1),
	}
	sourceFlag(c, &dir)
	c.Flags().StringVar(&o.junit, "junit", "", "write the results to this file, as JUnit XML")
	c.Flags().BoolVar(&o.noCache, "no-cache", false, "run all tests, also those that are known to pass")
	c.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "show on stderr what the tests print")
	p.outputFlag(c, &output)
	return c
}

// resultsDir is where this user's workers, and bight test, keep what tests have shown.
func resultsDir() (string, error) {
	dir, err := cacheDir()
	return filepath.Join(dir, "worker-results"), err
}

func (o testOptions) check() error {
	if o.junit == "" {
		return nil
	}
	if info, err := os.Stat(filepath.Dir(o.junit)); err != nil || !info.IsDir() {
		return usageError("--junit %s: there is no directory %s; name a file in one that exists", o.junit, filepath.Dir(o.junit))
	}
	if info, err := os.Stat(o.junit); err == nil && info.IsDir() {
		return usageError("--junit %s is a directory; name a file", o.junit)
	}
	return nil
}

func (p *Program) runTest(ctx context.Context, dir string, services []string, o testOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	a, err := session.Plan(ctx, dir)
	if err != nil {
		return err
	}
	printer := p.printer(o.json, nil)
	defer printer.Close()
	source, units, err := findTests(ctx, a, dir, services)
	if err != nil {
		return err
	}
	runner, err := p.tester(a, source, o)
	if err != nil {
		return err
	}
	task := printer.Task(term.Test, "", "running the tests of "+term.Count(len(units), "package"))
	got, err := runner.Run(ctx, units)
	task.Drop()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return codedError{code: exitInterrupted, err: context.Canceled, silent: true}
	}
	if o.junit != "" {
		if err := writeJUnit(o.junit, got); err != nil {
			return err
		}
	}
	return concludeTest(printer, got)
}

// findTests finds the tests of the services named, or all.
func findTests(ctx context.Context, a *app.App, dir string, services []string) (suite.Source, []suite.Unit, error) {
	var chosen []*app.Service
	for _, name := range services {
		s := a.Service(name)
		if s == nil {
			e := &session.UnknownServiceError{Name: name, Dir: dir}
			for _, s := range a.Services {
				e.Known = append(e.Known, s.Name)
			}
			return suite.Source{}, nil, e
		}
		chosen = append(chosen, s)
	}
	source := tests.Of(a, dir)
	units, err := source.Discover(ctx)
	if err == nil && len(chosen) > 0 {
		units, err = tests.Choose(ctx, source, units, chosen)
	}
	return source, units, err
}

// tester makes what runs the tests, with the results that bight ship has here, too.
func (p *Program) tester(a *app.App, source suite.Source, o testOptions) (*suite.Runner, error) {
	dir, err := resultsDir()
	if err != nil {
		return nil, err
	}
	var store suite.Store = tests.Results(dir)
	if o.noCache {
		store = unread{store}
	}
	r := &suite.Runner{
		Source: source, Trust: suite.Trusted, From: "what bight test tested", Cache: &suite.Cache{Store: store},
		History: tests.History(dir, a.Name, a.Name),
	}
	if o.verbose {
		r.Output = p.Stderr
	}
	return r, nil
}

// unread is a store of results that nobody wants to know, and that are kept.
type unread struct{ suite.Store }

func (unread) Get(context.Context, string) ([]byte, error) { return nil, fs.ErrNotExist }

func writeJUnit(file string, got *suite.Result) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write the results as JUnit: %w", err)
	}
	if err := errors.Join(suite.WriteJUnit(f, got), f.Close()); err != nil {
		return fmt.Errorf("write the results as JUnit to %s: %w", file, err)
	}
	return nil
}

// concludeTest prints a result, and makes an error of one that did not pass.
func concludeTest(printer *term.Printer, got *suite.Result) error {
	for _, note := range got.Notes {
		printer.Note("", note)
	}
	for _, u := range got.Units {
		showFailures(printer, u)
	}
	if err := printer.Data(got, testTable(got)); err != nil {
		return err
	}
	if got.Status == suite.Passed {
		if len(got.Units) > 0 {
			printer.Event(term.Event{
				Type: term.Test, Text: got.Text(), Why: got.Known(), Cached: got.Known() != "",
				Took: time.Duration(got.Seconds * float64(time.Second)),
			})
		}
		return nil
	}
	text := term.Count(got.Counts.Failed, "test") + " failed in " + term.Count(len(got.FailedIn()), "package")
	if got.Counts.Failed == 0 {
		text = term.Count(len(got.FailedIn()), "package") + " failed"
	}
	return codedError{code: exitFailed, err: fmt.Errorf("%s; %d passed", text, got.Counts.Passed)}
}

// showFailures prints what failed of a unit, with what it printed.
func showFailures(printer *term.Printer, u suite.UnitResult) {
	if u.Status == suite.Passed {
		return
	}
	if u.Reason != "" {
		printer.Fail("", errors.New(u.Name+": "+u.Reason), strings.Join(u.Output, "\n"), "")
	}
	for i, t := range u.Tests {
		if t.Status != suite.Failed && t.Status != suite.Stopped {
			continue
		}
		// Of a test with failed subtests these say what happened.
		if slices.ContainsFunc(u.Tests[i+1:], func(s suite.Test) bool { return strings.HasPrefix(s.Name, t.Name+"/") && s.Status == suite.Failed }) {
			continue
		}
		where := u.Name
		if t.File != "" {
			where = fmt.Sprintf("%s:%d", t.File, t.Line)
		}
		text := where + ": " + t.Name
		if t.Flaky {
			text += " is flaky: it failed, and passed when it was run again"
		}
		printer.Fail("", errors.New(text), strings.Join(t.Output, "\n"), "")
	}
}

// testTable has a line for each unit that was run, and one for those that were known.
func testTable(got *suite.Result) *term.Table {
	table := &term.Table{Head: []string{"TESTS OF", "RESULT", "TESTS", "TOOK", "WHY"}, Empty: "there are no tests"}
	known := map[string][]suite.UnitResult{}
	var whys []string
	for _, u := range got.Units {
		if u.Cached != "" {
			if known[u.Cached] == nil {
				whys = append(whys, u.Cached)
			}
			known[u.Cached] = append(known[u.Cached], u)
			continue
		}
		table.Rows = append(table.Rows, []string{u.Name, string(u.Status), fmt.Sprint(u.Count()), fmt.Sprintf("%.2f s", u.Seconds), ""})
	}
	for _, why := range whys {
		name, tests := known[why][0].Name, 0
		for _, u := range known[why] {
			tests += u.Count()
		}
		if n := len(known[why]); n > 1 {
			name = term.Count(n, "package")
		}
		table.Rows = append(table.Rows, []string{name, string(suite.Passed), fmt.Sprint(tests), "", why})
	}
	return table
}
