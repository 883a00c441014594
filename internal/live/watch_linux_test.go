package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// watched runs a watcher of a new directory, up to its first batch.
func watched(t *testing.T, dir string, set func(*Watcher)) chan Batch {
	t.Helper()
	out := make(chan Batch)
	w := &Watcher{
		Roots: []string{dir}, Poll: 5 * time.Millisecond,
		Ignore: func(p string, isDir bool) bool {
			return filepath.Base(p) == "node_modules" || strings.HasSuffix(p, "~")
		},
	}
	if set != nil {
		set(w)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.Run(ctx, out)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	if first := <-out; !first.Rescan {
		t.Errorf("first batch: %+v", first)
	}
	return out
}

// until collects batches until every path was in one.
func until(t *testing.T, out chan Batch, paths ...string) (all Batch) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	seen := map[string]bool{}
	for {
		missing := ""
		for _, p := range paths {
			if !seen[p] {
				missing = p
			}
		}
		if missing == "" {
			return all
		}
		select {
		case b := <-out:
			all = all.merge(b)
			for _, p := range b.Paths {
				seen[p] = true
			}
		case <-deadline:
			t.Fatalf("nothing about %s; seen %v", missing, seen)
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestWatcherTellsOfEveryKindOfChange(t *testing.T) {
	d := t.TempDir()
	must(t, os.MkdirAll(d+"/sub/deep", 0o755), os.Mkdir(d+"/node_modules", 0o755), os.WriteFile(d+"/sub/f", nil, 0o644))
	out := watched(t, d, nil)
	must(t, os.WriteFile(d+"/new", []byte("x"), 0o644))
	until(t, out, d+"/new")
	must(t, os.WriteFile(d+"/sub/deep/f", []byte("x"), 0o644))
	until(t, out, d+"/sub/deep/f")
	must(t, os.Rename(d+"/new", d+"/renamed"))
	until(t, out, d+"/new", d+"/renamed")
	must(t, os.Chmod(d+"/renamed", 0o755))
	until(t, out, d+"/renamed")
	must(t, os.Remove(d+"/renamed"))
	until(t, out, d+"/renamed")
	must(t, os.Symlink("x", d+"/link"))
	until(t, out, d+"/link")
	must(t, os.WriteFile(d+"/odd\nname\xff", nil, 0o644))
	until(t, out, d+"/odd\nname\xff")
	// A directory that comes with its files.
	must(t, os.MkdirAll(d+"/made/a/b", 0o755), os.WriteFile(d+"/made/a/b/f", nil, 0o644))
	until(t, out, d+"/made/a/b/f")
	must(t, os.WriteFile(d+"/made/a/b/later", nil, 0o644))
	until(t, out, d+"/made/a/b/later")
	// A directory that moves is watched where it is.
	must(t, os.Rename(d+"/made", d+"/moved"))
	until(t, out, d+"/made", d+"/moved", d+"/moved/a/b/f")
	must(t, os.WriteFile(d+"/moved/a/b/f", []byte("2"), 0o644))
	until(t, out, d+"/moved/a/b/f")
	must(t, os.RemoveAll(d+"/moved"))
	until(t, out, d+"/moved")
	must(t, os.MkdirAll(d+"/moved/a/b", 0o755), os.WriteFile(d+"/moved/a/b/again", nil, 0o644))
	until(t, out, d+"/moved/a/b/again")
	// What is ignored is not heard of.
	must(t, os.WriteFile(d+"/node_modules/f", nil, 0o644), os.WriteFile(d+"/f~", nil, 0o644), os.WriteFile(d+"/last", nil, 0o644))
	all := until(t, out, d+"/last")
	for _, p := range all.Paths {
		if strings.Contains(p, "node_modules") || strings.HasSuffix(p, "~") {
			t.Errorf("told of %s", p)
		}
	}
}

func TestWatcherTakesDirectoriesWhileItRuns(t *testing.T) {
	d := t.TempDir()
	must(t, os.MkdirAll(d+"/root/node_modules/deep", 0o755), os.MkdirAll(d+"/lib/sub", 0o755))
	var open atomic.Bool
	var w *Watcher
	out := watched(t, d+"/root", func(to *Watcher) {
		w = to
		ignore := w.Ignore
		w.Ignore = func(p string, dir bool) bool { return !open.Load() && ignore(p, dir) }
	})
	w.Watch(d + "/lib")
	until(t, out, d+"/lib")
	must(t, os.WriteFile(d+"/lib/sub/f", nil, 0o644))
	until(t, out, d+"/lib/sub/f")
	// It may go and come again, as others.
	must(t, os.RemoveAll(d+"/lib"))
	until(t, out, d+"/lib")
	must(t, os.MkdirAll(d+"/lib/sub", 0o755), os.WriteFile(d+"/lib/sub/again", nil, 0o644))
	until(t, out, d+"/lib/sub/again")
	// What was pruned is watched when it is not any more.
	open.Store(true)
	w.Watch(d + "/root")
	until(t, out, d+"/root")
	must(t, os.WriteFile(d+"/root/node_modules/deep/f", nil, 0o644))
	until(t, out, d+"/root/node_modules/deep/f")
}

func TestWatcherMissesNothingOfABurst(t *testing.T) {
	d := t.TempDir()
	out := watched(t, d, nil)
	var want []string
	for i := range 3000 {
		p := fmt.Sprintf("%s/d%d/e%d/f%d", d, i%10, i%100, i)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte("x"), 0o644))
		want = append(want, p)
	}
	all := until(t, out, want...)
	if len(all.Problems) > 0 || all.Rescan {
		t.Errorf("problems %v, rescan %v", all.Problems, all.Rescan)
	}
}

func TestWatcherAsksForARescanWhenEventsAreLost(t *testing.T) {
	d, err := os.MkdirTemp("/dev/shm", "bight-watch-")
	must(t, err)
	defer os.RemoveAll(d)
	n, err := newNotifier()
	must(t, err)
	defer n.close()
	must(t, n.add(d))
	// The queue of the system holds 16384 by default; nobody takes them here.
	for i := range 20000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", d, i), nil, 0o644))
	}
	for cs := range n.changes() {
		for _, c := range cs {
			if c.overflow {
				return
			}
		}
	}
	t.Error("the overflow was not told")
}

func TestWatcherPollsWhatIsOverTheLimit(t *testing.T) {
	d := t.TempDir()
	must(t, os.MkdirAll(d+"/sub", 0o755), os.WriteFile(d+"/sub/f", nil, 0o644))
	w := &Watcher{Roots: []string{d}, Poll: time.Millisecond}
	w.defaults()
	w.notifier = pollOnly{}
	w.add(d, nil)
	if len(w.ready.Problems) != 1 || !errors.Is(w.ready.Problems[0], errLimit) {
		t.Errorf("problems: %v", w.ready.Problems)
	}
	paths := func() string {
		w.poll()
		return strings.ReplaceAll(fmt.Sprint(w.settler.take(time.Now()).Paths), d, "")
	}
	if got, want := paths(), "[]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	must(t, os.WriteFile(d+"/sub/f", []byte("longer"), 0o644))
	if got, want := paths(), "[/sub/f]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	must(t, os.MkdirAll(d+"/new/deep", 0o755), os.WriteFile(d+"/new/deep/f", nil, 0o644))
	if got, want := paths(), "[/new /new/deep/f]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	must(t, os.RemoveAll(d+"/new"))
	if got, want := paths(), "[/new]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	must(t, os.WriteFile(d+"/sub/f", nil, 0o600))
	if got, want := paths(), "[/sub/f]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// The limits of a user namespace are its own, so that they can be reached
// without harm.
func TestWatcherLimitNamesTheSysctl(t *testing.T) {
	cmd := exec.Command(os.Args[0], t.TempDir())
	cmd.Env = append(os.Environ(), roleEnv+"=limited")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	got, err := cmd.CombinedOutput()
	must(t, err)
	for _, want := range []string{"fs.inotify.max_user_watches=", "fs.inotify.max_user_instances="} {
		if strings.Count(string(got), want) != 1 {
			t.Errorf("%q is not named once in %q", want, got)
		}
	}
}

// limitedRole reaches both limits and prints what it is told.
func limitedRole() int {
	dir := os.Args[1]
	err := errors.Join(
		os.WriteFile("/proc/sys/user/max_inotify_watches", []byte("3"), 0o644),
		os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("1"), 0o644))
	for i := range 5 {
		err = errors.Join(err, os.Mkdir(fmt.Sprintf("%s/%d", dir, i), 0o755))
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out := make(chan Batch)
	done := make(chan error, 1)
	w := &Watcher{Roots: []string{dir}, Poll: time.Millisecond}
	go func() { done <- w.Run(ctx, out) }()
	first := <-out
	fmt.Println(first.Problems)
	_, err = newNotifier()
	fmt.Println(err)
	// Over the limit changes are still seen.
	if err := os.WriteFile(dir+"/4/f", nil, 0o644); err != nil {
		fmt.Println(err)
		return 1
	}
	for b := range out {
		if len(b.Paths) > 0 && b.Paths[0] == dir+"/4/f" {
			break
		}
	}
	cancel()
	<-done
	return 0
}

func TestWatcherRootThatIsReplaced(t *testing.T) {
	d := filepath.Join(t.TempDir(), "root")
	must(t, os.Mkdir(d, 0o755), os.WriteFile(d+"/f", nil, 0o644))
	out := watched(t, d, nil)
	must(t, os.RemoveAll(d))
	until(t, out, d)
	must(t, os.Mkdir(d, 0o755), os.WriteFile(d+"/again", nil, 0o644))
	until(t, out, d+"/again")
	must(t, os.WriteFile(d+"/more", nil, 0o644))
	until(t, out, d+"/more")
}

func TestWatcherRootThatIsMovedAway(t *testing.T) {
	d := filepath.Join(t.TempDir(), "root")
	must(t, os.MkdirAll(d+"/sub", 0o755), os.WriteFile(d+"/sub/f", nil, 0o644))
	out := watched(t, d, nil)
	must(t, os.Rename(d, d+".old"))
	until(t, out, d)
	must(t, os.Mkdir(d, 0o755), os.Mkdir(d+"/sub", 0o755), os.WriteFile(d+"/sub/again", nil, 0o644))
	until(t, out, d, d+"/sub/again")
	must(t, os.WriteFile(d+".old/sub/f", []byte("2"), 0o644), os.WriteFile(d+"/sub/more", nil, 0o644))
	for _, p := range until(t, out, d+"/sub/more").Paths {
		if p == d+"/sub/f" {
			t.Errorf("what is elsewhere now was told")
		}
	}
}

func TestWatcherMissesNothingOfARootThatComesBack(t *testing.T) {
	d := t.TempDir()
	n := &making{make: func(dir string) {
		if dir == d {
			must(t, os.WriteFile(d+"/f", nil, 0o644), os.MkdirAll(d+"/sub", 0o755), os.WriteFile(d+"/sub/f", nil, 0o644))
		}
	}}
	w := &Watcher{Roots: []string{d}}
	w.defaults()
	w.notifier = n
	w.polled[d] = snapshot{}
	w.poll()
	got := strings.ReplaceAll(fmt.Sprint(w.settler.take(time.Now()).Paths, n.dirs), d, "")
	if want := "[ /f /sub /sub/f] [ /sub]"; got != want {
		t.Errorf("told of and watched: got %s, want %s", got, want)
	}
}

// making is a notifier that is slow: files are made before it watches.
type making struct {
	pollOnly
	make func(dir string)
	dirs []string
}

func (m *making) add(dir string) error {
	m.make(dir)
	m.dirs = append(m.dirs, dir)
	return nil
}

func TestWatcherReportsWhatItCanNotRead(t *testing.T) {
	d := t.TempDir()
	must(t, os.Mkdir(d+"/a", 0o755), os.Mkdir(d+"/b", 0o755))
	w := &Watcher{Roots: []string{d}}
	w.defaults()
	w.notifier = refusing{d + "/a"}
	w.add(d, nil)
	w.add(d, nil)
	if len(w.ready.Problems) != 1 || !strings.Contains(w.ready.Problems[0].Error(), d+"/a: permission denied") {
		t.Errorf("problems: %v", w.ready.Problems)
	}
}

// refusing can't watch one directory.
type refusing struct{ dir string }

func (r refusing) add(dir string) error {
	if dir == r.dir {
		return syscall.EACCES
	}
	return nil
}
func (refusing) forget(string)            {}
func (refusing) changes() <-chan []change { return nil }
func (refusing) close() error             { return nil }

func TestWatcherOf50000Files(t *testing.T) {
	d, err := os.MkdirTemp("/dev/shm", "bight-watch-")
	must(t, err)
	defer os.RemoveAll(d)
	for i := range 1000 {
		must(t, os.MkdirAll(fmt.Sprintf("%s/d%d/s%d", d, i%50, i), 0o755))
		for j := range 50 {
			must(t, os.WriteFile(fmt.Sprintf("%s/d%d/s%d/f%d", d, i%50, i, j), nil, 0o644))
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	out := watched(t, d, nil)
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	must(t, os.WriteFile(d+"/d7/s7/f7", []byte("x"), 0o644))
	until(t, out, d+"/d7/s7/f7")
	used := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("in place after %s, %d KiB", took, used>>10)
	if used > 10<<20 {
		t.Errorf("the watcher takes %d KiB", used>>10)
	}
}
