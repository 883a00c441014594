package goanalysis

import (
	"strings"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/appends"
	"golang.org/x/tools/go/analysis/passes/asmdecl"
	"golang.org/x/tools/go/analysis/passes/assign"
	"golang.org/x/tools/go/analysis/passes/atomic"
	"golang.org/x/tools/go/analysis/passes/bools"
	"golang.org/x/tools/go/analysis/passes/buildtag"
	"golang.org/x/tools/go/analysis/passes/cgocall"
	"golang.org/x/tools/go/analysis/passes/composite"
	"golang.org/x/tools/go/analysis/passes/copylock"
	"golang.org/x/tools/go/analysis/passes/defers"
	"golang.org/x/tools/go/analysis/passes/directive"
	"golang.org/x/tools/go/analysis/passes/errorsas"
	"golang.org/x/tools/go/analysis/passes/framepointer"
	"golang.org/x/tools/go/analysis/passes/hostport"
	"golang.org/x/tools/go/analysis/passes/httpresponse"
	"golang.org/x/tools/go/analysis/passes/ifaceassert"
	"golang.org/x/tools/go/analysis/passes/loopclosure"
	"golang.org/x/tools/go/analysis/passes/lostcancel"
	"golang.org/x/tools/go/analysis/passes/nilfunc"
	"golang.org/x/tools/go/analysis/passes/printf"
	"golang.org/x/tools/go/analysis/passes/shift"
	"golang.org/x/tools/go/analysis/passes/sigchanyzer"
	"golang.org/x/tools/go/analysis/passes/slog"
	"golang.org/x/tools/go/analysis/passes/stdmethods"
	"golang.org/x/tools/go/analysis/passes/stdversion"
	"golang.org/x/tools/go/analysis/passes/stringintconv"
	"golang.org/x/tools/go/analysis/passes/structtag"
	"golang.org/x/tools/go/analysis/passes/testinggoroutine"
	"golang.org/x/tools/go/analysis/passes/tests"
	"golang.org/x/tools/go/analysis/passes/timeformat"
	"golang.org/x/tools/go/analysis/passes/unmarshal"
	"golang.org/x/tools/go/analysis/passes/unreachable"
	"golang.org/x/tools/go/analysis/passes/unsafeptr"
	"golang.org/x/tools/go/analysis/passes/unusedresult"
	"golang.org/x/tools/go/analysis/passes/waitgroup"
	"honnef.co/go/tools/analysis/lint"
	"honnef.co/go/tools/simple"
	"honnef.co/go/tools/staticcheck"
	"honnef.co/go/tools/stylecheck"

	"github.com/bightdev/bight/internal/change/review"
)

// rule is one analyzer and what its diagnostics mean to a review.
type rule struct {
	analyzer *analysis.Analyzer
	tool     string
	severity review.Severity
	style    bool
}

// rules returns go vet's set and those of staticcheck's that are on by default.
func rules() []rule {
	var out []rule
	for _, a := range []*analysis.Analyzer{
		appends.Analyzer,
		asmdecl.Analyzer,
		assign.Analyzer,
		atomic.Analyzer,
		bools.Analyzer,
		buildtag.Analyzer,
		cgocall.Analyzer,
		composite.Analyzer,
		copylock.Analyzer,
		defers.Analyzer,
		directive.Analyzer,
		errorsas.Analyzer,
		framepointer.Analyzer,
		hostport.Analyzer,
		httpresponse.Analyzer,
		ifaceassert.Analyzer,
		loopclosure.Analyzer,
		lostcancel.Analyzer,
		nilfunc.Analyzer,
		printf.Analyzer,
		shift.Analyzer,
		sigchanyzer.Analyzer,
		slog.Analyzer,
		stdmethods.Analyzer,
		stdversion.Analyzer,
		stringintconv.Analyzer,
		structtag.Analyzer,
		testinggoroutine.Analyzer,
		tests.Analyzer,
		timeformat.Analyzer,
		unmarshal.Analyzer,
		unreachable.Analyzer,
		unsafeptr.Analyzer,
		unusedresult.Analyzer,
		waitgroup.Analyzer,
	} {
		out = append(out, rule{analyzer: a, tool: "vet", severity: vetSeverity(a.Name)})
	}
	for _, set := range [][]*lint.Analyzer{staticcheck.Analyzers, simple.Analyzers, stylecheck.Analyzers} {
		for _, a := range set {
			if a.Doc.NonDefault || inVet(a.Analyzer.Name) {
				continue
			}
			r := rule{analyzer: a.Analyzer, tool: "staticcheck", severity: lintSeverity(a.Doc.Severity)}
			if !strings.HasPrefix(a.Analyzer.Name, "SA") {
				r.severity, r.style = review.Note, true
			}
			out = append(out, r)
		}
	}
	return out
}

// inVet reports whether go vet says the same as a rule of staticcheck's, as well
// or better, at another place of the statement.
func inVet(name string) bool {
	switch name {
	case "SA1014", "SA1017", "SA1032", "SA2002", "SA4018", "SA5009":
		return true
	}
	return false
}

// vetSeverity: what go test refuses to run with is an error.
func vetSeverity(name string) review.Severity {
	switch name {
	case "atomic", "bool", "buildtags", "directive", "errorsas", "ifaceassert", "nilfunc", "printf", "stringintconv", "tests":
		return review.Error
	}
	return review.Warning
}

func lintSeverity(s lint.Severity) review.Severity {
	switch s {
	case lint.SeverityError:
		return review.Error
	case lint.SeverityInfo, lint.SeverityHint:
		return review.Note
	}
	return review.Warning
}

// cause names what rules of both sets have in common, so that a review says it
// once; "" if a rule has no counterpart.
func cause(name string) string {
	switch name {
	case "printf", "SA1006":
		return "format"
	case "structtag", "SA5008":
		return "struct tag"
	case "waitgroup", "SA2000":
		return "wait group"
	case "unusedresult", "SA4017":
		return "unused result"
	case "bools", "SA4000", "SA4022":
		return "boolean"
	case "nilfunc", "SA4023":
		return "nil comparison"
	case "httpresponse", "SA5001":
		return "defer before error"
	case "timeformat", "SA1002":
		return "time format"
	case "stdversion", "SA1019":
		return "api of a version"
	case "SA4006", "SA4009":
		return "unused value"
	case "atomic", "SA1027":
		return "atomic"
	case "appends", "SA4010":
		return "append"
	}
	return ""
}
