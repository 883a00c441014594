package tree

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func write(t testing.TB, file, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, dir string, opts Options) (Tree, []Problem) {
	t.Helper()
	tr, problems, err := ReadDir(context.Background(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return tr, problems
}

func sum(text string) Hash { return sha256.Sum256([]byte(text)) }

// age makes a file old enough for the cache to trust its times.
func age(t testing.TB, file string) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
}

func TestReadDirListsFilesLinksAndEmptyDirectories(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.txt", "hello", 0o600)
	write(t, dir+"/bin/run", "#!", 0o711)
	write(t, dir+"/name with\nnewline", "n", 0o664)
	write(t, dir+"/\xff\xfe.bin", "b", 0o640)
	if err := errors.Join(
		os.MkdirAll(dir+"/empty/inner", 0o700),
		os.Symlink("loop", dir+"/loop"),
		os.Symlink("..", dir+"/bin/up"),
		os.Symlink("/nowhere at all", dir+"/dangling"),
	); err != nil {
		t.Fatal(err)
	}

	got, problems := read(t, dir, Options{})
	want := Tree{
		"a.txt":              {Mode: 0o644, Size: 5, Hash: sum("hello"), Local: dir + "/a.txt"},
		"bin/run":            {Mode: 0o755, Size: 2, Hash: sum("#!"), Local: dir + "/bin/run"},
		"bin/up":             {Mode: fs.ModeSymlink, Link: ".."},
		"name with\nnewline": {Mode: 0o644, Size: 1, Hash: sum("n"), Local: dir + "/name with\nnewline"},
		"\xff\xfe.bin":       {Mode: 0o644, Size: 1, Hash: sum("b"), Local: dir + "/\xff\xfe.bin"},
		"empty/inner":        {Mode: fs.ModeDir | 0o755},
		"loop":               {Mode: fs.ModeSymlink, Link: "loop"},
		"dangling":           {Mode: fs.ModeSymlink, Link: "/nowhere at all"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	if len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
}

func TestReadDirReportsWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/fine", "x", 0o644)
	l, err := net.Listen("unix", dir+"/sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Reading this file fails for every user, root included.
	const unreadable = "/proc/self/mem"
	opts := Options{}
	if _, err := os.Stat(unreadable); err == nil {
		got, problems, err := ReadBelow(context.Background(), "/proc/self", "mem", opts)
		if err != nil || len(got) != 0 || len(problems) != 1 || problems[0].Path != "mem" {
			t.Errorf("an unreadable file: tree %v, problems %v, error %v", got, problems, err)
		}
	}

	got, problems := read(t, dir, opts)
	if len(got) != 1 || got["fine"].Hash != sum("x") {
		t.Errorf("the rest of the tree is %v", got)
	}
	if len(problems) != 1 || problems[0].Path != "sock" || !errors.Is(problems[0], ErrSpecial) {
		t.Errorf("problems: %v", problems)
	}
}

func TestReadDirOfNothingIsAnError(t *testing.T) {
	if _, _, err := ReadDir(context.Background(), t.TempDir()+"/none", Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := ReadDir(ctx, t.TempDir(), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error of an ended context: %v", err)
	}
}

func TestReadDirIgnores(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/keep", "", 0o644)
	write(t, dir+"/drop/x", "", 0o644)
	write(t, dir+"/d/a.log", "", 0o644)
	got, _ := read(t, dir, Options{Ignore: func(p string, isDir bool) bool {
		if strings.HasPrefix(p, "drop/") {
			t.Errorf("looked into an ignored directory: %s", p)
		}
		return p == "drop" && isDir || strings.HasSuffix(p, ".log")
	}})
	if diff := cmp.Diff([]string{"d", "keep"}, got.Paths()); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

func TestReadBelowReadsOnePath(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/b/c", "c", 0o644)
	write(t, dir+"/a/d", "d", 0o644)
	for below, want := range map[string][]string{"a/b": {"a/b/c"}, "a/d": {"a/d"}, "a": {"a/b/c", "a/d"}, "gone": nil} {
		got, problems, err := ReadBelow(context.Background(), dir, below, Options{})
		if err != nil || len(problems) != 0 {
			t.Fatal(err, problems)
		}
		if diff := cmp.Diff(want, got.Paths()); diff != "" {
			t.Errorf("below %s (-want +got):\n%s", below, diff)
		}
	}
}

// TestCacheTrustsOnlyOldFiles changes a file without changing its size or any
// time that the reader could compare, as a write within the clock's granularity
// does.
func TestCacheTrustsOnlyOldFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/young", "1", 0o644)
	c := OpenCache("")
	opts := Options{Cache: c}
	read(t, dir, opts)
	if n := len(c.records); n != 0 {
		t.Errorf("%d files are trusted that were written just now", n)
	}
	c.now = func() time.Time { return time.Now().Add(time.Minute) }
	read(t, dir, opts)
	if n := len(c.records); n != 1 {
		t.Errorf("%d files are trusted a minute later, want 1", n)
	}
	c.now = func() time.Time { return time.Now().Add(-24 * time.Hour) }
	write(t, dir+"/young", "2", 0o644)
	got, _ := read(t, dir, opts)
	if got["young"].Hash != sum("2") {
		t.Error("a change was missed after the clock was set back")
	}
}

func TestCacheNoticesEveryKindOfChange(t *testing.T) {
	const file = "f"
	for name, change := range map[string]func(t *testing.T, path string){
		"content, with the old time put back": func(t *testing.T, path string) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, "B", 0o644)
			if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
		},
		"replaced by a rename, with the old time": func(t *testing.T, path string) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path+"~", "B", 0o644)
			if err := errors.Join(os.Chtimes(path+"~", info.ModTime(), info.ModTime()), os.Rename(path+"~", path)); err != nil {
				t.Fatal(err)
			}
		},
		"size": func(t *testing.T, path string) { write(t, path, "B", 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir+"/"+file, "A", 0o644)
			age(t, dir+"/"+file)
			c := OpenCache("")
			c.now = func() time.Time { return time.Now().Add(time.Minute) }
			read(t, dir, Options{Cache: c})
			if len(c.records) != 1 {
				t.Fatalf("%d records, want 1", len(c.records))
			}
			change(t, dir+"/"+file)
			got, _ := read(t, dir, Options{Cache: c})
			if got[file].Hash != sum("B") {
				t.Error("the change was missed")
			}
		})
	}
}

func TestCacheSurvivesOnDisk(t *testing.T) {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "sub", "hashes")
	write(t, dir+"/a\nb", "A", 0o644)
	c := OpenCache(file)
	c.now = func() time.Time { return time.Now().Add(time.Minute) }
	read(t, dir, Options{Cache: c})
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	again := OpenCache(file)
	if diff := cmp.Diff(c.records, again.records, cmp.AllowUnexported(record{}, stat{})); diff != "" {
		t.Errorf("records (-saved +read):\n%s", diff)
	}
	again.now = func() time.Time { return time.Now().Add((keepDays + 2) * 24 * time.Hour) }
	again.dirty = true
	if err := again.Save(); err != nil {
		t.Fatal(err)
	}
	if n := len(OpenCache(file).records); n != 0 {
		t.Errorf("%d records were kept that nobody asked for in a month", n)
	}
	write(t, file, "garbage", 0o644)
	if n := len(OpenCache(file).records); n != 0 {
		t.Errorf("a damaged file gave %d records", n)
	}
}

func FuzzDecodeRecords(f *testing.F) {
	c := OpenCache("")
	c.records["/a\xff"] = record{stat: stat{1, 2, 3, 4, 5}, day: c.today(), hash: sum("x")}
	f.Add(c.encode())
	f.Add([]byte(cacheMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decodeRecords(b); err != nil && !errors.Is(err, errDamaged) {
			t.Error(err)
		}
	})
}

func TestReadDirWhileFilesComeAndGo(t *testing.T) {
	dir := t.TempDir()
	for i := range 200 {
		write(t, fmt.Sprintf("%s/d%d/f%d", dir, i%7, i), "x", 0o644)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			if os.Remove(fmt.Sprintf("%s/d%d/f%d", dir, i%7, i)) != nil {
				return
			}
		}
	}()
	c := OpenCache("")
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if _, problems := read(t, dir, Options{Cache: c}); len(problems) != 0 {
			t.Fatalf("problems: %v", problems)
		}
	}
}

func empty(d Diff) bool { return len(d.Put) == 0 && len(d.Delete) == 0 }

func TestDigestDependsOnEverythingButLocal(t *testing.T) {
	base := Tree{"a": {Mode: 0o644, Size: 1, Hash: sum("a"), Local: "/x"}}
	same := Tree{"a": {Mode: 0o644, Size: 1, Hash: sum("a"), Local: "/y"}}
	if base.Digest() != same.Digest() || !empty(Compare(base, same)) {
		t.Error("where the content can be read is part of the identity")
	}
	for name, other := range map[string]Tree{
		"mode":    {"a": {Mode: 0o755, Size: 1, Hash: sum("a")}},
		"content": {"a": {Mode: 0o644, Size: 1, Hash: sum("b")}},
		"name":    {"b": {Mode: 0o644, Size: 1, Hash: sum("a")}},
		"link":    {"a": {Mode: fs.ModeSymlink, Link: "b"}},
	} {
		if base.Digest() == other.Digest() || empty(Compare(base, other)) {
			t.Errorf("a different %s went unnoticed", name)
		}
	}
}

func BenchmarkReadDirUnchanged50k(b *testing.B) {
	dir := b.TempDir()
	for i := range 50_000 {
		f := fmt.Sprintf("%s/d%d/file-%d.html", dir, i%500, i)
		if i < 500 {
			if err := os.Mkdir(filepath.Dir(f), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(f, []byte("x"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	c := OpenCache("")
	c.now = func() time.Time { return time.Now().Add(time.Minute) }
	read(b, dir, Options{Cache: c})
	runtime.GC()
	for b.Loop() {
		t, _ := read(b, dir, Options{Cache: c})
		if len(t) != 50_000 {
			b.Fatal(len(t))
		}
	}
}
