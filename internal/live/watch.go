package live

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Batch says that some files may have changed: look again.
type Batch struct {
	Paths    []string // absolute, sorted; files, or directories that are new or gone
	Rescan   bool     // anything may have changed
	Problems []error  // what can't be watched, and what to do about it
}

func (b Batch) empty() bool { return len(b.Paths) == 0 && !b.Rescan && len(b.Problems) == 0 }

// merge adds a later batch.
func (b Batch) merge(c Batch) Batch {
	b.Paths = slices.Concat(b.Paths, c.Paths)
	slices.Sort(b.Paths)
	b.Paths = slices.Compact(b.Paths)
	b.Rescan = b.Rescan || c.Rescan
	b.Problems = append(b.Problems, c.Problems...)
	return b
}

// notifier is the operating system's way to tell of changes.
type notifier interface {
	// add watches what is directly in dir. errLimit is returned when the system
	// allows no more.
	add(dir string) error
	// forget ends the watches of dir and everything below it.
	forget(dir string)
	// changes gives events as they come, those that came together at once. It is
	// closed when the notifier is.
	changes() <-chan []change
	close() error
}

// errLimit says that the system allows no more watches, and what to do.
var errLimit = errors.New("the system's limit for watched directories is reached")

// Watcher tells of changes below some directories. Its fields are set before
// Run, and from then on are Run's. Watch may be called from any goroutine.
type Watcher struct {
	Roots []string // absolute directories
	// Ignore prunes: what it reports is neither watched nor told of. It may be
	// called for paths that don't exist any more. When it lets through what it
	// pruned before, Watch has to be told of the directories.
	Ignore func(path string, dir bool) bool
	Window time.Duration // how long a batch collects at most: 20 ms
	Poll   time.Duration // how often what can't be watched is looked at: 2 s
	Log    *slog.Logger

	notifier notifier
	settler  settler
	polled   map[string]snapshot // directories that can't be watched
	ready    Batch               // settled, not yet taken
	limited  bool                // the limit was told of
	told     map[string]bool     // problems; a directory is looked at more than once

	mu    sync.Mutex
	asked []string      // by Watch, to be done by Run
	wake  chan struct{} // has room for one; nil before somebody asks for it
}

// snapshot is what a directory that is polled had in it.
type snapshot map[string]stamp

type stamp struct {
	mode  fs.FileMode
	size  int64
	mtime time.Time
}

// Watch has Run watch further directories, and look at ones that are watched anew for
// what Ignore does not prune any more. Each of them, an absolute path, is told of when
// that is done, since files in it may have changed before. Watch does not wait for it.
func (w *Watcher) Watch(dirs ...string) {
	w.mu.Lock()
	w.asked = append(w.asked, dirs...)
	w.mu.Unlock()
	select {
	case w.woken() <- struct{}{}:
	default:
	}
}

// woken is sent to when there is something in asked.
func (w *Watcher) woken() chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wake == nil {
		w.wake = make(chan struct{}, 1)
	}
	return w.wake
}

// more does what Watch was asked for.
func (w *Watcher) more() {
	w.mu.Lock()
	dirs := w.asked
	w.asked = nil
	w.mu.Unlock()
	for _, dir := range dirs {
		if !slices.ContainsFunc(w.Roots, func(root string) bool { return dir == root || isBelow(dir, root) }) {
			w.Roots = append(slices.Clip(w.Roots), dir)
		}
		w.add(dir, nil)
		w.settler.add(time.Now(), change{path: dir})
	}
}

// Run watches until ctx ends and sends what it finds to out. The first batch,
// which asks to look at everything, is sent when all watches are in place. A
// receiver that is busy misses nothing: what comes meanwhile is one batch.
func (w *Watcher) Run(ctx context.Context, out chan<- Batch) error {
	w.defaults()
	n, err := newNotifier()
	if err != nil {
		w.problem(fmt.Errorf("watch files: %w; looking at them every %s instead", err, w.Poll))
		n, w.limited = pollOnly{}, true
	}
	w.notifier = n
	defer n.close()
	for _, root := range w.Roots {
		w.add(root, nil)
	}
	w.ready.Rescan = true
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	poll := time.NewTimer(w.Poll)
	defer poll.Stop()
	for {
		var tick <-chan time.Time
		if len(w.polled) > 0 {
			tick = poll.C
		}
		var to chan<- Batch
		if !w.ready.empty() {
			to = out
		}
		select {
		case to <- w.ready:
			w.ready = Batch{}
		case cs, ok := <-n.changes():
			if !ok {
				return errors.New("watch files: the system has ended it")
			}
			w.take(cs)
		case <-w.woken():
			w.more()
		case <-timer.C:
		case <-tick:
			w.poll()
			poll.Reset(w.Poll)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		w.settle(timer)
	}
}

func (w *Watcher) defaults() {
	if w.Window == 0 {
		w.Window = 20 * time.Millisecond
	}
	if w.Poll == 0 {
		w.Poll = 2 * time.Second
	}
	if w.Ignore == nil {
		w.Ignore = func(string, bool) bool { return false }
	}
	if w.Log == nil {
		w.Log = slog.New(slog.DiscardHandler)
	}
	w.settler = settler{window: w.Window}
	w.polled, w.told = map[string]snapshot{}, map[string]bool{}
}

// settle moves what has settled to ready, or sets the timer for it.
func (w *Watcher) settle(timer *time.Timer) {
	if w.settler.empty() {
		return
	}
	now := time.Now()
	if wait := w.settler.due(now); wait > 0 {
		timer.Reset(wait)
		return
	}
	w.ready = w.ready.merge(w.settler.take(now))
}

func (w *Watcher) problem(err error) {
	if w.told[err.Error()] {
		return
	}
	w.told[err.Error()] = true
	w.Log.Warn("watch", "err", err)
	w.ready.Problems = append(w.ready.Problems, err)
}

// add watches dir and everything below it. found is called with what is there:
// files can be made in a new directory before it is watched.
func (w *Watcher) add(dir string, found func(path string)) {
	err := w.notifier.add(dir)
	switch {
	case err == nil:
		delete(w.polled, dir)
	case errors.Is(err, fs.ErrNotExist):
		if slices.Contains(w.Roots, dir) {
			w.polled[dir] = snapshot{} // it may come
		}
		return
	case errors.Is(err, errLimit):
		if !w.limited {
			w.limited = true
			w.problem(fmt.Errorf("%w; what is over it, %s for one, is looked at every %s instead", err, dir, w.Poll))
		}
		w.polled[dir] = w.look(dir)
	default:
		w.problem(fmt.Errorf("watch %s: %w; changes in it are not noticed", dir, err))
		return
	}
	ents, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.problem(fmt.Errorf("watch %s: %w; changes below it are not noticed", dir, err))
	}
	for _, e := range ents {
		p := filepath.Join(dir, e.Name())
		if w.Ignore(p, e.IsDir()) {
			continue
		}
		if e.IsDir() {
			w.add(p, found)
		} else if found != nil {
			found(p)
		}
	}
}

// take notes events that came together.
func (w *Watcher) take(cs []change) {
	now := time.Now()
	for _, c := range cs {
		if c.overflow {
			w.recover()
			w.settler.add(now, c)
			continue
		}
		if w.Ignore(c.path, c.dir) || c.moved && !slices.Contains(w.Roots, c.path) {
			continue
		}
		if c.gone {
			w.forget(c.path)
		}
		w.settler.add(now, c)
		if c.dir && !c.gone {
			w.forget(c.path) // another one may have been watched at this place
			w.add(c.path, func(p string) { w.settler.add(now, change{path: p}) })
		}
	}
}

// forget ends the watches of what was at dir. A root that is gone may come back.
func (w *Watcher) forget(dir string) {
	w.notifier.forget(dir)
	maps.DeleteFunc(w.polled, func(p string, _ snapshot) bool { return p == dir || isBelow(p, dir) })
	for _, root := range w.Roots {
		if root == dir || isBelow(root, dir) {
			w.polled[root] = snapshot{}
		}
	}
}

func isBelow(p, dir string) bool {
	return len(p) > len(dir) && strings.HasPrefix(p, dir) && os.IsPathSeparator(p[len(dir)])
}

// recover watches directories of which an event was lost. To watch one twice
// does no harm.
func (w *Watcher) recover() {
	for _, root := range w.Roots {
		w.add(root, nil)
	}
}

// poll looks at the directories that can't be watched.
func (w *Watcher) poll() {
	now := time.Now()
	for _, dir := range slices.Sorted(maps.Keys(w.polled)) {
		was, ok := w.polled[dir]
		if !ok {
			continue
		}
		if _, err := os.Lstat(dir); err != nil {
			continue
		}
		// What comes after the look is heard of if there is a watch by then.
		watched := w.notifier.add(dir) == nil
		is := w.look(dir)
		for name, st := range is {
			p := filepath.Join(dir, name)
			old, known := was[name]
			switch {
			case known && old == st:
			case st.mode.IsDir() && (!known || !old.mode.IsDir()):
				w.settler.add(now, change{path: p, dir: true})
				w.add(p, func(p string) { w.settler.add(now, change{path: p}) })
			case !st.mode.IsDir():
				w.settler.add(now, change{path: p})
			}
		}
		for name := range was {
			if _, ok := is[name]; !ok {
				p := filepath.Join(dir, name)
				w.forget(p)
				w.settler.add(now, change{path: p, gone: true})
			}
		}
		if watched { // there is room again, or a root came back, perhaps without some of its files
			delete(w.polled, dir)
			w.settler.add(now, change{path: dir})
			continue
		}
		w.polled[dir] = is
	}
}

// look takes a snapshot of a directory.
func (w *Watcher) look(dir string) snapshot {
	s := snapshot{}
	ents, err := os.ReadDir(dir)
	if err != nil {
		return s
	}
	for _, e := range ents {
		if w.Ignore(filepath.Join(dir, e.Name()), e.IsDir()) {
			continue
		}
		if st, err := e.Info(); err == nil {
			s[e.Name()] = stamp{st.Mode(), st.Size(), st.ModTime()}
		}
	}
	return s
}

// pollOnly is the notifier of a system that has none to give.
type pollOnly struct{}

func (pollOnly) add(string) error         { return errLimit }
func (pollOnly) forget(string)            {}
func (pollOnly) changes() <-chan []change { return nil }
func (pollOnly) close() error             { return nil }
