// Package follow watches collections of Kubernetes objects for as long as somebody
// wants to know about them.
//
// The main type is [Source], a collection; [Source.Changes] reports what happens to
// it. A watch that ends is taken up where it was, so nothing is missed and nothing is
// listed twice without need. A Source may be used by several goroutines at once; each
// report comes from the goroutine that asked for it.
package follow

import (
	"context"
	"errors"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// Source is one collection of objects that can be listed and watched.
type Source struct {
	List    func(context.Context, metav1.ListOptions) (runtime.Object, error)
	Watch   func(context.Context, metav1.ListOptions) (watch.Interface, error)
	Options metav1.ListOptions // what of the collection; with a Limit it is listed by so many
	// Only, if not nil, says which objects are in a report of the whole: of a great many the
	// others need not be held at once. Events come of all.
	Only func(runtime.Object) bool
}

// client is what typed clients have; L is the type of their lists.
type client[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// Of returns the collection that a client reads.
func Of[L runtime.Object](c client[L], opts metav1.ListOptions) Source {
	return Source{
		List: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := c.List(ctx, o)
			if err != nil {
				return nil, err // not a typed nil
			}
			return list, nil
		},
		Watch: c.Watch, Options: opts,
	}
}

// Change is what is reported: the whole collection, or one event of it.
type Change struct {
	All    []runtime.Object // the collection as it is now, where Event is ""
	Event  watch.EventType  // Added, Modified or Deleted
	Object runtime.Object
}

// errGone tells that the server no longer has the past that a watch needs.
var errGone = errors.New("the watch's past is gone")

// Snapshot lists the collection and returns it with its resourceVersion.
func (s Source) Snapshot(ctx context.Context) ([]runtime.Object, string, error) {
	var all []runtime.Object
	for opts := s.Options; ; {
		l, err := s.List(ctx, opts)
		if err != nil {
			return nil, "", err
		}
		objs, err := meta.ExtractList(l)
		if err != nil {
			return nil, "", err
		}
		m, err := meta.ListAccessor(l)
		if err != nil {
			return nil, "", err
		}
		if s.Only != nil {
			objs = slices.DeleteFunc(objs, func(o runtime.Object) bool { return !s.Only(o) })
		}
		all = append(all, objs...)
		if opts.Continue = m.GetContinue(); opts.Continue == "" {
			return all, m.GetResourceVersion(), nil
		}
	}
}

// Changes reports every change of the collection from resourceVersion on, or,
// where that is "", from a first report of the whole. A watch that ends is
// resumed where it was; one whose past is gone begins anew with a whole report.
// It returns when ctx ends, when emit returns an error, when the very first
// list is refused, or when the right to look is taken away.
func (s Source) Changes(ctx context.Context, version string, emit func(Change) error) error {
	pause := newBackoff()
	for first := version == ""; ; {
		if version == "" {
			objs, v, err := s.Snapshot(ctx)
			switch {
			case err == nil:
				if err := emit(Change{All: objs}); err != nil {
					return err
				}
				version, first = v, false
				pause.reset()
			case first || hopeless(err):
				return err
			default:
				if err := pause.wait(ctx); err != nil {
					return err
				}
				continue
			}
		}
		next, err := s.stream(ctx, version, emit)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errGone):
			version = ""
		case errors.As(err, new(emitError)):
			return errors.Unwrap(err)
		case err != nil && hopeless(err):
			return err
		default:
			if next != version {
				pause.reset()
			}
			version = next
			if err := pause.wait(ctx); err != nil {
				return err
			}
		}
	}
}

// emitError carries the consumer's error out of stream.
type emitError struct{ error }

func (e emitError) Unwrap() error { return e.error }

// stream runs one watch to its end and returns the version reached.
func (s Source) stream(ctx context.Context, version string, emit func(Change) error) (string, error) {
	opts := s.Options
	opts.ResourceVersion, opts.AllowWatchBookmarks = version, true
	w, err := s.Watch(ctx, opts)
	if err != nil {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return "", errGone
		}
		return version, err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return version, ctx.Err()
		case ev, ok := <-w.ResultChan():
			if !ok {
				return version, nil
			}
			if ev.Type == watch.Error {
				err := apierrors.FromObject(ev.Object)
				if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
					return "", errGone
				}
				return version, err
			}
			if m, err := meta.Accessor(ev.Object); err == nil {
				version = m.GetResourceVersion()
			}
			if ev.Type == watch.Bookmark {
				continue
			}
			if err := emit(Change{Event: ev.Type, Object: ev.Object}); err != nil {
				return version, emitError{err}
			}
		}
	}
}

// hopeless tells errors that trying again does not heal.
func hopeless(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err)
}

// backoff is a growing pause between attempts to reach a server.
type backoff struct{ next time.Duration }

func newBackoff() *backoff { return &backoff{next: 10 * time.Millisecond} }

func (b *backoff) reset() { b.next = 10 * time.Millisecond }

func (b *backoff) wait(ctx context.Context) error {
	t := time.NewTimer(b.next)
	defer t.Stop()
	b.next = min(2*b.next, 500*time.Millisecond)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
