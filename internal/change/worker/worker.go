// Package worker does the steps of changes that take toolchains: review, build and
// test.
//
// The main type is [Worker], whose Do does one order of package work in a working copy
// of the commit. It is safe for concurrent use. The steps of one commit share a
// working copy, except that tests, which may write where they like, have one of their
// own.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change/attest"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/session"
)

// Worker does steps.
type Worker struct {
	Name string
	// Source tells where the repository of an app is, and how to get in.
	Source func(ctx context.Context, namespace, app string) (repo.Source, error)
	// Dir has the working copies, Cache what tests have shown before.
	Dir, Cache string
	// Results returns what other workers have left at the controller, by name; nil is
	// nothing.
	Results func(ctx context.Context, namespace, app string, names []string) (map[string][]byte, error)
	// Maker builds and pushes images to Registry; Agent is the agent's program, which
	// serves static sites.
	Maker    *session.Maker
	Registry image.Registry
	Agent    string
	// Checkers review, and Gates after them; see [Checkers].
	Checkers []review.Checker
	Gates    []review.Gate
	// Signer signs the images of changes by people who may push; nil leaves them
	// unsigned.
	Signer *attest.Signer
	Log    *slog.Logger

	mu    sync.Mutex
	slots []*slot
}

// Do does one order.
func (w *Worker) Do(ctx context.Context, o work.Order, log io.Writer) work.Result {
	src, err := w.Source(ctx, o.Namespace, o.App)
	if err != nil {
		return erred(fmt.Errorf("reach the repository: %w", err))
	}
	mask := suite.NewMask(log, src.Password)
	defer mask.Flush()
	var do func(context.Context, *job) work.Result
	switch o.Step {
	case v1alpha1.ReviewStep:
		do = w.review
	case v1alpha1.BuildStep:
		if do = w.build; o.Untrusted {
			do = w.compileTests
		}
	case v1alpha1.TestStep:
		if o.Untrusted {
			return work.Result{State: work.Erred, Message: "a worker runs nothing that strangers have made"}
		}
		do = w.test
	default:
		return work.Result{State: work.Erred, Message: fmt.Sprintf("this worker knows no step %q: is it older than the controller?", o.Step)}
	}
	now := tellOf(log)
	s, err := w.checkout(ctx, o, src, now.say)
	now.end()
	if s != nil {
		defer w.leave(s)
	}
	if err != nil {
		return classify(err)
	}
	for _, note := range notes(s.copy) {
		fmt.Fprintln(mask, note)
	}
	j := &job{Order: o, copy: s.copy, dir: filepath.Join(s.copy.Dir, filepath.FromSlash(o.Directory)), out: mask, url: src.URL, password: src.Password}
	if info, err := os.Stat(j.dir); err != nil || !info.IsDir() {
		return work.Result{State: work.Failed, Message: fmt.Sprintf("the commit has no directory %s, where the App says that the app is", o.Directory)}
	}
	r := do(ctx, j)
	if ctx.Err() != nil {
		return erred(context.Cause(ctx))
	}
	return r
}

// job is one order and its working copy.
type job struct {
	work.Order
	copy     *repo.Copy
	dir      string // of the app
	out      io.Writer
	url      string // of the repository
	password string

	once sync.Once
	app  *app.App
	err  error
}

// plan reads the app from the source.
func (j *job) plan(ctx context.Context) (*app.App, error) {
	j.once.Do(func() { j.app, j.err = session.Plan(ctx, j.dir) })
	return j.app, j.err
}

// classify tells what is the commit's fault from what surrounds it.
func classify(err error) work.Result {
	var unsafe *repo.UnsafeTreeError
	var large *repo.TooLargeError
	if errors.As(err, &unsafe) || errors.As(err, &large) {
		return work.Result{State: work.Failed, Message: err.Error()}
	}
	return erred(err)
}

func erred(err error) work.Result { return work.Result{State: work.Erred, Message: err.Error()} }

func failed(err error) work.Result { return work.Result{State: work.Failed, Message: err.Error()} }

// notes says what of a commit is not in its working copy.
func notes(c *repo.Copy) []string {
	var out []string
	for _, s := range c.Submodules {
		out = append(out, fmt.Sprintf("submodule %s is left empty: submodules are not fetched", s.Path))
	}
	if n := len(c.Pointers); n > 0 {
		out = append(out, fmt.Sprintf("what Git LFS keeps of %s is not fetched: the steps have the pointers, such as %s", count(n, "file"), c.Pointers[0]))
	}
	for _, l := range c.Large {
		out = append(out, fmt.Sprintf("%s is large: %d MiB", l.Path, l.Size>>20))
	}
	for _, names := range c.Collisions {
		out = append(out, "these are one file where case does not matter: "+strings.Join(names, ", "))
	}
	return out
}

// slot is a directory with a working copy.
type slot struct {
	dir   string
	key   string // what it has: app, kind of use, commit and base
	users int
	ready chan struct{} // closed when copy and err are set
	copy  *repo.Copy
	err   error
	left  bool // whoever was to fill it was told to stop
}

// checkout returns a working copy of an order's commit. The caller leaves it, also
// after an error, unless it is nil.
func (w *Worker) checkout(ctx context.Context, o work.Order, src repo.Source, doing func(string)) (*slot, error) {
	var with []string
	if o.Base != "" {
		with = []string{o.Base}
	}
	at := placeOf(o, "read")
	read, err := w.open(ctx, at, strings.Join(append([]string{at.name, o.Commit}, with...), " "), func(dir string) (*repo.Copy, error) {
		return repo.Checkout(ctx, src, o.Commit, dir, repo.CheckoutOptions{With: with, Doing: doing})
	})
	if err != nil || o.Step != v1alpha1.TestStep {
		return read, err
	}
	defer w.leave(read)
	// What tests write, nobody else is to see. What they begin with was fetched for all.
	return w.another(ctx, o, read.copy, "test", o.Commit, doing)
}

// another returns one more working copy, for another use, of a commit that the
// repository of a copy has, whose slot is not left before this returns. The caller
// leaves it, as it does that of checkout.
func (w *Worker) another(ctx context.Context, o work.Order, from *repo.Copy, use, commit string, doing func(string)) (*slot, error) {
	at := placeOf(o, use)
	return w.open(ctx, at, at.name+" "+commit, func(dir string) (*repo.Copy, error) {
		return from.Another(ctx, commit, dir, doing)
	})
}

// place is where the working copies of one app for one use are.
type place struct {
	name   string
	shared bool // by those who read the same commit
}

func placeOf(o work.Order, use string) place {
	name := fmt.Sprintf("%s.%s.%s", o.Namespace, o.App, use)
	if o.Untrusted {
		name += ".untrusted"
	}
	return place{name, use == "read" || use == "base"}
}

// open returns the slot that has what key says, which make puts there if need be.
func (w *Worker) open(ctx context.Context, at place, key string, make func(dir string) (*repo.Copy, error)) (*slot, error) {
	for {
		s, first := w.take(at, key)
		if first {
			w.fill(ctx, s, key, make)
			return s, s.err
		}
		select {
		case <-ctx.Done():
			return s, context.Cause(ctx)
		case <-s.ready:
		}
		if !s.left {
			return s, s.err
		}
		w.leave(s) // who was at it is to stop, and this order is not
	}
}

// fill makes what a slot is to have.
func (w *Worker) fill(ctx context.Context, s *slot, key string, make func(dir string) (*repo.Copy, error)) {
	defer close(s.ready)
	for tries := 0; ; tries++ {
		s.copy, s.err = make(s.dir)
		if s.err == nil || final(s.err) || ctx.Err() != nil || tries >= 5 {
			break
		}
		w.Log.Debug("check out again", "what", key, "err", s.err)
		select { // another controller may be about to act
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.left = s.err != nil && ctx.Err() != nil
}

// take finds the slot that has what is wanted, or one that nobody uses, or makes one.
func (w *Worker) take(at place, key string) (s *slot, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var free *slot
	n := 0
	for _, s := range w.slots {
		if !strings.HasPrefix(s.key, at.name+" ") {
			continue
		}
		n++
		if s.key == key && at.shared && !s.left && (s.users > 0 || s.err == nil) {
			s.users++
			return s, false
		}
		if s.users == 0 && free == nil {
			free = s
		}
	}
	if free == nil {
		free = &slot{dir: filepath.Join(w.Dir, fmt.Sprintf("%s.%d", at.name, n))}
		w.slots = append(w.slots, free)
	}
	free.key, free.users, free.ready, free.copy, free.err = key, 1, make(chan struct{}), nil, nil
	free.left = false
	return free, true
}

func (w *Worker) leave(s *slot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.users--
}

// final says that an error of a checkout is about the commit, and not about the way to it.
func final(err error) bool {
	return errors.As(err, new(*repo.DeniedError)) || errors.As(err, new(*repo.NotFoundError)) || errors.As(err, new(*repo.TooLargeError)) ||
		errors.As(err, new(*repo.UnsafeTreeError)) || errors.As(err, new(*repo.ConflictError)) || errors.As(err, new(*repo.UnrelatedError))
}
