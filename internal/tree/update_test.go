package tree

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestUpdateEqualsReadingAnew makes random changes and tells Update of them, as
// files or by the directory that they are in.
func TestUpdateEqualsReadingAnew(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	opts := Options{Ignore: func(p string, _ bool) bool { return strings.Contains(p, "ignored") }}
	have, _ := read(t, dir, opts)
	names := []string{"a", "b", "c", "ignored"}
	for round := range 1000 {
		var changed []string
		for range 1 + rng.IntN(3) {
			var elems []string
			for range 1 + rng.IntN(3) {
				elems = append(elems, names[rng.IntN(len(names))])
			}
			p := filepath.Join(elems...)
			if throughLink(dir, p) {
				continue // would change what is not told
			}
			changed = append(changed, p)
			switch full := filepath.Join(dir, p); rng.IntN(5) {
			case 4:
				// Fails where something is already.
				_ = os.Symlink(names[rng.IntN(len(names))], full) // may dangle, may loop
			case 0:
				// Fails below a file, which changes nothing.
				_ = os.RemoveAll(full)
			case 1:
				// Fails where a file is in the way, which changes nothing.
				_ = os.MkdirAll(full, 0o755)
			default:
				// Writing must not go through a link to where nothing is told.
				_ = os.Remove(full)
				if os.MkdirAll(filepath.Dir(full), 0o755) == nil {
					_ = os.WriteFile(full, fmt.Append(nil, round), 0o644)
				}
			}
			if rng.IntN(4) == 0 {
				changed = append(changed, filepath.Dir(p))
			}
		}
		got, problems, err := Update(context.Background(), dir, have, changed, opts)
		if err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
		want, _ := read(t, dir, opts)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("round %d, changed %q: tree (-read +updated):\n%s", round, changed, diff)
		}
		have = got
	}
}

func throughLink(dir, p string) bool {
	for d := filepath.Dir(p); d != "."; d = filepath.Dir(d) {
		if info, err := os.Lstat(filepath.Join(dir, d)); err == nil && info.Mode().Type() == os.ModeSymlink {
			return true
		}
	}
	return false
}

func BenchmarkUpdateOneOf50k(b *testing.B) {
	dir := b.TempDir()
	old := Tree{}
	for i := range 50_000 {
		old[fmt.Sprintf("d%d/file-%d.html", i%500, i)] = Entry{Mode: 0o644, Size: 1}
	}
	write(b, dir+"/d7/file-7.html", "x", 0o644)
	for b.Loop() {
		if _, _, err := Update(context.Background(), dir, old, []string{"d7/file-7.html"}, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
