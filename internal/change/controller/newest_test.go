package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/bightdev/bight/api/v1alpha1"
)

// slowServer is a controller whose API server answers a write when it is let.
func slowServer(t *testing.T) (c *Controller, key client.ObjectKey, writes *int, let chan error) {
	t.Helper()
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	m := &v1alpha1.Change{}
	m.Namespace, m.Name = "shop", "shop-1"
	writes, let = new(int), make(chan error)
	server := fake.NewClientBuilder().WithScheme(scheme).WithObjects(m).WithStatusSubresource(m).
		WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			select {
			case err := <-let:
				if err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
			*writes++
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		}}).Build()
	return &Controller{client: server, live: server}, client.ObjectKeyFromObject(m), writes, let
}

func add(word string) func(*v1alpha1.Change) error {
	return func(m *v1alpha1.Change) error {
		m.Status.Message += word
		return nil
	}
}

func TestWritesAtTheSameTimeAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, key, writes, let := slowServer(t)
		var all sync.WaitGroup
		results := make([]error, 4)
		for i, do := range []func(*v1alpha1.Change) error{
			add("a"), add("b"), func(*v1alpha1.Change) error { return errors.New("it is not wanted") }, add("c"),
		} {
			all.Go(func() { _, results[i] = c.update(t.Context(), key, do) })
			synctest.Wait() // in this order
		}
		let <- nil // the first, alone
		let <- nil // the others together
		all.Wait()
		if got := fmt.Sprint(results); got != "[<nil> <nil> it is not wanted <nil>]" {
			t.Errorf("results %s", got)
		}
		m := &v1alpha1.Change{}
		if err := c.client.Get(t.Context(), key, m); err != nil || m.Status.Message != "abc" {
			t.Errorf("the status says %q, %v", m.Status.Message, err)
		}
		if *writes != 2 {
			t.Errorf("%d writes, want 2", *writes)
		}
		if len(c.newest.edits) != 0 {
			t.Errorf("left in line: %v", c.newest.edits)
		}
	})
}

// Who has the turn gives up, and one in line does: the others are written all the same.
func TestWriteGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, key, _, let := slowServer(t)
		first, giveUp := context.WithCancel(t.Context())
		third, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		results := make([]error, 4)
		for i, ctx := range []context.Context{first, t.Context(), third, t.Context()} {
			all.Go(func() { _, results[i] = c.update(ctx, key, add(string(rune('a'+i)))) })
			synctest.Wait()
		}
		leave()
		synctest.Wait()
		giveUp()
		synctest.Wait()
		let <- nil
		all.Wait()
		if results[0] == nil || !strings.Contains(results[0].Error(), "shop-1") || !errors.Is(results[2], context.Canceled) || results[1] != nil || results[3] != nil {
			t.Errorf("results %v", results)
		}
		m := &v1alpha1.Change{}
		if err := c.client.Get(t.Context(), key, m); err != nil || m.Status.Message != "bd" {
			t.Errorf("the status says %q, %v", m.Status.Message, err)
		}
	})
}

// A write that is refused because somebody else was faster is made of what they wrote.
func TestWriteInConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, key, _, let := slowServer(t)
		var all sync.WaitGroup
		all.Go(func() {
			if m, err := c.update(t.Context(), key, add("mine")); err != nil || m.Status.Message != "theirs, mine" {
				t.Errorf("written %+v, %v", m, err)
			}
		})
		synctest.Wait()
		m := &v1alpha1.Change{}
		if err := c.client.Get(t.Context(), key, m); err != nil {
			t.Fatal(err)
		}
		m.Status.Message = "theirs, "
		if err := c.client.Status().Update(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		let <- nil
		let <- nil
		all.Wait()
	})
}

// Who wants to write only if nothing has changed sees what others write with it.
func TestWriteSeesThoseBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, key, _, let := slowServer(t)
		var all sync.WaitGroup
		var known uint64
		for _, do := range []func(*v1alpha1.Change) error{
			add("first"),
			func(m *v1alpha1.Change) error {
				known = version(m)
				return add("second")(m)
			},
			func(m *v1alpha1.Change) error {
				if version(m) != known {
					return errUnchanged
				}
				m.Status.Message = "overwritten"
				return nil
			},
		} {
			all.Go(func() {
				if _, err := c.update(t.Context(), key, do); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		let <- nil
		let <- nil
		all.Wait()
		m := &v1alpha1.Change{}
		if err := c.client.Get(t.Context(), key, m); err != nil || m.Status.Message != "firstsecond" {
			t.Errorf("the status says %q, %v", m.Status.Message, err)
		}
	})
}
