package steer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// limit bounds each wait of a test.
const limit = 20 * time.Second

// link is a transport that can be silenced: what is written waits, and nothing is
// heard.
type link struct {
	net.Conn
	mu     sync.Mutex
	resume sync.Cond
	frozen bool
	closed bool
}

func (l *link) pass() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.frozen && !l.closed {
		l.resume.Wait()
	}
}

func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.pass()
	return n, err
}

func (l *link) Write(p []byte) (int, error) {
	l.pass()
	return l.Conn.Write(p)
}

func (l *link) Close() error {
	l.mu.Lock()
	l.closed = true
	l.resume.Broadcast()
	l.mu.Unlock()
	return l.Conn.Close()
}

func (l *link) freeze(yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = yes
	l.resume.Broadcast()
}

// pod is a host with one door before an app.
type pod struct {
	host   *Host
	door   *Door
	addr   string // of the door
	agents string // where sessions are taken
}

type podOption func(*pod)

func follow(p *pod)               { p.door.Follow = true }
func quick(p *pod)                { p.host.Suspend, p.host.Expire = 300*time.Millisecond, time.Second }
func speaks(q Protocol) podOption { return func(p *pod) { p.door.Protocol = q } }

func newPod(t testing.TB, app string, options ...podOption) *pod {
	t.Helper()
	p := &pod{door: &Door{Port: 8080, App: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", app)
	}}}
	p.host = &Host{Service: "cart", Doors: []*Door{p.door}}
	for _, o := range options {
		o(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	ln := listen(t)
	p.addr = ln.Addr().String()
	all.Go(func() {
		if err := p.door.Serve(ctx, ln); err != nil {
			t.Errorf("serve the door: %v", err)
		}
	})
	sessions := listen(t)
	p.agents = sessions.Addr().String()
	server := &stream.Server{Token: "secret", Handle: p.host.Handle}
	all.Go(func() {
		if err := server.Serve(ctx, sessions); err != nil {
			t.Errorf("serve sessions: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		finished := make(chan struct{})
		go func() { all.Wait(); close(finished) }()
		select {
		case <-finished:
		case <-time.After(limit):
			t.Error("the door does not end")
		}
	})
	return p
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// person is a developer with a laptop.
type person struct {
	*Laptop
	name string
	sess *stream.Session
	link *link
	away atomic.Bool // there is no way to the pod any more
}

func newPerson(t testing.TB, p *pod, name string) *person {
	t.Helper()
	who := &person{Laptop: &Laptop{Beat: 50 * time.Millisecond}, name: name}
	client := &stream.Client{
		Token: "secret", Handle: who.Handle,
		Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
			if who.away.Load() {
				return nil, syscall.ENETUNREACH
			}
			nc, err := new(net.Dialer).DialContext(ctx, "tcp", p.agents)
			if err != nil {
				return nil, err
			}
			who.link = &link{Conn: nc}
			who.link.resume.L = &who.link.mu
			return who.link, nil
		},
	}
	sess, err := client.Connect(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	who.sess = sess
	t.Cleanup(func() { who.link.freeze(false); _ = sess.Close() })
	return who
}

// to is a handler that connects to an address.
func to(addr string) Handler {
	return func(ctx context.Context, _ Info) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

func (who *person) rule(mode Mode, m Match) Rule {
	return Rule{ID: fmt.Sprint(who.name, "-", mode, m), Owner: who.name + "@laptop", Service: "cart", Port: 8080, Mode: mode, Match: m}
}

func (who *person) join(t testing.TB, r Rule, h Handler) *Membership {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	m, err := who.Join(ctx, who.sess, r, h)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func leave(t testing.TB, m *Membership) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := m.Leave(ctx); err != nil {
		t.Error(err)
	}
}

func header(name, value string) Match {
	return Match{Headers: []HeaderMatch{{Name: name, Value: value}}}
}

// eventually waits for something that is about to become true.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// named answers with its name, and what it got.
func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Served-By", name)
		fmt.Fprintf(w, "%s %s %s %d", name, r.Method, r.URL.Path, n)
	}
}

func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.Listener.Addr().String()
}

// held serves what it answers with the text when release is closed; came is closed when it
// has been asked, which is once.
func held(t testing.TB, text string) (addr string, came, release chan struct{}) {
	t.Helper()
	return heldBy(t, serve, text)
}

// heldBy is held with another serve.
func heldBy(t testing.TB, serve func(testing.TB, http.Handler) string, text string) (addr string, came, release chan struct{}) {
	t.Helper()
	came, release = make(chan struct{}), make(chan struct{})
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(came)
		<-release
		_, _ = io.WriteString(w, text)
	})), came, release
}

// client has one connection to the door.
type client struct {
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(limit))
	return &client{nc, bufio.NewReader(nc)}
}

func (c *client) send(t testing.TB, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

// answer reads an answer to a request with the method.
func (c *client) answer(t testing.TB, method string) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func (c *client) get(t testing.TB, path string, headers ...string) (*http.Response, string) {
	t.Helper()
	c.send(t, "GET "+path+" HTTP/1.1\r\nHost: cart\r\n"+strings.Join(append(headers, ""), "\r\n")+"\r\n")
	return c.answer(t, "GET")
}

func want(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestRequestsAreRoutedByHeader(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	people := []string{"anna", "ben", "cleo"}
	for _, name := range people {
		who := newPerson(t, p, name)
		who.join(t, who.rule(Intercept, header("x-user", name)), to(serve(t, named(name))))
	}
	c := dial(t, p.addr)
	for range 5 {
		for _, name := range append(people, "app", "nobody") {
			by := name
			if name == "nobody" {
				by = "app"
			}
			_, body := c.get(t, "/x", "X-User: "+name)
			want(t, name, body, by+" GET /x 0")
			c.send(t, "POST /y HTTP/1.1\r\nHost: cart\r\nX-User: "+name+"\r\nContent-Length: 3\r\n\r\nabc")
			_, body = c.answer(t, "POST")
			want(t, name, body, by+" POST /y 3")
		}
	}
	for _, s := range p.host.List() {
		if s.Counters.Requests != 10 || s.State != Active {
			t.Errorf("%s: %+v", s.Rule.Owner, s)
		}
	}
	all, err := List(t.Context(), newPerson(t, p, "dora").sess)
	if err != nil || len(all) != 3 || all[0].Rule.Owner != "anna@laptop" || all[0].Counters.Requests != 10 {
		t.Errorf("list: %+v, %v", all, err)
	}
}

func TestAnotherOwnersInterceptIsInTheWay(t *testing.T) {
	p := newPod(t, serve(t, named("app")), speaks(HTTP))
	anna, ben := newPerson(t, p, "anna"), newPerson(t, p, "ben")
	m := anna.join(t, anna.rule(Intercept, Match{}), to("127.0.0.1:1"))
	_, err := ben.Join(t.Context(), ben.sess, ben.rule(Intercept, header("x-user", "ben")), to("127.0.0.1:1"))
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || refused.Owner != "anna@laptop" || !strings.Contains(err.Error(), "anna@laptop already intercepts every request of cart") {
		t.Errorf("got %v", err)
	}
	leave(t, ben.join(t, ben.rule(Mirror, Match{}), to("127.0.0.1:1")))
	leave(t, m)
	leave(t, ben.join(t, ben.rule(Intercept, header("x-user", "ben")), to("127.0.0.1:1")))
	_, err = ben.Join(t.Context(), ben.sess, Rule{ID: "a", Owner: "b", Mode: Intercept, Port: 9}, to("127.0.0.1:1"))
	if err == nil || !strings.Contains(err.Error(), "cart has no port 9 that can be steered, it has [8080]") {
		t.Errorf("got %v", err)
	}
	if l := p.host.List(); len(l) != 0 {
		t.Errorf("left over: %+v", l)
	}
}
