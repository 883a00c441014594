package session

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

func TestScopeIsWhatIsReadAndWhatMayBe(t *testing.T) {
	goService := &app.Service{Name: "cart", Build: app.Build{Kind: app.BuildGo}}
	site := func(root string) *app.Service {
		return &app.Service{Name: "web", Build: app.Build{Kind: app.BuildStatic, Root: root}}
	}
	for _, tt := range []struct {
		name     string
		files    map[string]string // of rules
		services []*app.Service
		inputs   *image.Inputs
		paths    string // a path that ends with "/" is a directory
		want     string // of these, what is ignored
	}{
		{
			name:  "rules of the app",
			files: map[string]string{".gitignore": "*.log\ntmp\n"},
			paths: "main.go a.log tmp/ tmp/main.go .gitignore sub/.dockerignore .git/ sub/node_modules/ .",
			want:  "a.log tmp/ tmp/main.go .git/ sub/node_modules/",
		},
		{
			name:     "a site in a directory that git ignores",
			files:    map[string]string{".gitignore": "dist/\n*.map\n", "web/dist/.gitignore": "*.tmp\n"},
			services: []*app.Service{site("web/dist")},
			paths:    "web/ web/dist/ web/dist/index.html web/dist/a.map web/dist/a.tmp web/dist/deep/ web/dist/deep/a.js web/a.map dist/ dist/index.html",
			want:     "web/dist/a.tmp web/a.map dist/ dist/index.html",
		},
		{
			name:     "generated code and what is embedded",
			files:    map[string]string{".gitignore": "*.pb.go\n/dist\n*.log\n*.gen.json\n/out\n"},
			services: []*app.Service{goService},
			inputs: &image.Inputs{
				Files: tree.Tree{"go.mod": {}, "main.go": {}, "api/api.pb.go": {}, "dist/index.html": {}, "dist/js/a.js": {}, "conf/a.gen.json": {}},
				Dirs:  []string{".", "api", "dist", "dist/js", "conf"},
			},
			paths: "api/api.pb.go api/new.pb.go other/new.pb.go api/api.log dist/ dist/index.html dist/new.css dist/js/new.js dist/img/ dist/img/a.log " +
				"conf/new.gen.json conf/a.log main.log out/ out/index.html out/main.go dist/node_modules/",
			want: "other/new.pb.go api/api.log dist/img/a.log conf/a.log main.log out/ out/index.html out/main.go dist/node_modules/",
		},
		{
			name:     "a .dockerignore for a build of its own",
			files:    map[string]string{".dockerignore": "*\n!bin/server\n", ".gitignore": "/bin\n"},
			services: []*app.Service{goService, site("web")},
			inputs:   &image.Inputs{Files: tree.Tree{"go.mod": {}, "cart/main.go": {}, "cart/page.html": {}}, Dirs: []string{".", "cart"}},
			paths:    "bight.yaml cart/ cart/main.go cart/new.html go.mod new/ new/main.go new/index.html new/data web/ web/index.html web/a.css data.csv bin/ bin/server bin/main.go",
			want:     "new/data data.csv bin/ bin/server bin/main.go",
		},
		{
			name:     "a site that is the whole app, and what is outside of that",
			services: []*app.Service{goService, site(".")},
			inputs:   &image.Inputs{Files: tree.Tree{"main.go": {}, "../lib.go": {}}, Dirs: []string{".", ".."}},
			paths:    "index.html a.css ../lib.go ../other/ ../other/a.go",
			want:     "../other/ ../other/a.go",
		},
		{
			name:     "outside of the app",
			files:    map[string]string{".gitignore": "lib\n"},
			services: []*app.Service{goService},
			inputs: &image.Inputs{
				Files: tree.Tree{"main.go": {}, "../lib.go": {}, "../lib/sub/sub.go": {}, "../lib/sub/a.sql": {}},
				Dirs:  []string{".", "..", "../lib/sub", "../../far"},
			},
			paths: ".. ../lib.go ../new.go ../other/ ../other/a.go ../lib/ ../lib/lib.go ../lib/sub/ ../lib/sub/a.sql ../lib/sub/new/ ../lib/sub/new/a.go ../../far/ ../../far/a.go ../../near.go",
			want:  "../other/ ../other/a.go ../lib/lib.go ../lib/sub/new/a.go ../../near.go",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := temporary(t)
			for file, text := range tt.files {
				write(t, dir, file, text)
			}
			var inputs []*image.Inputs
			if tt.inputs != nil {
				inputs = append(inputs, tt.inputs)
			}
			s := newScope(nil, readRules(dir), &app.App{Dir: dir, Services: tt.services}, inputs...)
			var got []string
			for p := range strings.FieldsSeq(tt.paths) {
				name, isDir := strings.CutSuffix(p, "/")
				if s.ignores(name, isDir) {
					got = append(got, p)
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("ignored (-want +got):\n%s", diff)
			}
		})
	}
}

func TestScopeOpensWhatWasIgnored(t *testing.T) {
	dir := temporary(t)
	write(t, dir, ".gitignore", "dist\n")
	a := &app.App{Dir: dir}
	first := newScope(nil, readRules(dir), a, &image.Inputs{Files: tree.Tree{"main.go": {}}, Dirs: []string{"."}})
	check := func(s, old *scope, want string) {
		t.Helper()
		got := strings.Join(slices.Sorted(slices.Values(s.opened(old))), " ")
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	second := newScope(first, first.rules, a, &image.Inputs{Files: tree.Tree{"a/dist/x.html": {}}, Dirs: []string{".", "a", "a/dist", "../lib/sub"}})
	check(second, first, "../lib ../lib/sub a/dist")
	check(newScope(second, first.rules, a), second, "")
	a.Services = []*app.Service{{Name: "web", Build: app.Build{Kind: app.BuildStatic, Root: "b/dist"}}, {Name: "same", Build: app.Build{Kind: app.BuildStatic, Root: "a/dist"}}}
	third := newScope(second, first.rules, a)
	check(third, second, "a/dist b/dist")
	write(t, dir, ".gitignore", "\n")
	if fresh := newScope(third, readRules(dir), a); fresh.ignores("c/dist", true) || !third.ignores("c/dist", true) {
		t.Error("rules are not those that were read")
	}
}
