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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// unused is an address at which nobody listens while the test runs: the near end of a connection
// has the port, so nobody gets it for something else, and each call returns another one.
func unused(t testing.TB) string {
	nc, err := net.Dial("tcp", listen(t).Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc.LocalAddr().String()
}

func TestWhoAnswersWhenPodsDoNot(t *testing.T) {
	shut := func(s *Split) { s.Versions[1].Shut = true }
	// Else one request of a hundred is the canary's own.
	toStable := func(s *Split) { s.Cohorts = []Cohort{{Match: match("/x"), Version: "stable"}} }
	dead := func(version int) func(*Split) {
		return func(s *Split) {
			s.Versions[version].Addresses = []netip.AddrPort{at(unused(t)), at(unused(t))}
		}
	}
	for name, tt := range map[string]struct {
		at     string
		weight Weight
		change []func(*Split)
		want   string
		mark   bool
	}{
		"the canary is dead":                      {"stable", All, []func(*Split){dead(1)}, "200 stable: canary by stable 200 fallback", false},
		"stable is, the canary has a weight":      {"canary", 100, []func(*Split){dead(0), toStable}, "200 canary: stable by canary 200 fallback", false},
		"stable is, and the canary has no weight": {"canary", 0, []func(*Split){dead(0)}, "503 : stable by stable 0 carried broken", true},
		"stable is, and the canary is shut":       {"canary", 0, []func(*Split){dead(0), shut}, "503 : stable by stable 0 carried broken", true},
		"stable is not":                           {"canary", 0, []func(*Split){shut}, "200 stable: stable by stable 200 carried", false},
		"the canary has no pods":                  {"stable", All, []func(*Split){addresses()}, "200 stable: canary by stable 200 fallback", false},
	} {
		for _, protocol := range []string{"HTTP1", "HTTP2"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				start, hc := serve, &http.Client{Transport: &http.Transport{}}
				if protocol == "HTTP2" {
					start, hc.Transport = serveHTTP2, newTransportTo()
				}
				defer hc.CloseIdleConnections()
				v := newVersions(t, start(t, named("stable")), start(t, named("canary")))
				v.set(t, v.split(tt.weight, tt.change...))
				p := v.stable
				if tt.at == "canary" {
					p = v.canary
				}
				for i, method := range []string{"GET", "POST", "GET", "POST"} {
					req, err := http.NewRequest(method, "http://"+p.addr+"/x", strings.NewReader("abc"))
					if err != nil {
						t.Fatal(err)
					}
					resp, err := hc.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					o := v.outcomes.nth(t, i)
					want(t, method, fmt.Sprintf("%d %s: %s", resp.StatusCode, resp.Header.Get("X-Served-By"), brief(o)), tt.want)
					refused := o.Tries > 1 || tt.mark // by pods of the version, and not because there are none
					if o.Unheard != refused {
						t.Errorf("that pods have refused for a moment counts: %+v", o)
					}
					if got := resp.Header.Get(splitMarker); (got != "") != tt.mark {
						t.Errorf("marked %q", got)
					}
				}
			})
		}
	}
}

// A pod that takes no connection costs no request, and is asked last for a while.
func TestAnotherPodIsTried(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
			v.set(t, v.split(All, addresses(unused(t), unused(t), v.canary.addr)))
			for i := range 12 {
				tr := &http.Transport{}
				if name == "HTTP2" {
					tr = newTransportTo()
				}
				resp, err := (&http.Client{Transport: tr}).Post("http://"+v.stable.addr+"/x", "", strings.NewReader("abc"))
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				tr.CloseIdleConnections()
				want(t, "answer", string(b), "canary POST /x 3")
				if o := v.outcomes.nth(t, i); o.Tries > 3 || o.Pod != at(v.canary.addr) || i > 3 && o.Tries != 1 {
					t.Errorf("request %d: %d tries, %v", i, o.Tries, o.Pod)
				}
			}
		})
	}
}

// A pod that says nothing makes the first requests slow, not all of them. For a while that
// tells nothing of its version: a lost packet would be as many errors as there are requests
// until it is asked again. One that was never reached tells nothing for good.
func TestADeafPodIsLeftAlone(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, serve(t, named("stable")), unused(t))
			var asked atomic.Int64
			v.stable.door.Peer = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
				asked.Add(1)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			v.set(t, v.split(All))
			tr := &http.Transport{}
			if name == "HTTP2" {
				tr = newTransportTo()
			}
			defer tr.CloseIdleConnections()
			for i := range 20 {
				resp, err := (&http.Client{Transport: tr}).Post("http://"+v.stable.addr+"/x", "", strings.NewReader("abc"))
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				want(t, "answer", string(b), "stable POST /x 3")
				long := i >= 15
				if o := v.outcomes.nth(t, i); !o.Fallback || o.Version != "canary" || o.Unheard == long {
					t.Errorf("%+v", o)
				}
				pod := &v.stable.door.split.Load().arms[1].rests[0]
				switch i {
				case 9:
					pod.since.Store(time.Now().Add(-silence).UnixNano())
				case 14:
					pod.met.Store(true)
				}
			}
			if n := asked.Load(); n > 3 { // of 20 requests
				t.Errorf("it was asked %d times", n)
			}
		})
	}
}

// A pod that was reached once and has refused for long is an error each time.
func TestAPodThatRefusesForLong(t *testing.T) {
	v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
	v.set(t, v.split(All, addresses(unused(t))))
	pod := &v.stable.door.split.Load().arms[1].rests[0]
	for i, long := range []bool{false, false, true} {
		switch i {
		case 1: // it has refused from the first on: a policy may keep the two apart
			pod.since.Store(time.Now().Add(-time.Hour).UnixNano())
		case 2:
			pod.since.Store(time.Now().Add(-refusal).UnixNano())
			pod.met.Store(true)
		}
		resp, err := http.Get("http://" + v.stable.addr + "/x")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if o := v.outcomes.nth(t, i); !o.Fallback || o.Unheard == long {
			t.Errorf("for long: %v: %+v", long, o)
		}
	}
}

// A connection says that a pod is there: it has not been silent until then.
func TestAPodThatIsBackHasNotBeenSilent(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
			v.set(t, v.split(All))
			pod := &v.stable.door.split.Load().arms[1].rests[0]
			pod.since.Store(time.Now().Add(-silence).UnixNano())
			tr := &http.Transport{}
			if name == "HTTP2" {
				tr = newTransportTo()
			}
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr}).Get("http://" + v.stable.addr + "/x")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if o := v.outcomes.nth(t, 0); o.Fallback || o.Unheard || pod.since.Load() != 0 || !pod.met.Load() {
				t.Errorf("%+v, silent since %d", o, pod.since.Load())
			}
			v.set(t, v.split(All/2))
			if pod := &v.stable.door.split.Load().arms[1].rests[0]; !pod.met.Load() {
				t.Error("the next split does not know that it was reached")
			}
		})
	}
}

// A pod that ends the connection instead of answering gets no second request that
// can't be done twice; any other goes to the next pod.
func TestOnlyRepeatableRequestsAreSentTwice(t *testing.T) {
	slammed := listen(t)
	go func() {
		for {
			nc, err := slammed.Accept()
			if err != nil {
				return
			}
			_, _ = nc.Read(make([]byte, 4096))
			_ = nc.Close()
		}
	}()
	for method, wanted := range map[string]string{"GET": "200 canary", "PUT": "200 canary", "POST": "502 "} {
		v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
		v.set(t, v.split(All, addresses(slammed.Addr().String(), v.canary.addr)))
		c := dial(t, v.stable.addr)
		c.send(t, method+" /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
		resp, _ := c.answer(t, method)
		want(t, method, fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("X-Served-By")), wanted)
		o := v.outcomes.nth(t, 0)
		if o.Broken != (method == "POST") || o.Tries != map[bool]int{true: 1, false: 2}[o.Broken] {
			t.Errorf("%s: %+v", method, o)
		}
		_, body := c.get(t, "/x") // the connection goes on
		want(t, "next", body, "canary GET /x 0")
	}
}

// A connection that the other pod has closed while it was idle is not noticed. A
// request that can't be done twice may come before the door has heard of the end: that
// one is answered by nobody, and never sent a second time.
func TestAnIdleConnectionMayEnd(t *testing.T) {
	for _, method := range []string{"PUT", "POST"} {
		t.Run(method, func(t *testing.T) {
			var handled atomic.Int64
			canary := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handled.Add(1)
				w.Header().Set("X-Served-By", "canary")
			}))
			v := newVersions(t, serve(t, named("stable")), canary)
			var mu sync.Mutex
			var last net.Conn
			v.stable.door.Peer = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
				nc, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
				mu.Lock()
				defer mu.Unlock()
				last = nc
				return nc, err
			}
			v.set(t, v.split(All))
			c := dial(t, v.stable.addr)
			var answered int64
			for i := range 20 {
				c.send(t, method+" /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
				resp, _ := c.answer(t, method)
				switch by := resp.Header.Get("X-Served-By"); {
				case resp.StatusCode == http.StatusOK && by == "canary":
					answered++
				case method == "POST" && i > 0 && resp.StatusCode == http.StatusBadGateway && by == "":
				default:
					t.Fatalf("request %d: %d by %q", i, resp.StatusCode, by)
				}
				mu.Lock()
				_ = last.Close()
				mu.Unlock()
			}
			if n := handled.Load(); n != answered {
				t.Errorf("the canary had %d requests, and %d were answered", n, answered)
			}
			if answered == 1 {
				t.Error("no connection was made anew")
			}
		})
	}
}

// A split with other addresses and equal weights goes on where the last one was, or
// rare turns would never come while pods come and go. Other weights begin evenly.
func TestTurnsOutliveAddresses(t *testing.T) {
	d := &Door{Port: 8080}
	generation := int64(0)
	count := func(w Weight, n, every int) (canary int) {
		for i := range n {
			if i%every == 0 {
				generation++
				if err := d.Split("stable", two(w, func(s *Split) {
					s.Generation = generation
					s.Versions[1].Addresses = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("10.0.0.9"), uint16(1+generation))}
				})); err != nil {
					t.Fatal(err)
				}
			}
			if dec := d.decide(requestOf("/"), "10.0.0.8:1"); dec.to == 1 {
				canary++
			}
		}
		return canary
	}
	for w, want := range map[Weight]int{100: 10, 10: 1, 2500: 250, 9990: 999} {
		if got := count(w, 1000, 7); got != want {
			t.Errorf("weight %v: %d of 1000 went to the canary, want %d", w, got, want)
		}
	}
}

// Whoever is told of outcomes may take the weight away at once: no further request
// goes to the canary.
func TestAnOutcomeCanShedTheCanary(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			broken := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }))
			v := newVersions(t, serve(t, named("stable")), broken)
			abort := v.split(0, func(s *Split) { s.Generation, s.Versions[1].Shut = 100, true })
			failed := 0
			v.stable.door.Outcome = func(o *Outcome) {
				if o.Version == "canary" && o.Status == 500 {
					if failed++; failed == 3 {
						if err := v.stable.door.Split("stable", abort); err != nil {
							t.Error(err)
						}
					}
				}
			}
			v.set(t, v.split(500))
			tr := &http.Transport{}
			if name == "HTTP2" {
				tr = newTransportTo()
			}
			defer tr.CloseIdleConnections()
			bad := 0
			for range 400 {
				resp, err := (&http.Client{Transport: tr}).Get("http://" + v.stable.addr + "/x")
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 {
					bad++
				}
			}
			if s, _ := v.stable.door.InForce(); bad != 3 || s.Generation != 100 {
				t.Errorf("%d requests failed, in force is %+v", bad, s)
			}
		})
	}
}

// A split brings requests to the agent, as rules do, and an older one comes too late.
func TestTheHostBringsRequestsToTheDoor(t *testing.T) {
	v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
	var told []string
	var fail error
	v.stable.host.Steer = func(ports []int) error {
		told = append(told, fmt.Sprint(ports))
		return fail
	}
	h := v.stable.host
	s := v.split(0)
	fail = errors.New("no netfilter")
	if err := h.Split(8080, "stable", s); err == nil || !strings.Contains(err.Error(), "can't be brought to the agent: no netfilter") {
		t.Errorf("got %v", err)
	}
	if _, has := v.stable.door.InForce(); has {
		t.Error("it is in force all the same")
	}
	fail = nil
	older := v.split(100)
	newer := v.split(200)
	another := *older
	another.Of = "another release"
	for _, step := range []struct {
		s    *Split
		at   int
		by   string
		want string
	}{
		{older, 9, "stable", "it is of port 8080, and was given to port 9"},
		{nil, 9, "stable", "has no port 9"},
		{older, 8080, "other", `this pod is of version "other", which is none of it`},
		{newer, 8080, "stable", ""},
		{older, 8080, "stable", "generation 2 is older than 3"},
		{&another, 8080, "stable", ""}, // its generations are its own
		{nil, 8080, "", ""},
		{older, 8080, "stable", ""},
	} {
		err := h.Split(step.at, step.by, step.s)
		if step.want == "" && err != nil || step.want != "" && (err == nil || !strings.Contains(err.Error(), step.want)) {
			t.Errorf("got %v, want %q", err, step.want)
		}
	}
	if diff := cmp.Diff([]string{"[8080]", "[8080]", "[]", "[8080]"}, told); diff != "" {
		t.Error(diff)
	}
}
