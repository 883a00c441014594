package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnOutageIsTold(t *testing.T) {
	cart, menu := &pod{name: "cart"}, &pod{name: "menu"}
	for _, test := range []struct {
		name string
		do   func(ctx context.Context, o *outage, away *atomic.Bool, stop func())
		want []string
	}{
		{"all pods", func(ctx context.Context, o *outage, away *atomic.Bool, _ func()) {
			away.Store(true)
			o.lose(ctx, cart)
			o.lose(ctx, menu)
			time.Sleep(10 * time.Second)
			away.Store(false)
			o.find(cart)
			o.find(menu)
		}, []string{"gone: connection refused", "back after 10s"}},
		{"a moment", func(ctx context.Context, o *outage, away *atomic.Bool, _ func()) {
			away.Store(true)
			o.lose(ctx, cart)
			time.Sleep(time.Second)
			o.find(cart)
		}, nil},
		{"a pod that restarts", func(ctx context.Context, o *outage, _ *atomic.Bool, _ func()) {
			o.lose(ctx, cart)
			time.Sleep(10 * time.Second)
			o.find(cart)
		}, nil},
		{"twice", func(ctx context.Context, o *outage, away *atomic.Bool, _ func()) {
			away.Store(true)
			for range 2 {
				o.lose(ctx, cart)
				time.Sleep(5 * time.Second)
				o.find(cart)
			}
		}, []string{"gone: connection refused", "back after 5s", "gone: connection refused", "back after 5s"}},
		{"the session ends", func(ctx context.Context, o *outage, away *atomic.Bool, stop func()) {
			away.Store(true)
			o.lose(ctx, cart)
			stop()
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said []string
				var away atomic.Bool
				o := &outage{
					ask: func(context.Context) error {
						if away.Load() {
							return errors.New("connection refused")
						}
						return nil
					},
					gone: func(err error) { said = append(said, "gone: "+err.Error()) },
					back: func(after time.Duration) { said = append(said, fmt.Sprint("back after ", after)) },
				}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				test.do(ctx, o, &away, stop)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if !slices.Equal(said, test.want) {
					t.Errorf("it says %q, want %q", said, test.want)
				}
			})
		})
	}
}
