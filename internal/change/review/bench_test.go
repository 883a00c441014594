package review_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/goanalysis"
	"github.com/bightdev/bight/internal/change/review/policy"
	"github.com/bightdev/bight/internal/change/review/reviewtest"
	"github.com/bightdev/bight/internal/change/review/secrets"
)

// BenchmarkOneLineChange reviews a one-line change of one service of the example
// application. The build cache is warm but for the changed package, which is
// another one each time. The checkers' own times are reported beside the whole.
func BenchmarkOneLineChange(b *testing.B) {
	dir := b.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../../examples/shop")); err != nil {
		b.Fatal(err)
	}
	reviewtest.Git(b, dir, "init", "-q")
	reviewtest.Git(b, dir, "add", "-A")
	reviewtest.Git(b, dir, "commit", "-q", "-m", "base")
	name := filepath.Join(dir, "cart", "main.go")
	src, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	r := &review.Reviewer{
		Checkers: []review.Checker{&goanalysis.Checker{}, &secrets.Checker{}, &policy.Checker{}},
		Gates:    []review.Gate{&policy.Gate{}},
	}
	millis := map[string]int64{}
	diffs := 0.0
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		if err := os.WriteFile(name, fmt.Appendf(src, "\nfunc fresh() { fmt.Printf(\"%%d\", \"%d\") }\n", i), 0o666); err != nil {
			b.Fatal(err)
		}
		reviewtest.Git(b, dir, "commit", "-q", "-a", "-m", "head")
		b.StartTimer()
		in := reviewtest.Between(b, dir, "HEAD~1", "HEAD")
		rep, err := r.Review(b.Context(), in)
		if err != nil {
			b.Fatal(err)
		}
		if len(rep.Findings) == 0 {
			b.Fatalf("nothing was found: %+v", rep.Unchecked)
		}
		for _, c := range rep.Checks {
			millis[c.Tool] += c.Millis
		}
		diffs++
	}
	for tool, ms := range millis {
		b.ReportMetric(float64(ms)/diffs, tool+"-ms/op")
	}
}
