package static

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/tree"
)

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func newSite(t *testing.T, root string) (*Builder, *app.App, *app.Service) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/.gitignore", "*.tmp\n")
	write(t, dir+"/bight.yaml", "")
	write(t, dir+"/web/index.html", "hello")
	write(t, dir+"/web/css/a.css", "a")
	write(t, dir+"/web/css/b.tmp", "b")
	write(t, dir+"/web/.dockerignore", "drafts\n")
	write(t, dir+"/web/drafts/x.html", "x")
	s := &app.Service{Name: "front", Build: app.Build{Kind: app.BuildStatic, Root: root}, Ports: []app.Port{{Name: "http", Number: 8080}}}
	return &Builder{Hashes: tree.OpenCache("")}, &app.App{Dir: dir, Services: []*app.Service{s}}, s
}

func TestBuildTakesTheSitesFiles(t *testing.T) {
	for root, want := range map[string][]string{
		"web": {"css/a.css", "index.html"},
		".":   {"web/css/a.css", "web/index.html"},
	} {
		b, a, s := newSite(t, root)
		art, err := b.Build(context.Background(), a, s)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, art.Tree.Paths()); diff != "" {
			t.Errorf("root %s: paths (-want +got):\n%s", root, diff)
		}
		command := []string{"/bight/agent", "static", "--root", image.Root, "--listen", ":8080"}
		if diff := cmp.Diff(command, art.Command); diff != "" || !art.NeedsAgent || art.Restart {
			t.Errorf("artifact %+v (-want +got):\n%s", art, diff)
		}
		in, err := b.Inputs(context.Background(), a, s)
		if err != nil {
			t.Fatal(err)
		}
		if in.Digest != art.Inputs {
			t.Error("the artifact's digest is not that of the inputs")
		}
		if diff := cmp.Diff([]string{".", "web", "web/css"}, in.Dirs); diff != "" {
			t.Errorf("dirs (-want +got):\n%s", diff)
		}
		if _, ok := in.Files["web/index.html"]; !ok {
			t.Errorf("the inputs are %v", in.Files.Paths())
		}
	}
}

func TestBuildChangedEqualsBuild(t *testing.T) {
	b, a, s := newSite(t, "web")
	for _, step := range []struct {
		name    string
		change  func()
		changed []string
	}{
		{"nothing was built yet", func() {}, nil},
		{"a file", func() { write(t, a.Dir+"/web/index.html", "new") }, []string{"web/index.html"}},
		{"a new directory", func() { write(t, a.Dir+"/web/js/a/b.js", "b") }, []string{"web/js"}},
		{"a directory is gone", func() { os.RemoveAll(a.Dir + "/web/js") }, []string{"web/js", "web/js/a/b.js"}},
		{"a directory becomes empty", func() { os.Remove(a.Dir + "/web/css/a.css"); os.Remove(a.Dir + "/web/css/b.tmp") }, []string{"web/css/a.css"}},
		{"the ignore rules", func() { write(t, a.Dir+"/web/.dockerignore", "") }, []string{"web/.dockerignore"}},
		{"elsewhere", func() { write(t, a.Dir+"/other", "") }, []string{"other"}},
		{"the whole app", func() { write(t, a.Dir+"/web/late.html", "") }, []string{"."}},
	} {
		step.change()
		got, err := b.BuildChanged(context.Background(), a, s, step.changed)
		if err != nil {
			t.Fatal(err)
		}
		want, err := (&Builder{}).Build(context.Background(), a, s)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(image.Artifact{})); diff != "" {
			t.Errorf("%s: artifact (-built +refreshed):\n%s", step.name, diff)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	b, a, s := newSite(t, "web")
	s.Build.Root = "nowhere"
	if _, err := b.Build(context.Background(), a, s); err == nil || !strings.Contains(err.Error(), "nowhere does not exist") {
		t.Errorf("error of a missing root: %v", err)
	}
	s.Build.Root, s.Ports = "web", nil
	if _, err := b.Inputs(context.Background(), a, s); err == nil || !strings.Contains(err.Error(), "services.front.ports") {
		t.Errorf("error without a port: %v", err)
	}
}

// TestBuildsAtOnceForgetNothing has two builds overlap, as saves do that come while
// one is looked at: the one that knows of fewer changes must not have the last word.
func TestBuildsAtOnceForgetNothing(t *testing.T) {
	b, a, s := newSite(t, "web")
	if _, err := b.Build(t.Context(), a, s); err != nil {
		t.Fatal(err)
	}
	var all []string
	for i := range 300 {
		all = append(all, fmt.Sprint("web/", i))
	}
	for round := range 50 {
		for _, name := range all {
			write(t, filepath.Join(a.Dir, name), fmt.Sprint("first ", round))
		}
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := b.BuildChanged(t.Context(), a, s, all); err != nil {
				t.Error(err)
			}
		})
		write(t, filepath.Join(a.Dir, "web/0"), fmt.Sprint("then ", round))
		both.Go(func() {
			if _, err := b.BuildChanged(t.Context(), a, s, []string{"web/0"}); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		known, err := b.BuildChanged(t.Context(), a, s, all[1:2])
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := (&Builder{}).Build(t.Context(), a, s)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(fresh.TreeDigest(), known.TreeDigest()); d != "" {
			t.Fatalf("round %d: (-what there is +what is known):\n%s", round, d)
		}
	}
}
