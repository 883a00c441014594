package steer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// greeter speaks first, then echoes; it says goodbye when the client has ended.
func greeter(t testing.TB, name string) string {
	ln := listen(t)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				_, _ = io.WriteString(nc, "220 "+name+"\r\n")
				_, _ = io.Copy(nc, nc)
				_, _ = io.WriteString(nc, "221 bye\r\n")
			}()
		}
	}()
	return ln.Addr().String()
}

func TestRawConnections(t *testing.T) {
	for name, tt := range map[string]struct {
		match   *Match
		option  podOption
		by      string
		counted Counters
	}{
		"no rule":        {nil, func(*pod) {}, "app", Counters{}},
		"followed":       {nil, follow, "app", Counters{}},
		"rule by header": {new(header("x-user", "anna")), func(*pod) {}, "app", Counters{Unread: 1}},
		"everything":     {&Match{}, speaks(TCP), "anna", Counters{Connections: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t, greeter(t, "app"), tt.option)
			anna := newPerson(t, p, "anna")
			if tt.match != nil {
				anna.join(t, anna.rule(Intercept, *tt.match), to(greeter(t, "anna")))
			}
			c := dial(t, p.addr)
			if s, err := c.r.ReadString('\n'); err != nil || s != "220 "+tt.by+"\r\n" {
				t.Fatalf("got %q, %v", s, err)
			}
			c.send(t, "EHLO me\r\n")
			_ = c.Conn.(*net.TCPConn).CloseWrite()
			b, err := io.ReadAll(c.r)
			if want(t, "to the end", string(b), "EHLO me\r\n221 bye\r\n"); err != nil {
				t.Error(err)
			}
			if tt.match == nil {
				return
			}
			if got := p.host.List()[0].Counters; got != tt.counted {
				t.Errorf("counted %+v, want %+v", got, tt.counted)
			}
		})
	}
}

func TestTLSPassesUntouched(t *testing.T) {
	s := httptest.NewTLSServer(named("app"))
	defer s.Close()
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	p := newPod(t, s.Listener.Addr().String(), follow)
	anna := newPerson(t, p, "anna")
	anna.join(t, anna.rule(Intercept, header("x-user", "anna")), to("127.0.0.1:1"))
	tc, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	if !bytes.Equal(tc.ConnectionState().PeerCertificates[0].Raw, s.Certificate().Raw) {
		t.Error("another certificate")
	}
	if n := p.host.List()[0].Counters.Unread; n != 1 {
		t.Errorf("%d connections unread, want 1", n)
	}
}

func TestAResetIsPassedOn(t *testing.T) {
	for _, by := range []string{"app", "anna"} {
		t.Run(by, func(t *testing.T) {
			ln := listen(t)
			ended := make(chan error, 1)
			go func() { // resets its first client, reads the end of the second
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = nc.Read(make([]byte, 1))
				abort(nc)
				if nc, err = ln.Accept(); err != nil {
					return
				}
				defer nc.Close()
				_, err = io.Copy(io.Discard, nc)
				ended <- err
			}()
			p := newPod(t, ln.Addr().String())
			if by == "anna" {
				anna := newPerson(t, p, "anna")
				anna.join(t, anna.rule(Intercept, Match{}), to(ln.Addr().String()))
			}
			c := dial(t, p.addr)
			c.send(t, "\x00\x00")
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("client: %v", err)
			}
			c = dial(t, p.addr)
			c.send(t, "\x00\x00")
			abort(c.Conn)
			select {
			case err := <-ended:
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("server: %v", err)
				}
			case <-time.After(limit):
				t.Error("the server does not learn of it")
			}
		})
	}
}

func TestAClosedPortOfTheAppRefuses(t *testing.T) {
	p := newPod(t, "127.0.0.1:1")
	nc, err := net.Dial("tcp", p.addr)
	if err == nil {
		defer nc.Close()
		_, err = nc.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

// Connections from before a rule stay where they are, and are counted.
func TestOldConnectionsAreCounted(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	old := []*client{dial(t, p.addr), dial(t, p.addr)}
	for _, c := range old {
		c.get(t, "/")
	}
	anna := newPerson(t, p, "anna")
	m := anna.join(t, anna.rule(Intercept, Match{}), to(serve(t, named("anna"))))
	for _, c := range old {
		_, body := c.get(t, "/x")
		want(t, "old connection", body, "app GET /x 0")
	}
	_, body := dial(t, p.addr).get(t, "/x")
	want(t, "new connection", body, "anna GET /x 0")
	eventually(t, "two are told", func() bool { return m.Status().Counters.Old == 2 })
	_ = old[0].Close()
	eventually(t, "one is told", func() bool { return m.Status().Counters.Old == 1 })
}

// With Follow there are none.
func TestAFollowedConnectionObeysALaterRule(t *testing.T) {
	p := newPod(t, serve(t, named("app")), follow)
	c := dial(t, p.addr)
	for range 3 {
		_, body := c.get(t, "/x")
		want(t, "before", body, "app GET /x 0")
		anna := newPerson(t, p, "anna")
		m := anna.join(t, anna.rule(Intercept, Match{}), to(serve(t, named("anna"))))
		_, body = c.get(t, "/x")
		want(t, "with the rule", body, "anna GET /x 0")
		if n := p.host.List()[0].Counters.Old; n != 0 {
			t.Errorf("%d old connections", n)
		}
		leave(t, m)
		_, body = c.get(t, "/x")
		want(t, "after it", body, "app GET /x 0")
	}
}

func TestMirrorGetsCopies(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	anna := newPerson(t, p, "anna")
	got := make(chan string, 10)
	anna.join(t, anna.rule(Mirror, Match{Path: "/copied"}), func(_ context.Context, info Info) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			b := make([]byte, 1024)
			n, _ := io.ReadAtLeast(there, b, 80)
			got <- fmt.Sprint(info.Mirror, " ", string(b[:n]))
			_, _ = io.WriteString(there, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
			_, _ = io.Copy(io.Discard, there)
		}()
		return here, nil
	})
	request := "POST /copied/a HTTP/1.1\r\nHost: cart\r\nX-One: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
	c := dial(t, p.addr)
	for range 3 {
		c.send(t, strings.Replace(request, "copied", "other", 1))
		_, body := c.answer(t, "POST")
		want(t, "not copied", body, "app POST /other/a 3")
		c.send(t, request)
		_, body = c.answer(t, "POST")
		want(t, "original", body, "app POST /copied/a 3")
		select {
		case s := <-got:
			want(t, "copy", s, "true "+request)
		case <-time.After(limit):
			t.Fatal("no copy")
		}
	}
	eventually(t, "copies are counted", func() bool { return p.host.List()[0].Counters.Mirrored == 3 })
}

// A mirror that takes nothing costs copies, not requests.
func TestASlowMirrorIsInNobodysWay(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	anna := newPerson(t, p, "anna")
	stuck := make(chan struct{})
	var asked atomic.Int64
	m := anna.join(t, anna.rule(Mirror, Match{}), func(ctx context.Context, _ Info) (net.Conn, error) {
		asked.Add(1)
		select {
		case <-stuck:
		case <-ctx.Done():
		}
		return nil, errors.New("never")
	})
	c := dial(t, p.addr)
	large := strings.Repeat("x", 2*maxSpool)
	for range 3 {
		c.send(t, fmt.Sprintf("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(large), large))
		_, body := c.answer(t, "POST")
		want(t, "large", body, fmt.Sprint("app POST /x ", len(large)))
	}
	for range 2 * maxCopies {
		_, body := c.get(t, "/x")
		want(t, "small", body, "app GET /x 0")
	}
	eventually(t, "handlers wait", func() bool { return asked.Load() == maxCopies })
	close(stuck)
	eventually(t, "all are counted as dropped", func() bool { return p.host.List()[0].Counters.Dropped == 2*maxCopies+3 })
	leave(t, m)
}

func TestMirrorOfRawConnections(t *testing.T) {
	p := newPod(t, greeter(t, "app"))
	anna := newPerson(t, p, "anna")
	ln := listen(t)
	got := make(chan string, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		b, _ := io.ReadAll(nc)
		got <- string(b)
	}()
	anna.join(t, anna.rule(Mirror, Match{}), to(ln.Addr().String()))
	c := dial(t, p.addr)
	_, _ = c.r.ReadString('\n')
	c.send(t, "HELO\r\n")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c.r)
	if want(t, "original", string(b), "HELO\r\n221 bye\r\n"); err != nil {
		t.Error(err)
	}
	select {
	case s := <-got:
		want(t, "copy", s, "HELO\r\n")
	case <-time.After(limit):
		t.Error("no copy")
	}
}
