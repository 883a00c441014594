package direct

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// address is what the tests' pods are said to have. They listen on loopback.
var address = netip.MustParseAddr("192.0.2.7")

func listen(ctx context.Context, network, _ string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, network, "127.0.0.1:0")
}

// agent is the pod's end: a server behind a listener, and its door.
type agent struct {
	server *stream.Server
	door   *Door
	at     string // where the server listens
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{}
	a.server = &stream.Server{Token: "secret", Handle: func(ctx context.Context, st *stream.Stream) {
		if !a.door.Handle(ctx, st) {
			if _, err := io.Copy(st, st); err == nil {
				_ = st.CloseWrite()
			}
		}
	}}
	a.server.Limits.Handshake = time.Minute
	a.door = &Door{Server: a.server, Listen: listen, Log: slog.New(slog.DiscardHandler)}
	ln, err := listen(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	a.at = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		a.door.Close()
	})
	return a
}

func dial(ctx context.Context, to string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", to)
}

// client connects to the agent by its listener; where there is one, direct dials the
// door.
func (a *agent) client(direct func(ctx context.Context, o Offer) (net.Conn, error)) *stream.Client {
	c := &stream.Client{Token: "secret", Version: "v1"}
	c.Dial = func(ctx context.Context) (io.ReadWriteCloser, error) { return dial(ctx, a.at) }
	if direct != nil {
		c.Direct = func(ctx context.Context, s *stream.Session) (func(context.Context) (io.ReadWriteCloser, error), error) {
			o, err := Ask(ctx, s, address)
			if err != nil {
				return nil, err
			}
			return func(ctx context.Context) (io.ReadWriteCloser, error) { return direct(ctx, o) }, nil
		}
	}
	return c
}

func connect(t *testing.T, c *stream.Client) *stream.Session {
	t.Helper()
	s, err := c.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// through opens the door by its port on loopback.
func through(ctx context.Context, o Offer) (net.Conn, error) {
	raw, err := dial(ctx, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(o.Port)).String())
	if err != nil {
		return nil, err
	}
	return o.Open(ctx, raw)
}

func ask(t *testing.T, s *stream.Session) Offer {
	t.Helper()
	o, err := Ask(t.Context(), s, address)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after half a minute not yet: %s", what)
		}
	}
}

// carrying is a connection that tells when it has carried so many bytes.
type carrying struct {
	net.Conn
	left   atomic.Int64
	enough chan struct{} // closed then
}

func (c *carrying) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if left := c.left.Add(int64(-n)); left <= 0 && left+int64(n) > 0 {
		close(c.enough)
	}
	return n, err
}

// until waits for a change of a session's transport.
func until(t *testing.T, changes <-chan stream.State, kind stream.StateKind, direct bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case st := <-changes:
			if st.Kind == kind && st.Direct == direct {
				return
			}
		case <-limit:
			t.Fatalf("the session is not %s, direct: %v, within half a minute", kind, direct)
		}
	}
}

// Transfers go on, byte for byte, when the session moves through the door and when that
// way is cut.
func TestATransferMovesThroughTheDoorAndBack(t *testing.T) {
	a := newAgent(t)
	ways := make(chan *carrying, 1)
	var cut atomic.Bool
	client := a.client(func(ctx context.Context, o Offer) (net.Conn, error) {
		if cut.Load() {
			return nil, errors.New("cut")
		}
		conn, err := through(ctx, o)
		if err != nil {
			return nil, err
		}
		way := &carrying{Conn: conn, enough: make(chan struct{})}
		way.left.Store(4 << 20)
		ways <- way
		return way, nil
	})
	changes := make(chan stream.State, 16)
	client.OnState = func(st stream.State) { changes <- st }
	s := connect(t, client)
	st, err := s.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	sent, got := sha256.New(), sha256.New()
	var g sync.WaitGroup
	g.Go(func() {
		buf := make([]byte, 300<<10)
		for {
			select {
			case <-over:
				_ = st.CloseWrite()
				return
			default:
			}
			_, _ = rand.Read(buf)
			sent.Write(buf)
			if _, err := st.Write(buf); err != nil {
				t.Error(err)
				return
			}
		}
	})
	g.Go(func() {
		if _, err := io.Copy(got, st); err != nil {
			t.Error(err)
		}
	})
	until(t, changes, stream.Moved, true)
	way := <-ways
	<-way.enough // some of it goes that way
	cut.Store(true)
	_ = way.Close()
	until(t, changes, stream.Resumed, false)
	close(over)
	g.Wait()
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("bytes differ")
	}
}

func TestTheDoorIsOpenWhileASessionIsThere(t *testing.T) {
	a := newAgent(t)
	one, two := connect(t, a.client(nil)), connect(t, a.client(nil))
	o := ask(t, one)
	if again := ask(t, one); again.Port != o.Port {
		t.Errorf("asked twice: ports %d and %d", o.Port, again.Port)
	}
	if other := ask(t, two); other.Port != o.Port || !bytes.Equal(other.Sum, o.Sum) {
		t.Errorf("another session is offered %+v, want %+v", other, o)
	}
	_ = one.Close()
	opens := func() bool {
		conn, err := through(t.Context(), o)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	if !opens() {
		t.Error("it is closed while a session is there")
	}
	_ = two.Close()
	eventually(t, "it is closed", func() bool { return !opens() })
	three := connect(t, a.client(nil))
	anew := ask(t, three)
	conn, err := through(t.Context(), anew)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	a.door.Close()
	if _, err := Ask(t.Context(), three, address); err == nil || !strings.Contains(err.Error(), errClosed.Error()) {
		t.Errorf("of an agent that ends: got %v", err)
	}
}

func TestAnotherCertificateIsRefused(t *testing.T) {
	a, b := newAgent(t), newAgent(t)
	o, other := ask(t, connect(t, a.client(nil))), ask(t, connect(t, b.client(nil)))
	o.Port = other.Port
	if _, err := through(t.Context(), o); err == nil {
		t.Error("a door that does not know the name was taken for another")
	}
	o.Name = other.Name // somebody who has heard it
	if _, err := through(t.Context(), o); !errors.Is(err, errOther) {
		t.Errorf("got %v, want %v", err, errOther)
	}
}

// The name is what keeps strangers from making the agent work.
func TestWhoDoesNotKnowTheNameIsSentAway(t *testing.T) {
	a := newAgent(t)
	o := ask(t, connect(t, a.client(nil)))
	o.Name = "door"
	if _, err := through(t.Context(), o); err == nil {
		t.Error("the door opened")
	}
}

func TestBehindTheDoorOnlyASessionGoesOn(t *testing.T) {
	a := newAgent(t)
	s := connect(t, a.client(nil))
	o := ask(t, s)
	for name, token := range map[string]string{"a new session": "secret", "a wrong token": "guess"} {
		c := &stream.Client{Token: token, Dial: func(ctx context.Context) (io.ReadWriteCloser, error) { return through(ctx, o) }}
		if got, err := c.Connect(t.Context()); err == nil {
			t.Errorf("%s was taken", name)
			_ = got.Close()
		}
	}
}

// Who does not say hello takes up one of a few places, for a while.
func TestStrangersAreFew(t *testing.T) {
	a := newAgent(t)
	o := ask(t, connect(t, a.client(nil)))
	var in []net.Conn
	for range maxStrangers {
		conn, err := through(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, conn)
	}
	if conn, err := through(t.Context(), o); err == nil {
		_ = conn.Close()
		t.Error("one more was taken")
	}
	_ = in[0].Close()
	eventually(t, "there is room again", func() bool {
		conn, err := through(t.Context(), o)
		if err == nil {
			in[0] = conn
		}
		return err == nil
	})
	for _, conn := range in {
		_ = conn.Close()
	}
}

func TestOddAddressesAreRefused(t *testing.T) {
	a := newAgent(t)
	s := connect(t, a.client(nil))
	for _, text := range []string{"127.0.0.1", "0.0.0.0", "::1", "224.0.0.1", "fe80::1"} {
		if _, err := Ask(t.Context(), s, netip.MustParseAddr(text)); err == nil || !strings.Contains(err.Error(), "no address of a pod") {
			t.Errorf("%s: got %v", text, err)
		}
	}
	ask(t, s)
	if _, err := Ask(t.Context(), s, netip.MustParseAddr("192.0.2.8")); err == nil || !strings.Contains(err.Error(), "192.0.2.8") {
		t.Errorf("another address: got %v", err)
	}
}

func TestAnAgentWithoutADoorIsNotAskedAgain(t *testing.T) {
	a := newAgent(t)
	a.server.Handle = func(_ context.Context, st *stream.Stream) { st.Reset(stream.CodeRefused) }
	asked := make(chan error, 10)
	c := a.client(nil)
	c.Direct = func(ctx context.Context, s *stream.Session) (func(context.Context) (io.ReadWriteCloser, error), error) {
		_, err := Ask(ctx, s, address)
		asked <- err
		return nil, err
	}
	s := connect(t, c)
	if err := <-asked; err == nil || !strings.Contains(err.Error(), "older release") {
		t.Errorf("got %v", err)
	}
	if got := s.State(); got.Kind != stream.Connected {
		t.Errorf("state %+v", got)
	}
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	for text, want := range map[string]string{
		``:                                   "not understood",
		`[]`:                                 "not understood",
		`{}`:                                 "makes no sense",
		`{"port":70000,"name":"a"}`:          "makes no sense",
		`{"port":1,"name":"a","sum":"AA"}`:   "not understood",
		`{"port":1,"name":"a","sum":"AAAA"}`: "makes no sense",
		`{"refused":"no\u001b[2J"}`:          "opens no direct way: no [2J",
	} {
		if _, err := parseOffer([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// A write of many records goes out in few pieces, and nothing of it is held back.
func TestRecordsGoOutTogether(t *testing.T) {
	a := newAgent(t)
	o := ask(t, connect(t, a.client(nil)))
	a.door.mu.Lock()
	config := a.door.config
	a.door.mu.Unlock()
	ln, err := listen(t.Context(), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		if raw, err := ln.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, tls.Server(raw, config))
			_ = raw.Close()
		}
	}()
	raw, err := dial(t.Context(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	counted := &counter{Conn: raw}
	c, err := o.Open(t.Context(), counted)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Close()
		<-drained
	}()
	if v := c.(*conn).ConnectionState().Version; v != tls.VersionTLS13 {
		t.Errorf("TLS version %x", v)
	}
	counted.writes.Store(0)
	if n, err := c.Write(make([]byte, 256<<10)); n != 256<<10 || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
	if got := counted.writes.Load(); got > 6 {
		t.Errorf("%d writes for 256 KiB", got)
	}
}

// counter counts writes.
type counter struct {
	net.Conn
	writes atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}
