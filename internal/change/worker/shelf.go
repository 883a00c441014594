package worker

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/tests"
	"github.com/bightdev/bight/internal/change/work"
)

// Kinds of what workers share.
const (
	testKind  = "tests"
	buildKind = "builds"
)

// classes are those of what a step may believe, its own first.
func (j *job) classes() []suite.Trust {
	if j.Untrusted {
		return []suite.Trust{suite.Untrusted, suite.Trusted}
	}
	return []suite.Trust{suite.Trusted}
}

// ask returns what the controller has of a kind, by class and key. That it has
// nothing, or does not answer, costs time and nothing else.
func (w *Worker) ask(ctx context.Context, j *job, kind string, keys []string) map[string][]byte {
	if w.Results == nil || len(keys) == 0 {
		return nil
	}
	var names []string
	for _, class := range j.classes() {
		for _, key := range keys {
			names = append(names, shared(string(class)+"/"+key, kind))
		}
	}
	found, err := w.Results(ctx, j.Namespace, j.App, names)
	if err != nil {
		fmt.Fprintf(j.out, "what other workers have shown is not known: %v\n", err)
		return nil
	}
	out := map[string][]byte{}
	for _, class := range j.classes() {
		for _, key := range keys {
			name := string(class) + "/" + key
			if b, ok := found[shared(name, kind)]; ok {
				out[name] = b
			}
		}
	}
	return out
}

// shared is what the controller calls what is "<class>/<key>" here.
func shared(name, kind string) string {
	class, key, _ := strings.Cut(name, "/")
	return class + "/" + kind + "/" + key
}

// shelf has the results of tests for one job: those of this machine, and those that
// other workers have left at the controller. What the job shows goes to both. Only
// what it shows: what this machine knew before, from bight test or from elsewhere, is
// not told to others.
type shelf struct {
	suite.Dir
	known map[string][]byte // at the controller, by class and key

	mu   sync.Mutex
	keep map[string][]byte // for the controller, by kind and key
	size int
}

// shelf returns the one for a job's units.
func (w *Worker) shelf(ctx context.Context, j *job, units []suite.Unit) *shelf {
	s := &shelf{Dir: tests.Results(w.Cache), keep: map[string][]byte{}}
	var keys []string
	for _, u := range units {
		for _, key := range []string{u.Key, u.Shape} {
			if _, err := s.Dir.Get(ctx, string(j.classes()[0])+"/"+key); err != nil && key != "" {
				keys = append(keys, key)
			}
		}
	}
	s.known = w.ask(ctx, j, testKind, keys)
	return s
}

// Get implements [suite.Store].
func (s *shelf) Get(ctx context.Context, name string) ([]byte, error) {
	b, err := s.Dir.Get(ctx, name)
	if other, ok := s.known[name]; err != nil && ok {
		return other, nil
	}
	return b, err
}

// Put implements [suite.Store].
func (s *shelf) Put(ctx context.Context, name string, b []byte) error {
	_, key, _ := strings.Cut(name, "/")
	s.mu.Lock()
	if s.size+len(b) <= work.MaxKept && len(b) <= largestKept {
		s.keep[testKind+"/"+key], s.size = b, s.size+len(b)
	}
	s.mu.Unlock()
	return s.Dir.Put(ctx, name, b)
}

// largestKept is how large one thing may be that is left at the controller.
const largestKept = 1 << 20

// kept returns what is for the controller.
func (s *shelf) kept() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keep
}
