package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// echoServer answers in upper case, and says "bye" when the client's half ends.
func echoServer(t *testing.T) (address string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { shout(c) })
		}
	})
	return ln.Addr().String(), func() { ln.Close(); tasks.Wait() }
}

func shout(c net.Conn) {
	defer c.Close()
	p := make([]byte, 64<<10)
	for {
		n, err := c.Read(p)
		if _, err := io.WriteString(c, strings.ToUpper(string(p[:n]))); err != nil {
			return
		}
		if err != nil {
			_, _ = io.WriteString(c, "bye")
			return
		}
	}
}

// talk has one exchange with an echo server.
func talk(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(waitLimit))
	if _, err := io.WriteString(c, "select"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 6)
	if _, err := io.ReadFull(c, got); string(got) != "SELECT" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
}

func sql(dial func(context.Context, int) (net.Conn, error), ports ...Port) Route {
	return Route{Service: "db", Environment: "shop", Ports: ports, Dial: dial}
}

func TestRawConnectionsKeepTheirHalves(t *testing.T) {
	address, stop := echoServer(t)
	defer stop()
	p := serve(t, sql(to(address), portSQL))
	c, err := net.Dial("tcp", p.Addresses()[0].Local)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	talk(t, c)
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); string(rest) != "bye" || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestARawConnectionWaitsForAPod(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint("late ", late), func(t *testing.T) {
			s := &pod{late: late}
			p := serve(t, sql(s.dial, portSQL))
			c, err := net.Dial("tcp", p.Addresses()[0].Local)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, "hello, and more than ten bytes"); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(waitLimit); s.dials.Load() < 3 && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			s.is(shout)
			p.Ready("db")
			got := make([]byte, 30)
			_ = c.SetDeadline(time.Now().Add(waitLimit))
			if _, err := io.ReadFull(c, got); string(got) != "HELLO, AND MORE THAN TEN BYTES" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestARawConnectionThatBreaksIsSeenToBreak(t *testing.T) {
	s := &pod{}
	s.is(func(c net.Conn) { _, _ = c.Read(make([]byte, 4)) })
	p := &Proxy{}
	broken := func(ctx context.Context, port int) (net.Conn, error) {
		c, err := s.dial(ctx, port)
		return brokenConn{c}, err
	}
	p.Update([]Route{sql(broken, portSQL)})
	defer s.serving.Wait()
	defer p.Close()
	c, err := net.Dial("tcp", p.Addresses()[0].Local)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "ping")
	_ = c.SetDeadline(time.Now().Add(waitLimit))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read: %v, want a reset", err)
	}
}

// brokenConn ends with an error.
type brokenConn struct{ net.Conn }

func (c brokenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = errors.New("port-forward was cut")
	}
	return n, err
}

func TestManyRawConnections(t *testing.T) {
	address, stop := echoServer(t)
	defer stop()
	p := serve(t, sql(to(address), portSQL))
	local := p.Addresses()[0].Local
	var clients sync.WaitGroup
	var bytes atomic.Int64
	for range 20 {
		clients.Go(func() {
			c, err := net.Dial("tcp", local)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			go func() {
				_, _ = io.WriteString(c, strings.Repeat("x", 1<<20))
				_ = c.(*net.TCPConn).CloseWrite()
			}()
			n, err := io.Copy(io.Discard, c)
			if err != nil {
				t.Error(err)
			}
			bytes.Add(n)
		})
	}
	clients.Wait()
	if want := int64(20 * (1<<20 + 3)); bytes.Load() != want {
		t.Errorf("got %d bytes, want %d", bytes.Load(), want)
	}
}

// freePort returns a port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := listenLoopback(0)
	if err != nil {
		t.Fatal(err)
	}
	l.close()
	return l.port
}

func TestRawPortsKeepTheirNumbers(t *testing.T) {
	free, other := freePort(t), freePort(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := busy.Addr().(*net.TCPAddr).Port
	dial := (&pod{}).dial
	p := &Proxy{}
	defer p.Close()
	routes := []Route{
		sql(dial, Port{"a", free, "tcp"}, Port{"b", taken, "tcp"}, Port{"c", other, "grpc"}, Port{"d", 53, "udp"}, portHTTP),
		{Service: "db2", Environment: "shop", Ports: []Port{{"a", free, "tcp"}}, Dial: dial},
	}
	notes := p.Update(routes)
	first := p.Addresses()
	if len(first) != 4 {
		t.Fatalf("addresses: %v", first)
	}
	moved, second := first[1].Local, first[3].Local
	want := []Address{
		{"db", "shop", Port{"a", free, "tcp"}, "localhost:" + strconv.Itoa(free), ""},
		{"db", "shop", Port{"b", taken, "tcp"}, moved, fmt.Sprintf("db: port %d is already in use on this machine, so it is at %s", taken, moved)},
		{"db", "shop", Port{"c", other, "grpc"}, "localhost:" + strconv.Itoa(other), ""},
		{"db2", "shop", Port{"a", free, "tcp"}, second, fmt.Sprintf("db2: port %d is already in use on this machine, so it is at %s", free, second)},
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantNotes := []string{
		want[1].Note,
		"db: port 53/udp is not forwarded to this machine, because a port-forward carries TCP only: use it from inside the environment",
		want[3].Note,
	}
	if diff := cmp.Diff(wantNotes, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	if notes := p.Update(routes); len(notes) > 0 {
		t.Errorf("it is said a second time: %q", notes)
	}
	if notes := p.Update(nil); len(notes) > 0 || len(p.Addresses()) > 0 {
		t.Errorf("without routes: %q, %v", notes, p.Addresses())
	}
	if c, err := net.Dial("tcp", first[0].Local); err == nil {
		c.Close()
		t.Error("a port that is not wanted is open")
	}
	p.Update(routes)
	var before, after []string
	for i, a := range p.Addresses() {
		before, after = append(before, first[i].Local), append(after, a.Local)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after it came back (-want +got):\n%s", diff)
	}
}

func TestALocalPortThatIsTaken(t *testing.T) {
	busy, err := listenLoopback(0)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.close()
	listen := fmt.Sprintf("127.0.0.1:%d", busy.port)

	p := &Proxy{Listen: listen}
	defer p.Close()
	notes, err := p.Open()
	want := []string{fmt.Sprintf("port %d is already in use on this machine, so URLs use port %d; stop what listens there, or choose one with --port", busy.port, p.Port())}
	if diff := cmp.Diff(want, notes); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}

	strict := &Proxy{Listen: listen, Required: true}
	defer strict.Close()
	if _, err := strict.Open(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("port %d is already in use on this machine: stop what listens there, or name another with --port", busy.port)) {
		t.Errorf("required: %v", err)
	}
	if err := strict.Serve(t.Context()); err == nil {
		t.Error("serves without a port")
	}
}

func TestOnlyLoopbackIsListenedOn(t *testing.T) {
	for address, want := range map[string]string{
		"": "", "127.0.0.1:0": "", "localhost:0": "", "[::1]:0": "", ":0": "",
		"0.0.0.0:0":       "use 127.0.0.1:0",
		"[::]:0":          "use 127.0.0.1:0",
		"10.0.0.1:80":     "use 127.0.0.1:80",
		"example.org:80":  "use 127.0.0.1:80",
		"8000":            "missing port",
		"localhost:http":  "is not a port",
		"localhost:70000": "is not a port",
	} {
		p := &Proxy{Listen: address}
		_, err := p.Open()
		p.Close()
		if got := fmt.Sprint(err); (err == nil) != (want == "") || !strings.Contains(got, want) && want != "" {
			t.Errorf("%q: got %v, want %q", address, err, want)
		}
	}
}
