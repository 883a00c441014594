package steer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// canned is an app that keeps every byte it gets and has its answers ready.
type canned struct {
	answers []string
	// end is what it does after the last: "" waits for the client.
	end string

	mu  sync.Mutex
	got bytes.Buffer
}

func (a *canned) serve(t testing.TB) string {
	ln := listen(t)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go a.one(nc)
		}
	}()
	return ln.Addr().String()
}

// Write keeps bytes.
func (a *canned) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got.Write(p)
}

func (a *canned) received() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got.String()
}

func (a *canned) one(nc net.Conn) {
	defer nc.Close()
	r := bufio.NewReader(io.TeeReader(nc, a))
	for _, answer := range a.answers {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if before, after, ok := strings.Cut(answer, "<body>"); ok { // an interim answer first
			_, _ = io.WriteString(nc, before)
			answer = after
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		_, _ = io.WriteString(nc, answer)
	}
	switch a.end {
	case "close":
	case "reset":
		_ = nc.(*net.TCPConn).SetLinger(0)
	case "echo":
		_, _ = io.Copy(nc, r)
	default:
		_, _ = io.Copy(io.Discard, r)
	}
}

// exchangeBytes sends pieces one after the other, each after the bytes of an answer,
// and returns all that comes back until the server closes or what is expected is
// there; then how it ended.
func exchangeBytes(t *testing.T, addr string, pieces []string, expect int) (string, string) {
	t.Helper()
	c := dial(t, addr)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, p := range pieces {
			if _, err := io.WriteString(c, p); err != nil {
				return
			}
		}
	}()
	var got []byte
	buf := make([]byte, 4096)
	for end := ""; ; {
		if len(got) >= expect && end == "" {
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // is there an end?
		}
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		switch ne, ok := errors.AsType[net.Error](err); {
		case errors.Is(err, io.EOF):
			end = "closed"
		case errors.Is(err, syscall.ECONNRESET):
			end = "reset"
		case ok && ne.Timeout():
			end = "open"
		case err != nil:
			t.Fatal(err)
		default:
			continue
		}
		<-done
		return string(got), end
	}
}

const okAnswer = "HTTP/1.1 200 OK\r\ndate: never\r\nX-B: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\nok"

// What does not match reaches the app as it was sent, and comes back as the app sent
// it; what matches reaches the laptop in the same way.
func TestBytesAreNotChanged(t *testing.T) {
	get := "GET /a?b=c#d HTTP/1.1\r\nhOST: x\r\nX-Z:1\r\nx-a:  2 \r\nX-Z: 3\r\n\r\n"
	for name, tt := range map[string]struct {
		pieces  []string
		answers []string
		end     string
		ending  string
	}{
		"keep-alive":        {[]string{get, get}, []string{okAnswer, okAnswer}, "", "open"},
		"in small pieces":   {[]string{get[:3], get[3:20], get[20:50], get[50:]}, []string{okAnswer}, "", "open"},
		"pipelined":         {[]string{get + get + get}, []string{okAnswer, "HTTP/1.1 204 \r\n\r\n", okAnswer}, "", "open"},
		"length":            {[]string{"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", "cde"}, []string{okAnswer}, "", "open"},
		"chunked":           {[]string{"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n1;x=y\r\na\r", "\n002\r\nbc\r\n0\r\nT: u\r\n", "\r\n" + get}, []string{okAnswer, okAnswer}, "", "open"},
		"chunked answer":    {[]string{get, get}, []string{"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;e\r\nabc\r\n0\r\nT: u\r\n\r\n", okAnswer}, "", "open"},
		"HEAD":              {[]string{"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", get}, []string{"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", okAnswer}, "", "open"},
		"304":               {[]string{get, get}, []string{"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", okAnswer}, "", "open"},
		"close":             {[]string{"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}, []string{okAnswer}, "close", "closed"},
		"app closes":        {[]string{get}, []string{"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"}, "close", "closed"},
		"closes silently":   {[]string{get}, []string{okAnswer}, "close", "closed"},
		"resets":            {[]string{get}, []string{"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok"}, "reset", "reset"},
		"until the end":     {[]string{get}, []string{"HTTP/1.1 200 OK\r\n\r\nall there is"}, "close", "closed"},
		"HTTP/1.0":          {[]string{"GET / HTTP/1.0\r\n\r\n"}, []string{"HTTP/1.0 200 OK\r\n\r\nold"}, "close", "closed"},
		"HTTP/1.0 kept":     {[]string{"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", get}, []string{"HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\nContent-Length: 1\r\n\r\na", okAnswer}, "", "open"},
		"continue":          {[]string{"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", "abc", get}, []string{"HTTP/1.1 100 Continue\r\n\r\n<body>" + okAnswer, okAnswer}, "", "open"},
		"early hints":       {[]string{get}, []string{"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n<body>" + okAnswer}, "", "open"},
		"upgrade":           {[]string{"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"}, []string{"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02hi"}, "", "open"},
		"odd answer header": {[]string{get}, []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"}, "", "open"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent := strings.Join(tt.pieces, "")
			answer := strings.ReplaceAll(strings.Join(tt.answers, ""), "<body>", "")
			for _, way := range []string{"direct", "no rule", "followed", "no match", "to the laptop", "split, here", "split, carried"} {
				app, laptop := &canned{answers: tt.answers, end: tt.end}, &canned{answers: tt.answers, end: tt.end}
				if (way == "to the laptop" || way == "split, carried") && tt.end == "reset" {
					continue // a stream that is reset loses what was not read yet
				}
				p := newPod(t, app.serve(t), func(p *pod) { p.door.Follow = way == "followed" })
				addr, getter := p.addr, app
				who := newPerson(t, p, "anna")
				switch way {
				case "direct":
					addr = app.serve(t)
				case "no match":
					who.join(t, who.rule(Intercept, header("x-user", "anna")), to(laptop.serve(t)))
				case "to the laptop":
					who.join(t, who.rule(Intercept, Match{}), to(laptop.serve(t)))
					getter = laptop
				case "split, here":
					v := newVersions(t, app.serve(t), unused(t))
					v.set(t, v.split(0))
					addr = v.stable.addr
				case "split, carried":
					v := newVersions(t, app.serve(t), laptop.serve(t))
					v.set(t, v.split(All))
					addr, getter = v.stable.addr, laptop
				}
				back, ending := exchangeBytes(t, addr, tt.pieces, len(answer))
				want(t, way+": answer", back, answer)
				if getter == laptop && name == "closes silently" {
					ending = tt.ending // the next request would go on another connection
				}
				want(t, way+": end", ending, tt.ending)
				eventually(t, way+": everything arrives", func() bool { return len(getter.received()) >= len(sent) })
				want(t, way+": request", getter.received(), sent)
				if other := app; getter == laptop {
					want(t, way+": to the app", other.received(), "")
				} else {
					want(t, way+": to the laptop", laptop.received(), "")
				}
			}
		})
	}
}

// What can be read in two ways goes to the app, with all that follows it.
func TestHostileRequestsGoToTheAppUnread(t *testing.T) {
	smuggled := "GET /mine HTTP/1.1\r\nHost: x\r\nX-User: anna\r\n\r\n"
	for name, tt := range map[string]struct{ request, rest string }{
		"both lengths": {"POST / HTTP/1.1\r\nHost: x\r\nX-User: anna\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", smuggled},
		"two lengths":  {"POST / HTTP/1.1\r\nHost: x\r\nX-User: anna\r\nContent-Length: 0\r\nContent-Length: 4\r\n\r\n", smuggled},
		"coding":       {"POST / HTTP/1.1\r\nHost: x\r\nX-User: anna\r\nTransfer-Encoding: xchunked\r\n\r\n", smuggled},
		"folded":       {"GET / HTTP/1.1\r\nHost: x\r\nX-Other: b\r\n X-User: anna\r\n\r\n", smuggled},
		"huge head":    {"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("x", maxHead) + "\r\n\r\n", smuggled},
		"bad chunk":    {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n+4\r\n", smuggled},
		"TLS":          {"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", smuggled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln := listen(t)
			var got bytes.Buffer
			arrived := make(chan string)
			go func() {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				defer nc.Close()
				_, _ = io.Copy(&got, nc)
				arrived <- got.String()
			}()
			p := newPod(t, ln.Addr().String())
			anna := newPerson(t, p, "anna")
			anna.join(t, anna.rule(Intercept, header("x-user", "anna")), func(context.Context, Info) (net.Conn, error) {
				t.Error("something went to the laptop")
				return nil, errors.New("no")
			})
			c := dial(t, p.addr)
			c.send(t, tt.request+tt.rest)
			_ = c.Conn.(*net.TCPConn).CloseWrite()
			select {
			case s := <-arrived:
				if s != tt.request+tt.rest {
					t.Errorf("%d bytes arrived of %d", len(s), len(tt.request+tt.rest))
				}
			case <-time.After(limit):
				t.Fatal("nothing arrived")
			}
		})
	}
}

func TestWebSocketIsSpliced(t *testing.T) {
	upgrade := "GET /ws HTTP/1.1\r\nHost: x\r\nX-User: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	echo := &canned{answers: []string{"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"}, end: "echo"}
	p := newPod(t, echo.serve(t))
	anna := newPerson(t, p, "anna")
	m := anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(echo.serve(t)))
	var open []*client
	for _, user := range []string{"anna", "ben"} {
		c := dial(t, p.addr)
		c.send(t, fmt.Sprintf(upgrade, user))
		if resp, err := http.ReadResponse(c.r, nil); err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		open = append(open, c)
	}
	ping := func() {
		for _, c := range open {
			c.send(t, "GET /looks/like HTTP/1.1\r\n\r\n")
			b := make([]byte, 28)
			if _, err := io.ReadFull(c.r, b); err != nil || string(b) != "GET /looks/like HTTP/1.1\r\n\r\n" {
				t.Fatalf("got %q, %v", b, err)
			}
		}
	}
	ping()
	left := make(chan struct{})
	go func() { defer close(left); leave(t, m) }()
	eventually(t, "the rule is gone", func() bool { return len(p.host.List()) == 0 })
	ping() // what was open stays
	_ = open[0].Conn.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(open[0].r); err != nil || len(b) > 0 {
		t.Errorf("end: %q, %v", b, err)
	}
	<-left // when the last has ended
	open = open[1:]
	ping()
}

// hashing answers with what it got.
func hashing(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	if r.Method == "POST" && r.URL.Path == "/echo" {
		http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, io.TeeReader(r.Body, h))
		return
	}
	_, _ = io.Copy(h, r.Body)
	fmt.Fprintf(w, "%x", h.Sum(nil))
}

func TestLargeBodies(t *testing.T) {
	body := make([]byte, 10<<20)
	for i := range body {
		body[i] = byte(i * i >> 7)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	p := newPod(t, serve(t, http.HandlerFunc(hashing)), follow)
	anna := newPerson(t, p, "anna")
	anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serve(t, http.HandlerFunc(hashing))))
	anna.join(t, anna.rule(Mirror, header("x-user", "copy")), to(serve(t, http.HandlerFunc(hashing))))
	hc := &http.Client{Transport: &http.Transport{}}
	defer hc.CloseIdleConnections()
	for _, user := range []string{"anna", "ben", "copy"} {
		for _, sized := range []bool{true, false} {
			for _, path := range []string{"/sum", "/echo"} {
				var r io.Reader = bytes.NewReader(body)
				if !sized {
					r = io.MultiReader(r) // chunked
				}
				req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+p.addr+path, r)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("X-User", user)
				resp, err := hc.Do(req)
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
					t.Errorf("%s %s sized %t: got %d bytes, %v", user, path, sized, len(b), err)
				}
			}
		}
	}
}

// An answer without end comes as it is written, and when the client has gone its
// server learns of it.
func TestEndlessAnswer(t *testing.T) {
	for _, by := range []string{"app", "anna"} {
		t.Run(by, func(t *testing.T) {
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
			p := newPod(t, serve(t, events), follow)
			anna := newPerson(t, p, "anna")
			anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to(serve(t, events)))
			c := dial(t, p.addr)
			c.send(t, "GET / HTTP/1.1\r\nHost: x\r\nX-User: "+by+"\r\n\r\n")
			resp, err := http.ReadResponse(c.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(resp.Body)
			for i := range 3 {
				next <- fmt.Sprint(i)
				if s, err := lines.ReadString('\n'); err != nil || s != fmt.Sprintln(i) {
					t.Fatalf("got %q, %v", s, err)
				}
			}
			_ = c.Close()
			select {
			case <-gone:
			case <-time.After(limit):
				t.Error("the server does not learn that the client has gone")
			}
		})
	}
}

// A reader that does not read holds up nobody else.
func TestSlowReader(t *testing.T) {
	lots := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 1024 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	mux := http.NewServeMux()
	mux.Handle("/lots", lots)
	mux.Handle("/", named("anna"))
	p := newPod(t, serve(t, named("app")))
	anna := newPerson(t, p, "anna")
	anna.join(t, anna.rule(Intercept, Match{}), to(serve(t, mux)))
	for range 3 {
		dial(t, p.addr).send(t, "GET /lots HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	c := dial(t, p.addr)
	for range 20 {
		_, body := c.get(t, "/x")
		want(t, "beside it", body, "anna GET /x 0")
	}
}

func TestProbesGoToTheApp(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	p.door.Probes = []string{"/healthz"}
	anna := newPerson(t, p, "anna")
	anna.join(t, anna.rule(Intercept, Match{}), to(serve(t, named("anna"))))
	c := dial(t, p.addr)
	_, body := c.get(t, "/x")
	want(t, "request", body, "anna GET /x 0")
	_, body = c.get(t, "/healthz?full")
	want(t, "health path", body, "app GET /healthz 0")
	_, body = c.get(t, "/x", "User-Agent: kube-probe/1.36")
	want(t, "kubelet", body, "app GET /x 0")
}

// An app that ends a connection on which nothing is under way, as each does after a while, has
// left nothing unread; one that says more than it was asked for may have.
func TestAnIdleConnectionThatEndsWasRead(t *testing.T) {
	for name, tt := range map[string]struct {
		app  *canned
		says string // behind the answer
		want int64
	}{
		"ends":      {&canned{answers: []string{okAnswer}, end: "close"}, "", 0},
		"says more": {&canned{answers: []string{okAnswer + "more"}, end: "close"}, "more", 1},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVersions(t, tt.app.serve(t), unused(t))
			v.set(t, v.split(0))
			anna := newPerson(t, v.stable, "anna")
			anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to("127.0.0.1:1"))
			c := dial(t, v.stable.addr)
			_, body := c.get(t, "/x")
			want(t, "answer", body, "ok")
			rest, err := io.ReadAll(c.r)
			if want(t, "behind it", string(rest), tt.says); err != nil {
				t.Error(err)
			}
			s, _ := v.stable.door.InForce()
			if n := v.stable.host.List()[0].Counters.Unread; n != tt.want || s.Unread != tt.want {
				t.Errorf("%d connections unread by the rule, %d by the split, want %d", n, s.Unread, tt.want)
			}
		})
	}
}
