package project

import (
	"path"
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
