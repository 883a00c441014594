package forward

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pod is a service's only pod, on connections in memory.
type pod struct {
	mu      sync.Mutex
	handle  func(net.Conn) // what becomes of a connection; nil: it is refused
	late    bool           // refusals show with the first Read, as those of port-forwards
	dials   atomic.Int64
	serving sync.WaitGroup
}

// is changes what becomes of the next connections.
func (s *pod) is(handle func(net.Conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle = handle
}

func (s *pod) dial(ctx context.Context, _ int) (net.Conn, error) {
	s.dials.Add(1)
	s.mu.Lock()
	handle, late := s.handle, s.late
	s.mu.Unlock()
	if handle == nil && !late {
		return nil, syscall.ECONNREFUSED
	}
	client, server := net.Pipe()
	s.serving.Go(func() {
		defer server.Close()
		if handle != nil {
			handle(server)
			return
		}
		_, _ = io.ReadFull(server, make([]byte, 10)) // some bytes leave, and arrive nowhere
	})
	if handle == nil {
		return refusedConn{client}, nil
	}
	return client, nil
}

type refusedConn struct{ net.Conn }

func (c refusedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = &net.OpError{Op: "read", Err: syscall.ECONNREFUSED}
	}
	return n, err
}

// answering serves HTTP on a connection.
func answering(h http.HandlerFunc) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			w := httptest.NewRecorder()
			h(w, req)
			resp := w.Result()
			resp.ContentLength = int64(w.Body.Len())
			if resp.Write(c) != nil {
				return
			}
		}
	}
}

// dying reads a request and says nothing.
func dying(seen *atomic.Int64) func(net.Conn) {
	return func(c net.Conn) {
		if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.Copy(io.Discard, req.Body)
			seen.Add(1)
		}
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = io.WriteString(w, r.Method+" "+string(body))
}

// proxyOf returns a proxy with one service, cart, whose pod is s.
func proxyOf(t *testing.T, s *pod) *Proxy {
	p := &Proxy{Hold: 5 * time.Second}
	p.Update([]Route{{Service: "cart", Environment: "shop", Ports: []Port{portHTTP}, Dial: s.dial}})
	t.Cleanup(func() { p.Close(); s.serving.Wait() })
	return p
}

func ask(p *Proxy, method, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://cart.shop.localhost/", strings.NewReader(body))
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

func TestARequestIsHeldUntilAPodIsReady(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &pod{late: late}
			p := proxyOf(t, s)
			began := time.Now()
			done := make(chan *httptest.ResponseRecorder)
			go func() { done <- ask(p, "POST", "two lamps") }()
			time.Sleep(4*time.Second + 50*time.Millisecond)
			s.is(answering(echo))
			if s.dials.Load() > 40 {
				t.Errorf("dialled %d times in 4 s", s.dials.Load())
			}
			ready := time.Now()
			p.Ready("cart")
			w := <-done
			if diff := cmp.Diff("POST two lamps", w.Body.String()); w.Code != 200 || diff != "" {
				t.Errorf("status %d (-want +got):\n%s", w.Code, diff)
			}
			if took := time.Since(ready); took != 0 {
				t.Errorf("answered %s after the pod was ready (%s after the request)", took, time.Since(began))
			}
		})
	}
}

func TestARestartWithoutNewsIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &pod{}
		p := proxyOf(t, s)
		done := make(chan *httptest.ResponseRecorder)
		go func() { done <- ask(p, "GET", "") }()
		time.Sleep(20 * time.Millisecond)
		s.is(answering(echo))
		began := time.Now()
		if w := <-done; w.Code != 200 {
			t.Errorf("status %d", w.Code)
		}
		if took := time.Since(began); took > 40*time.Millisecond {
			t.Errorf("took %s", took)
		}
	})
}

func TestARequestIsHeldNoLongerThanSaid(t *testing.T) {
	hang := func(ctx context.Context, _ int) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for name, dial := range map[string]func(context.Context, int) (net.Conn, error){
		"refused": (&pod{}).dial, "refused late": (&pod{late: true}).dial, "hangs": hang, "no dial": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &Proxy{Hold: 5 * time.Second, Reason: func(s string) string { return s + " does not compile: main.go:7" }}
				defer p.Close()
				p.Update([]Route{{Service: "cart", Environment: "shop", Ports: []Port{portHTTP}, Dial: dial}})
				began := time.Now()
				w := ask(p, "GET", "")
				if took := time.Since(began); took != 5*time.Second {
					t.Errorf("took %s", took)
				}
				if w.Code != 503 || w.Header().Get("Retry-After") == "" {
					t.Errorf("status %d, header %v", w.Code, w.Header())
				}
				if body := w.Body.String(); !strings.Contains(body, "cart is not ready") || !strings.Contains(body, "does not compile: main.go:7") {
					t.Errorf("body %s", body)
				}
			})
		})
	}
}

func TestWhatMayHaveBeenDoneIsDoneOnce(t *testing.T) {
	for _, tt := range []struct {
		method string
		key    string
		want   int64 // requests that a process got
	}{
		{"POST", "", 1}, {"PATCH", "", 1}, {"POST", "k1", 2},
		{"GET", "", 2}, {"PUT", "", 2}, {"DELETE", "", 2}, {"OPTIONS", "", 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			var seen atomic.Int64
			s := &pod{}
			s.is(dying(&seen))
			p := proxyOf(t, s)
			r := httptest.NewRequest(tt.method, "http://cart.shop.localhost/", strings.NewReader("x"))
			if tt.key != "" {
				r.Header.Set("Idempotency-Key", tt.key)
			}
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			if w.Code != 502 || seen.Load() != tt.want {
				t.Errorf("%s: status %d, a process got it %d times, want %d", tt.method, w.Code, seen.Load(), tt.want)
			}
			if !strings.Contains(w.Body.String(), "cart closed the connection before it answered") {
				t.Errorf("%s: body %s", tt.method, w.Body)
			}
		})
	}
}

func TestAnIdempotentRequestOutlivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen atomic.Int64
		s := &pod{}
		s.is(dying(&seen))
		p := proxyOf(t, s)
		done := make(chan *httptest.ResponseRecorder)
		for range 3 { // killed while it worked, then down for a while, three times
			s.mu.Lock()
			kill := s.handle
			s.handle = func(c net.Conn) { kill(c); s.is(nil) }
			s.mu.Unlock()
			if seen.Load() == 0 {
				go func() { done <- ask(p, "PUT", "three lamps") }()
			}
			time.Sleep(time.Second)
			s.is(dying(&seen))
		}
		s.is(answering(echo))
		if w := <-done; w.Code != 200 || w.Body.String() != "PUT three lamps" {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		if seen.Load() != 3 {
			t.Errorf("%d processes died of it", seen.Load())
		}
	})
}

func TestAServiceThatIsRemovedIsWaitedForNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyOf(t, &pod{})
		done := make(chan *httptest.ResponseRecorder)
		go func() { done <- ask(p, "GET", "") }()
		synctest.Wait()
		p.Update(nil)
		if w := <-done; w.Code != 404 {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}

func TestClosingEndsEveryWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyOf(t, &pod{})
		began := time.Now()
		done := make(chan *httptest.ResponseRecorder)
		for range 3 {
			go func() { done <- ask(p, "POST", "x") }()
		}
		synctest.Wait()
		p.Close()
		for range 3 {
			if w := <-done; w.Code != 503 || !strings.Contains(w.Body.String(), "bight up is stopping") {
				t.Errorf("status %d: %s", w.Code, w.Body)
			}
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %s", took)
		}
		if w := ask(p, "GET", ""); w.Code != 503 {
			t.Errorf("afterwards: status %d", w.Code)
		}
	})
}

func TestAClientThatGoesIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyOf(t, &pod{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan any)
		go func() {
			defer func() { done <- recover() }()
			r := httptest.NewRequestWithContext(ctx, "GET", "http://cart.shop.localhost/", nil)
			p.ServeHTTP(httptest.NewRecorder(), r)
		}()
		synctest.Wait()
		cancel()
		if got, ok := (<-done).(error); !ok || !errors.Is(got, http.ErrAbortHandler) {
			t.Errorf("got %v", got)
		}
	})
}

func TestASlowAnswerIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &pod{}
		s.is(answering(func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Hour) }))
		if w := ask(proxyOf(t, s), "POST", "x"); w.Code != 200 {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}

func TestConnectionsAreKeptUntilInvalidated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &pod{}
		s.is(answering(echo))
		p := proxyOf(t, s)
		for i, want := range []int64{1, 1, 2, 2} {
			if i == 2 {
				p.Invalidate("web") // another service
				p.Invalidate("cart")
			}
			if w := ask(p, "GET", ""); w.Code != 200 {
				t.Fatalf("status %d", w.Code)
			}
			if got := s.dials.Load(); got != want {
				t.Errorf("request %d: %d connections, want %d", i, got, want)
			}
			synctest.Wait() // the connection is idle
		}
	})
}

func TestARequestUnderWaySurvivesInvalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &pod{}
		s.is(answering(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				time.Sleep(time.Second)
			}
		}))
		p := proxyOf(t, s)
		done := make(chan *httptest.ResponseRecorder)
		go func() { done <- ask(p, "POST", "x") }()
		synctest.Wait()
		p.Invalidate("cart")
		if w := ask(p, "GET", ""); w.Code != 200 {
			t.Errorf("next: status %d", w.Code)
		}
		if w := <-done; w.Code != 200 {
			t.Errorf("under way: status %d: %s", w.Code, w.Body)
		}
	})
}

func TestALargeBodyIsNotSentTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &pod{late: true}
		p := proxyOf(t, s)
		big := func(c net.Conn) { _, _ = io.CopyN(io.Discard, c, 2<<20) }
		s.is(big)
		w := ask(p, "PUT", strings.Repeat("x", 4<<20))
		if w.Code != 502 || !strings.Contains(w.Body.String(), "too large to be sent twice") {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		if s.dials.Load() != 1 {
			t.Errorf("dialled %d times", s.dials.Load())
		}
	})
}

func TestAgain(t *testing.T) {
	for _, tt := range []struct {
		o          outcome
		idempotent bool
		lost       int
		want       bool
	}{
		{unsent, false, 0, true}, {unsent, true, 0, true},
		{orphaned, false, 1, false}, {orphaned, true, 1, true}, {orphaned, true, 2, false},
	} {
		if got := again(tt.o, tt.idempotent, tt.lost); got != tt.want {
			t.Errorf("again(%v, %v, %d): got %v", tt.o, tt.idempotent, tt.lost, got)
		}
	}
}
