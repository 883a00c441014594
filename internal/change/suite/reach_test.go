package suite

import (
	"go/parser"
	"go/token"
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
