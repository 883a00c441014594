package deploy

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// source is one collection of objects that can be listed and watched.
type source struct {
	list  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
	opts  metav1.ListOptions
}

// change is what follow reports: the whole collection, or one event of it.
type change struct {
	all   []runtime.Object // the collection as it is now, where event is ""
	event watch.EventType  // Added, Modified or Deleted
	obj   runtime.Object
}

// errGone tells that the server no longer has the past that a watch needs.
var errGone = errors.New("the watch's past is gone")

// snapshot lists the collection and returns it with its resourceVersion.
func (s source) snapshot(ctx context.Context) ([]runtime.Object, string, error) {
	l, err := s.list(ctx, s.opts)
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
	return objs, m.GetResourceVersion(), nil
}

// follow reports every change of the collection from resourceVersion on, or,
// where that is "", from a first report of the whole. A watch that ends is
// resumed where it was; one whose past is gone begins anew with a whole report.
// It returns when ctx ends, when emit returns an error, when the very first
// list is refused, or when the right to look is taken away.
func (s source) follow(ctx context.Context, version string, emit func(change) error) error {
	pause := newBackoff()
	for first := version == ""; ; {
		if version == "" {
			objs, v, err := s.snapshot(ctx)
			switch {
			case err == nil:
				if err := emit(change{all: objs}); err != nil {
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
func (s source) stream(ctx context.Context, version string, emit func(change) error) (string, error) {
	opts := s.opts
	opts.ResourceVersion, opts.AllowWatchBookmarks = version, true
	w, err := s.watch(ctx, opts)
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
			if err := emit(change{event: ev.Type, obj: ev.Object}); err != nil {
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
	b.next = min(2*b.next, 3*time.Second)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
