package golang

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

// unpack writes a txtar archive to dir.
func unpack(t testing.TB, dir, text string) {
	t.Helper()
	for _, f := range txtar.Parse([]byte(text)).Files {
		file := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// newBuilder returns a builder with a store of its own.
func newBuilder(t testing.TB) *Builder {
	t.Helper()
	return &Builder{Store: image.OpenStore(t.TempDir()), Hashes: tree.OpenCache("")}
}

// service returns an app in dir with one service.
func service(dir, name, module, pkg string) (*app.App, *app.Service) {
	s := &app.Service{Name: name, Build: app.Build{Kind: app.BuildGo, Module: module, Package: pkg}}
	return &app.App{Name: "test", Dir: dir, Services: []*app.Service{s}}, s
}

// goList asks the go command for the files of every package that is not of the
// standard library or the module cache.
func goList(t *testing.T, b *Builder, dir, pkg string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json", pkg)
	cmd.Dir, cmd.Env = dir, b.environ()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var files []string
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir      string
			Standard bool
			Module   *struct {
				Version, Path string
				Replace       *struct{ Version string }
			}
			GoFiles, CFiles, CXXFiles, HFiles, SFiles, SysoFiles, EmbedFiles []string
		}
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Standard || !strings.HasPrefix(p.Dir, filepath.Dir(dir)) {
			continue
		}
		for _, f := range slices.Concat(p.GoFiles, p.CFiles, p.CXXFiles, p.HFiles, p.SFiles, p.SysoFiles, p.EmbedFiles) {
			files = append(files, filepath.Join(p.Dir, f))
		}
	}
	slices.Sort(files)
	return files
}

// scanned returns the source files that the scanner found.
func scanned(t *testing.T, b *Builder, a *app.App, s *app.Service) []string {
	t.Helper()
	as, err := b.assemble(context.Background(), a, s)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for file := range as.graph.files {
		if !slices.Contains(as.graph.modules.files, file) {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	return files
}

const manyKinds = `
-- go.mod --
module example.com/app

go 1.24
-- cmd/srv/main.go --
package main

import (
	_ "embed"
	"fmt"

	"example.com/app/lib"
	_ "example.com/app/sys"
	_ "example.com/app/web"
)

//go:embed hello.txt
var hello string

func main() { fmt.Println(hello, lib.Name) }
-- cmd/srv/main_test.go --
package main
-- cmd/srv/hello.txt --
hi
-- cmd/srv/windows_only.go --
//go:build windows

package main

import _ "example.com/app/never"
-- cmd/srv/other_darwin.go --
package main

import _ "example.com/app/never"
-- cmd/srv/cgo.go --
package main

import "C"
import _ "example.com/app/never"
-- cmd/srv/newer.go --
//go:build go1.999

package main
-- cmd/srv/linux.go --
//go:build linux && !cgo

package main

import _ "example.com/app/linuxonly"
-- linuxonly/a.go --
package linuxonly
-- never/a.go --
package never
-- unused/a.go --
package unused
-- lib/lib.go --
package lib

const Name = "lib"
-- lib/ignored.go --
//go:build ignore

package main
-- sys/sys.go --
package sys

func Add(a, b int) int
-- sys/add_amd64.s --
TEXT ·Add(SB),4,$0-24
	RET
-- sys/add_arm64.s --
TEXT ·Add(SB),4,$0-24
	RET
-- sys/defs.h --
#define X 1
-- web/web.go --
package web

import "embed"

//go:embed static all:hidden *.tmpl "with space.txt" deep/*/x.css
var Files embed.FS
-- web/static/index.html --
-- web/static/.dot --
-- web/static/_under --
-- web/static/sub/a.css --
-- web/static/sub/.b.css --
-- web/static/nested/go.mod --
module nested
-- web/static/nested/x.txt --
-- web/hidden/.dot --
-- web/hidden/a/_b --
-- web/page.tmpl --
-- web/with space.txt --
-- web/deep/one/x.css --
-- web/deep/two/x.css --
-- web/deep/two/y.css --
`

const workspace = `
-- go.work --
go 1.24

use (
	./svc
	./shared
)

replace example.com/replaced => ./third
-- svc/go.mod --
module example.com/svc

go 1.24

require example.com/replaced v0.0.0
-- svc/main.go --
package main

import (
	"example.com/replaced/deep"
	"example.com/shared/log"
)

func main() { log.Log(deep.X) }
-- shared/go.mod --
module example.com/shared

go 1.24
-- shared/log/log.go --
package log

func Log(any) {}
-- shared/other/other.go --
package other
-- third/go.mod --
module example.com/whatever

go 1.24
-- third/deep/deep.go --
package deep

const X = 1
`

const replaced = `
-- app/go.mod --
module example.com/app

go 1.24

require example.com/lib v0.0.0

replace example.com/lib => ../lib
-- app/main.go --
package main

import "example.com/lib"

func main() { lib.Do() }
-- lib/go.mod --
module example.com/lib

go 1.24
-- lib/lib.go --
package lib

func Do() {}
`

const vendored = `
-- go.mod --
module example.com/app

go 1.24

require example.com/dep v1.0.0
-- vendor/modules.txt --
# example.com/dep v1.0.0
## explicit; go 1.24
example.com/dep/pkg
-- vendor/example.com/dep/pkg/pkg.go --
package pkg

func Do() {}
-- main.go --
package main

import "example.com/dep/pkg"

func main() { pkg.Do() }
`

func TestScanFindsWhatGoListFinds(t *testing.T) {
	for _, tc := range []struct{ name, text, module, pkg string }{
		{"every kind of file", manyKinds, ".", "./cmd/srv"},
		{"workspace with a replaced module", workspace, "svc", "."},
		{"replaced by a directory outside", replaced, "app", "."},
		{"vendored", vendored, ".", "."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			unpack(t, dir, tc.text)
			b := newBuilder(t)
			a, s := service(dir, "srv", tc.module, tc.pkg)
			want := goList(t, b, filepath.Join(dir, tc.module), tc.pkg)
			if len(want) < 2 {
				t.Fatalf("go list found only %v", want)
			}
			if diff := cmp.Diff(want, scanned(t, b, a, s)); diff != "" {
				t.Errorf("files (-go list +scan):\n%s", diff)
			}
			again := &Builder{Store: b.Store, Hashes: tree.OpenCache("")}
			if diff := cmp.Diff(want, scanned(t, again, a, s)); diff != "" {
				t.Errorf("files, from what is on disk (-go list +scan):\n%s", diff)
			}
		})
	}
}

// TestScanTakesTheCheckoutsPathAsItIs has a checkout in a directory whose name would
// be a pattern: [work] is not w, o, r or k.
func TestScanTakesTheCheckoutsPathAsItIs(t *testing.T) {
	for _, name := range []string{"[work]", "w*", "w?", "["} {
		dir := filepath.Join(t.TempDir(), name)
		unpack(t, dir, manyKinds)
		b := newBuilder(t)
		a, s := service(dir, "srv", ".", "./cmd/srv")
		if diff := cmp.Diff(goList(t, b, dir, "./cmd/srv"), scanned(t, b, a, s)); diff != "" {
			t.Errorf("files in %s (-go list +scan):\n%s", name, diff)
		}
		in := inputs(t, b, a, s)
		for _, d := range []string{"cmd/srv", "web", "web/static/sub", "web/deep"} {
			if !slices.Contains(in.Dirs, d) {
				t.Errorf("in %s, directory %s is not watched: %v", name, d, in.Dirs)
			}
		}
	}
}

// TestScanOfOwnModule compares on source that was not written for this test.
func TestScanOfOwnModule(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	b := newBuilder(t)
	a, s := service(root, "golang", ".", "./internal/image/golang")
	want := goList(t, b, root, s.Build.Package)
	if diff := cmp.Diff(want, scanned(t, b, a, s)); diff != "" {
		t.Errorf("files (-go list +scan):\n%s", diff)
	}
}

func inputs(t testing.TB, b *Builder, a *app.App, s *app.Service) *image.Inputs {
	t.Helper()
	in, err := b.Inputs(context.Background(), a, s)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestInputsDigestFollowsWhatDecides(t *testing.T) {
	dir := t.TempDir()
	unpack(t, dir, manyKinds)
	unpack(t, dir, "-- templates/a.html --\nx\n-- templates/skip.log --\n-- .gitignore --\n*.log\n")
	b := newBuilder(t)
	a, s := service(dir, "srv", ".", "./cmd/srv")
	s.Build.Assets = []app.Asset{{Path: "templates", As: "templates"}}
	last := inputs(t, b, a, s).Digest
	for _, tc := range []struct {
		name, text string
		changes    bool
	}{
		{"nothing", "", false},
		{"a file of a package that is imported", "-- lib/lib.go --\npackage lib\n\nconst Name = \"new\"\n", true},
		{"a new file in it", "-- lib/more.go --\npackage lib\n", true},
		{"a test", "-- lib/lib_test.go --\npackage lib\n", false},
		{"a file of a package that is not imported", "-- unused/a.go --\npackage unused // new\n", false},
		{"a file for another system", "-- cmd/srv/other_darwin.go --\npackage main // new\n", false},
		{"an embedded file", "-- cmd/srv/hello.txt --\nnew\n", true},
		{"a new file in an embedded directory", "-- web/static/new.html --\n", true},
		{"a hidden one", "-- web/static/.new --\n", false},
		{"an asset", "-- templates/a.html --\nnew\n", true},
		{"a new asset", "-- templates/b.html --\nnew\n", true},
		{"an ignored one", "-- templates/new.log --\n", false},
		{"go.mod", "-- go.mod --\nmodule example.com/app\n\ngo 1.23\n", true},
		{"go.sum", "-- go.sum --\n\n", true},
		{"a vendor directory", "-- vendor/modules.txt --\n", true},
		{"a go.work", "-- go.work --\ngo 1.24\n\nuse .\n", true},
		{"a file with a syntax error", "-- lib/bad.go --\npackage lib\nfunc {\n", true},
	} {
		unpack(t, dir, tc.text)
		got := inputs(t, b, a, s).Digest
		if (got != last) != tc.changes {
			t.Errorf("%s: digest changed: %v, want %v", tc.name, got != last, tc.changes)
		}
		last = got
	}
	for name, change := range map[string]func(){
		"debug":       func() { b.Debug = true },
		"arch":        func() { b.Arch = "arm64" },
		"trimpath":    func() { b.Trimpath = true },
		"GOFLAGS":     func() { b.Env = append(os.Environ(), "GOFLAGS=-tags=x") },
		"asset place": func() { s.Build.Assets[0].As = "t" },
	} {
		change()
		got := inputs(t, b, a, s).Digest
		if got == last {
			t.Errorf("%s has no say in the digest", name)
		}
		last = got
	}
}

func TestInputsNameTheDirectoriesToWatch(t *testing.T) {
	dir := t.TempDir()
	unpack(t, dir, manyKinds)
	unpack(t, dir, "-- templates/sub/a.html --\nx\n-- lib/missing.go --\npackage lib\n\nimport _ \"example.com/app/gone/deep\"\n")
	b := newBuilder(t)
	a, s := service(dir, "srv", ".", "./cmd/srv")
	s.Build.Assets = []app.Asset{{Path: "templates", As: "templates"}, {Path: "nowhere", As: "nowhere"}}
	as, err := b.assemble(context.Background(), a, s)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		".", "cmd/srv", "lib", "linuxonly", "sys", "templates", "templates/sub",
		"web", "web/deep", "web/hidden", "web/hidden/a", "web/static", "web/static/sub",
	}
	if diff := cmp.Diff(want, as.inputs.Dirs); diff != "" {
		t.Errorf("dirs (-want +got):\n%s", diff)
	}
	if len(as.lost) != 1 || as.lost[0].Path != "nowhere" {
		t.Errorf("problems: %v", as.lost)
	}
}

func TestSplitQuoted(t *testing.T) {
	got := splitQuoted(` -mod=mod  '-ldflags=-X main.v=1 -s' "-tags=a b" x`)
	want := []string{"-mod=mod", "-ldflags=-X main.v=1 -s", "-tags=a b", "x"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}
