package steer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// versions are a pod of each version, with doors.
type versions struct {
	stable, canary *pod
	outcomes       record // of both doors
	generation     int64
}

func newVersions(t testing.TB, stable, canary string, options ...podOption) *versions {
	v := &versions{}
	options = append(options, follow, func(p *pod) { p.door.Outcome = v.outcomes.add })
	v.stable, v.canary = newPod(t, stable, options...), newPod(t, canary, options...)
	return v
}

// split makes a split between the two, whose addresses are those of their doors.
func (v *versions) split(weight Weight, change ...func(*Split)) *Split {
	v.generation++
	s := two(weight, func(s *Split) {
		s.Generation = v.generation
		s.Versions[0].Addresses = []netip.AddrPort{at(v.stable.addr)}
		s.Versions[1].Addresses = []netip.AddrPort{at(v.canary.addr)}
	})
	for _, c := range change {
		c(s)
	}
	return s
}

func (v *versions) set(t testing.TB, s *Split) {
	t.Helper()
	if err := v.stable.host.Split(8080, "stable", s); err != nil {
		t.Fatal(err)
	}
	if err := v.canary.host.Split(8080, "canary", s); err != nil {
		t.Fatal(err)
	}
}

func addresses(all ...string) func(*Split) {
	return func(s *Split) {
		s.Versions[1].Addresses = nil
		for _, a := range all {
			s.Versions[1].Addresses = append(s.Versions[1].Addresses, at(a))
		}
	}
}

// Each request of an open connection obeys the weights in force, exactly, and nobody
// notices that it was carried.
func TestASplitIsObeyedRequestByRequest(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
			tr := &http.Transport{}
			if name == "HTTP2" {
				tr = newTransportTo()
			}
			conns := 0
			tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conns++
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			defer tr.CloseIdleConnections()
			hc := &http.Client{Transport: tr}
			by := func(addr string) string {
				resp, err := hc.Post("http://"+addr+"/x", "text/plain", strings.NewReader("abc"))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				who, rest, _ := strings.Cut(string(b), " ")
				if want(t, "answer", rest, "POST /x 3"); err != nil {
					t.Fatal(err)
				}
				return who
			}
			n := 0
			for i, w := range []Weight{0, 100, 5000, All, 2500, 0} {
				v.set(t, v.split(w))
				if i == 0 {
					by(v.stable.addr) // HTTP/2 clients may have to come again, once
					n, conns = 1, 1
				}
				for _, p := range []*pod{v.stable, v.canary} {
					if p == v.canary && name == "HTTP2" {
						continue
					}
					got := 0
					for k := 1; k <= 200; k++ {
						if by(p.addr) == "canary" {
							got++
						}
						if off := got*int(All) - k*int(w); max(off, -off) >= int(All) {
							t.Fatalf("weight %v: %d of %d requests are the canary's", w, got, k)
						}
						n++
					}
				}
			}
			all := v.outcomes.exactly(t, n)
			carried := int64(0)
			for _, o := range all {
				s := "stable by stable 200"
				if o.Version == "canary" {
					s = "canary by canary 200"
				}
				if o.Carried {
					s += " carried"
					carried++
				}
				want(t, "outcome", brief(o), s)
				if !o.Drawn() || o.Took <= 0 || o.Latency > o.Took || o.Key != "127.0.0.1" {
					t.Fatalf("%+v", o)
				}
			}
			st, _ := v.stable.door.InForce()
			other, _ := v.canary.door.InForce()
			if st.Carried+other.Carried != carried || st.Decided+other.Decided != int64(n) || st.Generation != 6 || st.Local != "stable" {
				t.Errorf("told %+v and %+v, %d were carried of %d", st, other, carried, n)
			}
			if conns > 2 {
				t.Errorf("the client needed %d connections", conns)
			}
			v.set(t, nil)
			want(t, "without a split", by(v.stable.addr), "stable")
			if _, has := v.stable.door.InForce(); has || len(v.outcomes.list()) != n {
				t.Error("the split is not gone")
			}
		})
	}
}

func TestCohortsAndAffinityAtTheDoor(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
			v.set(t, v.split(2500, func(s *Split) {
				s.Cohorts = []Cohort{{Name: "staff", Match: header("x-staff", "yes"), Version: "canary"}}
				s.Affinity = &Affinity{Cookie: "seat", Give: true}
			}))
			hc := &http.Client{Transport: &http.Transport{}}
			if name == "HTTP2" {
				hc.Transport = newTransportTo()
			}
			defer hc.CloseIdleConnections()
			ask := func(headers ...string) (by, cookie string) {
				req, err := http.NewRequest("GET", "http://"+v.stable.addr+"/x", nil)
				if err != nil {
					t.Fatal(err)
				}
				for i := 0; i < len(headers); i += 2 {
					req.Header.Add(headers[i], headers[i+1])
				}
				resp, err := hc.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				_, _ = io.Copy(io.Discard, resp.Body)
				cookie, _, _ = strings.Cut(resp.Header.Get("Set-Cookie"), ";")
				return resp.Header.Get("X-Served-By"), cookie
			}
			by, c := ask("X-Staff", "yes", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			want(t, "cohort", by+c, "canary")
			if o := v.outcomes.nth(t, 0); o.Cohort != "staff" || o.Key != "0af7651916cd43dd8448eb211c80319c" || o.Drawn() {
				t.Errorf("%+v", o)
			}
			with := map[string]int{}
			for range 40 {
				first, seat := ask()
				with[first]++
				for range 3 {
					if again, c := ask("Cookie", "a=b; "+seat); again != first || c != "" {
						t.Fatalf("%s: %s, then %s with %q", seat, first, again, c)
					}
				}
			}
			if with["canary"] != 10 {
				t.Errorf("new clients: %v", with)
			}
			by, _ = ask(Carried, "1", "X-Staff", "yes") // who says so gets the pod it has reached
			want(t, "hostile", by, "stable")
			v.outcomes.exactly(t, 161)
		})
	}
}

// Laptops come first, whatever a split says.
func TestAnInterceptComesBeforeASplit(t *testing.T) {
	v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
	anna := newPerson(t, v.stable, "anna")
	m := anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serve(t, named("anna"))))
	v.set(t, v.split(All))
	c := dial(t, v.stable.addr)
	_, body := c.get(t, "/x", "X-User: anna")
	want(t, "intercepted", body, "anna GET /x 0")
	_, body = c.get(t, "/x")
	want(t, "not intercepted", body, "canary GET /x 0")
	leave(t, m)
	_, body = c.get(t, "/x", "X-User: anna")
	want(t, "afterwards", body, "canary GET /x 0")
	_, body = c.get(t, "/x", "User-Agent: kube-probe/1.36")
	want(t, "kubelet", body, "stable GET /x 0")
	v.outcomes.exactly(t, 2)
}

func TestMirrorToAVersion(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 100)
			canary := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				got <- fmt.Sprint(r.Method, " ", string(b), " ", r.Header.Get(Carried))
				w.WriteHeader(500)
			}))
			v := newVersions(t, serve(t, named("stable")), canary)
			v.set(t, v.split(0, func(s *Split) { s.Mirror = &Copies{Version: "canary", Weight: 2500} }))
			tr := &http.Transport{}
			if name == "HTTP2" {
				tr = newTransportTo()
			}
			defer tr.CloseIdleConnections()
			for range 40 {
				resp, err := (&http.Client{Transport: tr}).Post("http://"+v.stable.addr+"/x", "", strings.NewReader("abc"))
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				want(t, "original", string(b), "stable POST /x 3")
			}
			for range 10 {
				select {
				case s := <-got:
					want(t, "copy", s, "POST abc ")
				case <-time.After(limit):
					t.Fatal("no copy")
				}
			}
			eventually(t, "copies are counted", func() bool { s, _ := v.stable.door.InForce(); return s.Mirrored == 10 })
			v.set(t, v.split(0, func(s *Split) { s.Versions[1].Shut = true }))
			for _, o := range v.outcomes.exactly(t, 40+10) {
				if o.Copy {
					want(t, "outcome of a copy", brief(o), "canary by canary 500 carried")
					continue
				}
				want(t, "outcome", brief(o), "stable by stable 200")
			}
		})
	}
}

func TestLargeBodiesAreCarried(t *testing.T) {
	body := make([]byte, 10<<20)
	for i := range body {
		body[i] = byte(i * i >> 7)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		app := serve(t, http.HandlerFunc(hashing))
		v := newVersions(t, app, app)
		tr := &http.Transport{}
		if name == "HTTP2" {
			tr = newTransportTo()
		}
		v.set(t, v.split(5000, func(s *Split) { s.Mirror = &Copies{Version: "canary", Weight: 5000} }))
		for i, method := range []string{"POST", "POST", "POST", "POST", "PUT", "PUT"} {
			path := []string{"/sum", "/sum", "/echo", "/echo", "/sum", "/sum"}[i]
			var r io.Reader = bytes.NewReader(body)
			if i%3 == 0 {
				r = io.MultiReader(r)
			}
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+v.stable.addr+path, r)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := (&http.Client{Transport: tr}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			got := string(b)
			if path == "/echo" {
				got = fmt.Sprintf("%x", sha256.Sum256(b))
			}
			if err != nil || got != sum {
				t.Errorf("%s %s %s: got %d bytes, %v", name, method, path, len(b), err)
			}
		}
		tr.CloseIdleConnections()
	}
}

// An abort takes nothing away from who is being served, and lets nobody else in.
func TestAbortInTheMiddleOfStreams(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, serve(t, talking("stable")), serve(t, talking("canary")))
			v.set(t, v.split(All))
			tr := &http.Transport{}
			if name == "HTTP2" {
				tr = newTransportTo()
			}
			defer tr.CloseIdleConnections()
			hc := &http.Client{Transport: tr}
			var streams []func(end bool)
			for range 5 {
				r, w := io.Pipe()
				resp, err := hc.Post("http://"+v.stable.addr+"/talk", "text/plain", r)
				if err != nil {
					t.Fatal(err)
				}
				want(t, "stream", resp.Header.Get("X-Served-By"), "canary")
				lines := bufio.NewReader(resp.Body)
				streams = append(streams, func(end bool) {
					fmt.Fprintln(w, "still there")
					if s, err := lines.ReadString('\n'); err != nil || s != "still there\n" {
						t.Fatalf("got %q, %v", s, err)
					}
					if end {
						_ = w.Close()
						if _, err := io.Copy(io.Discard, lines); err != nil {
							t.Error(err)
						}
						resp.Body.Close()
					}
				})
			}
			v.set(t, v.split(0, func(s *Split) { s.Versions[1].Shut = true }))
			for i := range 50 {
				resp, err := hc.Get("http://" + v.stable.addr + "/x")
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				want(t, "after the abort", resp.Header.Get("X-Served-By"), "stable")
				streams[i%5](false)
			}
			for _, s := range streams {
				s(true)
			}
			for i := range 55 {
				o := v.outcomes.nth(t, i)
				if s := brief(o); o.Generation == 1 && s != "canary by canary 200 carried" || o.Generation == 2 && s != "stable by stable 200" {
					t.Error(o.Generation, s)
				}
			}
		})
	}
}

func TestCarriedConnectionsOfOtherKinds(t *testing.T) {
	echo := &canned{answers: []string{"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"}, end: "echo"}
	v := newVersions(t, greeter(t, "stable"), echo.serve(t))
	v.set(t, v.split(All))
	c := dial(t, v.stable.addr) // a server that speaks first is not read
	if s, err := c.r.ReadString('\n'); err != nil || s != "220 stable\r\n" {
		t.Fatalf("got %q, %v", s, err)
	}
	ws := dial(t, v.stable.addr)
	ws.send(t, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if resp, err := http.ReadResponse(ws.r, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	want(t, "outcome", brief(v.outcomes.nth(t, 0)), "canary by canary 101 carried")
	v.set(t, v.split(0))
	for range 3 { // what was open stays
		ws.send(t, "\x81\x02hi")
		b := make([]byte, 4)
		if _, err := io.ReadFull(ws.r, b); err != nil || string(b) != "\x81\x02hi" {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	_ = ws.Conn.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(ws.r); err != nil || len(b) > 0 {
		t.Errorf("end: %q, %v", b, err)
	}
	if s, _ := v.stable.door.InForce(); s.Unread != 1 || s.Decided != 1 {
		t.Errorf("%+v", s)
	}
}

// Clients open connections that they don't use in the end: nobody's requests are missed.
func TestAConnectionWithoutAWordIsNotUnread(t *testing.T) {
	v := newVersions(t, serve(t, named("stable")), serve(t, named("canary")))
	v.set(t, v.split(0))
	c := dial(t, v.stable.addr)
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c.r); err != nil || len(b) > 0 { // the door has seen to it
		t.Errorf("got %q, %v", b, err)
	}
	if s, _ := v.stable.door.InForce(); s.Unread != 0 {
		t.Errorf("in force is %+v", s)
	}
}

// A client that says early that it sends no more still gets its answer.
func TestAHalfClosedClientIsAnswered(t *testing.T) {
	app := listen(t)
	go func() {
		for {
			nc, err := app.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				b, _ := io.ReadAll(nc) // until the client's end
				body := fmt.Sprintf("%d %t", strings.Count(string(b), "\r\n\r\n"), strings.Contains(string(b), Carried))
				fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}()
		}
	}()
	v := newVersions(t, unused(t), app.Addr().String())
	v.set(t, v.split(All))
	c := dial(t, v.stable.addr)
	c.send(t, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	_, body := c.answer(t, "GET")
	want(t, "answer", body, "1 false")
	want(t, "outcome", brief(v.outcomes.nth(t, 0)), "canary by canary 200 carried cancelled")
}

// A carried answer without end comes as it is written, through a change of weights, and
// when the client has gone its pod learns of it.
func TestEndlessCarriedAnswer(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			next, gone := make(chan string), make(chan struct{})
			events := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_ = http.NewResponseController(w).Flush()
				for {
					select {
					case s := <-next:
						_, _ = io.WriteString(w, s+"\n")
						_ = http.NewResponseController(w).Flush()
					case <-r.Context().Done():
						close(gone)
						return
					}
				}
			})
			v := newVersions(t, unused(t), serve(t, events))
			v.set(t, v.split(All, func(s *Split) { s.Slow = []time.Duration{time.Minute} }))
			tr := &http.Transport{}
			if name == "HTTP2" {
				tr = newTransportTo()
			}
			defer tr.CloseIdleConnections()
			ctx, hangUp := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, "GET", "http://"+v.stable.addr+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := (&http.Client{Transport: tr}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(resp.Body)
			for i := range 3 {
				next <- fmt.Sprint(i)
				if s, err := lines.ReadString('\n'); err != nil || s != fmt.Sprintln(i) {
					t.Fatalf("got %q, %v", s, err)
				}
				v.set(t, v.split(0))
			}
			if n := len(v.outcomes.list()); n != 0 {
				t.Errorf("%d outcomes before the end", n)
			}
			if s, _ := v.stable.door.InForce(); s.Underway != 1 {
				t.Errorf("%d requests are under way, want one", s.Underway)
			}
			hangUp()
			_ = resp.Body.Close()
			select {
			case <-gone:
			case <-time.After(limit):
				t.Error("the pod does not learn that the client has gone")
			}
			if o := v.outcomes.nth(t, 0); o.Status != 200 || o.Broken || o.By != "canary" || o.Latency >= o.Took {
				t.Error(brief(o))
			}
			eventually(t, "nothing is under way", func() bool {
				s, _ := v.stable.door.InForce()
				return s.Underway == 0
			})
		})
	}
}

// Clients that read nothing hold up nobody.
func TestSlowReadersOfCarriedAnswers(t *testing.T) {
	lots := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; r.URL.Path == "/lots" && i < 1024; i++ {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	v := newVersions(t, serve(t, lots), serve(t, lots))
	v.set(t, v.split(All))
	var slow []*client
	for range 3 {
		c := dial(t, v.stable.addr)
		c.send(t, "GET /lots HTTP/1.1\r\nHost: x\r\n\r\n")
		slow = append(slow, c)
	}
	c := dial(t, v.stable.addr)
	for range 20 {
		resp, _ := c.get(t, "/x")
		want(t, "beside it", resp.Status, "200 OK")
	}
	for _, c := range slow {
		abort(c.Conn)
	}
	cancelled := 0
	for i := range 23 {
		o := v.outcomes.nth(t, i)
		if o.Cancelled {
			cancelled++
		}
		if o.Broken || o.By != "canary" {
			t.Error(brief(o))
		}
	}
	if cancelled != len(slow) {
		t.Errorf("%d were cancelled, want %d", cancelled, len(slow))
	}
}

// Connections of before the split are told, and counted.
func TestConnectionsOfBeforeTheSplit(t *testing.T) {
	v := newVersions(t, serveHTTP2(t, grpcLike("stable", nil)), serveHTTP2(t, grpcLike("canary", nil)))
	hc, conns := clientHTTP2(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	resp, w := call(t, hc, ctx, v.stable.addr, "/talk", "x")
	fmt.Fprintln(w, "before")
	lines := bufio.NewReader(resp.Body)
	_, _ = lines.ReadString('\n')
	v.set(t, v.split(All))
	if s, _ := v.stable.door.InForce(); s.Old != 1 {
		t.Errorf("%d old connections", s.Old)
	}
	eventually(t, "a new call is carried", func() bool {
		resp, w := call(t, hc, ctx, v.stable.addr, "/talk", "x")
		_ = w.Close()
		_, err := io.Copy(io.Discard, resp.Body)
		return err == nil && resp.Header.Get("X-Served-By") == "canary"
	})
	_ = w.Close()
	if _, err := io.Copy(io.Discard, lines); err != nil {
		t.Error(err)
	}
	eventually(t, "the old connection ends", func() bool { s, _ := v.stable.door.InForce(); return s.Old == 0 })
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}
