package goanalysis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/reviewtest"
)

func lines(rep *review.Report) (findings, unchecked []string) {
	for _, f := range rep.Findings {
		s := fmt.Sprintf("%s %s:%d:%d %s/%s: %s", f.Severity, f.File, f.Line, f.Column, f.Tool, f.Rule, f.Message)
		if f.Why != "" {
			s += " [" + f.Why + "]"
		}
		if len(f.Fixes) > 0 {
			s += fmt.Sprintf(" {%s}", f.Fixes[0].Message)
		}
		findings = append(findings, s)
	}
	for _, u := range rep.Unchecked {
		unchecked = append(unchecked, u.What+": "+u.Why)
	}
	return findings, unchecked
}

func run(t *testing.T, in *review.Input) *review.Report {
	t.Helper()
	r := review.Reviewer{Checkers: []review.Checker{&Checker{}}}
	rep, err := r.Review(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestFindingsAreOnChangedLinesAndOnePerCause(t *testing.T) {
	got, unchecked := lines(run(t, reviewtest.Load(t, "testdata/findings.txtar")))
	want := []string{
		`error cart/cart.go:16:14 vet/printf: fmt.Printf format %d has arg "of this change" of wrong type string`,
		`error cart/cart.go:17:13 vet/printf: example.org/shop/log.Infof format %s has arg 7 of wrong type int`,
		`warning cart/cart.go:5:2 staticcheck/SA1019: io/ioutil has been deprecated since Go 1.19: ` +
			`As of Go 1.16, the same functionality is now provided by package [io] or package [os], and those implementations ` +
			`should be preferred in new code. See the specific function documentation for details.`,
		`warning cart/cart.go:18:2 staticcheck/SA1019: example.org/shop/log.Old is deprecated: use Infof.`,
		`warning cart/cart.go:20:2 vet/assign: self-assignment of x {Remove self-assignment}`,
		`warning cart/cart_test.go:8:3 vet/testinggoroutine: call to (*testing.T).Fatal from a non-test goroutine`,
		`note cart/cart.go:27:2 staticcheck/S1006: should use for {} instead of for true {}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	want = []string{
		"cart/windows_windows.go: it is not part of a build on this machine (build constraints or file name), " +
			"so its package was analysed without it",
	}
	if diff := cmp.Diff(want, unchecked); diff != "" {
		t.Errorf("not checked (-want +got):\n%s", diff)
	}
}

func TestCodeThatDoesNotCompileGivesFindings(t *testing.T) {
	got, unchecked := lines(run(t, reviewtest.Load(t, "testdata/broken.txtar")))
	want := []string{
		`error cart/a.go:5:23 go/compile: undefined: helper (and at 2 more places) ` +
			`[the change touches package example.org/shop/cart, which does not compile]`,
		"error cart/b.go:3:8 go/compile: could not import example.org/missing " +
			"(no required module provides package example.org/missing; to add it:\n\tgo get example.org/missing)",
		`error cart/b.go:5:32 go/compile: undefined: undefinedThing`,
		`error fine/fine.go:5:24 vet/printf: fmt.Printf format %d has arg "x" of wrong type string`,
		`error syntax/syntax.go:3:9 go/compile: expected ')', found '{'`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	want = []string{
		"example.org/shop/cart: it does not compile, so vet and staticcheck did not look at it",
		"example.org/shop/syntax: it does not compile, so vet and staticcheck did not look at it",
	}
	if diff := cmp.Diff(want, unchecked); diff != "" {
		t.Errorf("not checked (-want +got):\n%s", diff)
	}
}

func TestBrokenGoMod(t *testing.T) {
	in := reviewtest.Change(t, map[string]string{
		"go.mod": "module example.org/x\n\ngo 1.26\n",
		"a.go":   "package x\n",
	}, map[string]string{
		"go.mod": "module example.org/x\n\ngoo 1.26\n",
		"a.go":   "package x\n\nvar X = 1\n",
	})
	got, unchecked := lines(run(t, in))
	if len(got) != 1 || !strings.HasPrefix(got[0], "error go.mod:3:0 go/go.mod: unknown directive: goo") {
		t.Errorf("findings: %q", got)
	}
	if len(unchecked) != 1 || !strings.Contains(unchecked[0], "the Go module in .: go list:") {
		t.Errorf("not checked: %q", unchecked)
	}
}

func TestFilesOutsideAnyModuleAreNamed(t *testing.T) {
	in := reviewtest.Change(t, nil, map[string]string{"a/a.go": "package a\n", "testdata/b.go": "package b\n"})
	_, unchecked := lines(run(t, in))
	want := []string{"a/a.go: it is in no Go module: there is no go.mod above it"}
	if diff := cmp.Diff(want, unchecked); diff != "" {
		t.Errorf("not checked (-want +got):\n%s", diff)
	}
}

func TestCancelledContextEndsTheCheck(t *testing.T) {
	in := reviewtest.Load(t, "testdata/findings.txtar")
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("superseded")
	cancel(stop)
	if _, err := (&Checker{}).Check(ctx, in); !errors.Is(err, stop) {
		t.Errorf("error is %v, want %v", err, stop)
	}
}

func TestModModIsNotPassedOn(t *testing.T) {
	c := Checker{Env: []string{"A=b", "GOFLAGS=-p=1 -mod=mod -tags=x"}}
	want := []string{"A=b", "GOFLAGS=-p=1 -tags=x"}
	if diff := cmp.Diff(want, c.environ()); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}
