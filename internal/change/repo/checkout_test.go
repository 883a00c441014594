//go:build unix

package repo

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree returns the files below dir as path -> content; links and directories without files are told, too.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		switch {
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(name)
			found[relative] = "-> " + target
			return err
		case d.IsDir():
			below, err := os.ReadDir(name)
			if len(below) == 0 {
				found[relative+"/"] = ""
			}
			return err
		}
		text, err := os.ReadFile(name)
		found[relative] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestACheckoutHasTheCommitAndNothingElse(t *testing.T) {
	f := newForge(t, nil)
	u := newUser(t)
	u.write("run.sh", "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(u.dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a/b", filepath.Join(u.dir, "link")); err != nil {
		t.Fatal(err)
	}
	one := u.commit("one", "a/b", "1", "a/c", "c\r\n", "d/e", "e", ".gitattributes", "* text eol=crlf ident\n*.x filter=evil\n", ".gitignore", "cache/\n", "id.x", "$Id$\n")
	u.git("rm", "-r", "--quiet", "d")
	two := u.commit("two", "a/b", "2", "d", "a file now")
	u.git("push", f.web("ann"), "main")
	from := Source{URL: f.http.URL + "/git/shop/web.git", Password: "bob"}
	dir := t.TempDir()
	checkout := func(commit string) *Copy {
		t.Helper()
		c, err := Checkout(t.Context(), from, commit, dir, CheckoutOptions{With: []string{one}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := map[string]string{"a/b": "1", "a/c": "c\n", "d/e": "e", "link": "-> a/b", "run.sh": "#!/bin/sh\n", "id.x": "$Id$\n",
		".gitattributes": "* text eol=crlf ident\n*.x filter=evil\n", ".gitignore": "cache/\n"}
	second := map[string]string{}
	for name, text := range first {
		second[name] = text
	}
	delete(second, "d/e")
	second["a/b"], second["d"] = "2", "a file now"

	c := checkout(one)
	if diff := cmp.Diff(first, tree(t, c.Dir)); diff != "" {
		t.Fatalf("first (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(c.Dir, "run.sh")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("run.sh can't be run: %v, %v", info, err)
	}
	if c.Files != 8 || c.Bytes == 0 {
		t.Errorf("contents: %+v", c.Contents)
	}
	text, _, err := checkout(two).Repository.Diff(t.Context(), one, two, DiffOptions{})
	if err != nil {
		t.Fatal(err)
	}
	has(t, string(text), "-1\n", "+2\n")
	if diff := cmp.Diff(second, tree(t, c.Dir)); diff != "" {
		t.Errorf("second (-want +got):\n%s", diff)
	}
	info, err := os.Stat(filepath.Join(c.Dir, "a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	checkout(two)
	if again, err := os.Stat(filepath.Join(c.Dir, "a", "b")); err != nil || again.ModTime() != info.ModTime() {
		t.Errorf("an unchanged file was written again: %v", err)
	}

	mess(t, c.Dir, filepath.Join(dir, "store.git"))
	checkout(one)
	if diff := cmp.Diff(first, tree(t, c.Dir)); diff != "" {
		t.Errorf("after a mess (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "store.git", "index"), []byte("broken"), 0o644); err != nil {
		t.Fatal(err)
	}
	checkout(two)
	if diff := cmp.Diff(second, tree(t, c.Dir)); diff != "" {
		t.Errorf("after a broken index (-want +got):\n%s", diff)
	}
}

// mess does what tests do to a working copy, and what hostile ones do to the store beside it.
func mess(t *testing.T, dir, store string) {
	t.Helper()
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "b"), []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(filepath.Join(outside, "b")); err != nil || string(text) != "precious" {
			t.Errorf("a file outside was touched: %q, %v", text, err)
		}
	})
	evil := "#!/bin/sh\ntouch " + outside + "/ran\n"
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "cache", "mod", "x"), 0o755),
		os.WriteFile(filepath.Join(dir, "cache", "mod", "x", "y"), nil, 0o444),
		os.Chmod(filepath.Join(dir, "cache", "mod", "x"), 0o555),
		os.MkdirAll(filepath.Join(dir, "nested", ".git"), 0o755),
		os.RemoveAll(filepath.Join(dir, "a")),
		os.Symlink(outside, filepath.Join(dir, "a")), // a directory of the commit leads elsewhere
		os.Chmod(filepath.Join(dir, "run.sh"), 0),
		os.Remove(filepath.Join(dir, "link")),
		os.Mkdir(filepath.Join(dir, "link"), 0o755),
		os.WriteFile(filepath.Join(store, "index.lock"), nil, 0o644),
		os.MkdirAll(filepath.Join(store, "hooks"), 0o755),
		os.WriteFile(filepath.Join(store, "hooks", "post-checkout"), []byte(evil), 0o755),
		os.WriteFile(filepath.Join(store, "config"), []byte("[core]\n\tbare=true\n\tfsmonitor=touch "+outside+"/ran\n[filter \"evil\"]\n\tsmudge=touch "+outside+"/ran\n"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(outside, "ran")); err == nil {
			t.Error("a program that the store named was run")
		}
	})
}

func TestACheckoutFromADirectoryAndItsReports(t *testing.T) {
	r := newRepository(t)
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("a", 64) + "\nsize 12345\n"
	u := newUser(t)
	u.git("init", "--quiet", "sub")
	user{t, filepath.Join(u.dir, "sub")}.commit("inner", "x", "y")
	commit := u.commit("one", "data.bin", pointer, "notes.md", pointer[1:], ".gitattributes", "*.bin filter=lfs diff=lfs -text\n",
		"README", "1", "readme", "2", "docs/a", "3", "Docs/b", "4", "big", strings.Repeat("b", 2000))
	inner := u.git("-C", "sub", "rev-parse", "HEAD")
	u.git("push", r.Dir, "main")
	c, err := Checkout(t.Context(), Source{Path: r.Dir}, commit, t.TempDir(), CheckoutOptions{MaxFile: 1000})
	if err != nil {
		t.Fatal(err)
	}
	got := c.Contents
	if len(got.Large) != 1 || got.Large[0].Path != "big" {
		t.Errorf("large: %+v", got.Large)
	}
	got.Large, got.Bytes = nil, 0
	want := Contents{Files: 8, Submodules: []Submodule{{Path: "sub", Commit: inner}}, Pointers: []string{"data.bin"},
		Collisions: [][]string{{"Docs", "docs"}, {"README", "readme"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("contents (-want +got):\n%s", diff)
	}
	if below := tree(t, filepath.Join(c.Dir, "sub")); len(below) > 0 {
		t.Errorf("the submodule has %v", below)
	}
	_, err = Checkout(t.Context(), Source{Path: r.Dir}, commit, t.TempDir(), CheckoutOptions{MaxTotal: 1000})
	if _, ok := errors.AsType[*TooLargeError](err); !ok {
		t.Errorf("total: got %v, want a TooLargeError", err)
	}
	if _, err = Checkout(t.Context(), Source{Path: r.Dir}, commit, t.TempDir(), CheckoutOptions{MaxFiles: 3}); err == nil {
		t.Error("too many files were checked out")
	}
	if _, err = Checkout(t.Context(), Source{Path: r.Dir}, strings.Repeat("1", 40), t.TempDir(), CheckoutOptions{}); err == nil {
		t.Error("a commit that does not exist was checked out")
	}
	if _, err = Checkout(t.Context(), Source{URL: "ext::sh -c id"}, commit, t.TempDir(), CheckoutOptions{}); err == nil {
		t.Error("a program was taken for a source")
	}
}

func TestLinksOutOfTheTreeAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	r := newRepository(t)
	u := newUser(t)
	good := u.commit("good", "x/y/f", "1")
	for name, target := range map[string]string{"up": "../../etc", "abs": "/etc/passwd", "x/y/root": "../..", "tricky": "x/y/root/../etc", "fine": "x/y/root/x"} {
		if err := os.Symlink(target, filepath.Join(u.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	bad := u.commit("bad")
	u.git("push", r.Dir, "main")
	dir := t.TempDir()
	if _, err := Checkout(t.Context(), Source{Path: r.Dir}, good, dir, CheckoutOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := Checkout(t.Context(), Source{Path: r.Dir}, bad, dir, CheckoutOptions{})
	refused, ok := errors.AsType[*UnsafeTreeError](err)
	if !ok {
		t.Fatalf("got %v, want an UnsafeTreeError", err)
	}
	want := []string{"symlink abs leads out of the tree, to /etc/passwd", "symlink tricky leads out of the tree, to x/y/root/../etc", "symlink up leads out of the tree, to ../../etc"}
	if diff := cmp.Diff(want, refused.Causes); diff != "" {
		t.Errorf("causes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"x/y/f": "1"}, tree(t, filepath.Join(dir, "tree"))); diff != "" {
		t.Errorf("the tree was touched (-want +got):\n%s", diff)
	}
}

func TestWhereLinksLead(t *testing.T) {
	links := map[string]string{"self": "self", "a": "b", "b": "a", "d/up": "..", "d/up2": "../..", "dot": ".", "c": `..\..`, "w": "C:/x",
		"n": "d/up/d/up/d/f", "out": "d/up/..", "long": strings.Repeat("dot/", 39) + "f", "name..": "d/..x"}
	for name, want := range map[string]bool{"self": false, "a": false, "d/up": false, "d/up2": true, "dot": false, "c": true, "w": true, "n": false, "out": true, "long": false, "name..": false} {
		if got := leaves(links, name); got != want {
			t.Errorf("%s -> %s leaves: %v, want %v", name, links[name], got, want)
		}
	}
}

func TestADirectoryIsForOneCheckoutAtATime(t *testing.T) {
	r := newRepository(t)
	commit := grow(t, r, "", "one", "a", "1")
	dir := t.TempDir()
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := claim(lock); err != nil {
		t.Fatal(err)
	}
	_, err = Checkout(t.Context(), Source{Path: r.Dir}, commit, dir, CheckoutOptions{})
	if err == nil || !strings.Contains(err.Error(), "in use by another checkout") {
		t.Errorf("got %v", err)
	}
	lock.Close()
	if _, err = Checkout(t.Context(), Source{Path: r.Dir}, commit, dir, CheckoutOptions{}); err != nil {
		t.Error(err)
	}
}

func TestManyCheckoutsDoNotPileUp(t *testing.T) {
	r := newRepository(t)
	dir := t.TempDir()
	parent := ""
	var c *Copy
	for i := range 3 * keptCommits {
		parent = grow(t, r, parent, "next", "a", fmt.Sprint(i))
		var err error
		if c, err = Checkout(t.Context(), Source{Path: r.Dir}, parent, dir, CheckoutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	refs, err := c.Repository.Refs(t.Context(), checkoutRefs)
	if err != nil || len(refs) > 2*keptCommits || refs[checkoutRefs+parent] != parent {
		t.Errorf("%d refs are kept, %v", len(refs), err)
	}
}

// TestALargeFileIsNotHeldInMemory looks at the largest of all processes that this program has started.
func TestALargeFileIsNotHeldInMemory(t *testing.T) {
	f := newForge(t, nil)
	u := newUser(t)
	const size = 200 << 20
	large, err := os.Create(filepath.Join(u.dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(large.Truncate(size), large.Close()); err != nil {
		t.Fatal(err)
	}
	u.git("config", "core.bigFileThreshold", "8m") // the user's git is among the processes
	commit := u.commit("large")
	u.git("push", f.web("ann"), "main")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c, err := Checkout(t.Context(), Source{URL: f.web("bob")}, commit, t.TempDir(), CheckoutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if info, err := os.Stat(filepath.Join(c.Dir, "large")); err != nil || info.Size() != size {
		t.Errorf("large: %v, %v", info, err)
	}
	if !slices.ContainsFunc(c.Large, func(e Entry) bool { return e.Path == "large" }) {
		t.Errorf("it is not reported: %+v", c.Large)
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &usage); err != nil {
		t.Fatal(err)
	}
	t.Logf("largest process %d MiB; this one allocated %d MiB", usage.Maxrss>>10, (after.TotalAlloc-before.TotalAlloc)>>20)
	if runtime.GOOS == "linux" && usage.Maxrss<<10 > size/2 {
		t.Errorf("a process had %d MiB in memory for a file of %d MiB", usage.Maxrss>>10, size>>20)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > size/4 {
		t.Errorf("this program allocated %d MiB", allocated>>20)
	}
}

// looseOver returns the files of a repository's objects that stand alone and are larger than a limit.
func looseOver(t *testing.T, dir string, limit int64) (names []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "objects", "??", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > limit {
			names = append(names, name)
		}
	}
	return names
}

// To unpack a large file, and pack it again for each checkout, took several times as long as all else.
func TestALargePushIsCompressedOnce(t *testing.T) {
	f := newForge(t, nil)
	u := newUser(t)
	u.commit("small", "main.go", "package main\n")
	u.git("push", f.web("ann"), "main")
	if n := len(looseOver(t, f.Repository.Dir, 0)); n == 0 {
		t.Error("a push of a few bytes became a pack of its own")
	}
	noise := make([]byte, 3<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	commit := u.commit("large", "large", string(noise))
	u.git("push", f.web("ann"), "main")
	if names := looseOver(t, f.Repository.Dir, 1<<20); len(names) > 0 {
		t.Errorf("the server has unpacked %v", names)
	}
	var said []string
	c, err := Checkout(t.Context(), Source{URL: f.web("bob")}, commit, t.TempDir(), CheckoutOptions{Doing: func(text string) { said = append(said, text) }})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"fetching the commit", "checking out 3 MiB in 2 files"}; !slices.Equal(said, want) {
		t.Errorf("it says %q, want %q", said, want)
	}
	if names := looseOver(t, c.Repository.Dir, 1<<20); len(names) > 0 {
		t.Errorf("the checkout has unpacked %v", names)
	}
	if got, err := os.ReadFile(filepath.Join(c.Dir, "large")); err != nil || !bytes.Equal(got, noise) {
		t.Errorf("the file is not what was pushed: %v", err)
	}
}

func TestAnotherCopyIsMadeOfWhatThereIs(t *testing.T) {
	r := newRepository(t)
	parent := grow(t, r, "", "one", "a", "1")
	commit := grow(t, r, parent, "two", "b", "2")
	c, err := Checkout(t.Context(), Source{Path: r.Dir}, commit, t.TempDir(), CheckoutOptions{With: []string{parent}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, now := range []struct {
		commit string
		want   map[string]string
	}{{parent, map[string]string{"a": "1"}}, {commit, map[string]string{"a": "1", "b": "2"}}, {parent, map[string]string{"a": "1"}}} {
		d, err := c.Another(t.Context(), now.commit, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range now.want {
			if got, err := os.ReadFile(filepath.Join(d.Dir, name)); err != nil || string(got) != text {
				t.Errorf("%s has %q, %v", name, got, err)
			}
		}
		files, err := os.ReadDir(d.Dir)
		if err != nil || len(files) != len(now.want) {
			t.Errorf("%d files, %v; want %d", len(files), err, len(now.want))
		}
		// What a test leaves is gone the next time; the first copy has none of it.
		for name, text := range map[string]string{"a": "?", "left": "x"} {
			if err := os.WriteFile(filepath.Join(d.Dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "index.lock"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "store.git")); !os.IsNotExist(err) {
		t.Errorf("the copy has a repository of its own: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(c.Dir, "a")); err != nil || string(got) != "1" {
		t.Errorf("the first copy has %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index"), []byte("broken"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Another(t.Context(), commit, dir, nil); err != nil {
		t.Errorf("with a broken index: %v", err)
	}
	if _, err := c.Another(t.Context(), strings.Repeat("1", 40), dir, nil); err == nil {
		t.Error("a commit that is not there was checked out")
	}
	if _, err := os.Stat(c.Repository.Dir); err != nil {
		t.Errorf("the first copy's repository: %v", err)
	}
}

// BenchmarkAWarmCheckoutOfAOneLineChange has 2,000 files; the promise is less than 150 ms.
func BenchmarkAWarmCheckoutOfAOneLineChange(b *testing.B) {
	f := newForge(b, nil)
	w := Writing{Files: map[string][]byte{}, Author: ann}
	for i := range 2000 {
		w.Files[fmt.Sprintf("dir%d/file%d.go", i/50, i)] = []byte(strings.Repeat(fmt.Sprintln(i), 100))
	}
	commit, err := f.WriteCommit(b.Context(), w)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	checkout := func(commit string) {
		if _, err := Checkout(b.Context(), Source{URL: f.web("bob")}, commit, dir, CheckoutOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	checkout(commit)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		commit = grow(b, f.Repository, commit, "next", "dir7/file360.go", fmt.Sprint(i))
		b.StartTimer()
		checkout(commit)
	}
}
