//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/bightdev/bight/internal/release/verdict"
)

// tried is what bight release verdict -o json says of one judge.
type tried struct {
	Judge   string          `json:"judge"`
	Same    bool            `json:"same"`
	Verdict verdict.Verdict `json:"verdict"`
	Points  []verdict.Point `json:"points"`
	Lost    int64           `json:"lost"`
	WhatIf  *verdict.Verdict
}

// tried computes the verdict on a release again, until some judge has said so.
func (b *bay) tried(is verdict.Kind, args ...string) []tried {
	b.Helper()
	var all struct {
		Judges []tried `json:"judges"`
	}
	b.eventually("the log leads to the verdict "+string(is), func() error {
		said, errs, code := b.bight(append([]string{"release", "verdict", "-o", "json"}, args...)...)
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, errs)
		}
		if err := json.Unmarshal([]byte(said), &all); err != nil {
			return err
		}
		for _, j := range all.Judges {
			if j.Same && j.Verdict.Is == is {
				return nil
			}
		}
		return fmt.Errorf("%s", said)
	})
	return all.Judges
}

// testVerdictAgain computes again what has convicted the version of the step before, with
// the cluster and without.
func testVerdictAgain(b *bay) {
	r := b.current()
	file := b.dir + "/till.log.gz"
	for _, j := range b.tried(verdict.Bad, tillNamed, "-n", b.namespace, "--save", file, "--alpha", "0.5") {
		b.Logf("%s: %s: %s; %d points", j.Judge, j.Verdict.Is, j.Verdict.Why, len(j.Points))
		if !j.Same || j.Lost > 0 || len(j.Points) == 0 {
			b.Errorf("%s: same %v, %d lost", j.Judge, j.Same, j.Lost)
		}
		if j.Verdict.Is == verdict.Bad && (j.Verdict.Why == "" || !strings.Contains(r.Status.Message, j.Verdict.Why) && r.Status.Verdict.Why != j.Verdict.Why) && j.Judge == "controller" {
			b.Errorf("the release says %q and %q, and the log %q", r.Status.Message, r.Status.Verdict.Why, j.Verdict.Why)
		}
		if j.Verdict.Is == verdict.Bad && (j.WhatIf == nil || j.WhatIf.After > j.Verdict.After) {
			b.Errorf("with an alpha of 0.5 it is %+v", j.WhatIf)
		}
	}
	said, errs, code := b.bight("release", "verdict", "--log", file)
	if code != 0 || !strings.Contains(errs, "the same, byte for byte") || !strings.Contains(said, "errors of the canary") && !strings.Contains(said, "error of the canary") {
		b.Errorf("from a file: exit code %d\n%s%s", code, said, errs)
	}
	b.Log("\n" + errs + said)
	// A word in it that is another one leads to something else.
	_, _, _ = b.bight("release", "verdict", "--log", file, "--save", b.dir+"/till.log")
	text, err := os.ReadFile(b.dir + "/till.log")
	if err != nil {
		b.Fatal(err)
	}
	b.write("forged.log", strings.ReplaceAll(string(text), `"failed":`, `"repeated":`))
	if _, errs, code := b.bight("release", "verdict", "--log", b.dir+"/forged.log"); code != 1 || !strings.Contains(errs, "leads to something else") {
		b.Errorf("forged: exit code %d\n%s", code, errs)
	}
}
