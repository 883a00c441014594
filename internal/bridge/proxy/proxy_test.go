package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// start serves a proxy whose far side knows one name, and returns its address and
// what was dialed.
func start(t *testing.T, backend string) (address string, dialed func() []string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all []string
	s := &Server{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		all = append(all, address)
		mu.Unlock()
		host, port, _ := net.SplitHostPort(address)
		switch {
		case host == "nobody.shop":
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		case port != "80" && port != "443":
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", backend)
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the proxy does not end")
		}
	})
	return ln.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string{}, all...)
	}
}

func backend(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s%s %s proxy=%q", r.Method, r.Host, r.URL, b, r.Header.Get("Proxy-Connection"))
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func TestHTTPClients(t *testing.T) {
	for _, scheme := range []string{"http", "socks5", "socks5h"} {
		address, dialed := start(t, backend(t))
		transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: address, User: url.UserPassword("any", "one")})}
		client := &http.Client{Transport: transport}
		for range 2 {
			resp, err := client.Post("http://cart.shop/add?x=1", "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(scheme, err)
			}
			got, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if want := `POST cart.shop/add?x=1 body proxy=""`; string(got) != want {
				t.Errorf("%s: %q, want %q", scheme, got, want)
			}
		}
		// A second request may come before the first one's connection is free again.
		if got := slices.Compact(dialed()); !slices.Equal(got, []string{"cart.shop:80"}) {
			t.Errorf("%s: dialed %v, want connections by name", scheme, got)
		}
		transport.CloseIdleConnections()
	}
}

func TestHTTPErrorsSayWhy(t *testing.T) {
	address, _ := start(t, backend(t))
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: address}), DisableKeepAlives: true}}
	resp, err := client.Get("http://cart.shop:81/")
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(string(got), "connection refused") {
		t.Errorf("%s %s", resp.Status, got)
	}
	if _, err := client.Get("https://cart.shop:81/"); err == nil || !strings.Contains(err.Error(), "Bad Gateway") {
		t.Errorf("CONNECT: %v", err)
	}
	direct, err := http.Get("http://" + address + "/")
	if err != nil {
		t.Fatal(err)
	}
	_ = direct.Body.Close()
	if direct.StatusCode != http.StatusBadRequest {
		t.Errorf("not as a proxy: %s", direct.Status)
	}
}

func TestSOCKSReplies(t *testing.T) {
	address, _ := start(t, backend(t))
	for _, tc := range []struct {
		name    string
		request []byte
		want    byte
	}{
		{"a name", append(append([]byte{5, 1, 0, 3, 9}, "cart.shop"...), 0, 80), replyDone},
		{"IPv4", []byte{5, 1, 0, 1, 10, 0, 0, 1, 0, 80}, replyDone},
		{"IPv6", append(append([]byte{5, 1, 0, 4}, make([]byte, 16)...), 0, 80), replyDone},
		{"refused", []byte{5, 1, 0, 1, 10, 0, 0, 1, 0, 81}, replyRefused},
		{"no such name", append(append([]byte{5, 1, 0, 3, 11}, "nobody.shop"...), 0, 80), replyHost},
		{"UDP", []byte{5, 3, 0, 1, 10, 0, 0, 1, 0, 80}, replyNoCommand},
		{"an unknown type", []byte{5, 1, 0, 2, 10, 0, 0, 1, 0, 80}, replyNoAddress},
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = conn.Write(append([]byte{5, 1, 0}, tc.request...))
		got := make([]byte, 4)
		if _, err := io.ReadFull(conn, got); err != nil || got[1] != 0 || got[3] != tc.want {
			t.Errorf("%s: % x, %v, want %d", tc.name, got, err, tc.want)
		}
		_ = conn.Close()
	}
}

// A client hears what has become of its dial, however long that took.
func TestSOCKSDialsOutlastTheGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &proxy{ctx: t.Context(), log: slog.New(slog.DiscardHandler), dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}}
		near, far := net.Pipe()
		defer far.Close()
		go p.serve(near)
		began := time.Now()
		go func() { _, _ = far.Write([]byte{5, 1, 0, 5, 1, 0, 1, 10, 0, 0, 1, 0, 80}) }()
		got := make([]byte, 4)
		if _, err := io.ReadFull(far, got); err != nil || got[3] != replyExpired || time.Since(began) != dialTimeout {
			t.Errorf("% x, %v after %s, want %d after %s", got, err, time.Since(began), replyExpired, dialTimeout)
		}
	})
}

func TestATunnelPassesHalfClosesOn(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(conn) // until the client has ended its direction
			_, _ = fmt.Fprintf(conn, "%d", len(b))
			_ = conn.Close()
		}
	}()
	address, _ := start(t, ln.Addr().String())
	for name, hello := range map[string]string{
		"CONNECT": "CONNECT cart.shop:443 HTTP/1.1\r\nHost: cart.shop:443\r\n\r\n",
		"SOCKS5":  "\x05\x01\x00\x05\x01\x00\x03\x09cart.shop\x01\xbb",
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		go func() {
			_, _ = io.WriteString(conn, hello+strings.Repeat("x", 1_000_000))
			_ = conn.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.HasSuffix(got, []byte("1000000")) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		_ = conn.Close()
	}
}

func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Log("there is no curl here")
		return
	}
	address, _ := start(t, backend(t))
	for _, scheme := range []string{"http", "socks5h"} {
		out, err := exec.Command(curl, "-sS", "--noproxy", "", "-x", scheme+"://"+address, "http://cart.shop/c").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "GET cart.shop/c") {
			t.Errorf("%s: %s, %v", scheme, out, err)
		}
	}
}

func TestRepliesForErrors(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want byte
	}{
		{syscall.ECONNREFUSED, replyRefused},
		{fmt.Errorf("dial: %w", syscall.EHOSTUNREACH), replyHost},
		{syscall.ENETUNREACH, replyNetwork},
		{context.DeadlineExceeded, replyExpired},
		{&net.DNSError{IsTimeout: true}, replyExpired},
		{errors.New("other"), replyFailed},
	} {
		if got := replyFor(tc.err); got != tc.want {
			t.Errorf("%v: %d, want %d", tc.err, got, tc.want)
		}
	}
}

// dialogue is a client that has said everything beforehand.
type dialogue struct {
	io.Reader
	said bytes.Buffer
}

func (d *dialogue) Write(p []byte) (int, error) { return d.said.Write(p) }

func FuzzGreet(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x09cart.shop\x01\xbb"))
	f.Add([]byte("\x05\x02\x00\x02\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50"))
	f.Add([]byte("\x05\x01\x02\x01\x01u\x01p\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50"))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole := &dialogue{Reader: bytes.NewReader(in)}
		address, err := greet(whole)
		slow := &dialogue{Reader: iotest.OneByteReader(bytes.NewReader(in))}
		again, err2 := greet(slow)
		if address != again || (err == nil) != (err2 == nil) {
			t.Errorf("%q %v, byte by byte %q %v", address, err, again, err2)
		}
		if err != nil {
			return
		}
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			t.Errorf("%q: %v", address, err)
		}
	})
}
