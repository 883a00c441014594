package agent

import (
	"context"
	"time"

	"github.com/bightdev/bight/internal/live/wire"
)

// Hold implements [steer.Process]: it stops the process as a restart does, but
// starts it again only after Release.
func (s *Supervisor) Hold(by string) <-chan struct{} {
	ended := make(chan struct{})
	s.mu.Lock()
	s.heldBy = by
	s.holding = append(s.holding, ended)
	s.mu.Unlock()
	s.pokeHolds()
	return ended
}

// Release implements [steer.Process].
func (s *Supervisor) Release() {
	s.mu.Lock()
	s.heldBy = ""
	s.soon = s.soon || s.now.Phase == wire.Held
	s.mu.Unlock()
	s.pokeHolds()
}

func (s *Supervisor) pokeHolds() {
	select {
	case s.holds <- struct{}{}:
	default:
	}
}

// HeldBy returns who replaces the process, "" when nobody does.
func (s *Supervisor) HeldBy() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heldBy
}

// comes reports whether the process can be expected to serve soon, who replaces it
// if not, and what is closed when it does; nil while its predecessor has to end.
func (s *Supervisor) comes() (soon bool, heldBy string, ready <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	soon = s.heldBy == "" && (s.soon || s.now.Phase == wire.Starting)
	if s.now.Phase != wire.Ready {
		ready = s.ready
	}
	return soon, s.heldBy, ready
}

// held takes over who wants to know that the process has ended.
func (s *Supervisor) held() (by string, ended []chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by, ended = s.heldBy, s.holding
	s.holding = nil
	return by, ended
}

// heed does what is due after a Hold or a Release. What follows the end of the
// process is decided when it ends: see rest.
func (s *Supervisor) heed(ctx context.Context) {
	by, ended := s.held()
	if s.p != nil && by != "" && !s.leaving {
		for _, done := range ended {
			s.stop(order{time.Now(), done})
		}
		return
	}
	switch {
	case s.p != nil || s.leaving:
	case by != "":
		s.rest()
	case s.Process().Phase == wire.Held:
		s.start(ctx, time.Now())
	}
	closeAll(ended)
}

// rest leaves the process stopped, and reports that, if somebody replaces it.
func (s *Supervisor) rest() bool {
	by := s.HeldBy()
	if by == "" {
		return false
	}
	s.resume, s.pause = nil, 0
	if s.Process().Phase != wire.Held {
		s.update(func(now *wire.Process) {
			*now = wire.Process{Phase: wire.Held, Starts: now.Starts, Tree: now.Tree}
		})
		s.OnEvent(wire.Event{Kind: wire.Replaced, By: by})
	}
	return true
}

func closeAll(all []chan struct{}) {
	for _, c := range all {
		close(c)
	}
}
