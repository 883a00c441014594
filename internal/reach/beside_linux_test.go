package reach

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// network is one whose dials the test answers, by their number.
type network struct {
	dial   func(ctx context.Context, n int64) (net.Conn, error)
	dialed atomic.Int64
	over   atomic.Int64
}

func (n *network) Dial(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
	defer n.over.Add(1)
	return n.dial(ctx, n.dialed.Add(1))
}

// nobody answers: a pod that has ended, to which the kernel goes on to send what begins a connection.
func nobody(ctx context.Context) (net.Conn, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// A connection that leads to a pod which has just ended has no answer however long one waits. One that begins later has.
func TestAConnectionWithoutAnAnswerBeginsAnew(t *testing.T) {
	addr := listen(t, "127.0.0.1:0", echo).AddrPort()
	for name, tt := range map[string]struct {
		dial func(ctx context.Context, n int64) (net.Conn, error)
		want int64 // attempts
		err  error
	}{
		"the second attempt is answered": {want: 2, dial: func(ctx context.Context, n int64) (net.Conn, error) {
			if n == 1 {
				return nobody(ctx)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", addr.String())
		}},
		"and so is the third": {want: 3, dial: func(ctx context.Context, n int64) (net.Conn, error) {
			if n < 3 {
				return nobody(ctx)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", addr.String())
		}},
		"by then nobody listens": {want: 2, err: syscall.ECONNREFUSED, dial: func(ctx context.Context, n int64) (net.Conn, error) {
			if n == 1 {
				return nobody(ctx)
			}
			return nil, syscall.ECONNREFUSED
		}},
		"what is refused at once is not tried again": {want: 1, err: syscall.ECONNREFUSED, dial: func(context.Context, int64) (net.Conn, error) {
			return nil, syscall.ECONNREFUSED
		}},
	} {
		t.Run(name, func(t *testing.T) {
			from := &network{dial: tt.dial}
			s := connect(t, &Server{Network: from, unanswered: 10 * time.Millisecond})
			c, err := Dial(t.Context(), s, "tcp", "192.0.2.1:80")
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if n := from.dialed.Load(); n < tt.want || tt.want == 1 && n > 1 {
				t.Errorf("%d attempts, want %d", n, tt.want)
			}
			eventually(t, "all of them have ended", func() bool { return from.over.Load() == from.dialed.Load() })
			if err != nil {
				return
			}
			defer c.Close()
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Of attempts that are all answered one is the connection, and the others are closed.
func TestOneOfSeveralConnectionsIsClosed(t *testing.T) {
	var taken, ended atomic.Int64
	addr := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		taken.Add(1)
		echo(c)
		ended.Add(1)
	}).AddrPort()
	second := make(chan struct{})
	var once sync.Once
	from := &network{dial: func(_ context.Context, n int64) (net.Conn, error) {
		if n == 2 {
			once.Do(func() { close(second) })
		}
		<-second
		return net.Dial("tcp", addr.String()) // whoever is given up may have connected already
	}}
	s := connect(t, &Server{Network: from, unanswered: 10 * time.Millisecond})
	c := dial(t, s, "192.0.2.1:80")
	eventually(t, "all but one are closed", func() bool { return taken.Load() == from.dialed.Load() && ended.Load() == taken.Load()-1 })
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// Who gives up ends all of them.
func TestAllAttemptsEndWithTheirCaller(t *testing.T) {
	ctx, giveUp := context.WithCancel(t.Context())
	from := &network{}
	from.dial = func(ctx context.Context, n int64) (net.Conn, error) {
		if n == 3 {
			giveUp()
		}
		return nobody(ctx)
	}
	s := connect(t, &Server{Network: from, unanswered: time.Millisecond})
	if _, err := Dial(ctx, s, "tcp", "192.0.2.1:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	eventually(t, "all of them have ended", func() bool { return from.over.Load() == from.dialed.Load() })
}
