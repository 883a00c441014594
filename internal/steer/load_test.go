package steer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is clients that use a door without pause, and the answers that they got.
type load struct {
	t                          *testing.T
	url                        string
	pause                      time.Duration
	byApp, byLaptop, exchanged atomic.Int64
	clients                    sync.WaitGroup
	end                        context.CancelFunc
	over                       context.Context
}

func newLoad(t *testing.T, addr string, client func() *http.Client) *load {
	return newLoadAt(t, addr, client, 10*time.Millisecond)
}

// newLoadAt has a pause from one request of a client to its next.
func newLoadAt(t *testing.T, addr string, client func() *http.Client, pause time.Duration) *load {
	l := &load{t: t, url: "http://" + addr, pause: pause}
	l.over, l.end = context.WithCancel(context.Background())
	t.Cleanup(l.stop)
	for i := range 6 {
		l.clients.Go(func() { l.until(client(), func(c *http.Client, n int) error { return l.ask(c, i, n) }) })
	}
	for i := range 2 {
		l.clients.Go(func() { l.until(client(), func(c *http.Client, _ int) error { return l.talk(c, i) }) })
	}
	return l
}

func (l *load) stop() {
	l.end()
	l.clients.Wait()
}

func (l *load) until(c *http.Client, do func(*http.Client, int) error) {
	defer c.CloseIdleConnections()
	pace := time.NewTicker(l.pause)
	defer pace.Stop()
	for n := 0; l.over.Err() == nil; n++ {
		err := do(c, n)
		for range 3 {
			if !tooLate(err) {
				break
			}
			err = do(c, n)
		}
		if err != nil {
			l.t.Errorf("%s: %v", time.Now().Format("05.000"), err)
			return
		}
		<-pace.C
	}
}

// tooLate says whether a request came after the farewell on its connection. Nothing of it was sent,
// but http.Transport has closed its body by then, and can't send it on a new connection itself.
func tooLate(err error) bool {
	return err != nil && strings.Contains(err.Error(), "cannot rewind body after connection loss")
}

// ask makes one request.
func (l *load) ask(c *http.Client, i, n int) error {
	sent := strings.Repeat("x", n%7*1000)
	req, err := http.NewRequest([]string{"POST", "GET", "PUT"}[n%3], l.url+"/x", io.MultiReader(strings.NewReader(sent)))
	if err != nil {
		return err
	}
	if n%2 == 0 {
		req.ContentLength = int64(len(sent))
	}
	req.Header.Set("X-User", fmt.Sprint(i%2))
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	by, rest, _ := strings.Cut(string(b), " ")
	if want := fmt.Sprintf("%s /x %d", req.Method, len(sent)); rest != want || resp.StatusCode != 200 || resp.Header.Get(marker) != "" {
		return fmt.Errorf("got %d %q, want %q; %q", resp.StatusCode, b, want, resp.Header.Get(marker))
	}
	l.count(by)
	return nil
}

func (l *load) count(by string) {
	if by == "app" {
		l.byApp.Add(1)
	} else {
		l.byLaptop.Add(1)
	}
}

// talk has a conversation of some messages.
func (l *load) talk(c *http.Client, i int) error {
	r, w := io.Pipe()
	defer w.Close()
	req, err := http.NewRequest("POST", l.url+"/talk", r)
	if err != nil {
		return err
	}
	req.Header.Set("X-User", fmt.Sprint(i%2))
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for k := range 5 {
		fmt.Fprintf(w, "message %d\n", k)
		if s, err := lines.ReadString('\n'); err != nil || s != fmt.Sprintf("message %d\n", k) {
			return fmt.Errorf("message %d: got %q, %w", k, s, err)
		}
		l.exchanged.Add(1)
	}
	_ = w.Close()
	if _, err := io.Copy(io.Discard, lines); err != nil {
		return fmt.Errorf("end of a conversation: %w", err)
	}
	l.count(resp.Header.Get("X-Served-By"))
	return nil
}

func talking(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", named(name))
	mux.HandleFunc("/talk", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Served-By", name)
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex() // which HTTP/2 has anyway
		_ = control.Flush()
		lines := bufio.NewReader(r.Body)
		for s, err := lines.ReadString('\n'); err == nil; s, err = lines.ReadString('\n') {
			_, _ = io.WriteString(w, s)
			_ = control.Flush()
		}
	})
	return mux
}

// Nobody notices that an intercept comes and goes, 100 times, neither on kept
// connections nor in open conversations.
func TestEngageAndLeaveUnderLoad(t *testing.T) {
	kept := func() *http.Client { return &http.Client{Transport: &http.Transport{}} }
	multiplexed := func() *http.Client { return &http.Client{Transport: newTransportTo()} }
	for name, tt := range map[string]struct {
		serve  func(testing.TB, http.Handler) string
		client func() *http.Client
	}{"HTTP1": {serve, kept}, "HTTP2": {serveHTTP2, multiplexed}} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, tt.serve(t, talking("app")), follow)
			anna := newPerson(t, p, "anna")
			laptop := tt.serve(t, talking("anna"))
			l := newLoad(t, p.addr, tt.client)
			var leaving time.Duration
			began := time.Now()
			for i := range 100 {
				m := Match{}
				if i%2 == 1 {
					m = header("x-user", "0")
				}
				before := l.byLaptop.Load()
				member := anna.join(t, anna.rule(Intercept, m), to(laptop))
				eventually(t, "requests reach the laptop", func() bool { return l.byLaptop.Load() > before || t.Failed() })
				mark := time.Now()
				leave(t, member)
				leaving += time.Since(mark)
				before = l.byApp.Load()
				eventually(t, "requests reach the app", func() bool { return l.byApp.Load() > before || t.Failed() })
				if t.Failed() {
					return
				}
			}
			l.stop()
			took := time.Since(began)
			t.Logf("%d answers by the app, %d by the laptop, %d messages, %.0f a second; %v to leave", l.byApp.Load(), l.byLaptop.Load(),
				l.exchanged.Load(), float64(l.byApp.Load()+l.byLaptop.Load()+l.exchanged.Load())/took.Seconds(), leaving/100)
		})
	}
}

func newTransportTo() *http.Transport {
	t := newTransport(nil)
	t.DialContext = nil
	return t
}

// BenchmarkRequest compares a request by the door with one to the app directly:
// p50 and p99.
func BenchmarkRequest(b *testing.B) {
	app := serve(b, named("app"))
	plain, followed, ruled := newPod(b, app), newPod(b, app, follow), newPod(b, app)
	anna := newPerson(b, ruled, "anna")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m, err := anna.Join(ctx, anna.sess, anna.rule(Intercept, header("x-user", "anna")), to(serve(b, named("anna"))))
	if err != nil {
		b.Fatal(err)
	}
	for _, way := range []struct{ name, addr, user string }{
		{"direct", app, ""}, {"spliced", plain.addr, ""}, {"followed", followed.addr, ""}, {"no match", ruled.addr, "ben"}, {"laptop", ruled.addr, "anna"},
	} {
		b.Run(way.name, func(b *testing.B) {
			timeRequests(b, way.addr, way.user)
		})
	}
	leave(b, m)
}

// timeRequests makes requests on one connection and reports how long they take.
func timeRequests(b *testing.B, addr, user string) {
	b.Helper()
	c := dial(b, addr)
	_ = c.SetDeadline(time.Time{})
	request := []byte("GET /x HTTP/1.1\r\nHost: cart\r\nUser-Agent: bench\r\nAccept: */*\r\nX-User: " + user + "\r\n\r\n")
	buf := make([]byte, 4096)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		for n := 0; !bytes.HasSuffix(buf[:n], []byte("GET /x 0")); {
			k, err := c.Conn.Read(buf[n:])
			if err != nil {
				b.Fatal(err)
			}
			n += k
		}
		took = append(took, time.Since(began))
	}
	report(b, took)
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// Nobody notices that the weights change, 100 times, and each stretch of equal weights
// has exactly its share.
func TestHundredWeightChangesUnderLoad(t *testing.T) {
	kept := func() *http.Client { return &http.Client{Transport: &http.Transport{}} }
	multiplexed := func() *http.Client { return &http.Client{Transport: newTransportTo()} }
	for name, tt := range map[string]struct {
		serve  func(testing.TB, http.Handler) string
		client func() *http.Client
	}{"HTTP1": {serve, kept}, "HTTP2": {serveHTTP2, multiplexed}} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, tt.serve(t, talking("app")), tt.serve(t, talking("canary")))
			weights := []Weight{0, 100, 500, 5000, All, 1, 2500, 9999}
			in := map[int64]Weight{}
			var setting time.Duration
			set := func(i int) {
				s := v.split(weights[i%len(weights)])
				in[s.Generation] = s.Versions[1].Weight
				began := time.Now()
				v.set(t, s)
				setting += time.Since(began)
			}
			set(0)
			decided := func() int64 { s, _ := v.stable.door.InForce(); return s.Decided }
			began := time.Now()
			l := newLoadAt(t, v.stable.addr, tt.client, 2*time.Millisecond)
			for i := range 100 {
				before := decided()
				set(i + 1)
				eventually(t, "requests obey", func() bool { return decided() >= before+100 || t.Failed() })
				if t.Failed() {
					return
				}
			}
			l.stop()
			took := time.Since(began)
			n := int(l.byApp.Load() + l.byLaptop.Load())
			eventually(t, "each has an outcome", func() bool { return len(v.outcomes.list()) >= n })
			got, canary := map[int64]int{}, map[int64]int{}
			var toCanary int64
			for _, o := range v.outcomes.list() {
				got[o.Generation]++
				if o.Version == "canary" {
					canary[o.Generation]++
					toCanary++
				}
				if want := fmt.Sprintf("%s by %s 200", o.Version, o.Version); !strings.HasPrefix(brief(o), want) || o.Broken || o.Cancelled {
					t.Errorf("%+v", o)
				}
			}
			for g, n := range got {
				if off := canary[g]*int(All) - n*int(in[g]); max(off, -off) >= int(All) {
					t.Errorf("weight %v: %d of %d requests went to the canary", in[g], canary[g], n)
				}
			}
			if total := len(v.outcomes.list()); total != n || toCanary != l.byLaptop.Load() {
				t.Errorf("%d outcomes, %d of the canary; %d answers, %d by the canary", total, toCanary, n, l.byLaptop.Load())
			}
			t.Logf("%d answers by stable, %d by the canary, %d messages, %.0f requests a second; %v to change the weights", l.byApp.Load(), l.byLaptop.Load(),
				l.exchanged.Load(), float64(n)/took.Seconds(), setting/101)
		})
	}
}

// BenchmarkSplit compares a request by a door with a split with one by a door that has
// none: p50 and p99.
func BenchmarkSplit(b *testing.B) {
	app := serve(b, named("app"))
	none, here, away := newVersions(b, app, app), newVersions(b, app, app), newVersions(b, app, app)
	for _, v := range []*versions{none, here, away} {
		count := func(*Outcome) {}
		v.stable.door.Outcome, v.canary.door.Outcome = count, count
	}
	slow := func(s *Split) { s.Slow = []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, time.Second} }
	for v, w := range map[*versions]Weight{here: 0, away: All} {
		s := v.split(w, slow)
		if err := errors.Join(v.stable.door.Split("stable", s), v.canary.door.Split("canary", s)); err != nil {
			b.Fatal(err)
		}
	}
	for _, way := range []struct{ name, addr string }{
		{"direct", app}, {"no split", none.stable.addr}, {"here", here.stable.addr}, {"carried", away.stable.addr},
	} {
		b.Run(way.name, func(b *testing.B) { timeRequests(b, way.addr, "ben") })
	}
}

// BenchmarkSplitHTTP2 is the same for calls of HTTP/2.
func BenchmarkSplitHTTP2(b *testing.B) {
	app := serveHTTP2(b, named("app"))
	here, away, ruled := newVersions(b, app, app), newVersions(b, app, app), newPod(b, app)
	for v, w := range map[*versions]Weight{here: 0, away: All} {
		count := func(*Outcome) {}
		v.stable.door.Outcome, v.canary.door.Outcome = count, count
		v.set(b, v.split(w))
	}
	anna := newPerson(b, ruled, "anna")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m, err := anna.Join(ctx, anna.sess, anna.rule(Intercept, header("x-user", "anna")), to(app))
	if err != nil {
		b.Fatal(err)
	}
	for _, way := range []struct{ name, addr string }{
		{"direct", app}, {"no split", ruled.addr}, {"here", here.stable.addr}, {"carried", away.stable.addr},
	} {
		b.Run(way.name, func(b *testing.B) {
			tr := newTransportTo()
			defer tr.CloseIdleConnections()
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				resp, err := (&http.Client{Transport: tr}).Get("http://" + way.addr + "/x")
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				took = append(took, time.Since(began))
			}
			report(b, took)
		})
	}
	leave(b, m)
}

// BenchmarkDecide is what a split adds to a request without the network.
func BenchmarkDecide(b *testing.B) {
	d := &Door{Port: 8080, Outcome: func(*Outcome) {}}
	if err := d.Split("stable", two(500, func(s *Split) {
		s.Cohorts = []Cohort{{Match: header("x-staff", "yes"), Version: "canary"}}
		s.Affinity = &Affinity{Cookie: "seat"}
		s.Slow = []time.Duration{time.Second}
	})); err != nil {
		b.Fatal(err)
	}
	r, err := parseRequest([]byte("GET /x HTTP/1.1\r\nHost: cart\r\nUser-Agent: bench\r\nAccept: */*\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		dec := d.decide(r.steered(), "10.0.0.9:1234")
		dec.flight.answer(200, "")
		dec.flight.end(false, false, "")
	}
}
