package golang

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

func buildIt(t testing.TB, b *Builder, a *app.App, s *app.Service) *image.Artifact {
	t.Helper()
	art, err := b.Build(context.Background(), a, s)
	if err != nil {
		t.Fatal(err)
	}
	return art
}

// logged counts the builds for which the go command was asked after all.
type logged struct {
	slog.Handler
	mu    sync.Mutex
	asked []string
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }

func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "because" {
			l.asked = append(l.asked, r.Message+": "+a.Value.String())
		}
		return true
	})
	return nil
}

const small = `
-- go.mod --
module example.com/app

go 1.24
-- cmd/srv/main.go --
package main

import (
	"fmt"

	"example.com/app/greet"
	"example.com/app/page"
)

func main() { fmt.Println(greet.Hello(), page.Page) }
-- greet/greet.go --
package greet

import "example.com/app/greet/word"

func Hello() string { return word.Word() + helper() }
-- greet/helper.go --
package greet

//go:noinline
func helper() string { return "!" }
-- greet/word/word.go --
package word

func Word() string { return "hello" }
-- page/page.go --
package page

import _ "embed"

//go:embed page.html
var Page string
-- page/page.html --
first page
`

// unseen makes Go source that the go command's cache can't have.
func unseen(text string) string {
	return strings.ReplaceAll(text, "\npackage ", fmt.Sprintf("\n// %d\npackage ", time.Now().UnixNano()))
}

func output(t *testing.T, art *image.Artifact) string {
	t.Helper()
	out, err := exec.Command(art.Tree[art.Command[0][2:]].Local).CombinedOutput()
	if err != nil {
		t.Fatalf("run the program: %v\n%s", err, out)
	}
	return string(out)
}

func TestBuildGivesAProgramThatRuns(t *testing.T) {
	dir := t.TempDir()
	unpack(t, dir, small)
	unpack(t, dir, "-- web/a.html --\nx\n-- web/sub/b.html --\ny\n-- conf.txt --\nz\n")
	b := newBuilder(t)
	a, s := service(dir, "web", ".", "./cmd/srv")
	s.Build.Assets = []app.Asset{{Path: "web", As: "web"}, {Path: "conf.txt", As: "etc/conf.txt"}}
	art := buildIt(t, b, a, s)
	want := []string{"etc/conf.txt", "web.bin", "web/a.html", "web/sub/b.html"}
	if diff := cmp.Diff(want, art.Tree.Paths()); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"./web.bin"}, art.Command); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	if got := output(t, art); got != "hello! first page\n\n" {
		t.Errorf("the program prints %q", got)
	}
	if art.Inputs != inputs(t, b, a, s).Digest || !art.Restart || art.NeedsAgent {
		t.Errorf("artifact %+v", art)
	}
}

func TestAssetsMayBePutBesideTheProgram(t *testing.T) {
	dir := t.TempDir()
	unpack(t, dir, small)
	unpack(t, dir, "-- config/app.yaml --\nx\n-- web/a.html --\ny\n")
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	a, s := service(dir, "srv", ".", "./cmd/srv")
	s.Build.Assets = []app.Asset{{Path: "config/app.yaml", As: "."}, {Path: "web", As: "."}, {Path: "empty", As: "."}}
	art := buildIt(t, newBuilder(t), a, s)
	if diff := cmp.Diff([]string{"a.html", "app.yaml", "srv"}, art.Tree.Paths()); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
}

// TestNoAssetTakesTheProgramsPlace has what go build leaves in a package's directory
// among the assets, and a directory of the program's name.
func TestNoAssetTakesTheProgramsPlace(t *testing.T) {
	dir := t.TempDir()
	unpack(t, dir, small)
	unpack(t, dir, "-- cmd/srv/srv --\nold\n-- web/srv/a.html --\nx\n-- web/srv.html --\ny\n")
	b := newBuilder(t)
	a, s := service(dir, "srv", ".", "./cmd/srv")
	for asset, file := range map[string]string{"cmd/srv": "cmd/srv/srv", "cmd/srv/srv": "cmd/srv/srv", "web": "web/srv/a.html"} {
		s.Build.Assets = []app.Asset{{Path: asset, As: ".", From: app.From{File: "bight.yaml", Line: 7}}}
		_, err := b.Build(context.Background(), a, s)
		if err == nil || !strings.HasPrefix(err.Error(), "bight.yaml:7: service srv: asset "+file+" would be ") {
			t.Errorf("error of asset %s: %v", asset, err)
		}
	}
	s.Build.Assets = []app.Asset{{Path: "web", As: "."}, {Path: "cmd/srv", As: "."}}
	unpack(t, dir, "-- .gitignore --\n/cmd/srv/srv\n/web/srv/\n")
	art := buildIt(t, b, a, s)
	if diff := cmp.Diff([]string{"main.go", "srv", "srv.html"}, art.Tree.Paths()); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	if got := output(t, art); got != "hello! first page\n\n" {
		t.Errorf("the program prints %q", got)
	}
}

// TestRepeatedBuildIsWhatGoBuildMakes changes files in every way that matters to
// the compiler and compares with a builder that knows nothing yet.
func TestRepeatedBuildIsWhatGoBuildMakes(t *testing.T) {
	for _, mode := range []struct {
		name            string
		trimpath, debug bool
	}{{"plain", false, false}, {"trimpath", true, false}, {"debug", false, true}} {
		t.Run(mode.name, func(t *testing.T) {
			dir := t.TempDir()
			unpack(t, dir, unseen(small))
			log := &logged{}
			known := newBuilder(t)
			known.Trimpath, known.Debug, known.Log = mode.trimpath, mode.debug, slog.New(log)
			a, s := service(dir, "srv", ".", "./cmd/srv")
			buildIt(t, known, a, s)
			for i, tc := range []struct {
				name, text, prints string
				asks               bool // the go command
			}{
				{"the body of main", "-- cmd/srv/main.go --\npackage main\n\nimport (\n\t\"fmt\"\n\n\t\"example.com/app/greet\"\n\t\"example.com/app/page\"\n)\n\nfunc main() { fmt.Println(greet.Hello(), \"-\", page.Page) }\n", "hello! - first page\n\n", false},
				{"an inlined function two imports away", "-- greet/word/word.go --\npackage word\n\nfunc Word() string { return \"bye\" }\n", "bye! - first page\n\n", false},
				{"a function that nobody sees", "-- greet/helper.go --\npackage greet\n\n//go:noinline\nfunc helper() string { return \"?\" }\n", "bye? - first page\n\n", false},
				{"an embedded file", "-- page/page.html --\nsecond page\n", "bye? - second page\n\n", false},
				{"a new import", "-- greet/helper.go --\npackage greet\n\nimport \"strings\"\n\nfunc helper() string { return strings.Repeat(\"?\", 2) }\n", "bye?? - second page\n\n", true},
				{"a new file", "-- greet/new.go --\npackage greet\n\nfunc init() { println(\"init\") }\n", "init\nbye?? - second page\n\n", true},
				{"both ends at once", "-- greet/word/word.go --\npackage word\n\nfunc Word() string { return \"end\" }\n-- page/page.html --\nthird page\n", "init\nend?? - third page\n\n", false},
				{"an exported type changes", "-- page/page.go --\npackage page\n\nimport _ \"embed\"\n\n//go:embed page.html\nvar Page string\n\ntype T struct{ A int }\n", "init\nend?? - third page\n\n", false},
				{"the language version", "-- go.mod --\nmodule example.com/app\n\ngo 1.23\n", "init\nend?? - third page\n\n", true},
			} {
				unpack(t, dir, unseen(tc.text))
				log.asked = nil
				got := buildIt(t, known, a, s)
				fresh := newBuilder(t)
				fresh.Trimpath, fresh.Debug = mode.trimpath, mode.debug
				want := buildIt(t, fresh, a, s)
				if diff := cmp.Diff(want.Tree["srv"].Hash.String(), got.Tree["srv"].Hash.String()); diff != "" {
					t.Errorf("%d %s: program (-go build +repeated):\n%s", i, tc.name, diff)
				}
				if out := output(t, got); out != tc.prints {
					t.Errorf("%d %s: prints %q, want %q", i, tc.name, out, tc.prints)
				}
				if !tc.asks && len(log.asked) > 0 {
					t.Errorf("%d %s: the go command was asked because %q", i, tc.name, log.asked)
				}
				if got.Inputs != want.Inputs {
					t.Errorf("%d %s: digests of the inputs differ", i, tc.name)
				}
			}
		})
	}
}

func TestARecipeOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	unpack(t, dir, unseen(small))
	b := newBuilder(t)
	a, s := service(dir, "srv", ".", "./cmd/srv")
	buildIt(t, b, a, s)
	log := &logged{}
	b = &Builder{Store: b.Store, Hashes: b.Hashes, Log: slog.New(log)}
	// The recipe is not in memory; that it is used shows in that no go command is
	// there to ask. Finding the command itself is all that is left of it.
	unpack(t, dir, "-- greet/word/word.go --\npackage word\n\nfunc Word() string { return \"again\" }\n")
	as, err := b.assemble(context.Background(), a, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, shape := b.shapes(s, as); b.recipe("x", shape) == nil {
		t.Error("the recipe was not remembered")
	}
	if got := output(t, buildIt(t, b, a, s)); got != "again! first page\n\n" || len(log.asked) > 0 {
		t.Errorf("the program prints %q, the go command was asked: %q", got, log.asked)
	}
}

func TestTrimmedProgramsAreTheSameInEveryDirectory(t *testing.T) {
	var hashes []string
	for range 2 {
		dir := t.TempDir()
		unpack(t, dir, small)
		b := newBuilder(t)
		b.Trimpath = true
		a, s := service(dir, "srv", ".", "./cmd/srv")
		art := buildIt(t, b, a, s)
		hashes = append(hashes, art.Tree.Digest().String()+" "+art.Inputs.String())
	}
	if hashes[0] != hashes[1] {
		t.Errorf("programs and inputs differ: %s, %s", hashes[0], hashes[1])
	}
}

func TestCompileErrorIsTheCompilersOwn(t *testing.T) {
	dir := t.TempDir()
	unpack(t, dir, small)
	b := newBuilder(t)
	a, s := service(dir, "srv", ".", "./cmd/srv")
	for _, when := range []string{"first build", "repeated build"} {
		unpack(t, dir, "-- greet/helper.go --\npackage greet\n\nfunc helper() string { return 1 }\n")
		_, err := b.Build(context.Background(), a, s)
		broken, ok := errors.AsType[*image.CompileError](err)
		if !ok {
			t.Fatalf("%s: error %v", when, err)
		}
		cmd := exec.Command("go", "build", "-o", os.DevNull, "./cmd/srv")
		cmd.Dir = dir
		want, _ := cmd.CombinedOutput()
		if diff := cmp.Diff(string(want), broken.Output); diff != "" || broken.Service != "srv" {
			t.Errorf("%s: output (-go build +ours):\n%s", when, diff)
		}
		unpack(t, dir, small)
		buildIt(t, b, a, s)
	}
	unpack(t, dir, "-- go.mod --\nmodul x\n")
	_, err := b.Build(context.Background(), a, s)
	if broken, ok := errors.AsType[*image.CompileError](err); !ok || !strings.Contains(broken.Output, "go.mod:1") || broken.Service != "srv" {
		t.Errorf("error of a broken go.mod: %v", err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	dir := t.TempDir()
	unpack(t, dir, small)
	b := newBuilder(t)
	a, s := service(dir, "srv", ".", "./cmd/none")
	if _, err := b.Build(context.Background(), a, s); err == nil || !strings.Contains(err.Error(), "./cmd/none does not exist") {
		t.Errorf("error of a missing package: %v", err)
	}
	s.Build.Package = "./cmd/srv"
	s.Build.Assets = []app.Asset{{Path: "page", As: "../page", From: app.From{File: "main.go", Line: 7}}}
	if _, err := b.Build(context.Background(), a, s); err == nil || !strings.Contains(err.Error(), "main.go:7: ") {
		t.Errorf("error of an asset outside: %v", err)
	}
	b.Go = filepath.Join(dir, "no-such-go")
	if _, err := b.Inputs(context.Background(), a, s); !errors.Is(err, ErrNoGo) {
		t.Errorf("error without Go: %v", err)
	}
}

// TestCancelledBuildLeavesNothing cancels at different moments.
func TestCancelledBuildLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	unpack(t, dir, small)
	b := newBuilder(t)
	root := t.TempDir()
	b.Store = image.OpenStore(root)
	a, s := service(dir, "srv", ".", "./cmd/srv")
	inputs(t, b, a, s)
	stop := errors.New("stopped by the test")
	for i := range 6 {
		unpack(t, dir, fmt.Sprintf("-- greet/helper.go --\npackage greet\n\nfunc helper() string { return %q }\n", fmt.Sprint(i)))
		ctx, cancel := context.WithTimeoutCause(context.Background(), time.Duration(i*40)*time.Millisecond, stop)
		_, err := b.Build(ctx, a, s)
		cancel()
		if err != nil && !errors.Is(err, stop) {
			t.Errorf("error %v, want the cause of the cancellation", err)
		}
		left, err := os.ReadDir(filepath.Join(root, "tmp"))
		if err != nil && !errors.Is(err, os.ErrNotExist) || len(left) != 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	}
}

func TestParallelBuilds(t *testing.T) {
	dir := t.TempDir()
	unpack(t, dir, small)
	b := newBuilder(t)
	cached := image.Cached(b, b.Store, "test")
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			a, s := service(dir, fmt.Sprintf("srv%d", i%3), ".", "./cmd/srv")
			if _, err := cached.Build(context.Background(), a, s); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestCachedBuildIsFoundByAnotherProcess(t *testing.T) {
	dir, store := t.TempDir(), t.TempDir()
	unpack(t, dir, small)
	unpack(t, dir, "-- web/a.html --\nx\n")
	a, s := service(dir, "srv", ".", "./cmd/srv")
	s.Build.Assets = []app.Asset{{Path: "web", As: "web"}}
	build := func() *image.Artifact {
		t.Helper()
		st := image.OpenStore(store)
		art, err := image.Cached(&Builder{Store: st, Hashes: tree.OpenCache("")}, st, "test").Build(context.Background(), a, s)
		if err != nil {
			t.Fatal(err)
		}
		return art
	}
	first, second := build(), build()
	if first.Cached || !second.Cached {
		t.Errorf("cached: first %v, second %v", first.Cached, second.Cached)
	}
	second.Cached = false
	if diff := cmp.Diff(first, second, cmpopts.IgnoreUnexported(image.Artifact{})); diff != "" {
		t.Errorf("artifact (-built +found):\n%s", diff)
	}
	for name, damage := range map[string]func(file string) error{
		"removed":   os.Remove,
		"truncated": func(file string) error { return errors.Join(os.Chmod(file, 0o755), os.Truncate(file, 10)) },
	} {
		if err := damage(second.Tree["srv"].Local); err != nil {
			t.Fatal(err)
		}
		art := build()
		if got := output(t, art); art.Cached || got != "hello! first page\n\n" {
			t.Errorf("a program that was %s: cached %v, prints %q", name, art.Cached, got)
		}
	}
}

// BenchmarkInputsUnchanged is what an unchanged service costs; the budget is
// 20 ms for six.
func BenchmarkInputsUnchanged(b *testing.B) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		b.Fatal(err)
	}
	builder := newBuilder(b)
	a, s := service(root, "golang", ".", "./internal/image/golang")
	inputs(b, builder, a, s)
	for b.Loop() {
		inputs(b, builder, a, s)
	}
}

func TestAFullDiskIsNoCompileError(t *testing.T) {
	tests := []struct{ output, want string }{
		{"# example.com/x\n/go/tool/link: mapping output file failed: no space left on device\n", "/go/tool/link: mapping output file failed: no space left on device"},
		{"compile: writing output: write $WORK/b001/_pkg_.a: disk quota exceeded", "compile: writing output: write $WORK/b001/_pkg_.a: disk quota exceeded"},
		{"# example.com/x\n./main.go:3:2: undefined: space\n", ""},
	}
	for _, test := range tests {
		if got := diskFull(test.output); got != test.want {
			t.Errorf("diskFull(%q) = %q, want %q", test.output, got, test.want)
		}
	}
}
