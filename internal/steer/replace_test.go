package steer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// mortal is an app whose process can be stopped. Its connections end with it.
type mortal struct {
	t       testing.TB
	handler http.Handler
	addr    string

	mu     sync.Mutex
	server *httptest.Server // nil while it is stopped
	by     []string         // for whom it was stopped
	starts int
}

func newMortal(t testing.TB, h http.Handler) *mortal {
	m := &mortal{t: t, handler: h, addr: "127.0.0.1:0"}
	m.Release()
	t.Cleanup(func() { m.Hold("the end") })
	return m
}

// Hold implements Process.
func (m *mortal) Hold(by string) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	ended := make(chan struct{})
	defer close(ended)
	m.by = append(m.by, by)
	if m.server != nil {
		m.server.CloseClientConnections()
		_ = m.server.Listener.Close()
		m.server = nil
	}
	return ended
}

// Release implements Process.
func (m *mortal) Release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	ln, err := net.Listen("tcp", m.addr)
	if err != nil {
		m.t.Error(err)
		return
	}
	m.addr = ln.Addr().String()
	m.server = httptest.NewUnstartedServer(m.handler)
	_ = m.server.Listener.Close()
	m.server.Listener = ln
	m.server.Config.Protocols = new(http.Protocols)
	m.server.Config.Protocols.SetHTTP1(true)
	m.server.Config.Protocols.SetUnencryptedHTTP2(true)
	m.server.Start()
	m.starts++
}

func (m *mortal) isRunning() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.server != nil
}

func (m *mortal) runs() (running bool, starts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.server != nil, m.starts
}

func (m *mortal) stoppedBy() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.by)
}

// dial is a door's App.
func (m *mortal) dial(ctx context.Context) (net.Conn, error) {
	m.mu.Lock()
	addr, stopped := m.addr, m.server == nil
	m.mu.Unlock()
	if stopped {
		return nil, errors.New("the process is stopped")
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// replaceable makes m the app of a pod.
func replaceable(m *mortal) podOption {
	return func(p *pod) {
		p.door.App, p.door.Follow = m.dial, true
		p.host.Process = m
	}
}

// Nobody notices, neither on kept connections nor in conversations that end soon,
// that the app's process is stopped for a laptop and started again.
func TestReplaceUnderLoad(t *testing.T) {
	kept := func() *http.Client { return &http.Client{Transport: &http.Transport{}} }
	multiplexed := func() *http.Client { return &http.Client{Transport: newTransportTo()} }
	for name, tt := range map[string]struct {
		serve  func(testing.TB, http.Handler) string
		client func() *http.Client
	}{"HTTP1": {serve, kept}, "HTTP2": {serveHTTP2, multiplexed}} {
		t.Run(name, func(t *testing.T) {
			app := newMortal(t, talking("app"))
			p := newPod(t, "", replaceable(app))
			anna := newPerson(t, p, "anna")
			laptop := tt.serve(t, talking("anna"))
			l := newLoad(t, p.addr, tt.client)
			for range 20 {
				before := l.byApp.Load()
				eventually(t, "requests reach the app", func() bool { return l.byApp.Load() > before+10 || t.Failed() })
				m := anna.join(t, anna.rule(Replace, Match{}), to(laptop))
				if app.isRunning() {
					t.Error("joined before the process was stopped")
				}
				before = l.byLaptop.Load()
				eventually(t, "requests reach the laptop", func() bool { return l.byLaptop.Load() > before+10 || t.Failed() })
				leave(t, m)
				if !app.isRunning() || t.Failed() {
					t.Fatal("after the laptop has left, the process does not run, or a request has failed")
				}
			}
			l.stop()
			t.Logf("%d answers by the app, %d by the laptop", l.byApp.Load(), l.byLaptop.Load())
		})
	}
}

// A request that comes back to the app, from a laptop that has left before it took it, is waited
// for like any other of the app's.
func TestReplaceWaitsForWhatALaptopHasNotTaken(t *testing.T) {
	for name, transport := range map[string]*http.Transport{"HTTP1": {}, "HTTP2": newTransportTo()} {
		t.Run(name, func(t *testing.T) {
			came, release := make(chan struct{}), make(chan struct{})
			app := newMortal(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(came)
				<-release
				_, _ = io.WriteString(w, "app after all")
			}))
			p := newPod(t, "", replaceable(app))
			anna, ben := newPerson(t, p, "anna"), newPerson(t, p, "ben")
			dialling := make(chan struct{})
			m := anna.join(t, anna.rule(Intercept, Match{}), func(ctx context.Context, _ Info) (net.Conn, error) {
				close(dialling)
				<-ctx.Done()
				return nil, ctx.Err()
			})
			got := make(chan string, 1)
			go func() {
				defer transport.CloseIdleConnections()
				response, err := (&http.Client{Transport: transport}).Post("http://"+p.addr+"/x", "", strings.NewReader("x"))
				if err != nil {
					got <- err.Error()
					return
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				got <- fmt.Sprint(string(body), err)
			}()
			<-dialling
			leave(t, m)
			<-came
			go func() { _, _ = ben.Join(t.Context(), ben.sess, ben.rule(Replace, Match{}), to("127.0.0.1:1")) }() // until the end
			eventually(t, "the process is about to be stopped, or is", func() bool {
				p.door.mu.Lock()
				defer p.door.mu.Unlock()
				return p.door.none != nil || !app.isRunning()
			})
			close(release)
			want(t, "what the app had been asked", <-got, "app after all<nil>")
		})
	}
}

// A request that has been a laptop's to the end is not the app's.
func TestReplaceDoesNotWaitForWhatALaptopBreaksOff(t *testing.T) {
	for name, tt := range map[string]struct {
		serve     func(testing.TB, http.Handler) string
		transport *http.Transport
	}{
		"HTTP1": {serve, &http.Transport{}},
		"HTTP2": {serveHTTP2, newTransportTo()},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, serve(t, named("app")))
			anna := newPerson(t, p, "anna")
			anna.join(t, anna.rule(Intercept, Match{}), to(tt.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "100")
				_, _ = io.WriteString(w, "not all")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}))))
			defer tt.transport.CloseIdleConnections()
			response, err := (&http.Client{Transport: tt.transport}).Get("http://" + p.addr + "/x")
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if body, err := io.ReadAll(response.Body); err == nil || response.StatusCode != http.StatusOK {
				t.Fatalf("%s, %q: the answer was not broken off", response.Status, body)
			}
			eventually(t, "the app has nothing to answer", func() bool {
				select {
				case <-p.door.idle():
					return true
				default:
					return false
				}
			})
		})
	}
}

func TestSilentLaptopGivesTheProcessBack(t *testing.T) {
	app := newMortal(t, named("app"))
	p := newPod(t, "", replaceable(app), quick)
	anna := newPerson(t, p, "anna")
	m := anna.join(t, anna.rule(Replace, Match{}), to(serve(t, named("anna"))))
	c := dial(t, p.addr)
	_, body := c.get(t, "/healthz", "User-Agent: kube-probe/1.36")
	want(t, "there is nobody else for kubelet", body, "anna GET /healthz 0")
	anna.link.freeze(true)
	_, body = c.get(t, "/x")
	want(t, "in the silence", body, "app GET /x 0")
	if s := p.host.List()[0]; s.State != Suspended || !app.isRunning() {
		t.Errorf("it is %s, the process runs: %t", s.State, app.isRunning())
	}
	anna.link.freeze(false)
	eventually(t, "the process is stopped again", func() bool { return !app.isRunning() })
	_, body = c.get(t, "/x")
	want(t, "after it", body, "anna GET /x 0")
	anna.link.freeze(true)
	eventually(t, "the rule is gone", func() bool { return len(p.host.List()) == 0 })
	if !app.isRunning() {
		t.Error("the rule is gone and the process does not run")
	}
	anna.link.freeze(false)
	eventually(t, "the laptop is back", func() bool { return !app.isRunning() })
	leave(t, m)
	if got, want := app.stoppedBy(), []string{"anna@laptop", "anna@laptop", "anna@laptop"}; !slices.Equal(got, want) || !app.isRunning() {
		t.Errorf("stopped by %q, want %q; runs: %t", got, want, app.isRunning())
	}
}

// The laptop has lost its session, and joins again before the agent knows of it.
func TestReplaceAgainDoesNotStartTheProcess(t *testing.T) {
	app := newMortal(t, named("app"))
	p := newPod(t, "", replaceable(app))
	before, after := newPerson(t, p, "anna"), newPerson(t, p, "anna")
	laptop := to(serve(t, named("anna")))
	first := before.join(t, before.rule(Replace, Match{}), laptop)
	before.link.freeze(true) // else it hears of the second, and joins again
	second := after.join(t, after.rule(Replace, Match{}), laptop)
	if _, started := app.runs(); started != 1 || len(p.host.List()) != 1 {
		t.Errorf("the process was started %d times, the rules are %+v", started, p.host.List())
	}
	_ = before.sess.Close()
	before.link.freeze(false)
	<-first.Done()
	_, body := dial(t, p.addr).get(t, "/x")
	want(t, "the second", body, "anna GET /x 0")
	leave(t, second)
	if running, started := app.runs(); !running || started != 2 {
		t.Errorf("it runs: %t; it was started %d times, want 2", running, started)
	}
}

// Leases that end while they engage leave the process running.
func TestEndWhileTheProcessIsStopped(t *testing.T) {
	app := newMortal(t, named("app"))
	p := newPod(t, "", replaceable(app))
	anna := newPerson(t, p, "anna")
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		joined := make(chan struct{})
		go func() {
			defer close(joined)
			_, _ = anna.Join(ctx, anna.sess, anna.rule(Replace, Match{}), to("127.0.0.1:1")) // it may be given up
		}()
		eventually(t, "the rule has come or gone", func() bool {
			select {
			case <-joined:
				return true
			default:
				return len(p.host.List()) > 0
			}
		})
		cancel()
		<-joined
		eventually(t, "the rule is gone", func() bool { return len(p.host.List()) == 0 })
		eventually(t, "the process runs", app.isRunning)
	}
}

// A request that takes longer than the app may take to come to an end does not keep
// the laptop waiting for ever.
func TestReplaceWaitsForWhatIsUnderWay(t *testing.T) {
	came, finish := make(chan struct{}, 2), make(chan struct{})
	app := newMortal(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		if r.URL.Path == "/slow" {
			<-finish
		} else {
			<-r.Context().Done()
		}
		_, _ = io.WriteString(w, "app after all")
	}))
	p := newPod(t, "", replaceable(app))
	anna := newPerson(t, p, "anna")
	laptop := to(serve(t, named("anna")))
	join := func() (joined chan *Membership) {
		joined = make(chan *Membership, 1)
		go func() {
			m, err := anna.Join(t.Context(), anna.sess, anna.rule(Replace, Match{}), laptop)
			if err != nil {
				t.Error(err)
			}
			joined <- m
		}()
		return joined
	}

	c := dial(t, p.addr)
	c.send(t, "GET /slow HTTP/1.1\r\nHost: cart\r\n\r\n")
	<-came
	joined := join()
	eventually(t, "the laptop has the rule", func() bool { return len(p.host.List()) == 1 })
	_, body := dial(t, p.addr).get(t, "/x")
	want(t, "a request meanwhile", body, "anna GET /x 0")
	if !app.isRunning() || len(joined) > 0 {
		t.Error("the process was stopped before it has answered")
	}
	close(finish)
	_, body = c.answer(t, "GET")
	want(t, "the request from before", body, "app after all")
	leave(t, <-joined)

	c = dial(t, p.addr)
	c.send(t, "GET /endless HTTP/1.1\r\nHost: cart\r\n\r\n")
	<-came
	began := time.Now()
	leave(t, <-join())
	if took := time.Since(began); took < drainTime || took > drainTime+limit {
		t.Errorf("it took %s, want about %s", took, drainTime)
	}
}

// A laptop that gives up while the process is still being waited for leaves nothing.
func TestLaptopGoesWhileItReplaces(t *testing.T) {
	came := make(chan struct{})
	app := newMortal(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(came)
		<-r.Context().Done()
	}))
	p := newPod(t, "", replaceable(app))
	anna := newPerson(t, p, "anna")
	c := dial(t, p.addr)
	c.send(t, "GET /endless HTTP/1.1\r\nHost: cart\r\n\r\n")
	<-came
	ctx, cancel := context.WithCancel(t.Context())
	joined := make(chan error, 1)
	go func() {
		_, err := anna.Join(ctx, anna.sess, anna.rule(Replace, Match{}), to("127.0.0.1:1"))
		joined <- err
	}()
	eventually(t, "the laptop has the rule", func() bool { return len(p.host.List()) == 1 })
	cancel()
	if err := <-joined; !errors.Is(err, context.Canceled) {
		t.Errorf("join: %v", err)
	}
	eventually(t, "the rule is gone", func() bool { return len(p.host.List()) == 0 })
	if by := app.stoppedBy(); len(by) > 0 || !app.isRunning() {
		t.Errorf("the process was stopped for %q", by)
	}
}

func TestReplaceIsAboutEveryPort(t *testing.T) {
	app := newMortal(t, named("app"))
	p := newPod(t, "", replaceable(app), func(p *pod) {
		p.host.Doors = append(p.host.Doors, &Door{Port: 9090, App: p.door.App})
	})
	second := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- p.host.Doors[1].Serve(ctx, second) }()
	defer func() { cancel(); <-served }()
	anna := newPerson(t, p, "anna")
	laptop := serve(t, named("anna"))
	ports := make(chan int, 10)
	m := anna.join(t, anna.rule(Replace, Match{}), func(ctx context.Context, info Info) (net.Conn, error) {
		ports <- info.Port
		return to(laptop)(ctx, info)
	})
	for port, addr := range map[int]string{8080: p.addr, 9090: second.Addr().String()} {
		_, body := dial(t, addr).get(t, "/x")
		want(t, fmt.Sprint("port ", port), body, "anna GET /x 0")
		if got := <-ports; got != port {
			t.Errorf("the laptop is asked for port %d, want %d", got, port)
		}
	}
	leave(t, m)
	_, body := dial(t, second.Addr().String()).get(t, "/x")
	want(t, "after it", body, "app GET /x 0")
}

// What consumes a queue has no port.
func TestReplaceWithoutPorts(t *testing.T) {
	app := newMortal(t, named("app"))
	p := newPod(t, "", replaceable(app), func(p *pod) { p.host.Doors = nil })
	anna := newPerson(t, p, "anna")
	rule := anna.rule(Replace, Match{})
	rule.Port = 0
	m := anna.join(t, rule, to("127.0.0.1:1"))
	if app.isRunning() {
		t.Error("the process runs")
	}
	leave(t, m)
	if !app.isRunning() {
		t.Error("the process does not run")
	}
}

func TestReplaceIsRefused(t *testing.T) {
	app := newMortal(t, named("app"))
	p := newPod(t, "", replaceable(app))
	anna, ben := newPerson(t, p, "anna"), newPerson(t, p, "ben")
	refused := func(what string, r Rule, owner string, says ...string) {
		t.Helper()
		_, err := ben.Join(t.Context(), ben.sess, r, to("127.0.0.1:1"))
		no, ok := errors.AsType[*RefusedError](err)
		if !ok || no.Owner != owner {
			t.Errorf("%s: got %v", what, err)
			return
		}
		for _, text := range says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q is not in %v", what, text, err)
			}
		}
	}
	m := anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to("127.0.0.1:1"))
	refused("an intercept is there", ben.rule(Replace, Match{}), "anna@laptop", "anna@laptop already intercepts requests with header x-user=anna", "--replace takes them all")
	leave(t, m)
	m = anna.join(t, anna.rule(Replace, Match{}), to("127.0.0.1:1"))
	refused("two at a time", ben.rule(Replace, Match{}), "anna@laptop", "anna@laptop replaces cart", "wait until they leave")
	refused("an intercept beside it", ben.rule(Intercept, header("x-user", "ben")), "anna@laptop", "anna@laptop replaces cart")
	leave(t, ben.join(t, ben.rule(Mirror, Match{}), to("127.0.0.1:1")))
	leave(t, m)
	refused("with a header", ben.rule(Replace, header("x-user", "ben")), "", "leave out --header and --path")
	p.host.Process = nil
	refused("a process that is not ours", ben.rule(Replace, Match{}), "", "the process of cart can't be stopped here", "use --intercept")
	if by := app.stoppedBy(); len(by) != 1 {
		t.Errorf("stopped for %q", by)
	}
}

// An agent of an older release says that it does not know the mode.
func TestReplaceByAnOlderAgent(t *testing.T) {
	ln := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	server := &stream.Server{Token: "secret", Handle: func(_ context.Context, st *stream.Stream) {
		var a asked
		if newLines(st).next(&a) == nil {
			_ = say(st, map[string]any{"state": Refused, "why": `the rule's mode is "replace": it must be "intercept" or "mirror"`})
		}
	}}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()
	defer func() { cancel(); <-served }()
	anna := newPerson(t, &pod{agents: ln.Addr().String()}, "anna")
	_, err := anna.Join(t.Context(), anna.sess, anna.rule(Replace, Match{}), to("127.0.0.1:1"))
	if err == nil || !strings.Contains(err.Error(), "older release") || !strings.Contains(err.Error(), "deploy the service again") {
		t.Errorf("got %v", err)
	}
}
