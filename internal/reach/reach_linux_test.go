package reach

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// connect serves v on loopback and returns a session to it. When the test ends,
// no goroutine may be left.
func connect(t testing.TB, v *Server) *stream.Session {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		failed := t.Failed()
		eventually(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= before })
		if t.Failed() && !failed {
			buf := make([]byte, 1<<20)
			t.Logf("%s", buf[:runtime.Stack(buf, true)])
		}
	})
	if v.Log == nil {
		v.Log = slog.New(slog.DiscardHandler)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	server := &stream.Server{Token: "secret", Log: v.Log, Handle: func(ctx context.Context, st *stream.Stream) {
		if port, ok := strings.CutPrefix(string(st.Header()), "dial "); ok {
			v.ServePort(ctx, st, []string{"127.0.0.1", "::1"}, port)
		} else if !v.Handle(ctx, st) {
			st.Reset(stream.CodeRefused)
		}
	}}
	go func() { served <- server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	client := &stream.Client{Token: "secret", Log: v.Log, Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", ln.Addr().String())
	}}
	s, err := client.Connect(ctx)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Errorf("%s: not within 10 s", what)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// listen accepts connections until the test ends and waits for their handlers.
func listen(t testing.TB, addr string, handle func(*net.TCPConn)) *net.TCPAddr {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all []chan struct{}
		for {
			c, err := ln.Accept()
			if err != nil {
				break
			}
			end := make(chan struct{})
			all = append(all, end)
			go func() {
				defer close(end)
				defer c.Close()
				handle(c.(*net.TCPConn))
			}()
		}
		for _, end := range all {
			<-end
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	return ln.Addr().(*net.TCPAddr)
}

func echo(c *net.TCPConn) {
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) // no splice: it wants goroutines of the poller
	_ = c.CloseWrite()
}

func dial(t testing.TB, o Opener, addr string) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), o, "tcp", addr)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c.(*Conn)
}

var errTest = errors.New("as the test wants")
