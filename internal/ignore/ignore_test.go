package ignore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// unpack writes a txtar archive below a new directory.
func unpack(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(text)).Files {
		file := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// ignoredOf returns those of the space separated paths that are ignored; a path
// that ends with "/" is a directory.
func ignoredOf(r *Rules, paths string) string {
	var got []string
	for p := range strings.FieldsSeq(paths) {
		name, dir := strings.CutSuffix(p, "/")
		if r.Ignored(name, dir) {
			got = append(got, p)
		}
	}
	return strings.Join(got, " ")
}

func TestIgnored(t *testing.T) {
	for _, tc := range []struct {
		name, files  string
		dir          string
		paths, wants string
	}{
		{
			name:  "a name matches at any depth",
			files: "-- .gitignore --\n*.log\nbuild\n",
			paths: "a.log x/b.log a.logs build x/build/ x/build/y builder",
			wants: "a.log x/b.log build x/build/ x/build/y",
		},
		{
			name:  "a slash anchors",
			files: "-- .gitignore --\n/top\na/b\n",
			paths: "top x/top a/b x/a/b a/b/c",
			wants: "top a/b a/b/c",
		},
		{
			name:  "directories only",
			files: "-- .gitignore --\nout/\n",
			paths: "out out/ x/out/ out/a x/out",
			wants: "out/ x/out/ out/a",
		},
		{
			name:  "the last rule wins, but nothing comes back out of an ignored directory",
			files: "-- .gitignore --\n*.txt\n!keep.txt\nd/\n!d/keep.txt\n",
			paths: "a.txt keep.txt d/keep.txt",
			wants: "a.txt d/keep.txt",
		},
		{
			name:  "nested rules override",
			files: "-- .gitignore --\n*.gen\n-- sub/.gitignore --\n!a.gen\n/only\n",
			paths: "a.gen sub/a.gen sub/x/a.gen sub/b.gen only sub/only sub/x/only",
			wants: "a.gen sub/b.gen sub/only",
		},
		{
			name:  "double stars",
			files: "-- .gitignore --\n**/foo/bar\nx/**\na/**/z\n",
			paths: "foo/bar q/foo/bar x/ x/1 x/1/2 a/z a/b/z a/b/c/z a/zz",
			wants: "foo/bar q/foo/bar x/1 x/1/2 a/z a/b/z a/b/c/z",
		},
		{
			name:  "more than two stars are two",
			files: "-- .gitignore --\n/***/q/**/**/z\n",
			paths: "q/z a/q/z a/b/q/c/d/z z",
			wants: "q/z a/q/z a/b/q/c/d/z",
		},
		{
			name:  "comments, escapes, trailing spaces, CRLF",
			files: "-- .gitignore --\n# c\n\\#hash\n\\!bang\ntrail  \nq\\ \r\nset[a-c].[[:digit:]]\nn[!x]\n?one\n",
			paths: "c #hash !bang trail setb.7 setd.7 setb.x na nx 1one one",
			wants: "#hash !bang trail setb.7 na 1one",
		},
		{
			name:  "git's own files",
			files: "-- index.html --\n",
			paths: ".git/ .git .git/config sub/.git .gitignore .dockerignore .github/",
			wants: ".git/ .git .git/config sub/.git .gitignore .dockerignore",
		},
		{
			name:  "dockerignore",
			files: "-- .dockerignore --\n# c\nnode_modules\n**/*.tmp\n*.md\n!README.md\n",
			paths: "node_modules/ node_modules/x sub/node_modules/ a.tmp x/y/a.tmp a.md x/a.md README.md",
			wants: "node_modules/ node_modules/x a.tmp x/y/a.tmp a.md",
		},
		{
			name:  "dockerignore with everything excluded but one directory",
			files: "-- .dockerignore --\n*\n!dist\n",
			paths: "src/ src/a dist/ dist/a dist/b/c",
			wants: "src/ src/a",
		},
		{
			name:  "rules from above the directory count",
			files: "-- .gitignore --\n*.log\n/web/drafts\n-- .dockerignore --\nweb/*.psd\n",
			dir:   "web", paths: "a.log drafts/ x/drafts/ logo.psd a.html",
			wants: "a.log drafts/ logo.psd",
		},
		{
			name:  "a directory that is itself ignored can still be chosen",
			files: "-- .gitignore --\ndist\n*.log\n-- dist/.gitignore --\n*.map\n",
			dir:   "dist", paths: "a.html a.log a.map",
			wants: "a.map",
		},
		{
			name:  "so can one of which only the content is",
			files: "-- .gitignore --\n/dist/*\n!/dist/.keep\n",
			dir:   "dist", paths: "a.html x/",
			wants: "",
		},
		{
			name:  "the repository above the app counts, with its private excludes",
			files: "-- .git/info/exclude --\nprivate\n-- .gitignore --\n*.o\n-- app/web/a.html --\n",
			dir:   "app/web", paths: "private x.o a.html",
			wants: "private x.o",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root, dir := unpack(t, tc.files), tc.dir
			if dir == "" {
				dir = "."
			}
			if rest, ok := strings.CutPrefix(dir, "app/"); ok {
				root, dir = filepath.Join(root, "app"), rest
			}
			got := ignoredOf(In(root, dir), tc.paths)
			if diff := cmp.Diff(tc.wants, got); diff != "" {
				t.Errorf("ignored (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGitKnowsNoDockerignore(t *testing.T) {
	root := unpack(t, "-- .git/HEAD --\n-- .gitignore --\n*.log\n-- .dockerignore --\n*\n!bin\n-- app/.dockerignore --\n*\n")
	got := ignoredOf(Git(filepath.Join(root, "app")), "main.go cart/ a.log .git/")
	if diff := cmp.Diff("a.log .git/", got); diff != "" {
		t.Errorf("ignored (-want +got):\n%s", diff)
	}
}

func TestEscapedSpaceIsPartOfTheName(t *testing.T) {
	r := In(unpack(t, "-- .gitignore --\nq\\ \n"), ".")
	if !r.Ignored("q ", false) || r.Ignored("q", false) {
		t.Error(`"q\ " must match "q " only`)
	}
}

func TestNamesNeedNotBeText(t *testing.T) {
	r := In(unpack(t, "-- .gitignore --\n*.bin\nx?y\n"), ".")
	for p, want := range map[string]bool{"\xff\xfe.bin": true, "a\nb.bin": true, "x\xffy": true, "x\nz": false} {
		if got := r.Ignored(p, false); got != want {
			t.Errorf("Ignored(%q) = %v, want %v", p, got, want)
		}
	}
}

func FuzzPattern(f *testing.F) {
	for _, s := range []string{"*", "/***/?/c", "a/**/b", "[a-", "[[:alpha:]]x", "\\", "!", "/", "**", "a*b*c", "[]-a]"} {
		f.Add(s, "a/b/c")
	}
	f.Fuzz(func(t *testing.T, line, rel string) {
		for _, p := range parseGit(line) {
			p.match(rel, true)
		}
	})
}
