package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/internal/deploy"
)

// diary notes what happens, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func TestHealAfterWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		e := &environments{}
		e.start(ctx)
		p := place{app: client.ObjectKey{Namespace: "shop", Name: "shop"}, namespace: "shop-prod"}
		var d diary
		deploy := func(name string, until <-chan struct{}) func(context.Context) {
			return func(ctx context.Context) {
				select {
				case <-until:
					d.note(name + " done")
				case <-ctx.Done():
					d.note(name + ": " + context.Cause(ctx).Error())
				}
			}
		}
		heal := func(context.Context) { d.note("healed") }
		first, second := make(chan struct{}), make(chan struct{})

		e.begin(p, "first", deploy("first", first))
		e.heal(p, heal)
		e.heal(p, heal) // once is enough
		synctest.Wait()
		e.begin(p, "second", deploy("second", second))
		synctest.Wait()
		close(second)
		synctest.Wait()
		if err := e.idle(ctx, p); err != nil {
			t.Error(err)
		}
		e.heal(p, heal)
		synctest.Wait()

		want := []string{"first: " + errNewer.Error(), "second done", "healed", "healed"}
		if !slices.Equal(d.lines, want) {
			t.Errorf("it went %q, want %q", d.lines, want)
		}
		e.begin(p, "third", deploy("third", first))
		e.heal(p, heal)
		cancel()
		e.tasks.Wait()
		if want = append(want, "third: "+context.Canceled.Error()); !slices.Equal(d.lines, want) {
			t.Errorf("after the end it went %q, want %q", d.lines, want)
		}
		if err := e.idle(ctx, p); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestStirAll(t *testing.T) {
	f := &files{dir: t.TempDir()}
	mine, other := f.written("shop/fix-1/test-1-0.log"), f.written("shop/fix-10/test-1-0.log")
	f.stirAll("shop", "fix-1")
	select {
	case <-mine:
	default:
		t.Error("who follows a log of the change is not woken")
	}
	select {
	case <-other:
		t.Error("who follows another change's log is woken")
	default:
	}
}

func TestWithoutRight(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "", errors.New(`User "x" cannot list resource "secrets"`))
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("no"), false},
		{forbidden, true},
		{fmt.Errorf("look: %w", forbidden), true},
		{&deploy.RightsError{}, true},
		{&deploy.RefusedError{Err: forbidden}, false},
	} {
		if got := withoutRight(c.err); got != c.want {
			t.Errorf("%v: %t", c.err, got)
		}
	}
}
