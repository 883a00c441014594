package vulns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/reviewtest"
)

// database makes one that says that net/url.Parse is broken in every Go there is.
func database(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{
		"index/db.json":      `{"modified":"2026-01-01T00:00:00Z"}`,
		"index/modules.json": `[{"path":"stdlib","vulns":[{"id":"GO-2026-0001","modified":"2026-01-01T00:00:00Z","fixed":"99.1.0"}]}]`,
		"index/vulns.json":   `[{"id":"GO-2026-0001","modified":"2026-01-01T00:00:00Z"}]`,
		"ID/GO-2026-0001.json": `{"schema_version":"1.3.1","id":"GO-2026-0001","modified":"2026-01-01T00:00:00Z","published":"2026-01-01T00:00:00Z",
		  "aliases":["CVE-2026-1"],"summary":"URLs are read wrongly.","affected":[{"package":{"name":"stdlib","ecosystem":"Go"},
		  "ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"99.1.0"}]}],
		  "ecosystem_specific":{"imports":[{"path":"net/url","symbols":["Parse"]}]}}],
		  "database_specific":{"url":"https://example.org/GO-2026-0001"}}`,
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func change(t *testing.T) *review.Input {
	return reviewtest.Change(t, map[string]string{
		"go.mod":      "module example.org/x\n\ngo 1.26\n",
		"cmd/main.go": "package main\n\nimport \"net/url\"\n\nfunc main() {\n\told()\n}\n\nfunc old() { _, _ = url.Parse(\"a\") }\n",
	}, map[string]string{
		"cmd/main.go": "package main\n\nimport \"net/url\"\n\nfunc main() {\n\told()\n\tfresh()\n}\n\nfunc old() { _, _ = url.Parse(\"a\") }\n\nfunc fresh() {\n\t_, _ = url.Parse(\"b\")\n}\n",
	})
}

func TestCallOnAChangedLine(t *testing.T) {
	res, err := (&Checker{Database: database(t)}).Check(t.Context(), change(t))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range res.Findings {
		got = append(got, fmt.Sprintf("%s %s %s:%d %s", f.Severity, f.Rule, f.File, f.Line, f.Message))
	}
	if len(got) != 1 || !strings.HasPrefix(got[0], "error GO-2026-0001 cmd/main.go:") ||
		!strings.HasSuffix(got[0], "this call reaches net/url.Parse, which has a known vulnerability (GO-2026-0001, CVE-2026-1): URLs are read wrongly. It is mended in Go 99.1.0.") {
		t.Errorf("findings: %q; not checked: %+v", got, res.Unchecked)
	}
}

func TestWithoutADatabaseTheReportSaysSo(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		r := review.Reviewer{Checkers: []review.Checker{&Checker{Database: dir}}}
		rep, err := r.Review(t.Context(), change(t))
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Unchecked) != 1 || rep.Unchecked[0].Tool != "vulns" || !strings.HasPrefix(rep.Unchecked[0].Why, "no database: ") {
			t.Errorf("not checked: %+v", rep.Unchecked)
		}
	}
}

func TestNothingToLookUp(t *testing.T) {
	in := reviewtest.Change(t, nil, map[string]string{"README.md": "x\n", "a_test.go": "package a\n"})
	res, err := (&Checker{}).Check(t.Context(), in)
	if err != nil || len(res.Unchecked)+len(res.Findings) != 0 {
		t.Errorf("result %+v, error %v", res, err)
	}
}

func TestModuleThatCanNotBeLoadedIsNamed(t *testing.T) {
	in := change(t)
	if err := os.WriteFile(filepath.Join(in.Dir, "go.mod"), []byte("modul x\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	res, err := (&Checker{Database: database(t)}).Check(t.Context(), in)
	if err != nil || len(res.Unchecked) != 1 || res.Unchecked[0].What != "the Go module in ." {
		t.Errorf("result %+v, error %v", res, err)
	}
}

func TestRequirementsAreFoundByLine(t *testing.T) {
	r, err := decode(strings.NewReader(`
{"config":{"protocol_version":"v1.0.0"}}
{"osv":{"id":"GO-1","summary":"bad"}}
{"finding":{"osv":"GO-1","fixed_version":"v1.2.0","trace":[{"module":"example.org/dep","version":"v1.1.0"}]}}
{"finding":{"osv":"GO-1","fixed_version":"v1.2.0","trace":[{"module":"example.org/dep","version":"v1.1.0","package":"example.org/dep/p"}]}}
{"finding":{"osv":"GO-2","trace":[{"module":"example.org/other","version":"v1.0.0"}]}}
{"finding":{"osv":"GO-3","trace":[{"module":"example.org/absent","version":"v1.0.0"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	mod := "module x\n\nrequire (\n\texample.org/dep v1.1.0\n\texample.org/other v1.0.0 // indirect\n)\n"
	var got []string
	for _, f := range r.required("go.mod", []byte(mod)) {
		got = append(got, fmt.Sprintf("%d %s", f.Line, f.Message))
	}
	want := []string{
		"4 example.org/dep v1.1.0 has a known vulnerability (GO-1): bad. It is mended in v1.2.0: go get example.org/dep@v1.2.0",
		"5 example.org/other v1.0.0 has a known vulnerability (GO-2). There is no version without it yet.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}
