package steer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// record keeps outcomes.
type record struct {
	mu  sync.Mutex
	all []Outcome
}

func (r *record) add(o *Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, *o)
}

func (r *record) list() []Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Outcome(nil), r.all...)
}

// next waits for the nth outcome.
func (r *record) nth(t testing.TB, n int) Outcome {
	t.Helper()
	eventually(t, fmt.Sprint("there are ", n+1, " outcomes"), func() bool { return len(r.list()) > n })
	return r.list()[n]
}

// exactly waits for n outcomes, and that there are no more.
func (r *record) exactly(t testing.TB, n int) []Outcome {
	t.Helper()
	eventually(t, fmt.Sprint("there are ", n, " outcomes"), func() bool { return len(r.list()) >= n })
	all := r.list()
	if len(all) != n {
		t.Errorf("there are %d outcomes, want %d", len(all), n)
	}
	return all
}

// brief is what matters of an outcome.
func brief(o Outcome) string {
	s := fmt.Sprintf("%s by %s %d", o.Version, o.By, o.Status)
	for word, is := range map[string]bool{" carried": o.Carried} {
		if is {
			s += word
		}
	}
	if o.Fallback {
		s += " fallback"
	}
	if o.GRPC >= 0 {
		s += fmt.Sprint(" grpc ", o.GRPC)
	}
	if o.Broken {
		s += " broken"
	}
	if o.Cancelled {
		s += " cancelled"
	}
	if o.Running {
		s += " running"
	}
	return s
}

// ending is an app that ends in ways of its own.
func ending(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/500":
		w.WriteHeader(500)
	case "/none":
		panic(http.ErrAbortHandler)
	case "/cut":
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "not all")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "/wait":
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	case "/stream":
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

func TestOutcomesOfHTTP1(t *testing.T) {
	v := newVersions(t, serve(t, http.HandlerFunc(ending)), serve(t, http.HandlerFunc(ending)))
	old := &canned{answers: []string{"HTTP/1.0 404 No\r\n\r\nold"}, end: "close"}
	odd := &canned{answers: []string{"HTTP/1.1 500 No\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"}, end: "close"}
	upgrade := &canned{answers: []string{"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"}, end: "echo"}
	half := &canned{answers: []string{"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhalf"}, end: "close"}
	n := 0
	for _, tt := range []struct {
		path, head, want string
		app              *canned
		leave            string // "" reads to the end
	}{
		{"/", "", "200", nil, ""},
		{"/", "Connection: close\r\n", "200", nil, ""},
		{"/500", "", "500", nil, ""},
		{"/500", "Connection: close\r\n", "500", nil, ""},
		{"/404", "", "404", old, ""},
		{"/odd", "", "500", odd, ""},
		{"/none", "", "0 broken", nil, ""}, // the canary's is sent to stable, too
		{"/cut", "", "200 broken", nil, ""},
		{"/half", "", "200 broken", half, ""},
		{"/upgrade", "Connection: Upgrade\r\nUpgrade: x\r\n", "101", upgrade, "answered"},
		{"/wait", "", "0 cancelled", nil, "reset"},
		{"/wait", "", "0 cancelled", nil, "close"},
		{"/stream", "", "200", nil, "answered"},
	} {
		for _, by := range []string{"stable", "canary"} {
			s := v.split(0)
			if by == "canary" {
				s = v.split(All)
			}
			if tt.app != nil {
				addr := tt.app.serve(t)
				w := newVersions(t, addr, addr)
				w.stable.door.Outcome, w.canary.door.Outcome = v.outcomes.add, v.outcomes.add
				weight := s.Versions[1].Weight
				s = w.split(weight)
				w.set(t, s)
				talkOnce(t, w.stable, tt.path, tt.head, tt.leave)
			} else {
				v.set(t, s)
				talkOnce(t, v.stable, tt.path, tt.head, tt.leave)
			}
			suffix := ""
			if by == "canary" {
				suffix = " carried"
			}
			o := v.outcomes.nth(t, n)
			n++
			status, rest, _ := strings.Cut(tt.want, " ")
			if rest != "" {
				rest = " " + rest
			}
			if tt.path == "/none" && by == "canary" {
				want(t, tt.path, brief(o), "canary by stable 0 fallback broken")
				continue
			}
			if tt.leave != "" && o.Cancelled { // what the app says to nobody may come first
				o.Status, _ = strconv.Atoi(status)
			}
			want(t, tt.path+tt.leave, brief(o), by+" by "+by+" "+status+suffix+rest)
		}
	}
	v.outcomes.exactly(t, n)
	// A body that nobody can read is no fault of the version.
	slammed := listen(t)
	go func() {
		for {
			nc, err := slammed.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadAtLeast(nc, make([]byte, 4096), 90)
			_ = nc.Close()
		}
	}()
	w := newVersions(t, slammed.Addr().String(), unused(t))
	w.set(t, w.split(0))
	c := dial(t, w.stable.addr)
	c.send(t, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	c.send(t, "3\r\nabc\r\n+4\r\nand so on, for as long as it takes")
	want(t, "odd body", brief(w.outcomes.nth(t, 0)), "stable by stable 0 cancelled")
}

// talkOnce makes a request and leaves.
func talkOnce(t *testing.T, p *pod, path, head, leave string) {
	t.Helper()
	before, _ := p.door.InForce()
	c := dial(t, p.addr)
	c.send(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\n"+head+"\r\n")
	switch leave {
	case "reset", "close":
		eventually(t, "it is on its way", func() bool { s, _ := p.door.InForce(); return s.Decided > before.Decided })
		if leave == "reset" {
			abort(c.Conn)
		}
	case "answered":
		if _, err := http.ReadResponse(c.r, nil); err != nil {
			t.Fatal(err)
		}
	default:
		resp, err := http.ReadResponse(c.r, nil)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
		}
	}
	_ = c.Close()
}

func TestOutcomesOfCalls(t *testing.T) {
	v := newVersions(t, serveHTTP2(t, grpcLike("stable", nil)), serveHTTP2(t, grpcLike("canary", nil)))
	hc, _ := clientHTTP2(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	n := 0
	for _, by := range []string{"stable", "canary"} {
		s := v.split(0)
		suffix := ""
		if by == "canary" {
			s, suffix = v.split(All), " carried"
		}
		v.set(t, s)
		for _, tt := range []struct{ path, want string }{
			{"/talk", " grpc 0"}, {"/none", " grpc 5"}, {"/early", " grpc 9"}, {"/abort", " broken"}, {"/leave", " cancelled"},
		} {
			callCtx, hangUp := context.WithCancel(ctx)
			resp, w := call(t, hc, callCtx, v.stable.addr, strings.Replace(tt.path, "/leave", "/talk", 1), "x")
			want(t, "served by", resp.Header.Get("X-Served-By"), by)
			switch tt.path {
			case "/leave":
				hangUp()
				_ = resp.Body.Close()
			case "/talk":
				fmt.Fprintln(w, "hello")
				_ = w.Close()
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			o := v.outcomes.nth(t, n)
			n++
			want(t, tt.path, brief(o), by+" by "+by+" 200"+suffix+tt.want)
			hangUp()
		}
	}
	// What ends without a status was cut off on its way.
	bare := newVersions(t, serveHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
	})), unused(t))
	bare.set(t, bare.split(0))
	resp, _ := call(t, hc, ctx, bare.stable.addr, "/", "x")
	_, _ = io.Copy(io.Discard, resp.Body)
	want(t, "no status", brief(bare.outcomes.nth(t, 0)), "stable by stable 200 broken")
	// And who can't be answered is told so as a call.
	bare.set(t, bare.split(0, func(s *Split) { s.Versions[0].Addresses = []netip.AddrPort{at(unused(t))} }))
	resp, _ = call(t, hc, ctx, bare.canary.addr, "/", "x")
	_, _ = io.Copy(io.Discard, resp.Body)
	want(t, "lost", resp.Header.Get("Grpc-Status")+resp.Trailer.Get("Grpc-Status"), "14")
}

func TestARequestThatHangsIsReportedOnceForEachTime(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			on := make(chan struct{})
			slow := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					<-on
				}
			}))
			v := newVersions(t, slow, slow)
			v.set(t, v.split(5000, func(s *Split) { s.Slow = []time.Duration{50 * time.Millisecond, 100 * time.Millisecond} }))
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					tr := &http.Transport{}
					if name == "HTTP2" {
						tr = newTransportTo()
					}
					defer tr.CloseIdleConnections()
					resp, err := (&http.Client{Transport: tr}).Get("http://" + v.stable.addr + "/slow")
					if err != nil {
						t.Error(err)
						return
					}
					resp.Body.Close()
				})
			}
			running := func() (n int) {
				for _, o := range v.outcomes.list() {
					if o.Running && o.Latency >= 100*time.Millisecond {
						n++
					}
				}
				return n
			}
			eventually(t, "all are reported", func() bool { return running() == 20 })
			close(on)
			all.Wait()
			eventually(t, "all have ended", func() bool {
				n := 0
				for _, o := range v.outcomes.list() {
					if !o.Running {
						n++
					}
				}
				return n == 20
			})
			told := map[uint64]time.Duration{}
			ended := map[uint64]bool{}
			byVersion := map[string]int{}
			for _, o := range v.outcomes.list() {
				if o.Told != told[o.ID] || ended[o.ID] || o.Running && o.Latency <= o.Told {
					t.Errorf("%+v, told %v before", o, told[o.ID])
				}
				if o.Running {
					told[o.ID] = o.Latency
				} else {
					ended[o.ID] = true
					byVersion[o.Version]++
				}
			}
			if diff := cmp.Diff(map[string]int{"stable": 10, "canary": 10}, byVersion); diff != "" {
				t.Error(diff)
			}
		})
	}
}
