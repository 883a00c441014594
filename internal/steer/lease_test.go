package steer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestWhoAnswersWhenTheHandlerIsDown(t *testing.T) {
	const post = "POST /x HTTP/1.1\r\nHost: cart\r\nContent-Length: 3\r\n\r\nabc"
	for name, tt := range map[string]struct {
		strict  bool
		handler Handler
		request string
		status  int
		body    string
		mark    string
	}{
		"refused, GET":          {false, to("127.0.0.1:1"), "GET /x HTTP/1.1\r\nHost: cart\r\n\r\n", 200, "app GET /x 0", "app; reason=anna@laptop: dial tcp 127.0.0.1:1"},
		"refused, POST":         {false, to("127.0.0.1:1"), post, 200, "app POST /x 3", "app; reason=anna@laptop: dial tcp 127.0.0.1:1"},
		"refused, strict":       {true, to("127.0.0.1:1"), post, 502, "This request belongs to a laptop", "lost; reason=anna@laptop: dial"},
		"breaks off, GET":       {false, breaking, "GET /x HTTP/1.1\r\nHost: cart\r\n\r\n", 200, "app GET /x 0", "app; reason=anna@laptop has not answered: "},
		"breaks off, small PUT": {false, breaking, "PUT /x HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, "app PUT /x 3", "app; reason=anna@laptop has not answered"},
		"breaks off, POST":      {false, breaking, post, 502, "This request belongs to a laptop", "lost; reason=anna@laptop has not answered"},
		"breaks off, strict":    {true, breaking, "GET /x HTTP/1.1\r\nHost: cart\r\n\r\n", 502, "This request belongs to a laptop", "lost; reason=anna"},
		"breaks off, large PUT": {false, breakingLate, fmt.Sprintf("PUT /x HTTP/1.1\r\nHost: cart\r\nContent-Length: %d\r\n\r\n%s", 2*maxKept, strings.Repeat("x", 2*maxKept)), 502, "This request belongs to a laptop", "lost; reason="},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, serve(t, named("app")))
			anna := newPerson(t, p, "anna")
			r := anna.rule(Intercept, Match{})
			r.Strict = tt.strict
			anna.join(t, r, tt.handler)
			for range 2 {
				c := dial(t, p.addr)
				c.send(t, tt.request)
				resp, body := c.answer(t, "GET")
				if resp.StatusCode != tt.status || !strings.HasPrefix(body, tt.body) || !strings.HasPrefix(resp.Header.Get(marker), tt.mark) {
					t.Errorf("got %d %q with %q", resp.StatusCode, body, resp.Header.Get(marker))
				}
			}
			n := p.host.List()[0].Counters
			if tt.status == 200 && n.ByApp != 2 || tt.status == 502 && n.Lost != 2 {
				t.Errorf("counted %+v", n)
			}
		})
	}
}

// breaking is a handler whose connections end as soon as something has come.
func breaking(context.Context, Info) (net.Conn, error) { return breakAfter(1), nil }

// breakingLate is one that has read more than is kept of a request.
func breakingLate(context.Context, Info) (net.Conn, error) { return breakAfter(2 * maxKept), nil }

func breakAfter(n int) net.Conn {
	here, there := net.Pipe()
	go func() {
		_, _ = io.CopyN(io.Discard, there, int64(n))
		_ = there.Close()
	}()
	return here
}

// A handler that was restarted closes the connections that it had kept; the next
// request gets a new one.
func TestAHandlerIsRestarted(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	anna := newPerson(t, p, "anna")
	var dials atomic.Int64
	ln := listen(t)
	server := &http.Server{Handler: named("anna")}
	go func() { _ = server.Serve(ln) }()
	var addr atomic.Value
	addr.Store(ln.Addr().String())
	anna.join(t, anna.rule(Intercept, Match{}), func(ctx context.Context, _ Info) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, "tcp", addr.Load().(string))
	})
	c := dial(t, p.addr)
	for i := range 5 {
		for range 3 {
			_, body := c.get(t, "/x")
			want(t, "request", body, "anna GET /x 0")
		}
		if n := dials.Load(); n != int64(i+1) {
			t.Errorf("%d connections, want %d", n, i+1)
		}
		next := listen(t)
		addr.Store(next.Addr().String())
		_ = server.Close()
		server = &http.Server{Handler: named("anna")}
		go func() { _ = server.Serve(next) }()
	}
	_ = server.Close()
}

// The laptop falls silent: the app answers, also what was on its way; it comes
// back: its rule is active again without a new conversation.
func TestSilentLaptop(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	p.host.Suspend, p.host.Expire = 400*time.Millisecond, time.Minute
	anna := newPerson(t, p, "anna")
	m := anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serve(t, named("anna"))))
	c := dial(t, p.addr)
	_, body := c.get(t, "/x", "X-User: anna")
	want(t, "before", body, "anna GET /x 0")
	anna.link.freeze(true)
	began := time.Now()
	resp, body := c.get(t, "/x", "X-User: anna") // is on its way when the silence begins
	want(t, "on its way", body, "app GET /x 0")
	t.Logf("answered by the app after %v", time.Since(began))
	if mark := resp.Header.Get(marker); !strings.HasPrefix(mark, "app; reason=anna@laptop ") {
		t.Errorf("marked %q", mark)
	}
	began = time.Now()
	resp, body = c.get(t, "/x", "X-User: anna")
	want(t, "in the silence", body, "app GET /x 0")
	if d := time.Since(began); d > 200*time.Millisecond {
		t.Errorf("took %v", d)
	}
	if mark := resp.Header.Get(marker); !strings.HasPrefix(mark, "app; reason=anna@laptop has been silent for ") {
		t.Errorf("marked %q", mark)
	}
	if s := p.host.List()[0]; s.State != Suspended || s.Counters.ByApp != 2 {
		t.Errorf("status %+v", s)
	}
	anna.link.freeze(false)
	eventually(t, "active again", func() bool { return p.host.List()[0].State == Active })
	_, body = c.get(t, "/x", "X-User: anna")
	want(t, "after", body, "anna GET /x 0")
	eventually(t, "the laptop is told", func() bool { return m.Status().State == Active && m.Status().Counters.Requests == 2 })
	if p.host.List()[0].Counters.Requests != 2 {
		t.Error("it is another lease")
	}
}

// After a longer silence the rule is gone; the laptop joins again by itself.
func TestALaptopComesBackLate(t *testing.T) {
	p := newPod(t, serve(t, named("app")), quick)
	anna := newPerson(t, p, "anna")
	m := anna.join(t, anna.rule(Intercept, Match{}), to(serve(t, named("anna"))))
	c := dial(t, p.addr)
	anna.link.freeze(true)
	eventually(t, "the rule is gone", func() bool { return len(p.host.List()) == 0 })
	resp, body := c.get(t, "/x")
	want(t, "gone", body, "app GET /x 0")
	want(t, "mark", resp.Header.Get(marker), "")
	anna.link.freeze(false)
	eventually(t, "it is back", func() bool { l := p.host.List(); return len(l) == 1 && l[0].State == Active })
	_, body = dial(t, p.addr).get(t, "/x")
	want(t, "back", body, "anna GET /x 0")
	leave(t, m)
	if err := m.Err(); err != nil {
		t.Error(err)
	}
}

// Somebody else has taken its place meanwhile.
func TestALaptopComesBackTooLate(t *testing.T) {
	p := newPod(t, serve(t, named("app")), quick)
	anna, ben := newPerson(t, p, "anna"), newPerson(t, p, "ben")
	m := anna.join(t, anna.rule(Intercept, Match{}), to(serve(t, named("anna"))))
	anna.link.freeze(true)
	eventually(t, "the rule is gone", func() bool { return len(p.host.List()) == 0 })
	ben.join(t, ben.rule(Intercept, Match{}), to(serve(t, named("ben"))))
	anna.link.freeze(false)
	select {
	case <-m.Done():
	case <-time.After(limit):
		t.Fatal("it does not end")
	}
	if r, ok := errors.AsType[*RefusedError](m.Err()); !ok || r.Owner != "ben@laptop" {
		t.Errorf("got %v", m.Err())
	}
}

// The session is over: the rule is gone at once, and nobody waits for it.
func TestSessionEnds(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	anna := newPerson(t, p, "anna")
	came := make(chan struct{}, 2)
	m := anna.join(t, anna.rule(Intercept, Match{}), func(ctx context.Context, _ Info) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			_, _ = there.Read(make([]byte, 1024))
			came <- struct{}{}
			_, _ = io.Copy(io.Discard, there)
		}()
		return here, nil
	})
	a, b := dial(t, p.addr), dial(t, p.addr)
	a.send(t, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
	b.send(t, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
	<-came
	<-came
	_ = anna.sess.Close()
	_, body := a.answer(t, "GET")
	want(t, "can be repeated", body, "app GET /x 0")
	if resp, _ := b.answer(t, "POST"); resp.StatusCode != 502 {
		t.Errorf("can't be repeated: %d", resp.StatusCode)
	}
	<-m.Done()
	if m.Err() == nil {
		t.Error("no reason")
	}
	eventually(t, "the rule is gone", func() bool { return len(p.host.List()) == 0 })
}

// The network is away, and as much waits for it as the session takes: a sign of life waits,
// too. Who leaves does not wait longer than he said for all that.
func TestLeaveDoesNotWaitForTheNetwork(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	anna := newPerson(t, p, "anna")
	m := anna.join(t, anna.rule(Intercept, Match{}), to(serve(t, named("anna"))))
	anna.away.Store(true)
	anna.link.freeze(true)
	for full := false; !full; { // a stream sends so much ahead, and there may be many
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		st, err := anna.sess.Open(ctx, []byte(HeaderList))
		if full = err != nil; !full {
			_ = st.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = st.Write(make([]byte, 1<<20))
		}
		cancel()
	}
	left := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		left <- m.Leave(ctx)
	}()
	select {
	case err := <-left:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(limit):
		t.Error("it waits for the network")
	}
}

// What is under way when the owner leaves is answered by the laptop.
func TestLeaveLetsRequestsEnd(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	anna := newPerson(t, p, "anna")
	addr, came, release := held(t, "anna after all")
	m := anna.join(t, anna.rule(Intercept, Match{}), to(addr))
	c := dial(t, p.addr)
	c.send(t, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
	<-came
	left := make(chan struct{})
	go func() { defer close(left); leave(t, m) }()
	eventually(t, "the rule is gone", func() bool { return len(p.host.List()) == 0 })
	_, body := dial(t, p.addr).get(t, "/x")
	want(t, "next request", body, "app GET /x 0")
	select {
	case <-left:
		t.Error("has left before the request was answered")
	default:
	}
	close(release)
	_, body = c.answer(t, "POST")
	want(t, "on its way", body, "anna after all")
	<-left
	_, body = c.get(t, "/x")
	want(t, "the same connection", body, "app GET /x 0")
}

func TestLeaveCutsOffInTheEnd(t *testing.T) {
	p := newPod(t, greeter(t, "app"))
	anna := newPerson(t, p, "anna")
	m := anna.join(t, anna.rule(Intercept, Match{}), to(greeter(t, "anna")))
	c := dial(t, p.addr)
	if s, err := c.r.ReadString('\n'); err != nil || s != "220 anna\r\n" {
		t.Fatalf("%q, %v", s, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.Leave(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 connections did not end") {
		t.Errorf("got %v", err)
	}
	if _, err := c.r.ReadString('\n'); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ends with %v", err)
	}
}

func TestRawConnectionsWithoutHandler(t *testing.T) {
	p := newPod(t, greeter(t, "app"))
	anna := newPerson(t, p, "anna")
	r := anna.rule(Intercept, Match{})
	m := anna.join(t, r, to("127.0.0.1:1"))
	if s, err := dial(t, p.addr).r.ReadString('\n'); err != nil || s != "220 app\r\n" {
		t.Errorf("got %q, %v", s, err)
	}
	leave(t, m)
	r.Strict = true
	anna.join(t, r, to("127.0.0.1:1"))
	if _, err := dial(t, p.addr).r.ReadString('\n'); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("strict: got %v", err)
	}
}

// A client that has not said a word is no reason to stay: what it says later is for the app.
func TestASilentClientKeepsNobody(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler) string{"HTTP1": serve, "HTTP2": serveHTTP2} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, serve(t, named("app")), follow)
			anna := newPerson(t, p, "anna")
			laptop, came := serve(t, named("anna")), make(chan bool, 1)
			m := anna.join(t, anna.rule(Intercept, Match{}), func(ctx context.Context, info Info) (net.Conn, error) {
				came <- true
				return to(laptop)(ctx, info)
			})
			c := http.Client{Transport: newTransportTo()}
			if name == "HTTP1" {
				c.Transport = &http.Transport{}
			}
			defer c.CloseIdleConnections()
			nc, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			c.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return nc, nil }
			<-came // it is connected to who might speak first
			leave(t, m)
			resp, err := c.Get("http://" + p.addr + "/x")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "app GET /x 0" {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
}

// A client of HTTP that takes its time to ask is told, too, that nobody answers.
func TestASilentClientIsToldThatNobodyAnswers(t *testing.T) {
	p := newPod(t, serve(t, named("app")), speaks(HTTP))
	anna := newPerson(t, p, "anna")
	r := anna.rule(Intercept, Match{})
	r.Strict = true
	anna.join(t, r, to("127.0.0.1:1"))
	c := dial(t, p.addr)
	<-time.After(3 * firstWord) // the door has looked for who speaks first
	c.send(t, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, _ := c.answer(t, "GET"); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("it is told %s", resp.Status)
	}
}
