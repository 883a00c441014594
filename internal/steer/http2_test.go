package steer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// serveHTTP2 serves HTTP/2 without TLS.
func serveHTTP2(t testing.TB, h http.Handler) string {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: h, Protocols: &protocols}
	ln := listen(t)
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	return ln.Addr().String()
}

// clientHTTP2 is a client that counts its connections.
func clientHTTP2(t testing.TB) (*http.Client, *atomic.Int64) {
	var conns atomic.Int64
	tr := newTransport(nil)
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conns.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}, &conns
}

// grpcLike behaves as a gRPC server does: messages both ways, trailers that were
// not announced, answers that are trailers only, and errors.
func grpcLike(name string, gone chan<- string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		h.Set("X-Served-By", name)
		switch r.URL.Path {
		case "/none": // trailers only
			h.Set("Grpc-Status", "5")
			h.Set("Grpc-Message", "no such thing")
			return
		case "/abort":
			_, _ = io.WriteString(w, "half an ans")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/early":
			h.Set(http.TrailerPrefix+"Grpc-Status", "9")
			_, _ = io.WriteString(w, "enough\n")
			return
		}
		control := http.NewResponseController(w)
		_ = control.Flush()
		lines := bufio.NewReader(r.Body)
		for {
			s, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				if gone != nil {
					gone <- name
				}
				return
			}
			_, _ = io.WriteString(w, strings.ToUpper(s))
			_ = control.Flush()
		}
		h.Set(http.TrailerPrefix+"Grpc-Status", "0")
		h.Set(http.TrailerPrefix+"Had-Te", r.Header.Get("Te"))
		h.Set(http.TrailerPrefix+"Asked", r.Trailer.Get("Asked")+r.Header.Get("User-Agent")+r.Host)
	})
}

// call opens a call whose body is written bit by bit.
func call(t testing.TB, hc *http.Client, ctx context.Context, addr, path, user string) (*http.Response, *io.PipeWriter) {
	t.Helper()
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+addr+path, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Te": {"trailers"}, "Content-Type": {"application/grpc"}, "User-Agent": {"grpc-like"}, "X-User": {user}}
	req.Trailer = http.Header{"Asked": {"politely "}}
	req.Host = "cart.shop"
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp, w
}

func TestHTTP2IsRoutedByRequest(t *testing.T) {
	gone := make(chan string, 1)
	p := newPod(t, serveHTTP2(t, grpcLike("app", gone)))
	anna := newPerson(t, p, "anna")
	anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serveHTTP2(t, grpcLike("anna", gone))))
	hc, conns := clientHTTP2(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var open []func(int) // conversations on one connection, side by side
	for _, by := range []string{"anna", "app", "anna", "app"} {
		resp, w := call(t, hc, ctx, p.addr, "/talk", by)
		want(t, "served by", resp.Header.Get("X-Served-By"), by)
		lines := bufio.NewReader(resp.Body)
		open = append(open, func(i int) {
			fmt.Fprintf(w, "message %d\n", i)
			if s, err := lines.ReadString('\n'); err != nil || s != fmt.Sprintf("MESSAGE %d\n", i) {
				t.Fatalf("%s: got %q, %v", by, s, err)
			}
			if i < 9 {
				return
			}
			_ = w.Close()
			if b, err := io.ReadAll(lines); err != nil || len(b) > 0 {
				t.Errorf("%s: end %q, %v", by, b, err)
			}
			want(t, by+": status", resp.Trailer.Get("Grpc-Status"), "0")
			want(t, by+": te", resp.Trailer.Get("Had-Te"), "trailers")
			want(t, by+": asked", resp.Trailer.Get("Asked"), "politely grpc-likecart.shop")
		})
	}
	for i := range 10 {
		for _, talk := range open {
			talk(i)
		}
	}
	for _, by := range []string{"anna", "app"} {
		resp, _ := call(t, hc, ctx, p.addr, "/none", by)
		b, err := io.ReadAll(resp.Body)
		if err != nil || len(b) > 0 || resp.Header.Get("Grpc-Status")+resp.Trailer.Get("Grpc-Status") != "5" {
			t.Errorf("%s: trailers only: %q, %v, %v %v", by, b, err, resp.Header, resp.Trailer)
		}
		resp, _ = call(t, hc, ctx, p.addr, "/early", by) // the request does not end
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "enough\n" || resp.Trailer.Get("Grpc-Status") != "9" {
			t.Errorf("%s: early answer: %q, %v, %v", by, b, err, resp.Trailer)
		}
		resp, _ = call(t, hc, ctx, p.addr, "/abort", by)
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s: an answer that breaks off: %q", by, b)
		}
		callCtx, hangUp := context.WithCancel(ctx)
		resp, w := call(t, hc, callCtx, p.addr, "/talk", by)
		fmt.Fprintln(w, "hello")
		_, _ = bufio.NewReader(resp.Body).ReadString('\n')
		hangUp()
		_ = resp.Body.Close()
		select {
		case name := <-gone:
			want(t, "learns that the client has hung up", name, by)
		case <-time.After(limit):
			t.Fatalf("%s does not learn that the client has hung up", by)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("the client needed %d connections", n)
	}
}

func TestHTTP2WithoutLaptop(t *testing.T) {
	p := newPod(t, serveHTTP2(t, named("app")))
	anna := newPerson(t, p, "anna")
	rule := anna.rule(Intercept, Match{})
	m := anna.join(t, rule, to("127.0.0.1:1"))
	hc, _ := clientHTTP2(t)
	do := func(method, body, ctype string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.addr+"/x", io.MultiReader(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = int64(len(body))
		if body == "" {
			req.Body = nil
		}
		req.Header.Set("Content-Type", ctype)
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(b)
	}
	for _, method := range []string{"GET", "PUT", "POST"} {
		body := "abc"
		if method == "GET" {
			body = ""
		}
		resp, got := do(method, body, "")
		want(t, "refused", got, fmt.Sprintf("app %s /x %d", method, len(body)))
		if mark := resp.Header.Get(marker); !strings.HasPrefix(mark, "app; reason=anna@laptop: dial tcp 127.0.0.1:1") {
			t.Errorf("marked %q", mark)
		}
	}
	leave(t, m)
	m = anna.join(t, rule, breaking)
	_, got := do("GET", "", "")
	want(t, "breaks off, GET", got, "app GET /x 0")
	_, got = do("PUT", "abc", "")
	want(t, "breaks off, PUT", got, "app PUT /x 3")
	resp, got := do("POST", "abc", "")
	if resp.StatusCode != 502 || !strings.HasPrefix(resp.Header.Get(marker), "lost; reason=anna@laptop") {
		t.Errorf("breaks off, POST: %d %q", resp.StatusCode, got)
	}
	resp, _ = do("POST", "abc", "application/grpc+proto")
	if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "14" || resp.Header.Get("Grpc-Message") == "" {
		t.Errorf("breaks off, gRPC: %d %v", resp.StatusCode, resp.Header)
	}
	leave(t, m)
	rule.Strict = true
	anna.join(t, rule, to("127.0.0.1:1"))
	if resp, got := do("GET", "", ""); resp.StatusCode != 502 {
		t.Errorf("strict: %d %q", resp.StatusCode, got)
	}
}

func TestHTTP2LargeBodies(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 10<<16)
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	p := newPod(t, serveHTTP2(t, echo))
	anna := newPerson(t, p, "anna")
	anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serveHTTP2(t, echo)))
	anna.join(t, anna.rule(Mirror, header("x-user", "copy")), to(serveHTTP2(t, echo)))
	hc, _ := clientHTTP2(t)
	var all sync.WaitGroup
	for _, user := range []string{"anna", "ben", "copy", "anna"} {
		all.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+p.addr, bytes.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("X-User", user)
			resp, err := hc.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(b, body) {
				t.Errorf("%s: got %d bytes, %v", user, len(b), err)
			}
		})
	}
	all.Wait()
}

func TestHTTP2Mirror(t *testing.T) {
	p := newPod(t, serveHTTP2(t, named("app")))
	anna := newPerson(t, p, "anna")
	got := make(chan string, 4)
	anna.join(t, anna.rule(Mirror, Match{}), to(serveHTTP2(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r.Method + " " + r.URL.Path + " " + string(b)
	}))))
	hc, _ := clientHTTP2(t)
	for range 3 {
		resp, err := hc.Post("http://"+p.addr+"/x", "", strings.NewReader("abc"))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		want(t, "original", string(b), "app POST /x 3")
		select {
		case s := <-got:
			want(t, "copy", s, "POST /x abc")
		case <-time.After(limit):
			t.Fatal("no copy")
		}
	}
	eventually(t, "copies are counted", func() bool { return p.host.List()[0].Counters.Mirrored == 3 })
}

// An HTTP/2 connection from before the rule is told to end: what it carries goes
// on, what comes next obeys the rule.
func TestAFollowedHTTP2ConnectionMakesRoom(t *testing.T) {
	p := newPod(t, serveHTTP2(t, grpcLike("app", nil)), follow)
	hc, conns := clientHTTP2(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	resp, w := call(t, hc, ctx, p.addr, "/talk", "anna")
	lines := bufio.NewReader(resp.Body)
	talk := func(s string) {
		fmt.Fprintln(w, s)
		if got, err := lines.ReadString('\n'); err != nil || got != strings.ToUpper(s)+"\n" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	talk("before")
	anna := newPerson(t, p, "anna")
	m := anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serveHTTP2(t, grpcLike("anna", nil))))
	eventually(t, "a new call reaches the laptop", func() bool {
		// Without a body: Go's client can't send one again that meets the farewell.
		req, err := http.NewRequestWithContext(ctx, "POST", "http://"+p.addr+"/talk", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-User", "anna")
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err == nil && resp.Header.Get("X-Served-By") == "anna"
	})
	talk("after")
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	if n := p.host.List()[0].Counters.Old; n != 1 {
		t.Errorf("%d old connections, want 1", n)
	}
	_ = w.Close()
	if _, err := io.Copy(io.Discard, lines); err != nil {
		t.Error(err)
	}
	eventually(t, "no old connection is left", func() bool { return p.host.List()[0].Counters.Old == 0 })
	leave(t, m)
	resp, w = call(t, hc, ctx, p.addr, "/talk", "anna")
	_ = w.Close()
	want(t, "without the rule", resp.Header.Get("X-Served-By"), "app")
}

// frame is an HTTP/2 frame of n bytes of payload.
func frame(kind, flags byte, n int) []byte {
	return append([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags, 0, 0, 0, 1}, bytes.Repeat([]byte{kind}, n)...)
}

func TestFarewellIsSaidBetweenFrames(t *testing.T) {
	goAway := []byte{0, 0, 8, frameGoAway, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}
	frames := [][]byte{
		frame(4, 0, 6), frame(4, 1, 0), frame(frameHeaders, 0, 10), frame(frameContinuation, 0, 3),
		frame(frameContinuation, flagEndHeaders, 0), frame(0, 0, 70000), frame(frameHeaders, flagEndHeaders|1, 4),
	}
	may := map[int]bool{}
	at := 0
	for i, f := range frames {
		at += len(f)
		may[at] = i != 2 && i != 3 // not within a header block
	}
	all := bytes.Join(frames, nil)
	for _, step := range []int{7, 4096, len(all)} {
		for say := 0; say < len(all); say += 1 + len(all)/29 + say/200*10 {
			here, there := net.Pipe()
			f := &farewell{Conn: here}
			got := make(chan []byte)
			go func() {
				b, _ := io.ReadAll(there)
				got <- b
			}()
			for n := 0; n < len(all); n += step {
				if n <= say && say < n+step {
					f.goAway()
				}
				if k, err := f.Write(all[n:min(n+step, len(all))]); err != nil || k != min(n+step, len(all))-n {
					t.Fatal(k, err)
				}
			}
			_ = f.Close()
			b := <-got
			i := bytes.Index(b, goAway)
			if i < 0 {
				t.Fatalf("step %d, said at %d: nothing was said", step, say)
			}
			if !may[i] || !bytes.Equal(append(b[:i:i], b[i+len(goAway):]...), all) {
				t.Fatalf("step %d, said at %d: came at %d", step, say, i)
			}
		}
	}
}

// A connection to a laptop outlives its lease for the requests on it, and takes no more.
func TestRouteEnds(t *testing.T) {
	dialled := func() *begun {
		nc, far := net.Pipe()
		t.Cleanup(func() { _ = far.Close() })
		return &begun{Conn: nc, closed: make(chan struct{})}
	}
	closed := func(nc *begun) bool {
		select {
		case <-nc.closed:
			return true
		default:
			return false
		}
	}
	p := &route{}
	if !p.begin() {
		t.Fatal("took no request")
	}
	first := dialled()
	if err := p.keep(first); err != nil {
		t.Fatal(err)
	}
	p.end()
	if closed(first) {
		t.Error("closed with a request under way")
	}
	p.done()
	if !closed(first) {
		t.Error("open without a request")
	}
	if p.begin() {
		t.Error("took a request after its end")
	}
	late := dialled() // for a request that needs it no more
	if err := p.keep(late); !errors.Is(err, net.ErrClosed) || !closed(late) {
		t.Errorf("kept a connection after its end: %v", err)
	}
}

// strictWriter is the ResponseWriter of a handler, which may not be touched when that has
// returned.
type strictWriter struct {
	*httptest.ResponseRecorder
	returned atomic.Bool
	touched  atomic.Bool
}

func (w *strictWriter) Header() http.Header {
	if w.returned.Load() {
		w.touched.Store(true)
	}
	return w.ResponseRecorder.Header()
}

// An interim answer may come while the request is given up: the transport tells of it in a
// goroutine of its own, which nobody waits for, and where a panic ends the agent.
func TestAnInterimAnswerComesTooLate(t *testing.T) {
	var telling sync.WaitGroup
	var tell func(int, textproto.MIMEHeader) error
	told, stop := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(told) })
	tr := newTransport(func(ctx context.Context) (net.Conn, error) {
		tell = httptrace.ContextClientTrace(ctx).Got1xxResponse
		telling.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = tell(http.StatusEarlyHints, textproto.MIMEHeader{"Link": {"a"}})
					once()
				}
			}
		})
		<-told
		return nil, errors.New("given up")
	})
	s := &streams{c: &conn{d: &Door{}}}
	w := &strictWriter{ResponseRecorder: httptest.NewRecorder()}
	in := &incoming{d: s.c.d, r: httptest.NewRequest("GET", "http://cart/x", nil)}
	if err := s.send(t.Context(), tr, w, in, "", nil); err == nil || !in.heard.Load() {
		t.Errorf("got %v, heard an interim answer: %t", err, in.heard.Load())
	}
	in.heard.Store(false)
	lost(w, in.r, "given up") // beside it
	w.returned.Store(true)
	close(stop)
	telling.Wait()
	_ = tell(http.StatusEarlyHints, textproto.MIMEHeader{"Link": {"a"}})
	if w.touched.Load() || in.heard.Load() {
		t.Error("an interim answer was passed on after the request had been given up")
	}
}
