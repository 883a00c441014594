package review_test

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

func summary(d *review.Diff) []string {
	var out []string
	for _, f := range d.Files {
		s := fmt.Sprintf("%s %q", f.Kind, f.Path)
		if f.OldPath != "" && f.OldPath != f.Path {
			s += fmt.Sprintf(" from %q", f.OldPath)
		}
		if f.Binary {
			s += " binary"
		}
		if f.Submodule() {
			s += " submodule"
		}
		if f.OldMode != f.NewMode && f.Kind == review.Modified {
			s += " " + f.OldMode + ">" + f.NewMode
		}
		for _, l := range f.Lines {
			s += fmt.Sprintf(" +%d:%q", l.N, l.Text)
		}
		if f.Removed > 0 {
			s += fmt.Sprintf(" -%d", f.Removed)
		}
		if len(f.CutAt) > 0 {
			s += fmt.Sprintf(" cut %v", f.CutAt)
		}
		out = append(out, s)
	}
	return out
}

func TestDiffOfARealRepository(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) string { t.Helper(); return reviewtest.Git(t, dir, args...) }
	write := func(name, data string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	sub := t.TempDir()
	reviewtest.Git(t, sub, "init", "-q")
	reviewtest.Git(t, sub, "commit", "-q", "--allow-empty", "-m", "1")

	git("init", "-q")
	git("submodule", "--quiet", "add", sub, "lib/sub")
	write("a b.txt", "one\ntwo\nthree\nfour\n")
	write("tab\t\"quote\".txt", "x\n")
	write("new\nline", "x\n")
	write("ümlaut", "x\n")
	write("moved/old name", strings.Repeat("same\n", 20))
	write("gone", "1\n2\n")
	write("mode", "x\n")
	write("bin", "\x00\x01")
	write("crlf", "a\r\nb\r\n")
	write("latin1", "caf\xe9\n")
	write("header", "x\n")
	git("add", "-A")
	git("commit", "-q", "-m", "base")
	base := git("rev-parse", "HEAD")

	write("a b.txt", "one\nTWO\nthree\n")
	write("tab\t\"quote\".txt", "x\ny\n")
	write("new\nline", "y\n")
	write("ümlaut", "y")
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	git("mv", "moved/old name", "moved/new name")
	if err := os.Chmod(filepath.Join(dir, "mode"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("bin", "\x00\x02")
	write("crlf", "a\r\nc\r\n")
	write("latin1", "th\xe9\n")
	write("header", "x\n++ b/evil\n-- a/evil\ndiff --git a/evil b/evil\n@@ -1 +1 @@\n")
	write("empty file", "")
	reviewtest.Git(t, filepath.Join(dir, "lib/sub"), "commit", "-q", "--allow-empty", "-m", "2")
	git("add", "-A")
	git("config", "diff.noprefix", "true")
	git("config", "color.ui", "always")
	git("config", "diff.external", "false")
	git("-c", "commit.gpgsign=false", "commit", "-q", "-m", "head")

	d, err := review.GitDiff(t.Context(), dir, base, "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`modified "a b.txt" +2:"TWO" -2 cut [3]`,
		`modified "bin" binary`,
		`modified "crlf" +2:"c" -1`,
		`added "empty file"`,
		`deleted "gone" -2 cut [0]`,
		`modified "header" +2:"++ b/evil" +3:"-- a/evil" +4:"diff --git a/evil b/evil" +5:"@@ -1 +1 @@"`,
		`modified "latin1" +1:"th\xe9" -1`,
		`modified "lib/sub" submodule +1:"Subproject commit" -1`,
		`modified "mode" 100644>100755`,
		`renamed "moved/new name" from "moved/old name"`,
		`modified "new\nline" +1:"y" -1`,
		`modified "tab\t\"quote\".txt" +2:"y"`,
		`modified "ümlaut" +1:"y" -1`,
	}
	for _, f := range d.Files {
		for i := range f.Lines {
			if f.Submodule() {
				f.Lines[i].Text = "Subproject commit"
			}
		}
	}
	if diff := cmp.Diff(want, summary(d)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDiffWithContextAndOldPrograms(t *testing.T) {
	const in = "From: someone\n\ndiff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1,4 +1,4 @@ func main() {\n a\n-b\n+B\n\n-c\n d\n+e\n\\ No newline at end of file\n"
	d, err := review.ParseDiff(strings.NewReader(strings.Replace(in, "-1,4 +1,4", "-1,5 +1,5", 1)))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`modified "x" +2:"B" +5:"e" -2 cut [3]`}
	if diff := cmp.Diff(want, summary(d)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBrokenDiffsAreRefused(t *testing.T) {
	head := "diff --git a/x b/x\n--- a/x\n+++ b/x\n"
	for name, tt := range map[string]struct{ in, want string }{
		"cut off":   {head + "@@ -1,3 +1,3 @@\n a\n", "ends early"},
		"too much":  {head + "@@ -1,1 +1,2 @@\n a\n b\n", "more lines than it says"},
		"no sign":   {head + "@@ -1 +1 @@\nxyz\n", "starts with"},
		"bad head":  {head + "@@ -1,x +1 @@\n", "not a hunk's head"},
		"huge":      {head + "@@ -1,99999999999999999999 +1 @@\n", "not a hunk's head"},
		"bad quote": {"diff --git a/x b/x\n+++ \"b/x\n", "no closing quote"},
		"merge":     {"diff --cc x\n", "diff of a merge"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := review.ParseDiff(strings.NewReader(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLongLinesAreShortened(t *testing.T) {
	in := "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -0,0 +1,2 @@\n+" + strings.Repeat("x", 3<<20) + "\n+y\n"
	d, err := review.ParseDiff(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	f := d.Files[0]
	if len(f.Lines) != 2 || len(f.Lines[0].Text) > 1<<20 || f.Lines[1].Text != "y" || !f.Cut {
		t.Errorf("%d lines, the first has %d bytes, cut %v", len(f.Lines), len(f.Lines[0].Text), f.Cut)
	}
}

func TestUnknownCommitSaysWhatGitSays(t *testing.T) {
	in := reviewtest.Change(t, nil, map[string]string{"a": "b\n"})
	for _, base := range []string{"no-such-commit", "--output=/tmp/x"} {
		_, err := review.GitDiff(t.Context(), in.Dir, base, in.Head)
		if err == nil || !strings.Contains(err.Error(), "git diff "+base) {
			t.Errorf("error is %v", err)
		}
	}
}

func TestChurnCountsCommits(t *testing.T) {
	in := reviewtest.Change(t, map[string]string{"a b": "1\n", "c": "1\n"}, map[string]string{"a b": "2\n"})
	got, err := review.GitChurn(t.Context(), in.Dir, in.Head, 24*3600e9)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"a b": 2, "c": 1}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParseDiff(f *testing.F) {
	f.Add("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n a\n-b\n")
	f.Add("diff --git \"a/\\303\\274\" \"b/\\t\"\nrename from x\nrename to \"y\\\"\"\n")
	f.Add("diff --git a/x b/x\nold mode 100644\nnew mode 160000\nBinary files differ\n")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := review.ParseDiff(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, file := range d.Files {
			for i := 1; i < len(file.Lines); i++ {
				if file.Lines[i].N <= file.Lines[i-1].N && !strings.Contains(s, "@@ -") {
					t.Errorf("lines of %q are out of order", file.Path)
				}
			}
		}
	})
}

func BenchmarkParseHundredThousandLines(b *testing.B) {
	var s strings.Builder
	s.WriteString("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -0,0 +1,100000 @@\n")
	for i := range 100_000 {
		fmt.Fprintf(&s, "+line number %d of a file that somebody generated\n", i)
	}
	in := s.String()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, err := review.ParseDiff(strings.NewReader(in)); err != nil {
			b.Fatal(err)
		}
	}
}
