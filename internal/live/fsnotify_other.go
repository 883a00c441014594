//go:build !linux

package live

import (
	"errors"
	"os"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// portable is the notifier of systems other than Linux. Since it can't tell when
// a file that was written is closed, each write waits for the window.
type portable struct {
	w    *fsnotify.Watcher
	out  chan []change
	done chan struct{}
	end  sync.WaitGroup
}

func newNotifier() (notifier, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	n := &portable{w: w, out: make(chan []change), done: make(chan struct{})}
	n.end.Go(n.read)
	return n, nil
}

func (n *portable) changes() <-chan []change { return n.out }

func (n *portable) close() error {
	close(n.done)
	err := n.w.Close()
	n.end.Wait()
	return err
}

func (n *portable) add(dir string) error { return n.w.Add(dir) }

func (n *portable) forget(dir string) {
	for _, p := range n.w.WatchList() {
		if p == dir || isBelow(p, dir) {
			_ = n.w.Remove(p) // it has gone with its directory, mostly
		}
	}
}

func (n *portable) read() {
	defer close(n.out)
	for {
		var c change
		select {
		case ev, ok := <-n.w.Events:
			if !ok {
				return
			}
			c = change{path: ev.Name}
			switch {
			case ev.Has(fsnotify.Remove), ev.Has(fsnotify.Rename):
				c.gone = true
			case ev.Has(fsnotify.Create):
				st, err := os.Lstat(ev.Name)
				c.dir = err == nil && st.IsDir()
				c.writing = err == nil && st.Mode().IsRegular()
			case ev.Has(fsnotify.Write):
				c.writing = true
			}
		case err, ok := <-n.w.Errors:
			if !ok {
				return
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				continue
			}
			c = change{overflow: true}
		case <-n.done:
			return
		}
		select {
		case n.out <- []change{c}:
		case <-n.done:
			return
		}
	}
}
