package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/tree"
)

func TestPruneDropsWhatWasNotUsedForLongest(t *testing.T) {
	now := time.Unix(1e9, 0)
	ago := func(h int) time.Time { return now.Add(-time.Duration(h) * time.Hour) }
	record := func(name string, hours int, refs ...string) stored {
		return stored{name: name, used: ago(hours), refs: refs}
	}
	file := func(name string, size int64, hours int) stored {
		return stored{name: name, size: size, used: ago(hours)}
	}
	for _, tc := range []struct {
		name           string
		records, files []stored
		limit          int64
		want           []string
	}{
		{"all fits", []stored{record("r", 9, "a")}, []stored{file("a", 5, 9)}, 5, nil},
		{"the older goes", []stored{record("old", 9, "a"), record("new", 1, "b")}, []stored{file("a", 5, 9), file("b", 5, 9)}, 9, []string{"a", "old"}},
		{"a shared file stays", []stored{record("old", 9, "a", "b"), record("new", 1, "a")}, []stored{file("a", 5, 9), file("b", 5, 9)}, 9, []string{"b", "old"}},
		{"the newest stays though too large", []stored{record("r", 9, "a")}, []stored{file("a", 50, 9)}, 5, nil},
		{"a young file without a record stays", nil, []stored{file("young", 5, 0), file("old", 5, 9)}, 1, []string{"old"}},
		{"once full, older ones go too", []stored{record("1", 1, "a"), record("2", 2, "b"), record("3", 3, "c")}, []stored{file("a", 5, 9), file("b", 50, 9), file("c", 1, 9)}, 10, []string{"2", "3", "b", "c"}},
	} {
		var got []string
		for _, d := range prune(tc.records, tc.files, tc.limit, now) {
			got = append(got, d.name)
		}
		slices.Sort(got)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: dropped (-want +got):\n%s", tc.name, diff)
		}
	}
}

// fileBuilder is a Builder whose program is a copy of the only input.
type fileBuilder struct {
	store *Store
	mu    sync.Mutex
	built int
}

func (b *fileBuilder) Inputs(_ context.Context, a *app.App, s *app.Service) (*Inputs, error) {
	var none *tree.Cache
	e, err := none.Stat(filepath.Join(a.Dir, s.Name))
	return &Inputs{Files: tree.Tree{s.Name: e}, Digest: e.Hash}, err
}

func (b *fileBuilder) Build(ctx context.Context, a *app.App, s *app.Service) (*Artifact, error) {
	in, err := b.Inputs(ctx, a, s)
	if err != nil {
		return nil, err
	}
	dir, err := b.store.Temp()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	text, err := os.ReadFile(in.Files[s.Name].Local)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(dir+"/out", text, 0o755); err != nil {
		return nil, err
	}
	e, err := b.store.Put(dir + "/out")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.built++
	return &Artifact{
		Service: s.Name, Command: []string{"./x"}, Restart: true, Inputs: in.Digest,
		Tree: tree.Tree{
			"x": e, "bytes \xff\n": in.Files[s.Name],
			"link": {Mode: fs.ModeSymlink, Link: "to\xff"}, "dir": {Mode: fs.ModeDir | 0o755},
		},
	}, err
}

func cachedApp(t *testing.T) (*fileBuilder, Builder, *app.App, *app.Service) {
	t.Helper()
	s := &app.Service{Name: "svc"}
	a := &app.App{Dir: t.TempDir(), Services: []*app.Service{s}}
	if err := os.WriteFile(a.Dir+"/svc", []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := &fileBuilder{store: OpenStore(t.TempDir())}
	return b, Cached(b, b.store, "test"), a, s
}

func mustBuild(t *testing.T, b Builder, a *app.App, s *app.Service) *Artifact {
	t.Helper()
	art, err := b.Build(context.Background(), a, s)
	if err != nil {
		t.Fatal(err)
	}
	return art
}

func TestCachedBuildsTheSameInputsOnce(t *testing.T) {
	inner, b, a, s := cachedApp(t)
	first, second := mustBuild(t, b, a, s), mustBuild(t, b, a, s)
	if inner.built != 1 || first.Cached || !second.Cached {
		t.Errorf("built %d times, cached %v, %v", inner.built, first.Cached, second.Cached)
	}
	second.Cached = false
	if diff := cmp.Diff(first, second, cmpopts.IgnoreUnexported(Artifact{})); diff != "" {
		t.Errorf("artifact (-built +found):\n%s", diff)
	}
	if err := os.WriteFile(a.Dir+"/svc", []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if art := mustBuild(t, b, a, s); art.Cached || inner.built != 2 {
		t.Error("changed inputs were not built")
	}
}

func TestCachedRebuildsWhatIsDamaged(t *testing.T) {
	inner, b, a, s := cachedApp(t)
	art := mustBuild(t, b, a, s)
	program := art.Tree["x"].Local
	manifest := inner.store.recordFile("artifact", art.Inputs)
	for name, damage := range map[string]func() error{
		"program removed":   func() error { return os.Remove(program) },
		"program truncated": func() error { return errors.Join(os.Chmod(program, 0o755), os.Truncate(program, 1)) },
		"program changed": func() error {
			return errors.Join(os.Chmod(program, 0o755), os.WriteFile(program, []byte("two"), 0o755))
		},
		"manifest removed":    func() error { return os.Remove(manifest) },
		"manifest half there": func() error { return os.Truncate(manifest, 20) },
		"manifest of another tree": func() error {
			return os.WriteFile(manifest, []byte(`{"store":null,"value":{"tree":"00","command":["x"],"files":[]}}`), 0o644)
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if art := mustBuild(t, b, a, s); art.Cached {
			t.Errorf("%s: the damage went unnoticed", name)
		}
		if art := mustBuild(t, b, a, s); !art.Cached {
			t.Errorf("%s: it was not mended", name)
		}
	}
}

func TestStoreStaysWithinItsLimit(t *testing.T) {
	inner, b, a, s := cachedApp(t)
	inner.store.MaxBytes = 10_000
	inner.store.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	for i := range 30 {
		if err := os.WriteFile(a.Dir+"/svc", fmt.Appendf(nil, "%1000d", i), 0o644); err != nil {
			t.Fatal(err)
		}
		mustBuild(t, b, a, s)
		files, err := inner.store.listFiles()
		if err != nil {
			t.Fatal(err)
		}
		if len(files) > 11 {
			t.Fatalf("%d files of 1000 bytes with a limit of 10000", len(files))
		}
	}
	if art := mustBuild(t, b, a, s); !art.Cached {
		t.Error("the newest build is gone")
	}
}

func TestStoreIsSharedByProcesses(t *testing.T) {
	_, _, a, s := cachedApp(t)
	dir := t.TempDir()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			st := OpenStore(dir)
			b := Cached(&fileBuilder{store: st}, st, "test")
			for range 10 {
				art, err := b.Build(context.Background(), a, s)
				if err != nil {
					t.Error(err)
					return
				}
				if text, err := os.ReadFile(art.Tree["x"].Local); err != nil || string(text) != "one" {
					t.Errorf("the program is %q, %v", text, err)
				}
			}
		})
	}
	group.Wait()
}

func TestPlace(t *testing.T) {
	for _, tc := range [][4]string{
		{"web/a", "web", "w", "w/a"}, {"web", "web", "w", "w"}, {"webs/a", "web", "w", ""},
		{"a/b", ".", "x", "x/a/b"}, {"web/a", "web", ".", "a"}, {".", ".", ".", "."},
	} {
		if got := Place(tc[0], tc[1], tc[2]); got != tc[3] {
			t.Errorf("Place(%q, %q, %q) = %q, want %q", tc[0], tc[1], tc[2], got, tc[3])
		}
	}
}
