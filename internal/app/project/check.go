package project

import (
	"path"
	"slices"
	"strings"

	"github.com/bightdev/bight/internal/app"
)

func (f *File) checkLabel(d *decoder, at, what, name string) {
	switch {
	case len(name) > app.MaxLabel:
		d.fail(f.at[at], "%s %q has %d characters; Kubernetes allows %d", what, name, len(name), app.MaxLabel)
	case !app.ValidLabel(name):
		hint := ""
		if l := app.Label(name); l != "" {
			hint = "; " + l + " would do"
		}
		d.fail(f.at[at], "%s %q is no DNS label (a-z, 0-9 and dashes, a letter first)%s", what, name, hint)
	}
}

func (f *File) checkEnvName(d *decoder, at, name string) {
	if !app.ValidEnvName(name) {
		d.fail(f.at[at], "%q is no name for an environment variable", name)
	}
}

func (f *File) checkDir(d *decoder, at, dir string) {
	c := path.Clean(dir)
	if path.IsAbs(c) || c == ".." || strings.HasPrefix(c, "../") {
		d.fail(f.at[at], "%q is outside of the app's directory; write a path relative to %s", dir, Name)
	}
}

func (f *File) checkTest(d *decoder, at string, s Service) {
	if _, set := f.at[at+".test"]; set && strings.TrimSpace(s.Test) == "" && !d.bad[at+".test"] {
		d.fail(f.at[at+".test"], "test is empty; write a command, such as npm test")
	}
	if s.TestReport == "" {
		return
	}
	if s.Test == "" {
		d.fail(f.at[at+".testReport"], "testReport is what test writes, and there is no test")
	}
	f.checkDir(d, at+".testReport", s.TestReport)
	if _, err := path.Match(s.TestReport, ""); err != nil {
		d.fail(f.at[at+".testReport"], "%q is no pattern of file names", s.TestReport)
	}
}

// maxLinters is how many linters an app may have.
const maxLinters = 20

// ownTools are the names that Bight's own findings are known by.
var ownTools = []string{"go", "staticcheck", "vet", "secrets", "manifest", "policy", "gate", "vulns", "contract", "image", "risk", "review"}

func (f *File) checkLinters(d *decoder) {
	if len(f.Linters) > maxLinters {
		d.fail(f.at["linters"], "%d linters are more than the %d that are read", len(f.Linters), maxLinters)
		return
	}
	for name, l := range f.Linters {
		at := "linters." + name
		f.checkLabel(d, at, "the linter's name", name)
		if slices.Contains(ownTools, name) {
			d.fail(f.at[at], "linter %s has the name of one that Bight has itself; give it another", name)
		}
		if (len(l.Command) == 0 || l.Command[0] == "") && !d.bad[at] && !d.bad[at+".command"] {
			d.fail(f.first(at+".command", at), "linter %s has no command; write command: [PROGRAM, ARG, \"{files}\"]", name)
		}
		if n := strings.Count(strings.Join(l.Command, "\x00"), "{output}"); n > 1 {
			d.fail(f.at[at+".command"], "linter %s has {output} %d times; once is enough", name, n)
		}
	}
}

// assetPair splits PATH:AS; AS is PATH when it is absent.
func assetPair(s string) (from, as string) {
	from, as, ok := strings.Cut(s, ":")
	if !ok {
		as = from
	}
	return path.Clean(from), path.Clean(as)
}

// validQuantity reports whether s is a positive Kubernetes quantity of bytes.
func validQuantity(s string) bool {
	i := 0
	dot, digit, positive := false, false, false
	for ; i < len(s); i++ {
		c := s[i]
		if c == '.' && !dot && digit {
			dot = true
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		digit = true
		positive = positive || c != '0'
	}
	if !positive || s[i-1] == '.' {
		return false
	}
	switch s[i:] {
	case "", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei":
		return true
	}
	return false
}

// didYouMean suggests the nearest of the allowed names, or nothing.
func didYouMean(got string, allowed []string) string {
	best, distance := "", 3
	for _, a := range allowed {
		if n := edits(strings.ToLower(got), a); n < distance && n < len(a) {
			best, distance = a, n
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// edits is how many insertions, deletions, replacements and swaps of neighbours
// turn a into b.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			n := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				n = min(n, rows[i-2][j-2]+1)
			}
			rows[i][j] = n
		}
	}
	return rows[len(a)][len(b)]
}
