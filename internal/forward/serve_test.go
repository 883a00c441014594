package forward

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
)

const waitLimit = 30 * time.Second

// to dials a server on this machine, whatever the port.
func to(address string) func(context.Context, int) (net.Conn, error) {
	return func(ctx context.Context, _ int) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
}

// serve serves routes until the test ends.
func serve(t *testing.T, routes ...Route) *Proxy {
	t.Helper()
	p := &Proxy{App: "shop"}
	if _, err := p.Open(); err != nil {
		t.Fatal(err)
	}
	p.Update(routes)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(waitLimit):
			t.Error("Serve does not end")
		}
	})
	return p
}

// web returns the route of a service that h answers for.
func web(t *testing.T, name string, h http.HandlerFunc) Route {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return Route{Service: name, Environment: "shop", Ports: []Port{portHTTP}, Dial: to(s.Listener.Addr().String())}
}

// browser returns a client that resolves names as browsers do.
func browser(t *testing.T, h2 bool) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	transport := &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func at(p *Proxy, service, path string) string {
	return fmt.Sprintf("http://%s.shop.localhost:%d%s", service, p.Port(), path)
}

func read(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestAServiceSeesTheRequestAsItWasSent(t *testing.T) {
	seen := make(chan *http.Request, 1)
	p := serve(t, web(t, "cart", func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set("X-Answer", "yes")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	}))
	host := fmt.Sprintf("cart.shop.localhost:%d", p.Port())
	path := fmt.Sprintf("localhost:%d", p.Port())
	for _, h2 := range []bool{false, true} {
		for _, tt := range []struct {
			url, uri, host, prefix string
		}{
			{"http://" + host + "/a%2Fb//c?x=1;y&z=%zz", "/a%2Fb//c?x=1;y&z=%zz", host, ""},
			{"http://" + path + "/cart/a%2Fb//c?x=1;y&z=%zz", "/a%2Fb//c?x=1;y&z=%zz", path, "/cart"},
			{"http://" + path + "/cart/", "/", path, "/cart"},
		} {
			r, err := http.NewRequest("REPORT", tt.url, strings.NewReader("tea"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header = http.Header{
				"User-Agent": {"test"}, "Accept-Encoding": {"br"}, "Cookie": {"a=1"},
				"X-Forwarded-For": {"6.6.6.6"}, "X-Forwarded-Prefix": {"/evil"}, "X-Forwarded-Host": {"evil.example"},
			}
			resp, err := browser(t, h2).Do(r)
			if body := read(t, resp, err); resp.StatusCode != http.StatusTeapot || body != "short and stout" || resp.Header.Get("X-Answer") != "yes" {
				t.Errorf("%s: %s %q %v", tt.url, resp.Status, body, resp.Header)
			}
			got := <-seen
			want := http.Header{
				"User-Agent": {"test"}, "Accept-Encoding": {"br"}, "Cookie": {"a=1"}, "Content-Length": {"3"},
				"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {tt.host}, "X-Forwarded-Proto": {"http"},
			}
			if tt.prefix != "" {
				want.Set("X-Forwarded-Prefix", tt.prefix)
			}
			if diff := cmp.Diff(want, got.Header); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.url, diff)
			}
			if line := got.Method + " " + got.Host + " " + got.RequestURI; line != "REPORT "+tt.host+" "+tt.uri {
				t.Errorf("got %s", line)
			}
		}
	}
}

func TestAPathWithoutSlashIsRedirected(t *testing.T) {
	p := serve(t, web(t, "cart", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	}))
	for path, want := range map[string]string{
		"/cart":     "/cart/",
		"/cart?a=b": "/cart/?a=b",
		"/cart/x":   "/cart/login",
	} {
		resp, err := browser(t, false).Get(fmt.Sprintf("http://localhost:%d%s", p.Port(), path))
		read(t, resp, err)
		if got := resp.Header.Get("Location"); got != want {
			t.Errorf("%s: to %q, want %q", path, got, want)
		}
	}
}

func TestForeignHostsGetNothing(t *testing.T) {
	p := serve(t, web(t, "cart", func(w http.ResponseWriter, r *http.Request) { t.Error("reached") }))
	for _, path := range []string{"/", "/cart/"} {
		r, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d%s", p.Port(), path), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "cart.shop.localhost.evil.example"
		resp, err := browser(t, false).Do(r)
		body := read(t, resp, err)
		if resp.StatusCode != http.StatusMisdirectedRequest || !strings.Contains(body, "is not a name of this machine") {
			t.Errorf("%s: %s", resp.Status, body)
		}
	}
}

func TestServerSentEventsArriveAtOnce(t *testing.T) {
	more := make(chan string)
	p := serve(t, web(t, "cart", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for text := range more {
			_, _ = fmt.Fprintf(w, "data: %s\n\n", text)
			_ = http.NewResponseController(w).Flush()
			if text == "last" {
				return
			}
		}
	}))
	for _, h2 := range []bool{false, true} {
		resp, err := browser(t, h2).Get(at(p, "cart", "/events"))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		for i := range 3 { // the next is sent when the one before has arrived
			text := fmt.Sprint("event ", i)
			more <- text
			for lines.Scan() && lines.Text() == "" {
			}
			if lines.Text() != "data: "+text {
				t.Fatalf("got %q, %v", lines.Text(), lines.Err())
			}
		}
		more <- "last" // the next request is to be the only one that receives
		resp.Body.Close()
	}
}

func TestAnAnswerMayBeginBeforeTheRequestHasEnded(t *testing.T) {
	p := serve(t, web(t, "cart", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.Header().Set("Trailer", "Lines")
		lines, n := bufio.NewScanner(r.Body), 0
		for ; lines.Scan(); n++ {
			_, _ = fmt.Fprintln(w, strings.ToUpper(lines.Text()))
			_ = rc.Flush()
		}
		w.Header().Set("Lines", fmt.Sprint(n))
	}))
	for _, h2 := range []bool{false, true} {
		body, send := io.Pipe()
		r, err := http.NewRequest("POST", at(p, "cart", "/"), body)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(send, "one\n") }()
		resp, err := browser(t, h2).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got := bufio.NewReader(resp.Body)
		for _, want := range []string{"ONE\n", "TWO\n", "THREE\n"} {
			if line, err := got.ReadString('\n'); line != want || err != nil {
				t.Fatalf("got %q, %v, want %q", line, err, want)
			}
			if want != "THREE\n" {
				_, _ = io.WriteString(send, map[string]string{"ONE\n": "two\n", "TWO\n": "three\n"}[want])
			}
		}
		send.Close()
		if rest, err := io.ReadAll(got); len(rest) > 0 || err != nil {
			t.Errorf("rest %q, %v", rest, err)
		}
		if resp.Trailer.Get("Lines") != "3" {
			t.Errorf("trailer %v", resp.Trailer)
		}
		resp.Body.Close()
	}
}

func TestLargeBodiesPassUnchanged(t *testing.T) {
	p := serve(t, web(t, "cart", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body)
	}))
	data := make([]byte, 24<<20)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(data)
	for _, h2 := range []bool{false, true} {
		resp, err := browser(t, h2).Post(at(p, "cart", "/"), "application/octet-stream", bytes.NewReader(data))
		if got := read(t, resp, err); sha256.Sum256([]byte(got)) != sha256.Sum256(data) || resp.ContentLength != int64(len(data)) {
			t.Errorf("h2 %v: %d bytes differ, length %d", h2, len(got), resp.ContentLength)
		}
	}
}

func TestWebSockets(t *testing.T) {
	p := serve(t, web(t, "cart", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil) // which wants Origin to match Host
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, text, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if c.Write(r.Context(), kind, bytes.ToUpper(text)) != nil {
				return
			}
		}
	}))
	for _, address := range []string{at(p, "cart", "/live"), fmt.Sprintf("http://localhost:%d/cart/live", p.Port())} {
		origin, _ := url.Parse(address)
		c, _, err := websocket.Dial(t.Context(), address, &websocket.DialOptions{
			HTTPClient: browser(t, false),
			HTTPHeader: http.Header{"Origin": {"http://" + origin.Host}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := c.Write(t.Context(), websocket.MessageText, []byte("ahoy")); err != nil {
				t.Fatal(err)
			}
			if _, got, err := c.Read(t.Context()); string(got) != "AHOY" || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

func TestAnyUpgradeIsPassedOn(t *testing.T) {
	p := serve(t, web(t, "cart", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "semaphore/1" {
			t.Errorf("upgrade %q", r.Header.Get("Upgrade"))
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: semaphore/1\r\n\r\n")
		_ = rw.Flush()
		text, _ := io.ReadAll(rw) // until the other side's half is closed
		_, _ = c.Write(bytes.ToUpper(text))
	}))
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: cart.shop.localhost\r\nConnection: Upgrade\r\nUpgrade: semaphore/1\r\n\r\n")
	answer := bufio.NewReader(c)
	resp, err := http.ReadResponse(answer, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", resp, err)
	}
	fmt.Fprint(c, "flags")
	_ = c.(*net.TCPConn).CloseWrite() // to a server, the end of a request that has no answer yet is its end
	if all, err := io.ReadAll(answer); err != nil || string(all) != "FLAGS" {
		t.Errorf("got %q, %v", all, err)
	}
}

func TestAnOfferOfHTTP2IsNotPassedOn(t *testing.T) {
	p := serve(t, web(t, "cart", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "upgrade:"+r.Header.Get("Upgrade"))
	}))
	r, _ := http.NewRequest("GET", at(p, "cart", "/"), nil)
	r.Header = http.Header{"Connection": {"Upgrade, HTTP2-Settings"}, "Upgrade": {"h2c"}, "Http2-Settings": {"AAMAAABk"}}
	resp, err := browser(t, false).Do(r)
	if got := read(t, resp, err); got != "upgrade:" {
		t.Errorf("got %q", got)
	}
}

// restarting is a server that is killed and comes back on the same address.
type restarting struct {
	address string
	handler http.Handler
	srv     *http.Server
	done    chan struct{}
}

func (s *restarting) start(t *testing.T) {
	t.Helper()
	if s.address == "" {
		s.address = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	s.address = ln.Addr().String()
	s.srv = &http.Server{Handler: s.handler}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		_ = s.srv.Serve(ln)
	}()
}

func (s *restarting) kill() {
	_ = s.srv.Close()
	<-s.done
}

func TestReloadsSeeNothingOfRestarts(t *testing.T) {
	s := &restarting{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") })}
	s.start(t)
	p := serve(t, Route{Service: "cart", Environment: "shop", Ports: []Port{portHTTP}, Dial: to(s.address)})
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var answers atomic.Int64
	for range 4 {
		client := browser(t, false)
		clients.Go(func() {
			for ctx.Err() == nil {
				resp, err := client.Get(at(p, "cart", "/"))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || string(body) != "ok" || err != nil {
					t.Errorf("%s: %s, %v", resp.Status, body, err)
					return
				}
				answers.Add(1)
			}
		})
	}
	for range 10 {
		before := answers.Load()
		for deadline := time.Now().Add(waitLimit); answers.Load() < before+20 && time.Now().Before(deadline); {
			runtime.Gosched()
		}
		s.kill()
		s.start(t)
	}
	cancel()
	clients.Wait()
	s.kill()
	if answers.Load() < 200 {
		t.Errorf("only %d answers", answers.Load())
	}
}

func TestManyServicesAtOnce(t *testing.T) {
	var routes []Route
	for i := range 8 {
		routes = append(routes, web(t, fmt.Sprint("svc", i), func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(w, "%s by svc%d", body, i)
		}))
	}
	p := serve(t, routes...)
	var clients sync.WaitGroup
	for n := range 16 {
		client := browser(t, n%2 == 0)
		clients.Go(func() {
			for i := range 50 {
				service := fmt.Sprint("svc", (n+i)%8)
				text := fmt.Sprintf("request %d of %d", i, n)
				resp, err := client.Post(at(p, service, "/"), "text/plain", strings.NewReader(text))
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := text + " by " + service; string(body) != want {
					t.Errorf("%s: got %q, want %q", resp.Status, body, want)
				}
			}
		})
	}
	clients.Go(func() {
		for i := range 100 {
			p.Invalidate(fmt.Sprint("svc", i%8))
			p.Update(routes)
		}
	})
	clients.Wait()
}

// goroutines polls until no more than n are left.
func goroutines(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(waitLimit); runtime.NumGoroutine() > n; {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, had %d:\n%s", runtime.NumGoroutine(), n, stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	forever := func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	backend := web(t, "cart", forever)
	echo, stop := echoServer(t)
	defer stop()
	before := runtime.NumGoroutine()

	p := &Proxy{}
	if _, err := p.Open(); err != nil {
		t.Fatal(err)
	}
	never := func(ctx context.Context, _ int) (net.Conn, error) { return nil, errors.New("no pod") }
	p.Update([]Route{backend,
		{Service: "db", Environment: "shop", Ports: []Port{portSQL}, Dial: to(echo)},
		{Service: "web", Environment: "shop", Ports: []Port{portHTTP}, Dial: never},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Serve(ctx) }()
	stream, err := browser(t, false).Get(at(p, "cart", "/"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Dial("tcp", p.Addresses()[0].Local)
	if err != nil {
		t.Fatal(err)
	}
	client, held := browser(t, false), make(chan int)
	go func() {
		status := 0
		if resp, err := client.Get(at(p, "web", "/")); err == nil {
			status = resp.StatusCode
			resp.Body.Close()
		}
		held <- status
	}()
	talk(t, raw)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if status := <-held; status != 503 && status != 0 {
		t.Errorf("held request: status %d", status)
	}
	stream.Body.Close()
	client.CloseIdleConnections()
	raw.Close()
	goroutines(t, before)
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port())); err == nil {
		t.Error("the port is still open")
	}
}

func TestGraceLetsRequestsFinish(t *testing.T) {
	arrived := make(chan struct{})
	release := make(chan struct{})
	backend := web(t, "cart", func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	})
	p := &Proxy{}
	p.Update([]Route{backend})
	if _, err := p.Open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- p.Serve(ctx) }()
	body := make(chan string)
	go func() {
		resp, err := browser(t, false).Get(at(p, "cart", "/"))
		if err != nil {
			body <- err.Error()
			return
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		body <- string(text)
	}()
	<-arrived
	cancel()
	<-p.waits.Done()
	close(release)
	if got := <-body; got != "done" {
		t.Errorf("got %q", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestBackendHeadersThatAreNotOurs(t *testing.T) {
	p := serve(t, web(t, "cart", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
	}))
	resp, err := browser(t, false).Get(at(p, "cart", "/"))
	read(t, resp, err)
	h := maps.Clone(resp.Header)
	h.Del("Date")
	want := http.Header{"Set-Cookie": {"a=1", "b=2"}, "Location": {"/elsewhere"}, "Content-Length": {"0"}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTunnelsAreRefused(t *testing.T) {
	p := serve(t)
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "CONNECT cart.shop.localhost:80 HTTP/1.1\r\nHost: cart.shop.localhost:80\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("got %v, %v", resp, err)
	}
}

var _ httputil.BufferPool = (*buffers)(nil)
