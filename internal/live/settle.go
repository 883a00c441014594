package live

import (
	"maps"
	"slices"
	"time"
)

// change is one event of the file system.
type change struct {
	path     string
	writing  bool // there is more to come: it is closed after it was written
	fresh    bool // it is a file that was made just now
	dir      bool // it is a directory that is new at this place
	gone     bool // there is nothing at this place any more
	moved    bool // it is gone elsewhere, as it tells itself: what it was in tells, too, if it is watched
	overflow bool // events were lost
}

// settler collects changes until they are worth telling. There is no fixed
// pause: one file that was closed, renamed or deleted is told at once, and what
// is more than that a window after its first event; a crowd is told when a window
// has passed without an event, since each batch costs the pods a whole tree. A
// file that was made just now waits for the window: many programs save by writing
// beside and renaming, and what came and went within one batch is not told at all,
// unless something was noted of it before it came: that it was deleted, for one.
type settler struct {
	window time.Duration

	paths    map[string]bool
	open     map[string]bool // being written
	fresh    map[string]bool // made since the last batch, where nothing was in it before
	overflow bool
	first    time.Time // of the batch
	last     time.Time // event
	quick    int       // batches told at once since it was quiet
}

// maxQuick is how many batches may be told at once in a row. An editor that
// writes a file beside and renames it makes two or three; what makes more is a
// checkout or a build.
const maxQuick = 3

const (
	// crowd is from how many paths on a batch is a checkout or a build.
	crowd = 32
	// crowdWindows is how many windows a crowd is waited for at most.
	crowdWindows = 5
)

// add notes a change.
func (s *settler) add(now time.Time, c change) {
	if now.Sub(s.last) >= s.window {
		s.quick = 0
	}
	s.last = now
	if s.empty() {
		s.first = now
	}
	if c.overflow {
		s.overflow = true
		return
	}
	if s.paths == nil {
		s.paths, s.open, s.fresh = map[string]bool{}, map[string]bool{}, map[string]bool{}
	}
	if c.gone && s.fresh[c.path] {
		delete(s.paths, c.path)
		delete(s.open, c.path)
		delete(s.fresh, c.path)
		return
	}
	if c.fresh && !s.paths[c.path] {
		s.fresh[c.path] = true
	}
	s.paths[c.path] = true
	if c.writing {
		s.open[c.path] = true
	} else {
		delete(s.open, c.path)
	}
}

func (s *settler) empty() bool { return len(s.paths) == 0 && !s.overflow }

// due returns how long to wait before the batch is told; 0 is now. It must not be
// called with nothing in it.
func (s *settler) due(now time.Time) time.Duration {
	if len(s.paths) == 1 && len(s.open) == 0 && len(s.fresh) == 0 && !s.overflow && s.quick < maxQuick {
		return 0
	}
	end := s.first.Add(s.window)
	if len(s.paths) >= crowd {
		end = s.first.Add(crowdWindows * s.window)
		if quiet := s.last.Add(s.window); quiet.Before(end) {
			end = quiet
		}
	}
	return max(0, end.Sub(now))
}

// take returns the batch and starts the next one.
func (s *settler) take(now time.Time) Batch {
	if now.Sub(s.first) < s.window {
		s.quick++
	}
	b := Batch{Paths: slices.Sorted(maps.Keys(s.paths)), Rescan: s.overflow}
	s.paths, s.open, s.fresh, s.overflow = nil, nil, nil, false
	return b
}
