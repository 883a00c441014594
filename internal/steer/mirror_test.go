package steer

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// A copy of less than the whole request is none: who gets it learns that it was cut.
func TestACopyOfACutRequestIsCut(t *testing.T) {
	plain := func(testing.TB) *http.Client { return &http.Client{Transport: &http.Transport{}} }
	multiplexed := func(t testing.TB) *http.Client { hc, _ := clientHTTP2(t); return hc }
	for name, tt := range map[string]struct {
		serve  func(testing.TB, http.Handler) string
		client func(testing.TB) *http.Client
		early  bool // the app answers before it has the whole request
	}{
		"HTTP1, the client leaves":     {serve, plain, false},
		"HTTP2, the client leaves":     {serveHTTP2, multiplexed, false},
		"HTTP2, the app answers early": {serveHTTP2, multiplexed, true},
	} {
		t.Run(name, func(t *testing.T) {
			begun, answer, cut := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			p := newPod(t, tt.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if tt.early {
					<-answer
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
			})))
			anna := newPerson(t, p, "anna")
			anna.join(t, anna.rule(Mirror, Match{}), to(tt.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, err := io.ReadFull(r.Body, make([]byte, 3))
				close(begun)
				if err == nil {
					_, err = io.ReadAll(r.Body)
				}
				cut <- err
			}))))
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			body, w := io.Pipe()
			defer w.Close()
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.addr+"/x", body)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				resp, err := tt.client(t).Do(r)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				ended <- err
			}()
			_, _ = io.WriteString(w, "abc")
			<-begun
			if tt.early {
				close(answer)
			} else {
				leave()
				_ = w.CloseWithError(context.Canceled)
			}
			if err := <-ended; (err == nil) != tt.early {
				t.Errorf("the original ended with %v", err)
			}
			select {
			case err := <-cut:
				if err == nil {
					t.Error("the laptop takes half of the request for all of it")
				}
			case <-time.After(limit):
				t.Fatal("the laptop does not learn that the request was cut")
			}
			eventually(t, "the copy is counted", func() bool { return p.host.List()[0].Counters.Dropped == 1 })
		})
	}
}

// An answer without an end is of no use to anybody: some time after its client has left, the
// copy that it answers ends.
func TestACopyWithAnEndlessAnswerEnds(t *testing.T) {
	const events = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
	const upgraded = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	for name, tt := range map[string]struct{ request, head string }{
		"events":    {"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", events},
		"websocket": {"GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", upgraded},
		"raw":       {"\x00\x01\x02", "hello\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				came, ended := make(chan struct{}), make(chan struct{})
				p := newPiped(t, func(nc net.Conn) { talkForEver(nc, tt.request, tt.head) })
				l := p.mirror(t, func(nc net.Conn) {
					close(came)
					talkForEver(nc, tt.request, tt.head)
					close(ended)
				})
				c := p.dial()
				_, _ = io.WriteString(c, tt.request)
				_, _ = io.ReadFull(c, make([]byte, len(tt.head)))
				<-came
				_ = c.Close()
				synctest.Wait()
				if n := l.copying.Load(); n != 1 {
					t.Fatalf("%d copies are made", n)
				}
				left := time.Now()
				select {
				case <-ended:
				case <-time.After(time.Hour):
					t.Fatal("it never ends")
				}
				if d := time.Since(left); d < mirrorTime-2*time.Second {
					t.Errorf("it was cut after %v", d)
				}
				synctest.Wait()
				if n := l.copying.Load(); n != 0 {
					t.Errorf("%d copies are left", n)
				}
			})
		})
	}
}

// talkForEver answers a request, and says something every second until nobody listens.
func talkForEver(nc net.Conn, request, head string) {
	_, _ = io.ReadFull(nc, make([]byte, len(request)))
	_, err := io.WriteString(nc, head)
	for err == nil {
		time.Sleep(time.Second)
		_, err = io.WriteString(nc, "data: x\n\n")
	}
}

// piped is a pod in a bubble: none of its connections are the kernel's.
type piped struct {
	*pod
	ctx context.Context
}

// newPiped is a pod whose app serves connections.
func newPiped(t testing.TB, app func(net.Conn)) *piped {
	door := &Door{Port: 8080, App: func(context.Context) (net.Conn, error) { return pipeTo(app), nil }}
	return &piped{&pod{door: door, host: &Host{Service: "cart", Doors: []*Door{door}}}, t.Context()}
}

// pipeTo is a connection to who serves it.
func pipeTo(serve func(net.Conn)) net.Conn {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		serve(there)
	}()
	return here
}

// deaf is a connection to who does not care that nothing more follows.
type deaf struct{ net.Conn }

func (deaf) CloseWrite() error { return nil }

// dial connects a client to the door.
func (p *piped) dial() net.Conn { return pipeTo(func(nc net.Conn) { p.door.serve(p.ctx, nc) }) }

// pipes is a listener.
type pipes chan net.Conn

// Accept implements net.Listener.
func (p pipes) Accept() (net.Conn, error) {
	nc, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return nc, nil
}

// Close implements net.Listener.
func (p pipes) Close() error { return nil }

// Addr implements net.Listener.
func (p pipes) Addr() net.Addr { return nil }

// mirror gives the pod a rule by which all is copied to who serves it.
func (p *piped) mirror(t testing.TB, serve func(net.Conn)) *lease {
	t.Helper()
	sessions := make(pipes)
	server := &stream.Server{Token: "secret", Handle: p.host.Handle}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = server.Serve(ctx, sessions) })
	who := &person{Laptop: &Laptop{}, name: "anna"}
	client := &stream.Client{Token: "secret", Handle: who.Handle, Dial: func(context.Context) (io.ReadWriteCloser, error) {
		here, there := net.Pipe()
		sessions <- there
		return here, nil
	}}
	var err error
	if who.sess, err = client.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = who.sess.Close()
		cancel()
		close(sessions)
		all.Wait()
		p.door.copies.Wait()
	})
	who.join(t, who.rule(Mirror, Match{}), func(context.Context, Info) (net.Conn, error) { return deaf{pipeTo(serve)}, nil })
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	return p.host.leases[0]
}

// A client that comes once, and closes its connection, is copied as any other.
func TestHTTP2CopiesOutliveTheClientsConnection(t *testing.T) {
	closed := make(chan struct{})
	p := newPod(t, serveHTTP2(t, named("app")), func(p *pod) {
		app := p.door.App
		p.door.App = func(ctx context.Context) (net.Conn, error) {
			nc, err := app(ctx)
			return &begun{Conn: nc, closed: closed}, err
		}
	})
	anna := newPerson(t, p, "anna")
	addr, came, release := heldBy(t, serveHTTP2, "anna")
	anna.join(t, anna.rule(Mirror, Match{}), to(addr))
	hc, _ := clientHTTP2(t)
	resp, err := hc.Post("http://"+p.addr+"/x", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	<-came
	hc.CloseIdleConnections()
	select {
	case <-closed: // the app's connection is, so the client's is over
	case <-time.After(limit):
		t.Fatal("the connection to the app stays")
	}
	close(release)
	eventually(t, "the copy is counted", func() bool {
		n := p.host.List()[0].Counters
		return n.Mirrored+n.Dropped > 0
	})
	if n := p.host.List()[0].Counters; n.Dropped > 0 {
		t.Error("the copy was cut")
	}
}

// What is not copied because the laptop is silent does not count as a copy that has ended.
func TestASilentMirrorGetsNoMoreCopiesAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &Door{}
		l := (&Host{}).newLease(Rule{}, []*Door{d}, nil)
		defer l.timer.Stop()
		state := func(s State) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.state = s
		}
		ctx, cancel := context.WithCancel(t.Context())
		copies := func(n int) (made int) {
			for range n {
				if s := l.copyTo(ctx, func(ctx context.Context, _ *spool) error { <-ctx.Done(); return ctx.Err() }); s != nil {
					made++
				}
			}
			return made
		}
		state(Suspended)
		if n := copies(3); n != 0 {
			t.Errorf("%d copies for a silent laptop", n)
		}
		state(Active)
		if n := copies(2 * maxCopies); n != maxCopies {
			t.Errorf("%d copies at a time, want %d", n, maxCopies)
		}
		cancel()
		d.copies.Wait()
		if n := l.copying.Load(); n != 0 {
			t.Errorf("%d copies are left", n)
		}
	})
}
