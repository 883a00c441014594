package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

// testStore is a store whose image has some files, and which is open.
func testStore(t *testing.T, image map[string]string) *store {
	t.Helper()
	s := &store{root: t.TempDir(), live: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	for name, content := range image {
		write(t, s.root, name, content)
	}
	reopen(t, s)
	return s
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	full := filepath.Join(dir, name)
	err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644))
	if err != nil {
		t.Fatal(err)
	}
}

func reopen(t *testing.T, s *store) {
	t.Helper()
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
}

// again is a store as an agent that was started again has it.
func (s *store) again(t *testing.T) *store {
	t.Helper()
	s.saves.Wait()
	n := &store{root: s.root, live: s.live, log: s.log}
	reopen(t, n)
	return n
}

func entry(content string) tree.Entry {
	return tree.Entry{Mode: 0o644, Size: int64(len(content)), Hash: sha256.Sum256([]byte(content))}
}

// set makes the store's tree the given files, by a patch that sends all that
// differs as it is.
func set(t *testing.T, s *store, files map[string]string) (applied, error) {
	t.Helper()
	now, err := s.now()
	if err != nil {
		t.Fatal(err)
	}
	want := tree.Tree{}
	for name, content := range files {
		want[name] = entry(content)
	}
	d := tree.Compare(now.tree, want)
	var b, content []byte
	for _, p := range d.Delete {
		b = wire.AppendDelete(b, p)
	}
	for _, p := range d.Put {
		b = wire.AppendPut(b, wire.Put{Path: p, Entry: want[p]})
		content = append(content, files[p]...)
	}
	head := wire.PatchHeader{Base: now.digest, Target: want.Digest(), Deletes: len(d.Delete), Puts: len(d.Put)}
	return s.apply(context.Background(), head, "test", bufio.NewReader(bytes.NewReader(append(b, content...))), func() error { return nil })
}

// onDisk reads what the process would see.
func onDisk(t *testing.T, s *store) map[string]string {
	t.Helper()
	dir, _ := s.current()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		name, rerr := filepath.Rel(dir, p)
		files[name] = string(b)
		return errors.Join(err, rerr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestPatchesWithAndWithoutExchange(t *testing.T) {
	for _, tt := range []struct {
		name     string
		exchange func(*dir, string, string) error
	}{
		{"exchange", nil},
		{"a file system that can't", func(*dir, string, string) error { return unix.EINVAL }},
		{"a kernel that can't", func(*dir, string, string) error { return unix.ENOSYS }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := testStore(t, map[string]string{"a": "1", "d/b": "2"})
			s.exchange = tt.exchange
			for i, want := range []map[string]string{
				{"a": "1", "d/b": "3"}, {"a": "2", "d/b": "3"}, {"d/c": "4"}, {"d": "5"}, {}, {"x/y/z": "6"},
			} {
				done, err := set(t, s, want)
				if err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				if d := cmp.Diff(want, onDisk(t, s)); d != "" {
					t.Errorf("step %d: -want +got:\n%s", i, d)
				}
				s.discard(done.old)
				s.saves.Wait()
				left, err := os.ReadDir(s.live)
				if err != nil || len(left) != 2 {
					t.Errorf("step %d: left over: %v %v", i, left, err)
				}
				now, err := s.again(t).now()
				if err != nil || now.digest != s.digest || now.by != "test" {
					t.Errorf("step %d: another agent finds %s by %q, %v", i, now.digest.Short(), now.by, err)
				}
			}
		})
	}
}

func TestPatchThatFailsChangesNothing(t *testing.T) {
	files := map[string]string{"a": "1", "d/b": "2"}
	s := testStore(t, files)
	if _, err := set(t, s, map[string]string{"a": "2", "d/b": "2"}); err != nil {
		t.Fatal(err)
	}
	now, _ := s.now()
	before := onDisk(t, s)
	for _, tt := range []struct {
		name    string
		content string
		want    wire.Code
	}{
		{"content that ends early", "9", 0},
		{"content that is another", "XX", wire.BadHash},
	} {
		target := tree.Tree{"a": entry("99"), "d/b": entry("2")}
		head := wire.PatchHeader{Base: now.digest, Target: target.Digest(), Puts: 1}
		b := wire.AppendPut(nil, wire.Put{Path: "a", Entry: target["a"]})
		_, err := s.apply(t.Context(), head, "", bufio.NewReader(bytes.NewReader(append(b, tt.content...))), func() error { return nil })
		r, ok := errors.AsType[*refusal](err)
		if err == nil || tt.want != 0 && (!ok || r.code != tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if d := cmp.Diff(before, onDisk(t, s)); d != "" {
			t.Errorf("%s: -want +got:\n%s", tt.name, d)
		}
	}
	if left, _ := filepath.Glob(s.live + "/*-[0-9]*"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestManifestThatCanNotBeTrusted(t *testing.T) {
	files := map[string]string{"a": "1", "d/b": "2"}
	for name, damage := range map[string]func(live string) error{
		"missing":   func(d string) error { return os.Remove(d + "/manifest") },
		"empty":     func(d string) error { return os.WriteFile(d+"/manifest", nil, 0o600) },
		"cut short": func(d string) error { return os.Truncate(d+"/manifest", 100) },
		"one bit": func(d string) error {
			b, err := os.ReadFile(d + "/manifest")
			if err == nil {
				b[len(b)/2] ^= 1
				err = os.WriteFile(d+"/manifest", b, 0o600)
			}
			return err
		},
	} {
		s := testStore(t, nil)
		if _, err := set(t, s, files); err != nil {
			t.Fatal(err)
		}
		s.saves.Wait()
		if err := damage(s.live); err != nil {
			t.Fatal(err)
		}
		if now, err := s.again(t).now(); err != nil || now.digest != s.digest {
			t.Errorf("%s: %s, %v", name, now.digest.Short(), err)
		}
	}
}

func TestFilesThatChangedWhileNoAgentRan(t *testing.T) {
	s := testStore(t, nil)
	if _, err := set(t, s, map[string]string{"a": "1", "b": "2", "c": "3"}); err != nil {
		t.Fatal(err)
	}
	s.saves.Wait()
	app, _ := s.current()
	if err := errors.Join(os.WriteFile(app+"/a", []byte("changed"), 0o644), os.Remove(app+"/b"), os.WriteFile(app+"/own", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	now, err := s.again(t).now()
	if err != nil {
		t.Fatal(err)
	}
	want := tree.Tree{"a": entry("changed"), "c": entry("3")}
	if d := cmp.Diff(want, now.tree); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestAgentThatDiedBetweenTwoRenames(t *testing.T) {
	s := testStore(t, nil)
	files := map[string]string{"a": "1"}
	if _, err := set(t, s, files); err != nil {
		t.Fatal(err)
	}
	s.saves.Wait()
	if err := os.Rename(s.live+"/app", s.live+"/old-4"); err != nil {
		t.Fatal(err)
	}
	write(t, s.live, "stage-4/a", "2")
	n := s.again(t)
	if d := cmp.Diff(files, onDisk(t, n)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestOfTwoPatchesAtOnceOneIsRefused(t *testing.T) {
	s := testStore(t, map[string]string{"a": "1"})
	now, err := s.now()
	if err != nil {
		t.Fatal(err)
	}
	target := tree.Tree{"a": entry("2")}
	head := wire.PatchHeader{Base: now.digest, Target: target.Digest(), Puts: 1}
	content := append(wire.AppendPut(nil, wire.Put{Path: "a", Entry: target["a"]}), '2')
	_, err = s.apply(t.Context(), head, "slow", bufio.NewReader(bytes.NewReader(content)), func() error {
		_, err := set(t, s, map[string]string{"a": "other"})
		return err
	})
	if r, ok := errors.AsType[*refusal](err); !ok || r.code != wire.OtherBase {
		t.Errorf("the slower one: %v", err)
	}
	if d := cmp.Diff(map[string]string{"a": "other"}, onDisk(t, s)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestManifestRoundTrip(t *testing.T) {
	want := manifest{source: tree.Hash{1}, by: "anna", listing: listing{
		tree: tree.Tree{"a\nb\xff": entry("x"), "l": {Mode: fs.ModeSymlink, Link: "a"}, "d": {Mode: fs.ModeDir | 0o700}},
		meta: map[string]meta{"a\nb\xff": {mode: 0o644, size: 1, mtime: -5, ino: 1 << 60}},
	}}
	b := want.encode()
	got, err := decodeManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(manifest{}, listing{}, meta{})); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	for n := range b {
		if _, err := decodeManifest(b[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes it was believed", n, len(b))
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(append([]byte(manifestMagic), b...))
		_, _ = decodeManifest(fmt.Appendf(nil, "%s%s%s", manifestMagic, b, sum[:])) // must not panic
	})
}
