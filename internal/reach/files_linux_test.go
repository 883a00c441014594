package reach

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/stream"
)

// volume is a directory that is written the way that kubelet does it.
type volume struct {
	t    testing.TB
	dir  string
	seen int
}

// write exchanges the files; names may have directories.
func (v *volume) write(files map[string]string) {
	v.t.Helper()
	must(v.t, os.MkdirAll(v.dir, 0o755))
	v.seen++
	version := fmt.Sprintf("..2026_%d", v.seen)
	old, _ := os.Readlink(filepath.Join(v.dir, "..data"))
	for name, content := range files {
		p := filepath.Join(v.dir, version, name)
		must(v.t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(v.t, os.WriteFile(p, []byte(content), 0o640))
	}
	must(v.t, os.Symlink(version, filepath.Join(v.dir, "..data_tmp")))
	must(v.t, os.Rename(filepath.Join(v.dir, "..data_tmp"), filepath.Join(v.dir, "..data")))
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		_ = os.Symlink(filepath.Join("..data", top), filepath.Join(v.dir, top))
	}
	if old != "" {
		must(v.t, os.RemoveAll(filepath.Join(v.dir, old)))
	}
}

// mounted returns a server whose process has volumes at directories of the test.
func mounted(t testing.TB, kinds map[string]string) (*Server, map[string]string) {
	t.Helper()
	proc, dirs := t.TempDir(), map[string]string{}
	var info strings.Builder
	for name, kind := range kinds {
		dirs[name] = filepath.Join(t.TempDir(), name)
		fmt.Fprintf(&info, "1 2 8:1 /pods/1/volumes/kubernetes.io~%s/%s %s ro - ext4 x rw\n", kind, name, dirs[name])
	}
	must(t, os.WriteFile(filepath.Join(proc, "mountinfo"), []byte(info.String()), 0o644))
	return &Server{proc: proc}, dirs
}

// show returns what can be read below dir, links followed and as they are.
func show(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			got[name] = info.Mode().String()
		case d.Type() == fs.ModeSymlink:
			target, _ := os.Readlink(p)
			got[name] = "-> " + target
		default:
			b, _ := os.ReadFile(p)
			got[name] = info.Mode().String() + " " + string(b)
		}
		return nil
	}))
	return got
}

// lay makes dst what a set says, and nothing else.
func lay(t testing.TB, dst string, set FileSet) {
	t.Helper()
	must(t, os.RemoveAll(dst))
	for _, f := range set.Entries {
		name := filepath.Join(dst, f.Name)
		if f.Name != "." {
			must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		}
		switch f.Mode.Type() {
		case fs.ModeDir:
			must(t, os.MkdirAll(name, f.Mode.Perm()))
		case fs.ModeSymlink:
			must(t, os.Symlink(f.Target, name))
		default:
			must(t, os.WriteFile(name, f.Content, f.Mode.Perm()))
		}
	}
}

func TestFilesShowTheSameOnTheLaptop(t *testing.T) {
	v, dirs := mounted(t, map[string]string{"settings": "configmap"})
	src := &volume{t: t, dir: dirs["settings"]}
	src.write(map[string]string{"a.yaml": "a", "sub/b": "b", "raw\xff": "\x00\x01"})
	s := connect(t, v)
	dst := filepath.Join(t.TempDir(), "there")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	err := WatchFiles(ctx, s, nil, func(sets []FileSet) error {
		if len(sets) != 1 || sets[0].Path != src.dir {
			return fmt.Errorf("sets %+v", sets)
		}
		lay(t, dst, sets[0])
		if diff := cmp.Diff(show(t, src.dir), show(t, dst)); diff != "" {
			t.Errorf("after change %d (-pod +laptop):\n%s", n, diff)
		}
		if n++; n == 4 {
			return errTest
		}
		for _, name := range []string{"sub", "raw\xff"} {
			_ = os.Remove(filepath.Join(src.dir, name))
		}
		src.write(map[string]string{"a.yaml": fmt.Sprint("changed ", n), "new": "n"})
		return nil
	})
	if !errors.Is(err, errTest) {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dst, "a.yaml"))
	if string(b) != "changed 3" || err != nil {
		t.Errorf("a.yaml: %q, %v", b, err)
	}
}

func TestChangesAreNoticedWithoutInotify(t *testing.T) {
	v, dirs := mounted(t, map[string]string{"one": "secret", "two": "projected"})
	v.withoutHear, v.look = true, time.Millisecond
	one, two := &volume{t: t, dir: dirs["one"]}, &volume{t: t, dir: dirs["two"]}
	one.write(map[string]string{"x": "1"})
	two.write(map[string]string{"y": "1"})
	s := connect(t, v)
	n := 0
	err := WatchFiles(t.Context(), s, nil, func(sets []FileSet) error {
		if n++; n == 1 {
			if len(sets) != 2 {
				t.Errorf("%d sets at first", len(sets))
			}
			two.write(map[string]string{"y": "2"})
			return nil
		}
		if len(sets) != 1 || sets[0].Path != two.dir {
			t.Errorf("sets %+v, want the one that changed", sets)
		}
		return errTest
	})
	if !errors.Is(err, errTest) {
		t.Error(err)
	}
}

func TestWatchingEndsWithItsContext(t *testing.T) {
	v, dirs := mounted(t, map[string]string{"one": "secret"})
	(&volume{t: t, dir: dirs["one"]}).write(map[string]string{"x": "1"})
	s := connect(t, v)
	ctx, cancel := context.WithCancel(t.Context())
	err := WatchFiles(ctx, s, nil, func([]FileSet) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestWhatIsNotSentIsNamed(t *testing.T) {
	v, dirs := mounted(t, map[string]string{"settings": "configmap", "scratch": "empty-dir"})
	v.FilesPerMount = 5000
	src := &volume{t: t, dir: dirs["settings"]}
	src.write(map[string]string{"small": "s", "large": strings.Repeat("x", 10000)})
	s := connect(t, v)
	sets, err := GetFiles(t.Context(), s, []string{dirs["settings"], dirs["scratch"], "/etc"})
	must(t, err)
	var left []string
	names := map[string]bool{}
	for _, set := range sets {
		for _, l := range set.LeftOut {
			left = append(left, filepath.Base(l.Path)+": "+l.Why)
		}
		for _, e := range set.Entries {
			names[filepath.Base(e.Name)] = true
		}
	}
	want := []string{
		"large: its 10000 bytes are more than the limit for copies leaves",
		`scratch: mounts of kind "emptyDir" are not copied`,
		"etc: it is no mount of the pod",
	}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	if !names["small"] || !names["..data"] {
		t.Errorf("sent: %v", names)
	}
}

func TestMountOfASingleFile(t *testing.T) {
	v, dirs := mounted(t, map[string]string{"one.yaml": "configmap"})
	must(t, os.WriteFile(dirs["one.yaml"], []byte("content"), 0o400))
	s := connect(t, v)
	sets, err := GetFiles(t.Context(), s, nil)
	must(t, err)
	dst := filepath.Join(t.TempDir(), "one.yaml")
	for range 2 {
		lay(t, dst, sets[0])
		if b, err := os.ReadFile(dst); string(b) != "content" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
	}
}

func TestChangeThatIsHalfDoneIsShownWhole(t *testing.T) {
	link := func(name string) File {
		return File{Name: name, Mode: fs.ModeSymlink | 0o777, Target: "..data/" + name}
	}
	data := File{Name: "..data", Mode: fs.ModeSymlink, Target: "..2"}
	got := settle([]File{
		{Name: "..1", Mode: fs.ModeDir}, {Name: "..1/gone"}, {Name: "..1/kept"},
		{Name: "..2", Mode: fs.ModeDir}, {Name: "..2/kept"}, {Name: "..2/new"},
		data, link("gone"), link("kept"),
	}, "..2")
	want := []File{
		{Name: "..2", Mode: fs.ModeDir}, {Name: "..2/kept"}, {Name: "..2/new"},
		data, link("kept"), link("new"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestSnapshotIsOfOneVersion(t *testing.T) {
	v, dirs := mounted(t, map[string]string{"settings": "configmap"})
	src := &volume{t: t, dir: dirs["settings"]}
	content := func(n int) map[string]string {
		files := map[string]string{}
		for i := range 50 {
			files[fmt.Sprint("f", i)] = fmt.Sprint(n)
		}
		return files
	}
	src.write(content(0))
	s := connect(t, v)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
				src.write(content(n))
			}
		}
	}()
	for range 30 {
		sets, err := GetFiles(t.Context(), s, nil)
		must(t, err)
		dst := t.TempDir()
		lay(t, dst, sets[0])
		first, err := os.ReadFile(filepath.Join(dst, "f0"))
		if err != nil {
			continue // five times another version, and the last one vanished
		}
		for i := range 50 {
			if b, err := os.ReadFile(filepath.Join(dst, fmt.Sprint("f", i))); err == nil && !bytes.Equal(b, first) {
				t.Fatalf("f%d is of version %s, f0 of %s", i, b, first)
			}
		}
	}
	close(stop)
	<-stopped
}

func TestSnapshotThatIsNone(t *testing.T) {
	frame := func(kind byte, body string) []byte {
		var b bytes.Buffer
		w := bufio.NewWriter(&b)
		writeFileFrame(w, kind, []byte(body))
		must(t, w.Flush())
		return b.Bytes()
	}
	entry := func(mode, name string) []byte {
		return frame(fileEntry, mode+string([]byte{byte(len(name) >> 8), byte(len(name))})+name)
	}
	const file = "\x00\x00\x81\xa4"
	mount := frame(fileMount, "/x")
	for name, b := range map[string][]byte{
		"nothing":          nil,
		"end first":        frame(fileEnd, ""),
		"entry first":      entry(file, "a"),
		"two mounts":       append(mount, mount...),
		"done in a mount":  append(mount, frame(fileDone, "")...),
		"unknown frame":    append(mount, frame('?', "")...),
		"short entry":      append(mount, frame(fileEntry, "abc")...),
		"long name":        append(mount, frame(fileEntry, file+"\xff\xff")...),
		"parent":           append(mount, entry(file, "../a")...),
		"absolute":         append(mount, entry(file, "/a")...),
		"zero":             append(mount, entry(file, "a\x00")...),
		"device":           append(mount, entry("\x00\x00\x21\xa4", "a")...),
		"too large":        {fileMount, 0xff, 0xff, 0xff, 0xff},
		"cut in the frame": {fileMount, 0, 0, 0, 9, 'x'},
	} {
		if sets, err := readSnapshot(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: %+v", name, sets)
		}
	}
}

func TestRequestForFilesThatIsNone(t *testing.T) {
	v, _ := mounted(t, nil)
	s := connect(t, v)
	st, err := s.Open(t.Context(), []byte(headerFiles+"{"))
	must(t, err)
	_, err = st.Read(make([]byte, 1))
	var reset *stream.ResetError
	if !errors.As(err, &reset) {
		t.Errorf("error %v, want a reset", err)
	}
}
