package detect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const server = `package main

import "net/http"

func main() { http.ListenAndServe(":8080", nil) }
`

func TestDetectRefusesWhatIsNoDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := Detect(t.Context(), filepath.Join(dir, "gone")); err == nil || !strings.Contains(err.Error(), "run bight in the directory of your code") {
		t.Errorf("a directory that is not there: %v", err)
	}
	write(t, filepath.Join(dir, "file"), nil)
	if _, err := Detect(t.Context(), filepath.Join(dir, "file")); err == nil || !strings.Contains(err.Error(), "is a file") {
		t.Errorf("a file: %v", err)
	}
	if _, err := Detect(t.Context(), dir); !errors.Is(err, ErrNoService) {
		t.Errorf("an empty directory: %v", err)
	}
	write(t, filepath.Join(dir, "go.mod"), []byte("modul x\n"))
	if _, err := Detect(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "go.mod") {
		t.Errorf("a bad go.mod: %v", err)
	}
}

func TestDetectStopsWhenCancelled(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "main.go"), []byte(server))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Detect(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestDetectBearsOddTrees(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), []byte("module example.com/shop\n"))
	write(t, filepath.Join(dir, "cmd", "my cart", "main.go"), []byte(server))
	write(t, filepath.Join(dir, "cmd", "line\nbreak", "main.go"), []byte(server))
	write(t, filepath.Join(dir, "cmd", "b\xff\xfe", "main.go"), []byte(server))
	write(t, filepath.Join(dir, "cmd", "[glob]*", "main.go"), []byte(server))
	write(t, filepath.Join(dir, "cmd", "empty", "main.go"), nil)
	for link, to := range map[string]string{"loop": ".", "cmd/up": "..", "dangling": "nowhere", "cmd/my cart/x.go": "nowhere.go"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	a, err := Detect(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range a.Services {
		got = append(got, s.Name)
	}
	if want := "b glob line-break my-cart"; strings.Join(got, " ") != want {
		t.Errorf("services %q, want %q", got, want)
	}
}

func TestDetectMayBeCalledFromManyGoroutines(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, 4, 40)
	want := plan(t, dir)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got := plan(t, dir); got != want {
				t.Errorf("two runs differ:\n%s\n%s", want, got)
			}
		})
	}
	wg.Wait()
}

func TestIgnoreFollowsGit(t *testing.T) {
	root := parseIgnore(nil, ".", []byte("# comment\n*.log\n/build\nbin/\n!keep.log\ndocs/**/private\n\\#odd\n  \n"))
	sub := parseIgnore(root, "sub", []byte("/local\n!*.log\n"))
	for _, c := range []struct {
		ig   *ignores
		path string
		dir  bool
		want bool
	}{
		{root, "a.log", false, true},
		{root, "x/y/a.log", false, true},
		{root, "keep.log", false, false},
		{root, "build", true, true},
		{root, "x/build", true, false},
		{root, "x/bin", true, true},
		{root, "x/bin", false, false},
		{root, "docs/a/b/private", true, true},
		{root, "docs/private", true, true},
		{root, "#odd", false, true},
		{sub, "sub/local", true, true},
		{sub, "sub/x/local", true, false},
		{sub, "sub/a.log", false, false},
		{nil, "anything", false, false},
	} {
		if _, _, got := c.ig.match(c.path, c.dir); got != c.want {
			t.Errorf("match(%q, %v) = %v, want %v", c.path, c.dir, got, c.want)
		}
	}
}

// tree writes n services, each with a package of its own, and files files that
// have nothing to do with them.
func tree(t testing.TB, dir string, n, files int) {
	t.Helper()
	put := func(name, text string) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("go.mod", "module example.com/shop\n")
	for i := range n {
		next := (i + 1) % n
		put(fmt.Sprintf("services/svc%d/main.go", i), fmt.Sprintf(`package main

import "example.com/shop/services/svc%d/server"

func main() { server.Run() }
`, i))
		put(fmt.Sprintf("services/svc%d/server/server.go", i), fmt.Sprintf(`package server

import (
	"log"
	"net/http"
	"os"
)

func env(key, def string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return def
}

func Run() {
	next := os.Getenv("SVC%d_URL")
	if next == "" {
		log.Fatal("SVC%d_URL is not set")
	}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) { http.Get(next) })
	log.Fatal(http.ListenAndServe(":"+env("PORT", "%d"), nil))
}
`, next, next, 7000+i))
	}
	for i := range files {
		switch i % 4 {
		case 0:
			put(fmt.Sprintf("lib/p%d/p%d.go", i/100, i), fmt.Sprintf("package p%d\n\nfunc F%d() int { return %d }\n", i/100, i, i))
		case 1:
			put(fmt.Sprintf("web/src/c%d/f%d.ts", i/50, i), "export const x = 1\n")
		case 2:
			put(fmt.Sprintf("node_modules/m%d/f%d.js", i/20, i), "module.exports = 1\n")
		default:
			put(fmt.Sprintf("data/d%d/f%d.json", i/200, i), "{}\n")
		}
	}
}

func BenchmarkDetect(b *testing.B) {
	for _, c := range []struct{ services, files int }{{6, 100}, {50, 50_000}} {
		b.Run(fmt.Sprintf("%d-services-%d-files", c.services, c.files), func(b *testing.B) {
			dir := b.TempDir()
			tree(b, dir, c.services, c.files)
			for b.Loop() {
				a, err := Detect(b.Context(), dir)
				if err != nil {
					b.Fatal(err)
				}
				if len(a.Services) != c.services || len(a.Questions) > 0 {
					b.Fatalf("%d services, questions %v", len(a.Services), a.Questions)
				}
			}
		})
	}
}
