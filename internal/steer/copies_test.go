package steer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pairs waits until n originals have ended, and their copies, and gives both by ID.
func (r *record) pairs(t testing.TB, n int) map[uint64][2]Outcome {
	t.Helper()
	all := map[uint64][2]Outcome{}
	eventually(t, fmt.Sprint(n, " requests and their copies have ended"), func() bool {
		clear(all)
		ended := 0
		for _, o := range r.list() {
			if o.Running {
				continue
			}
			p := all[o.ID]
			p[map[bool]int{true: 1}[o.Copy]] = o
			if all[o.ID] = p; p[0].ID == p[1].ID {
				ended++
			}
		}
		return ended >= n
	})
	return all
}

// What became of a copy is told beside what became of its original, and what the door has
// cut short is told so.
func TestOutcomesOfCopies(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			stable := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/shed" {
					w.WriteHeader(503)
				} else if r.URL.Path != "/unread" {
					_, _ = io.Copy(io.Discard, r.Body)
				}
				if r.URL.Path == "/both" {
					w.WriteHeader(503)
				}
			}))
			canary := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if r.URL.Path == "/both" || r.URL.Path == "/body" && string(b) != "all of it" {
					w.WriteHeader(500)
				}
				ending(w, r)
			}))
			v := newVersions(t, stable, canary)
			hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			if name == "HTTP2" {
				hc = &http.Client{Transport: newTransportTo()}
			}
			seen := 0
			for _, tt := range []struct {
				path, body     string
				addresses      []string // of the canary; its own if nil
				original, copy string
			}{
				{"/", "", nil, "200", "200"},
				{"/body", "all of it", nil, "200", "200"},
				{"/404", "", nil, "200", "200"},
				{"/500", "", nil, "200", "500"},
				{"/500", "all of it", nil, "200", "500"},
				{"/both", "", nil, "503", "500"},
				{"/none", "", nil, "200", "0 broken"},
				{"/cut", "", nil, "200", "200 broken"},
				{"/", "", []string{unused(t)}, "200", "0 broken"},
				{"/", "", []string{unused(t), canary}, "200", "200"},
				{"/", "", []string{}, "200", "0 cancelled"},
				{"/unread", "endless", nil, "200", "0 cancelled"},
				{"/shed", "endless", nil, "503", "0 cancelled"},
			} {
				v.set(t, v.split(0, func(s *Split) {
					s.Mirror = &Copies{Version: "canary", Weight: All}
					if tt.addresses != nil {
						addresses(tt.addresses...)(s)
					}
				}))
				var body io.Reader = strings.NewReader(tt.body)
				if tt.body == "endless" {
					r, w := io.Pipe()
					defer w.Close()
					body = r
				}
				method := http.MethodPost
				if tt.body == "" {
					method, body = http.MethodGet, nil
				}
				r, err := http.NewRequestWithContext(t.Context(), method, "http://"+v.stable.addr+tt.path, body)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := hc.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				hc.CloseIdleConnections() // the client has gone before its copy has an answer
				seen++
				p := v.outcomes.pairs(t, seen)[uint64(seen)]
				what := fmt.Sprint(tt.path, " ", tt.body, tt.addresses)
				status, rest, _ := strings.Cut(brief(p[0]), " by ")
				want(t, what, status+" "+strings.Fields(rest)[1], "stable "+tt.original)
				got := strings.TrimPrefix(strings.TrimPrefix(strings.ReplaceAll(brief(p[1]), " carried", ""), "canary by canary "), "canary by  ")
				want(t, "copy of "+what, got, tt.copy)
				if asked := len(tt.addresses) > 0 || tt.addresses == nil; (p[1].Tries > 0) != asked {
					t.Errorf("%s: %d were asked for the copy", what, p[1].Tries)
				}
				if !p[0].Copied || p[1].Copied || p[1].Weight != All || p[1].Generation != v.generation {
					t.Errorf("%s: %+v", what, p)
				}
			}
		})
	}
}

// A copy that has no answer is told of, though the client has long had its own; nobody
// waits for it, and its door ends it.
func TestACopyThatHangsIsReported(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, serve(t, named("stable")), serve(t, http.HandlerFunc(ending)))
			v.set(t, v.split(0, func(s *Split) {
				s.Mirror = &Copies{Version: "canary", Weight: All}
				s.Slow = []time.Duration{20 * time.Millisecond, 40 * time.Millisecond}
			}))
			hc := http.DefaultClient
			if name == "HTTP2" {
				hc, _ = clientHTTP2(t)
			}
			resp, err := hc.Get("http://" + v.stable.addr + "/wait")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			eventually(t, "it is told of", func() bool {
				for _, o := range v.outcomes.list() {
					if o.Copy && o.Running && o.Latency >= 40*time.Millisecond && o.Version == "canary" {
						return true
					}
				}
				return false
			})
		})
	}
}

// A call is judged by its status, and its copy does not wait for the original's end.
func TestOutcomesOfCopiedCalls(t *testing.T) {
	on := make(chan struct{})
	stable := grpcLike("stable", nil)
	v := newVersions(t, serveHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			_, _ = io.Copy(io.Discard, r.Body)
			<-on
		}
		stable.ServeHTTP(w, r)
	})), serveHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(200)
		w.Header().Set("Grpc-Status", "13")
	})))
	v.set(t, v.split(0, func(s *Split) { s.Mirror = &Copies{Version: "canary", Weight: All} }))
	hc, _ := clientHTTP2(t)
	copied := func() *Outcome {
		for _, o := range v.outcomes.list() {
			if o.Copy {
				return &o
			}
		}
		return nil
	}
	ended := make(chan error, 1)
	go func() {
		r, err := http.NewRequest(http.MethodPost, "http://"+v.stable.addr+"/late", io.MultiReader(strings.NewReader("of unknown length")))
		if err == nil {
			r.Header.Set("Content-Type", "application/grpc")
			var resp *http.Response
			if resp, err = hc.Do(r); err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
			}
		}
		ended <- err
	}()
	eventually(t, "the copy has ended before its original", func() bool { return copied() != nil })
	want(t, "copy", brief(*copied()), "canary by canary 200 carried grpc 13")
	close(on)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A copy that nobody takes for a moment tells nothing of its version.
func TestACopyThatReachesNobodyTellsNothing(t *testing.T) {
	for name, silent := range map[string]bool{"says nothing": true, "refuses": false} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
			if silent {
				v.stable.door.Peer = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
			}
			v.set(t, v.split(0, addresses(unused(t)), func(s *Split) { s.Mirror = &Copies{Version: "canary", Weight: All} }))
			resp, err := http.Get("http://" + v.stable.addr + "/x")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			for _, p := range v.outcomes.pairs(t, 1) {
				if o := p[1]; !o.Unheard || !o.Broken || p[0].Unheard {
					t.Errorf("of the copy: %+v\nof the request: %+v", o, p[0])
				}
			}
		})
	}
}

// A copy that ends while it is dialled waits for that: who dials takes notes in a flight that
// somebody else has after it.
func TestACopyEndsAfterItsDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequest(http.MethodGet, "http://stable/", nil)
		if err != nil {
			t.Fatal(err)
		}
		var ended atomic.Bool
		err = sendCopy(ctx, r, newSpool(), func(ctx context.Context) (net.Conn, error) {
			cancel()
			<-ctx.Done()
			<-time.After(time.Second) // who is cancelled may take a moment
			ended.Store(true)
			return nil, ctx.Err()
		}, nil)
		if !errors.Is(err, context.Canceled) || !ended.Load() {
			t.Errorf("the copy ended with %v, after its dial: %v", err, ended.Load())
		}
	})
}

// Of a copy that has failed, the request and the answer are kept, and stable can be asked
// the same.
func TestPairsAreKeptOfCopies(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, serve(t, faulty("stable", false)), serve(t, faulty("canary", true)))
			v.set(t, v.split(0, func(s *Split) {
				s.Mirror = &Copies{Version: "canary", Weight: All}
				s.Record = &Record{Body: 64}
				s.Versions[1].Addresses = []netip.AddrPort{at(v.canary.addr)}
			}))
			hc := http.DefaultClient
			if name == "HTTP2" {
				hc, _ = clientHTTP2(t)
			}
			for i, method := range []string{http.MethodGet, http.MethodPost} {
				r, err := http.NewRequest(method, "http://"+v.stable.addr+"/buy", io.MultiReader(strings.NewReader("two")))
				if err != nil {
					t.Fatal(err)
				}
				if method == http.MethodGet {
					r.Body = nil
				}
				resp, err := hc.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				both := v.outcomes.pairs(t, i+1)[uint64(i+1)]
				p := both[1].Pair
				if both[0].Pair != nil || p == nil || p.Answer == nil {
					t.Fatalf("%s: kept of the original: %v, of the copy: %+v", method, both[0].Pair, p)
				}
				body := map[string]string{http.MethodPost: "two"}[method]
				want(t, "copy", fmt.Sprint(p.Method, " ", p.Target, " ", string(p.Body.Bytes), " ", p.Body.Cut, " ", p.Answer.Status, " ", string(p.Answer.Body.Bytes)),
					fmt.Sprintf(`%s /buy %s false 500 canary says /buy to %q`, method, body, body))
				if (p.Again != nil) != (method == http.MethodGet) {
					t.Errorf("%s can be asked again: %v", method, p.Again != nil)
				}
				if p.Again == nil {
					continue
				}
				a, err := p.Again(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				want(t, "stable", fmt.Sprint(a.Status, " ", string(a.Body.Bytes)), `200 stable says /buy to ""`)
			}
		})
	}
}
