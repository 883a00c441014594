package worker

import (
	"testing"

	"github.com/bightdev/bight/internal/change/review"
)

// Who is refused by a rule of the team's own is told where that is; one of ours has a name to look for.
func TestAFindingOfAPolicySaysWhereTheRuleIs(t *testing.T) {
	f := review.Finding{
		Tool: "policy", Rule: "few-replicas", Severity: review.Error, Message: "at most two replicas", File: "bight.yaml", Line: 3,
		Why: "the change alters Deployment cart; the rule is at .bight/policies/replicas.yaml:12",
	}
	want := "bight.yaml:3: error: at most two replicas (policy few-replicas: the change alters Deployment cart; the rule is at .bight/policies/replicas.yaml:12)"
	if got := line(f); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	f.Tool, f.Rule = "manifest", "schema"
	if got, want := line(f), "bight.yaml:3: error: at most two replicas (manifest schema)"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestWhatWasNotCheckedIsNamed(t *testing.T) {
	for want, u := range map[string]review.Unchecked{
		"not checked by secrets: big.log: its content was not searched": {Tool: "secrets", What: "big.log", Why: "its content was not searched"},
		"not checked by go: package x does not compile":                 {Tool: "go", What: "x", Why: "package x does not compile"},
		"not checked by vulns: no database":                             {Tool: "vulns", Why: "vulns: no database"},
	} {
		if got := unchecked(u); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
