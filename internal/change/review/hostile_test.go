package review_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/contract"
	"github.com/bightdev/bight/internal/change/review/external"
	"github.com/bightdev/bight/internal/change/review/goanalysis"
	"github.com/bightdev/bight/internal/change/review/manifest"
	"github.com/bightdev/bight/internal/change/review/policy"
	"github.com/bightdev/bight/internal/change/review/reviewtest"
	"github.com/bightdev/bight/internal/change/review/sarif"
	"github.com/bightdev/bight/internal/change/review/secrets"
	"github.com/bightdev/bight/internal/change/review/vulns"
)

func everything() *review.Reviewer {
	return &review.Reviewer{
		Checkers: []review.Checker{
			&goanalysis.Checker{}, &secrets.Checker{}, &manifest.Checker{}, &policy.Checker{}, &vulns.Checker{},
			&contract.Checker{}, &external.Checker{Tool: "lint", Command: []string{"no-such-linter"}},
		},
		Gates:   []review.Gate{&policy.Gate{}},
		Timeout: time.Minute,
	}
}

func TestHostileChangesAreReviewedByAllCheckers(t *testing.T) {
	var big strings.Builder
	big.WriteString("package big\n\nvar All = []int{\n")
	for i := range 100_000 {
		fmt.Fprintf(&big, "\t%d, // line %d\n", i, i)
	}
	big.WriteString("}\n")
	deep := strings.Repeat("{\"a\":", 20_000) + "1" + strings.Repeat("}", 20_000)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"
	for name, head := range map[string]map[string]string{
		"a hundred thousand lines": {"big/big.go": big.String(), "big.txt": big.String()},
		"names":                    {"a b/\"q\".go": "package q\n", "new\nline.go": "package x\n", "-flag.go": "package x\n", "ü/ü.go": "package ü\n"},
		"bytes":                    {"x/x.go": "package x\n\nvar S = \"\xff\xfe\"\n", "nul.go": "package x\x00", "bom.go": "\ufeffpackage x\r\n\r\nvar A = 1\r\n", "empty.go": ""},
		"broken go.mod":            {"go.mod": "module\n\x00", "a.go": "package a\n"},
		"deep":                     {"openapi.json": "{\"openapi\": \"3.0.0\", \"x\": " + deep + "}", "deep.go": "package x\n\nvar X = " + strings.Repeat("(", 5000) + "1" + strings.Repeat(")", 5000) + "\n"},
		"bomb":                     {policy.DefaultDir + "/b.yaml": "apiVersion: x/v1\nkind: Bomb\n" + bomb, "openapi.yaml": "openapi: 3.0.0\n" + bomb, "bight.yaml": bomb},
		"cyclic":                   {"c/c.go": "package c\n\nimport \"example.org/x/d\"\n\nvar X = d.X\n", "d/d.go": "package d\n\nimport \"example.org/x/c\"\n\nvar X = c.X\n", "t.go": "package x\n\ntype T [2]T\n"},
		"cgo and tags":             {"c/c.go": "package c\n\n// int f(void) { return 1; }\nimport \"C\"\n\nvar X = C.f()\n", "tag/t.go": "//go:build never\n\npackage tag\n"},
	} {
		t.Run(name, func(t *testing.T) {
			in := reviewtest.Change(t, map[string]string{"go.mod": "module example.org/x\n\ngo 1.26\n", "openapi.json": "{\"openapi\": \"3.0.0\"}\n", "openapi.yaml": "openapi: 3.0.0\n"}, head)
			in.Objects = []review.Object{{Value: map[string]any{"kind": 1, "metadata": []any{}}}, {}}
			began := time.Now()
			rep, err := everything().Review(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range rep.Unchecked {
				if strings.Contains(u.Why, "it crashed") || strings.Contains(u.Why, "took longer") {
					t.Errorf("%s: %s: %s", u.Tool, u.What, u.Why)
				}
			}
			var b strings.Builder
			if err := sarif.Encode(&b, rep); err != nil {
				t.Error(err)
			}
			t.Logf("%s: %d findings, %d not checked, checks %+v", time.Since(began).Round(time.Millisecond), len(rep.Findings), len(rep.Unchecked), rep.Checks)
		})
	}
}
