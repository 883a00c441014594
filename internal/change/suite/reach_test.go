package suite

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"testing"
)

func TestReachOfASource(t *testing.T) {
	const named, runs, is, starts = "names a path outside its directory", "asks where it runs", "asks where it is", "starts programs"
	for body, want := range map[string]reach{
		`open("../../db/schema.sql")`:           {paths: named},
		"open(`../a`)":                          {paths: named},
		`filepath.Join(dir, "..", "db")`:        {paths: named},
		`fmt.Sprintf("file://%s/../db", dir)`:   {paths: named},
		`sh("cd ..; make")`:                     {paths: named},
		`strings.Repeat("../", 3)`:              {paths: named},
		`os.Getwd()`:                            {paths: runs},
		`runtime.Caller(0)`:                     {tools: is},
		`sh("go test ./...")`:                   {},
		`say("one moment...", "a..b", ".../x")`: {},
		`// open("../a")`:                       {},
		`_ = name == ".." || "../" != name`:     {},
		`_ = strings.HasPrefix(name, "../") || strings.Contains(n, "..")`: {},
		`switch name { case ".", "..": }`:                                 {},
		`switch name { case "..": open("../a") }`:                         {paths: named},
		`_ = filepath.Join(dir, "..") == "/"`:                             {paths: named},
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "a.go", "package a\n\nfunc f() {\n"+body+"\n}\n", parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if got := reachOf(f); got != want {
			t.Errorf("%s: got %+v, want %+v", body, got, want)
		}
	}
	f, err := parser.ParseFile(token.NewFileSet(), "a.go", "package a\n\nimport run \"os/exec\"\n", parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if got := reachOf(f); got != (reach{tools: starts}) {
		t.Errorf("an import: %+v", got)
	}
}

// A database of the developer's may keep its files there, as another user.
func TestWhatIsClosedToThisUserIsNoInput(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("nothing is closed to root")
	}
	root := app(t, map[string]string{"a": "1", "db/b": "2", "c": "3"})
	closed := map[string]os.FileMode{"db": 0o700, "c": 0o600}
	for name := range closed {
		if err := os.Chmod(filepath.Join(root, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for name, mode := range closed {
			_ = os.Chmod(filepath.Join(root, name), mode) // so that it can be removed
		}
	})
	before, err := newHashes(root).tree(root)
	if err != nil {
		t.Fatal(err)
	}
	write(t, root, map[string]string{"a": "2"})
	if after, err := newHashes(root).tree(root); err != nil || after == before {
		t.Errorf("the rest is not read: %v", err)
	}
}
