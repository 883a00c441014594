package session

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

func TestAffectsIsTheFilesThatMatter(t *testing.T) {
	a := shopApp()
	in := &image.Inputs{
		Files: tree.Tree{
			"go.mod": {}, "go.sum": {}, "cart/main.go": {}, "internal/money/money.go": {},
			"internal/money/rates.json": {}, "../lib/lib.go": {},
		},
		Dirs: []string{".", "cart", "internal/money", "cart/empty", "../lib"},
	}
	for _, tt := range []struct {
		name      string
		file      string
		cart, web bool
	}{
		{"its source", "cart/main.go", true, false},
		{"a new file beside it", "cart/more.go", true, false},
		{"a test", "cart/main_test.go", false, false},
		{"a page for people in a directory of code", "cart/README.md", false, false},
		{"a page for people at the root", "README.md", false, false},
		{"a package that it imports", "internal/money/money.go", true, false},
		{"an embedded file", "internal/money/rates.json", true, false},
		{"a new file among embedded ones", "internal/money/more.json", true, false},
		{"a new file in an empty directory of assets", "cart/empty/page.html", true, false},
		{"a package that it does not import", "internal/other/other.go", false, false},
		{"a directory of its source that went", "internal", true, false},
		{"the module's dependencies", "go.mod", true, false},
		{"a module outside of the app", "../lib/lib.go", true, false},
		{"a page of the site", "web/index.html", false, true},
		{"a new directory of the site", "web/pages", false, true},
		{"the site itself", "web", false, true},
		{"rules of what to ignore", ".gitignore", false, true},
		{"a file whose name begins the same", "website/index.html", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := len(affects(a, a.Services[0], in, []string{tt.file})) > 0; got != tt.cart {
				t.Errorf("cart: got %v, want %v", got, tt.cart)
			}
			if got := len(affects(a, a.Services[1], nil, []string{tt.file})) > 0; got != tt.web {
				t.Errorf("web: got %v, want %v", got, tt.web)
			}
		})
	}
	a.Services[0].Build.Assets = []app.Asset{{Path: "pages", As: "pages"}}
	if got := affects(a, a.Services[0], in, []string{".gitignore"}); len(got) != 1 {
		t.Errorf("rules for directories that it copies: got %v", got)
	}
	if got := affects(a, a.Services[0], nil, []string{"anything"}); len(got) != 1 {
		t.Errorf("a service whose inputs nobody knows: got %v", got)
	}
}

func TestDecidesShapeIsWhatAPlanIsReadFrom(t *testing.T) {
	a := shopApp()
	a.Dir = t.TempDir()
	for file, want := range map[string]bool{
		"bight.yaml": true, "go.mod": true, "go.work": true, "sub/go.mod": true, "cart/main.go": true, "cart/main_test.go": false,
		"docs/index.html": true, "web/index.html": false, "web/site.css": false, "README.md": false, "newservice": true,
	} {
		if file == "web/index.html" {
			if err := os.MkdirAll(filepath.Join(a.Dir, "web"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(a.Dir, file), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := decidesShape(a, file); got != want {
			t.Errorf("%s: got %v, want %v", file, got, want)
		}
	}
	if err := os.Remove(filepath.Join(a.Dir, "web", "index.html")); err != nil {
		t.Fatal(err)
	}
	if !decidesShape(a, "web/index.html") {
		t.Error("a site's first page that went decides nothing")
	}
}

func TestMergedChangesKeepEverythingAndTheFirstMoment(t *testing.T) {
	first, later := time.Unix(1, 0), time.Unix(2, 0)
	got := changes{}.merge(changes{paths: []string{"a"}, heard: first}).merge(changes{all: true, paths: []string{"b"}, heard: later})
	want := changes{paths: []string{"a", "b"}, all: true, heard: first}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(changes{})); diff != "" {
		t.Error(diff)
	}
	if !(changes{heard: first}).empty() || want.empty() {
		t.Error("empty is wrong")
	}
}

func TestTopmostLeavesOutWhatIsBelow(t *testing.T) {
	dir := func(parts ...string) string { return filepath.Join(append([]string{"/"}, parts...)...) }
	got := topmost([]string{dir("lib", "b"), dir("lib"), dir("library"), dir("lib", "a"), dir("lib")})
	if diff := cmp.Diff([]string{dir("lib"), dir("library")}, got); diff != "" {
		t.Error(diff)
	}
}
