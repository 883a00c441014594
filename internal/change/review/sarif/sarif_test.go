package sarif

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/change/review"
)

func report() *review.Report {
	return &review.Report{
		Findings: []review.Finding{
			{
				Rule: "SA1", Tool: "staticcheck", Severity: review.Error, Message: "bad <thing>", URL: "https://example.org/SA1",
				File: "a dir/ü%:x.go", Line: 3, Column: 2, EndLine: 3, EndColumn: 9, Fingerprint: "f1",
				Fixes: []review.Fix{{Message: "mend it", Edits: []review.Edit{
					{File: "a dir/ü%:x.go", Line: 3, Column: 2, EndLine: 3, EndColumn: 9, New: ""},
					{File: "b.go", Line: 1, Column: 1, EndLine: 1, EndColumn: 1, New: "x\n"},
				}}},
			},
			{Rule: "SA1", Tool: "staticcheck", Severity: review.Note, Message: "again", URL: "https://example.org/SA1", File: "c:d.go", Line: 1},
			{Rule: "p", Tool: "policy", Severity: review.Warning, Message: "m", Object: "Deployment cart", Why: "the change adds it", Fingerprint: "f2"},
		},
		Unchecked: []review.Unchecked{{Tool: "vulns", Why: "no database"}, {Tool: "go", What: "cart", Why: "does not compile"}},
		Checks:    []review.Check{{Tool: "go"}, {Tool: "vulns", Failed: "no database"}},
	}
}

func TestFindingsSurviveTheWayThereAndBack(t *testing.T) {
	var b bytes.Buffer
	if err := Encode(&b, report()); err != nil {
		t.Fatal(err)
	}
	got, err := Decode(&b, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(report().Findings, got.Findings); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	want := []review.Unchecked{
		{Tool: "go", Why: "cart: not checked: does not compile"},
		{Tool: "vulns", Why: "not checked: no database"},
	}
	if diff := cmp.Diff(want, got.Unchecked); diff != "" {
		t.Errorf("not checked (-want +got):\n%s", diff)
	}
}

// The rules of the standard's schema for what we write: required properties,
// allowed names, ranges, and indices that lead somewhere.
func TestDocumentKeepsTheRulesOfTheFormat(t *testing.T) {
	var b bytes.Buffer
	if err := Encode(&b, report()); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, problem := range structure(doc) {
		t.Error(problem)
	}
	var empty bytes.Buffer
	if err := Encode(&empty, &review.Report{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(empty.String(), `"runs": []`) {
		t.Errorf("a report without tools has no list of runs:\n%s", empty.String())
	}
}

// structure checks a document against those rules of the standard that concern
// the properties that we write.
func structure(doc map[string]any) []string {
	var out []string
	fail := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if doc["version"] != "2.1.0" {
		fail("version is %v", doc["version"])
	}
	for _, r := range list(doc["runs"]) {
		driver := object(object(r["tool"])["driver"])
		if s, _ := driver["name"].(string); s == "" {
			fail("a run's tool.driver.name is empty")
		}
		rules := list(driver["rules"])
		var ids []string
		for _, rule := range rules {
			ids = append(ids, fmt.Sprint(rule["id"]))
		}
		slices.Sort(ids)
		if len(slices.Compact(slices.Clone(ids))) != len(ids) {
			fail("rules are not unique: %v", ids)
		}
		if r["columnKind"] != "unicodeCodePoints" && r["columnKind"] != "utf16CodeUnits" {
			fail("columnKind is %v", r["columnKind"])
		}
		for _, inv := range list(r["invocations"]) {
			if _, ok := inv["executionSuccessful"].(bool); !ok {
				fail("an invocation has no executionSuccessful")
			}
		}
		if _, ok := r["results"].([]any); !ok {
			fail("a run has no list of results")
		}
		for _, res := range list(r["results"]) {
			out = append(out, resultStructure(res, rules)...)
		}
	}
	return out
}

func resultStructure(res map[string]any, rules []map[string]any) []string {
	var out []string
	if object(res["message"])["text"] == nil {
		out = append(out, "a result has no message.text")
	}
	if !slices.Contains([]any{"none", "note", "warning", "error"}, res["level"]) {
		out = append(out, fmt.Sprintf("level is %v", res["level"]))
	}
	if i, ok := res["ruleIndex"].(float64); !ok || int(i) >= len(rules) || rules[int(i)]["id"] != res["ruleId"] {
		out = append(out, fmt.Sprintf("ruleIndex %v is not rule %v", res["ruleIndex"], res["ruleId"]))
	}
	locations := list(res["locations"])
	for _, f := range list(res["fixes"]) {
		changes := list(f["artifactChanges"])
		if len(changes) == 0 {
			out = append(out, "a fix has no artifactChanges")
		}
		for _, c := range changes {
			if len(list(c["replacements"])) == 0 {
				out = append(out, "an artifact change has no replacements")
			}
			locations = append(locations, map[string]any{"physicalLocation": c})
		}
	}
	for _, l := range locations {
		p := object(l["physicalLocation"])
		uri := fmt.Sprint(object(p["artifactLocation"])["uri"])
		if u, err := url.Parse(uri); err != nil || u.Scheme != "" || strings.ContainsAny(uri, " \"<>\\^`{|}") {
			out = append(out, "not a URI reference: "+uri)
		}
		if region, ok := p["region"].(map[string]any); ok {
			for k, v := range region {
				if n, ok := v.(float64); !ok || n < 1 {
					out = append(out, fmt.Sprintf("region.%s is %v", k, v))
				}
			}
		}
	}
	return out
}

func object(v any) map[string]any { m, _ := v.(map[string]any); return m }

func list(v any) []map[string]any {
	var out []map[string]any
	l, _ := v.([]any)
	for _, x := range l {
		out = append(out, object(x))
	}
	return out
}

func TestDecodeOfWhatOthersWrite(t *testing.T) {
	doc := "\xef\xbb\xbf" + `{"version":"2.1.0","runs":[{
	  "tool":{"driver":{"name":"lint","rules":[
	    {"id":"r0","defaultConfiguration":{"level":"error"},"messageStrings":{"default":{"text":"use {0}, not {1}"}}},
	    {"id":"r1","helpUri":"https://example.org/r1"}]}},
	  "originalUriBaseIds":{"HERE":{"uri":"file:///src/app/"}},
	  "results":[
	    {"ruleIndex":0,"message":{"id":"default","arguments":["x","y"]},"locations":[{"physicalLocation":{"artifactLocation":{"uri":"a.js","uriBaseId":"HERE"},"region":{"startLine":2,"endColumn":4}}}]},
	    {"rule":{"id":"r1"},"level":"note","message":{"text":"m"},"locations":[{"physicalLocation":{"artifactLocation":{"uri":"file:///src/b%20c.js"},"region":{"startLine":-4}}}]},
	    {"ruleId":"new","message":{"text":"n"},"fixes":[{"artifactChanges":[{"artifactLocation":{"uri":"a"},"replacements":[{"deletedRegion":{"charOffset":3}}]}]}]},
	    {"ruleId":"passed","kind":"pass","message":{"text":"fine"}},
	    {"ruleId":"off","level":"none","message":{"text":"fine"}},
	    {"ruleId":"known","message":{"text":"fine"},"suppressions":[{"kind":"inSource"}]}],
	  "invocations":[{"executionSuccessful":false}]}]}`
	got, err := Decode(strings.NewReader(doc), "/src")
	if err != nil {
		t.Fatal(err)
	}
	want := review.Result{
		Findings: []review.Finding{
			{Rule: "r0", Tool: "lint", Severity: review.Error, Message: "use x, not y", File: "app/a.js", Line: 2, EndLine: 2, EndColumn: 4},
			{Rule: "r1", Tool: "lint", Severity: review.Note, Message: "m", URL: "https://example.org/r1", File: "b c.js"},
			{Rule: "new", Tool: "lint", Severity: review.Warning, Message: "n"},
		},
		Unchecked: []review.Unchecked{{Tool: "lint", Why: "the tool says that its run failed, and not why"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMessageDoesNotGrowWithoutEnd(t *testing.T) {
	m := Message{Text: "{0} {x} {9}"}
	for i := range 100 {
		m.Arguments = append(m.Arguments, fmt.Sprintf("{%d}{%d}", i+1, i+1))
	}
	if got, want := m.text(nil), "{1}{1} {x} {10}{10}"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	long := Message{Text: strings.Repeat("ä", maxText)}
	if got := long.text(nil); len(got) > maxText+3 {
		t.Errorf("%d bytes are kept", len(got))
	}
}

func FuzzDecode(f *testing.F) {
	var b bytes.Buffer
	if err := Encode(&b, report()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.String())
	f.Add(`{"version":"2.1.0","runs":[{"results":[{"ruleIndex":-1}]}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		res, err := Decode(strings.NewReader(s), "/src")
		if err == nil {
			if err := Encode(&bytes.Buffer{}, &review.Report{Findings: res.Findings, Unchecked: res.Unchecked}); err != nil {
				t.Error(err)
			}
		}
	})
}
