package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/live"
	"github.com/bightdev/bight/internal/tree"
	"github.com/bightdev/bight/internal/ui/term"
)

// known is a builder that is told what services are built from.
type known struct {
	image.Builder
	inputs func(service string) (*image.Inputs, error)
}

func (k known) Inputs(_ context.Context, _ *app.App, s *app.Service) (*image.Inputs, error) {
	return k.inputs(s.Name)
}

// following is a follower whose watcher runs.
type following struct {
	*follower
	t       *testing.T
	batches chan live.Batch
}

// watching watches an app's directory, whose programs are built from inputs.
func watching(t *testing.T, a *app.App, inputs func(service string) (*image.Inputs, error)) *following {
	t.Helper()
	printer := term.New(term.Config{Out: term.Stream{W: io.Discard}, Err: term.Stream{W: io.Discard}})
	s := &Session{
		Config: Config{Dir: a.Dir, Printer: printer, Log: slog.New(slog.DiscardHandler)}, app: a,
		maker:    &Maker{builders: map[string]image.Builder{app.BuildGo: known{inputs: inputs}}},
		failures: map[string]string{}, artifacts: map[string]*image.Artifact{},
	}
	f := &following{newFollower(s), t, make(chan live.Batch)}
	ctx, cancel := context.WithCancel(t.Context())
	f.look(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.watcher.Run(ctx, f.batches) // ctx has ended
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	if first := <-f.batches; !first.Rescan {
		t.Errorf("first batch: %+v", first)
	}
	return f
}

// until waits until the watcher tells of a path, and returns all that it told of.
func (f *following) until(want string) map[string]bool {
	f.t.Helper()
	told := map[string]bool{}
	deadline := time.After(3 * time.Second)
	for !told[want] {
		select {
		case b := <-f.batches:
			for _, path := range b.Paths {
				told[f.session.relative(path)] = true
			}
		case <-deadline:
			f.t.Fatalf("nothing about %s; told of %v", want, told)
		}
	}
	return told
}

// write writes a file, and the directories that it is in.
func (f *following) write(file, text string) {
	f.t.Helper()
	write(f.t, f.session.Dir, file, text)
}

func write(t *testing.T, dir, file, text string) {
	t.Helper()
	file = filepath.Join(dir, filepath.FromSlash(file))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// temporary returns a new directory by the path that has no symbolic links.
func temporary(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestTheDirectoryAboveIsWatched has an example in the module that it is an example of.
func TestTheDirectoryAboveIsWatched(t *testing.T) {
	lib := temporary(t)
	for _, file := range []string{"lib.go", "example/go.mod", "example/main.go", "part/part.go", "other/other.go"} {
		write(t, lib, file, "old")
	}
	a := &app.App{Dir: filepath.Join(lib, "example"), Services: []*app.Service{{Name: "example", Build: app.Build{Kind: app.BuildGo}}}}
	f := watching(t, a, func(string) (*image.Inputs, error) {
		return &image.Inputs{
			Files: tree.Tree{"go.mod": {}, "main.go": {}, "../lib.go": {}, "../part/part.go": {}},
			Dirs:  []string{".", "..", "../part"},
		}, nil
	})
	f.write("../other/other.go", "new")
	f.write("../lib.go", "new")
	told := f.until("../lib.go")
	f.write("../part/more.go", "new")
	f.until("../part/more.go")
	f.write("main.go", "new")
	f.until("main.go")
	if told["../other/other.go"] {
		t.Error("what the example is not built from was told")
	}
}

func TestDirectoriesThatABuildComesToReadAreWatched(t *testing.T) {
	dir := temporary(t)
	for _, file := range []string{"shop/go.mod", "shop/main.go", "money/money.go", "money/rates/rates.go"} {
		write(t, dir, file, "old")
	}
	a := &app.App{Dir: filepath.Join(dir, "shop"), Services: []*app.Service{{Name: "shop", Build: app.Build{Kind: app.BuildGo}}}}
	in := &image.Inputs{Files: tree.Tree{"go.mod": {}, "main.go": {}}, Dirs: []string{"."}}
	f := watching(t, a, func(string) (*image.Inputs, error) { return in, nil })
	in = &image.Inputs{
		Files: tree.Tree{"go.mod": {}, "main.go": {}, "../money/rates/rates.go": {}},
		Dirs:  []string{".", "../money", "../money/rates"},
	}
	f.learn(t.Context(), a, a.Services[0])
	if err := (<-f.news)(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.until("../money") // what has changed in it before was not noticed
	f.write("../money/rates/rates.go", "new")
	f.until("../money/rates/rates.go")
}

// TestABuildThatFailsForgetsNoInputs has a build that did not get to what is to be mended.
func TestABuildThatFailsForgetsNoInputs(t *testing.T) {
	a := shopApp()
	a.Dir = temporary(t)
	write(t, a.Dir, "cart/main.go", "package main")
	in := &image.Inputs{Files: tree.Tree{"go.mod": {}, "cart/main.go": {}, "money/money.go": {}}, Dirs: []string{".", "cart", "money"}}
	f := watching(t, a, func(string) (*image.Inputs, error) { return in, nil })
	in = &image.Inputs{Files: tree.Tree{"go.mod": {}, "cart/main.go": {}}, Dirs: []string{".", "cart"}}
	check := func(finish error, want bool) {
		t.Helper()
		f.session.failures["cart"] = ""
		service := a.Services[0]
		if finish != nil {
			f.finish(t.Context(), a, service, changes{}, nil, nil, 0, finish)
		} else {
			f.learn(t.Context(), a, service)
		}
		if err := (<-f.news)(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := isInput(f.inputs["cart"], "money/money.go"); got != want {
			t.Errorf("after a build with error %v: got %v, want %v", finish, got, want)
		}
	}
	check(errors.New("it does not compile"), true)
	check(nil, false)
}

// TestWhatIsBuiltIsFollowedThoughItIsIgnored has what other build tools make.
func TestWhatIsBuiltIsFollowedThoughItIsIgnored(t *testing.T) {
	a := shopApp()
	a.Dir = temporary(t)
	a.Service("web").Build.Root = "web/dist"
	write(t, a.Dir, ".gitignore", "dist/\n*.pb.go\ntmp/\n")
	write(t, a.Dir, ".dockerignore", "*\n!bin/server\n")
	in := &image.Inputs{
		Files: tree.Tree{"cart/main.go": {}, "cart/api.pb.go": {}, "cart/dist/index.html": {}},
		Dirs:  []string{".", "cart", "cart/dist"},
	}
	for _, file := range []string{"cart/main.go", "cart/api.pb.go", "cart/dist/index.html", "web/dist/index.html", "tmp/out"} {
		write(t, a.Dir, file, "old")
	}
	f := watching(t, a, func(string) (*image.Inputs, error) { return in, nil })
	f.write("tmp/out", "new")
	f.write("cart/main.go", "new")
	if told := f.until("cart/main.go"); told["tmp/out"] {
		t.Error("what a program wrote was told")
	}
	f.write("cart/api.pb.go", "new")
	f.until("cart/api.pb.go")
	f.write("cart/dist/index.html", "new")
	f.until("cart/dist/index.html")
	f.write("web/dist/index.html", "new")
	f.until("web/dist/index.html")
	for _, dir := range []string{"cart/dist", "web/dist"} {
		if err := os.RemoveAll(filepath.Join(a.Dir, dir)); err != nil {
			t.Fatal(err)
		}
		f.until(dir)
		f.write(dir+"/index.html", "made anew")
		f.until(dir + "/index.html")
	}
}

// TestRulesThatChangeAreFollowed has rules that ignore another directory.
func TestRulesThatChangeAreFollowed(t *testing.T) {
	a := shopApp()
	a.Dir = temporary(t)
	write(t, a.Dir, ".gitignore", "web/old\n")
	write(t, a.Dir, "web/old/page.html", "old")
	write(t, a.Dir, "web/new/page.html", "old")
	f := watching(t, a, func(string) (*image.Inputs, error) { return nil, errors.New("it can't be read") })
	f.rollout = &rollout{first: true} // what is told is kept for later
	f.write(".gitignore", "web/new\n")
	f.until(".gitignore")
	f.take(t.Context(), live.Batch{Paths: []string{filepath.Join(a.Dir, ".gitignore")}})
	f.until(".") // when what is new is watched
	f.write("web/new/page.html", "new")
	f.write("web/old/page.html", "new")
	if told := f.until("web/old/page.html"); told["web/new/page.html"] {
		t.Error("what is ignored now was told")
	}
	f.take(t.Context(), live.Batch{Paths: []string{a.Dir}})
	if !f.late.all || slices.Contains(f.late.paths, ".") {
		t.Errorf("the app's directory was told, and what is looked at is %+v", f.late)
	}
}
