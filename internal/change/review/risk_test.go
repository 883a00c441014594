package review

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/app"
)

// touch makes a change of n lines of a file, from line 10 on.
func touch(path string, n int) *FileDiff {
	f := &FileDiff{Path: path, OldPath: path, Kind: Modified}
	for i := range n {
		f.Lines = append(f.Lines, Line{N: 10 + i, Text: "x"})
	}
	return f
}

func shop() *app.App {
	service := func(name string, to ...string) *app.Service {
		s := &app.Service{Name: name, Source: app.Source{Dir: name}, Build: app.Build{Kind: app.BuildGo, Module: "."}}
		for i, t := range to {
			s.Links = append(s.Links, app.Link{To: t, From: app.From{File: name + "/main.go", Line: 20 + i}})
		}
		return s
	}
	return &app.App{Services: []*app.Service{service("cart"), service("checkout", "cart", "payment"), service("frontend", "checkout"), service("payment")}}
}

func TestRisk(t *testing.T) {
	for _, tt := range []struct {
		name  string
		facts Facts
		score int
		want  []string
	}{
		{"nothing", Facts{}, 0, nil},
		{"documents", Facts{App: shop(), Diff: &Diff{Files: []*FileDiff{touch("README.md", 500), touch("docs/x.go", 9), touch("LICENSE", 3)}}}, 0, nil},
		{"a line with its test", Facts{App: shop(), Diff: &Diff{Files: []*FileDiff{touch("cart/main.go", 1), touch("cart/main_test.go", 5)}}}, 3, []string{
			"2 cart/main.go:10 1 service change: cart",
			"1 checkout/main.go:20 checkout, which does not change, calls cart",
		}},
		{"a line without", Facts{App: shop(), Diff: &Diff{Files: []*FileDiff{touch("payment/main.go", 1)}}}, 7, []string{
			"4 payment/main.go:10 1 line of code change and no test beside them does (1 file)",
			"2 payment/main.go:10 1 service change: payment",
			"1 checkout/main.go:21 checkout, which does not change, calls payment",
		}},
		{"shared code", Facts{App: shop(), Diff: &Diff{Files: []*FileDiff{touch("internal/money/money.go", 1), touch("internal/money/money_test.go", 1)}}}, 11, []string{
			"11 internal/money/money.go:10 4 services change: cart, checkout, frontend, payment",
		}},
		{"app in a directory", Facts{App: shop(), AppDir: "src", Diff: &Diff{Files: []*FileDiff{touch("src/cart/a.go", 1), touch("src/cart/a_test.go", 1), touch("cart/b.go", 1), touch("cart/b_test.go", 1)}}}, 3, []string{
			"2 src/cart/a.go:10 1 service change: cart",
			"1 src/checkout/main.go:20 checkout, which does not change, calls cart",
		}},
		{"size", Facts{Diff: &Diff{Files: []*FileDiff{touch("a.css", 160)}}}, 12, []string{"12 a.css:10 160 lines of code change in 1 file"}},
		{"no end of size", Facts{Diff: &Diff{Files: []*FileDiff{touch("a.css", 100_000)}}}, 20, []string{"20 a.css:10 100000 lines of code change in 1 file"}},
		{"history", Facts{Churn: map[string]int{"a.css": 40, "b.css": 20, "c.css": 30}, Diff: &Diff{Files: []*FileDiff{touch("b.css", 1), touch("a.css", 1), touch("c.css", 1), touch("d.css", 1)}}}, 10, []string{
			"5 a.css:10 a.css has changed in 40 recent commits",
			"5 c.css:10 c.css has changed in 30 recent commits",
		}},
		{"sensitive", Facts{Diff: &Diff{Files: []*FileDiff{touch("db/migrations/1.up", 1), touch("go.sum", 1), touch("go.mod", 1), touch("x/auth.css", 1),
			touch("config/a.css", 1), touch("Dockerfile", 1), touch("api.proto", 1), touch("k8s/a.yaml", 1), touch("author.css", 1)}}}, 59, []string{
			"15 db/migrations/1.up:10 a migration of stored data changes (1 file)",
			"12 x/auth.css:10 who may do what changes (1 file)",
			"8 Dockerfile:10 how it is built or shipped changes (1 file)",
			"8 go.sum:10 what the code is made of: dependencies changes (2 files)",
			"6 api.proto:10 a contract between services changes (1 file)",
			"6 k8s/a.yaml:10 what runs in the cluster changes (1 file)",
			"4 config/a.css:10 configuration changes (1 file)",
		}},
		{"submodule and test that go", Facts{Diff: &Diff{Files: []*FileDiff{{Path: "lib", NewMode: modeSubmodule, Kind: Modified}, {Path: "a_test.go", Kind: Deleted, Removed: 3}}}}, 15, []string{
			"10 lib:0 the submodule lib moves to another commit, whose content this review has not seen",
			"5 a_test.go:0 the test a_test.go is removed",
		}},
		{"findings", Facts{Findings: []Finding{{Severity: Error, Rule: "e", File: "f", Line: 3}, {Severity: Warning, Rule: "w"}, {Severity: Warning}, {Severity: Note}}}, 21, []string{
			"15 f:3 the review has 1 error, the first is e",
			"6 :0 the review has 2 warnings, the first is w",
		}},
		{"no end of findings", Facts{Findings: []Finding{{Severity: Error, Rule: "e"}, {Severity: Error}, {Severity: Error}, {Severity: Error}, {Severity: Warning}}}, 40, []string{
			"40 :0 the review has 4 errors, the first is e",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.facts.Diff == nil {
				tt.facts.Diff = &Diff{}
			}
			got := Assess(tt.facts)
			var reasons []string
			sum := 0
			for _, r := range got.Reasons {
				reasons = append(reasons, fmt.Sprintf("%d %s:%d %s", r.Points, r.File, r.Line, r.Why))
				sum += r.Points
			}
			if diff := cmp.Diff(tt.want, reasons); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
			if got.Score != tt.score || got.Score != min(sum, 100) {
				t.Errorf("score is %d, want %d; the points add up to %d", got.Score, tt.score, sum)
			}
		})
	}
}

func TestRiskHasAnEnd(t *testing.T) {
	f := Facts{App: shop(), Churn: map[string]int{}, Diff: &Diff{}}
	for i := range 200 {
		for _, p := range []string{"db/migrations/%d.go", "auth/%d.go", "cart/%d.go", "payment/%d.go", "checkout/%d.go", "k8s/%d.yaml", "config/%d.go", "go.mod", "Dockerfile", "x%d.proto"} {
			if p != "go.mod" && p != "Dockerfile" {
				p = fmt.Sprintf(p, i)
			}
			f.Diff.Files = append(f.Diff.Files, touch(p, 50))
			f.Churn[p] = 100
			f.Findings = append(f.Findings, Finding{Severity: Error})
		}
	}
	if got := Assess(f); got.Score != 100 || len(got.Reasons) > 30 {
		t.Errorf("score %d, %d reasons", got.Score, len(got.Reasons))
	}
}
