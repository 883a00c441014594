package steer

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// A request that waits for a connection is with no pod, so its version is not slow: a
// NetworkPolicy that drops the packets between pods would convict every version otherwise. What
// it is asked for is told, from when there is a connection.
func TestWhoHasNoConnectionIsNotSlow(t *testing.T) {
	never := func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	late := func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		select {
		case <-time.After(150 * time.Millisecond): // a packet was lost
			return new(net.Dialer).DialContext(ctx, "tcp", to.String())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for name, tt := range map[string]struct {
		peer func(context.Context, netip.AddrPort) (net.Conn, error)
		hang bool // the pod does not answer until it is told of
		want []string
	}{
		"none comes":            {never, false, []string{"canary by stable 200 fallback"}},
		"one comes late":        {late, false, []string{"canary by canary 200 carried"}},
		"the pod is slow, then": {late, true, []string{"canary by canary 0 carried running", "canary by canary 0 carried running", "canary by canary 200 carried"}},
	} {
		for protocol, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				told := make(chan struct{})
				canary := func(http.ResponseWriter, *http.Request) {
					if tt.hang {
						<-told
					}
				}
				v := newVersions(t, serve(t, named("stable")), serve(t, http.HandlerFunc(canary)))
				v.stable.door.Peer = tt.peer
				v.set(t, v.split(All, func(s *Split) { s.Slow = []time.Duration{50 * time.Millisecond, 100 * time.Millisecond} }))
				var all sync.WaitGroup
				defer all.Wait()
				if tt.hang {
					all.Go(func() { defer close(told); v.outcomes.nth(t, 1) })
				}
				tr := &http.Transport{}
				if protocol == "HTTP2" {
					tr = newTransportTo()
				}
				defer tr.CloseIdleConnections()
				resp, err := (&http.Client{Transport: tr}).Get("http://" + v.stable.addr + "/x")
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				var got []string
				for _, o := range v.outcomes.exactly(t, len(tt.want)) {
					got = append(got, brief(o))
					if o.Running && o.Took < o.Latency+100*time.Millisecond {
						t.Errorf("under way for %v, and for %v since there is a connection", o.Took, o.Latency)
					}
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("outcomes:\n got %q\nwant %q", got, tt.want)
				}
			})
		}
	}
}

// Neither is who gets a copy.
func TestACopyThatHasNoConnectionIsNotSlow(t *testing.T) {
	v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
	v.stable.door.Peer = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	v.set(t, v.split(0, func(s *Split) {
		s.Slow = []time.Duration{50 * time.Millisecond, 100 * time.Millisecond}
		s.Mirror = &Copies{Version: "canary", Weight: All}
	}))
	resp, err := http.Get("http://" + v.stable.addr + "/x")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, o := range v.outcomes.exactly(t, 2) {
		if o.Running || o.Copy && !o.Unheard {
			t.Errorf("%s, %+v", brief(o), o)
		}
	}
}
