package steer

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// protocols start an app and a client of each protocol.
func protocols(t *testing.T, run func(t *testing.T, serve func(testing.TB, http.Handler) string, client func() *http.Client)) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			run(t, serve, func() *http.Client {
				tr := &http.Transport{}
				if name == "HTTP2" {
					tr = newTransportTo()
				}
				t.Cleanup(tr.CloseIdleConnections)
				return &http.Client{Transport: tr}
			})
		})
	}
}

// late is a connection on which each answer takes longer.
type late struct {
	net.Conn
	by time.Duration
}

func (l late) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	<-time.After(l.by)
	return n, err
}

// What the way to a pod costs is not its version's fault, and what its app takes is.
func TestTheWayToAPodIsNoLatency(t *testing.T) {
	const way, work = 200 * time.Millisecond, 20 * time.Millisecond
	app := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			<-time.After(work)
			w.Header().Set(Carried, "0") // what an app says of itself is worth nothing
			named(name)(w, r)
		}
	}
	protocols(t, func(t *testing.T, serve func(testing.TB, http.Handler) string, client func() *http.Client) {
		v := newVersions(t, serve(t, app("stable")), serve(t, app("canary")))
		v.stable.door.Peer = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
			return late{nc, way}, err
		}
		v.set(t, v.split(All))
		hc := client()
		for i := range 3 {
			resp, err := hc.Post("http://"+v.stable.addr+"/x", "text/plain", strings.NewReader("abc"))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			if resp.Body.Close(); err != nil {
				t.Fatal(err)
			}
			want(t, "answer", string(b), "canary POST /x 3")
			want(t, "the client is told of the way", resp.Header.Get(Carried), "")
			if o := v.outcomes.nth(t, i); o.Latency < work || o.Latency >= way || o.Took < way {
				t.Errorf("of %v for the app and %v for the way: latency %v, took %v", work, way, o.Latency, o.Took)
			}
		}
		// A door of before says nothing: the way counts.
		v.set(t, v.split(All, addresses(serve(t, app("canary")))))
		resp, err := hc.Get("http://" + v.stable.addr + "/x")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if o := v.outcomes.nth(t, 3); resp.Header.Get(Carried) != "" || brief(o) != "canary by canary 200 carried" {
			t.Errorf("%v, %+v", resp.Header, o)
		}
	})
}

// And so it is with copies.
func TestTheWayOfACopyIsNoLatency(t *testing.T) {
	const way = 200 * time.Millisecond
	protocols(t, func(t *testing.T, serve func(testing.TB, http.Handler) string, client func() *http.Client) {
		v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
		v.stable.door.Peer = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
			return late{nc, way}, err
		}
		v.set(t, v.split(0, func(s *Split) { s.Mirror = &Copies{Version: "canary", Weight: All} }))
		resp, err := client().Get("http://" + v.stable.addr + "/x")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		for _, p := range v.outcomes.pairs(t, 1) {
			if o := p[1]; o.Broken || o.Latency >= way || o.Took < way {
				t.Errorf("of the copy: %+v", o)
			}
		}
	})
}

// Behind a door that takes connections nobody may listen. Nobody has got the request then, so
// another pod may, whatever the request does. For a moment that tells nothing of the version.
func TestNobodyIsBehindTheDoorOfAPod(t *testing.T) {
	protocols(t, func(t *testing.T, serve func(testing.TB, http.Handler) string, client func() *http.Client) {
		v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
		empty := newPod(t, unused(t), follow)
		long := strings.Repeat("x", 2*maxKept)
		for name, tt := range map[string]struct {
			pods []string
			body string
			want string
		}{
			"another pod":           {[]string{empty.addr, v.canary.addr}, "abc", "200 canary POST /x 3: canary by canary 200 carried"},
			"no other pod":          {[]string{empty.addr}, "abc", "200 stable POST /x 3: canary by stable 200 fallback"},
			"no body":               {[]string{empty.addr}, "", "200 stable POST /x 0: canary by stable 200 fallback"},
			"too long a body":       {[]string{empty.addr}, long, ""},
			"and for more than 3 s": {[]string{empty.addr}, "abc", "200 stable POST /x 3: canary by stable 200 fallback"},
		} {
			s := v.split(All, addresses(tt.pods...))
			s.Of = name // each begins anew
			v.set(t, s)
			if err := empty.host.Split(8080, "canary", s); err != nil {
				t.Fatal(err)
			}
			forLong := strings.Contains(name, "more than")
			pod := &v.stable.door.split.Load().arms[1].rests[0]
			if forLong {
				pod.since.Store(time.Now().Add(-refusal).UnixNano())
			}
			hc, n := client(), len(v.outcomes.list())
			for i := range 3 {
				resp, err := hc.Post("http://"+v.stable.addr+"/x", "text/plain", strings.NewReader(tt.body))
				if err != nil && tt.want == "" {
					continue // the answer may come before the body has gone
				}
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				o := v.outcomes.nth(t, n+i)
				got := fmt.Sprintf("%d %s: %s", resp.StatusCode, b, brief(o))
				if tt.want != "" {
					want(t, name, got, tt.want)
				} else if resp.StatusCode != 502 && !o.Fallback { // as much had gone as is kept, or not yet
					t.Errorf("%s: %s", name, got)
				}
				if unheard := !forLong && len(tt.pods) == 1; o.Unheard != unheard || resp.Header.Get(Carried) != "" {
					t.Errorf("%s: %+v", name, o)
				}
			}
			v.outcomes.exactly(t, n+3)
		}
	})
}

// A copy that comes to such a pod tells nothing either, unless it goes on so.
func TestNobodyIsBehindTheDoorThatGetsACopy(t *testing.T) {
	protocols(t, func(t *testing.T, serve func(testing.TB, http.Handler) string, client func() *http.Client) {
		v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
		empty := newPod(t, unused(t), follow)
		s := v.split(0, addresses(empty.addr), func(s *Split) { s.Mirror = &Copies{Version: "canary", Weight: All} })
		v.set(t, s)
		if err := empty.host.Split(8080, "canary", s); err != nil {
			t.Fatal(err)
		}
		hc := client()
		for i, long := range []bool{false, true} {
			if long {
				v.stable.door.split.Load().arms[1].rests[0].since.Store(time.Now().Add(-refusal).UnixNano())
			}
			resp, err := hc.Get("http://" + v.stable.addr + "/x")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			for id, p := range v.outcomes.pairs(t, i+1) {
				if o := p[1]; id == uint64(i+1) && (o.Unheard == long || !o.Broken || o.Status != 0) {
					t.Errorf("for long: %v: %+v", long, o)
				}
			}
		}
	})
}

// A door of before, which asks by "1", gets what it expects: nothing.
func TestADoorOfBeforeIsToldNothing(t *testing.T) {
	v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
	v.set(t, v.split(0))
	resp, _ := dial(t, v.canary.addr).get(t, "/x", Carried+": 1")
	want(t, "told", resp.Header.Get(Carried)+" "+resp.Header.Get("X-Served-By"), " canary")
	resp, _ = dial(t, v.canary.addr).get(t, "/x", Carried+": "+carriedAsks)
	if took, err := told(resp.Header.Get(Carried)); err != nil || took < 0 {
		t.Errorf("told %q", resp.Header.Get(Carried))
	}
}
