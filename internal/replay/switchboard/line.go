package switchboard

import (
	"bytes"
	"context"
	"net"
	"slices"
	"time"

	"github.com/bightdev/bight/internal/bridge/splice"
	"github.com/bightdev/bight/internal/replay/calls"
	"github.com/bightdev/bight/internal/steer"
)

const (
	// silence is how long a command may say nothing before a connection is made for it:
	// some servers speak first. It is longer where there is nobody to connect to, since
	// some clients connect before they have anything to say.
	silence, silenceAlone = 50 * time.Millisecond, 2 * time.Second
	// dialTimeout bounds a connect that only this package waits for.
	dialTimeout = 30 * time.Second
)

// dial connects to where a command wanted to.
type dial func(context.Context) (net.Conn, error)

// Connect returns a connection for a command that wants one to HOST:PORT. live makes the
// real one; it is nil where there is no way.
func (b *Board) Connect(ctx context.Context, to string, live func(context.Context) (net.Conn, error)) (net.Conn, error) {
	if b.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	l := &line{b: b, to: to, dial: live}
	if b.recorder != nil { // the command is to see what it would see without us
		conn, err := live(ctx)
		if err != nil {
			return nil, err
		}
		l.live = b.hear(conn, some)
	}
	ours, theirs := pipe()
	b.serving.Go(func() { l.attend(ours) })
	return theirs, nil
}

// line is one connection of the command.
type line struct {
	b    *Board
	to   string
	dial dial
	live *heard // the real one, nil for none yet
}

// heard is a connection whose first bytes are read already.
type heard struct {
	splice.End
	done  chan struct{} // closed when there are such; what follows is set then
	first []byte        // what is left of them
	err   error
}

// hear begins to read a connection, until what there is is enough or the board ends.
func (b *Board) hear(conn net.Conn, enough func([]byte) bool) *heard {
	h := &heard{End: splice.End{Conn: conn}, done: make(chan struct{})}
	stop := context.AfterFunc(b.ctx, func() { _ = conn.Close() })
	b.serving.Go(func() {
		defer stop()
		defer close(h.done)
		buf := make([]byte, 4<<10)
		for h.err == nil && !enough(h.first) {
			var n int
			n, h.err = conn.Read(buf)
			h.first = append(h.first, buf[:n]...)
		}
	})
	return h
}

// Read implements net.Conn.
func (h *heard) Read(p []byte) (int, error) {
	<-h.done
	if len(h.first) > 0 {
		n := copy(p, h.first)
		h.first = h.first[n:]
		return n, nil
	}
	if h.err != nil {
		return 0, h.err
	}
	return h.Conn.Read(p)
}

// some says whether there is anything.
func some(p []byte) bool { return len(p) > 0 }

// speaks says whether it is known what a client speaks.
func speaks(p []byte) bool {
	_, known := steer.Sniff(p)
	return known
}

// isSettings says whether this is what an HTTP/2 server says before it was asked.
func isSettings(p []byte) bool {
	return len(p) >= 9 && p[3] == 4 && bytes.Equal(p[5:9], make([]byte, 4))
}

// attend finds out what is spoken on a connection of the command, and serves it. Who
// speaks first decides: a client of HTTP does, whatever else does is passed on.
func (l *line) attend(conn net.Conn) {
	b := l.b
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	defer context.AfterFunc(b.ctx, func() { _ = conn.Close() })()
	client := b.hear(conn, speaks)
	var quiet <-chan time.Time
	if l.live == nil && !slices.Contains(b.places, calls.Place(l.to, "", b.namespace)) {
		wait := silence
		if l.dial == nil {
			wait = silenceAlone
		}
		limit := time.NewTimer(wait)
		defer limit.Stop()
		quiet = limit.C
	}
	var server <-chan struct{}
	if l.live != nil {
		server = l.live.done
	}
	dialed := make(chan *heard)
	for {
		select {
		case <-client.done:
			if kind, known := steer.Sniff(client.first); known && kind != steer.KindRaw {
				l.serve(client, kind)
			} else {
				l.pass(client)
			}
			return
		case <-server:
			if !isSettings(l.live.first) {
				l.pass(client)
				return
			}
			server = nil // the client will say what it wants
		case <-quiet:
			if l.dial == nil {
				l.refuse(client, "nobody says anything on it, so it is no HTTP, and the command is alone")
				return
			}
			b.serving.Go(func() { l.try(ctx, dialed) })
		case l.live = <-dialed:
			if l.live == nil {
				splice.Abort(client)
				return
			}
			server = l.live.done
		case <-b.ctx.Done():
			splice.Abort(client)
			l.drop()
			return
		}
	}
}

// try connects for a client that is silent, and hands the connection over, nil if there
// is none.
func (l *line) try(ctx context.Context, to chan<- *heard) {
	var live *heard
	if conn, err := l.connect(ctx); err == nil {
		live = l.b.hear(conn, some)
	}
	select {
	case to <- live:
	case <-ctx.Done():
		if live != nil {
			_ = live.Close()
		}
	}
}

func (l *line) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := l.dial(ctx)
	if err != nil {
		l.b.log.Debug("connect", "to", l.to, "error", err)
	}
	return conn, err
}

// drop ends the real connection, if there is one.
func (l *line) drop() {
	if l.live != nil {
		splice.Abort(l.live)
	}
}

// pass passes a connection on as it is.
func (l *line) pass(client *heard) {
	silent := func() bool { // it has ended before it said anything
		select {
		case <-client.done:
			return len(client.first) == 0
		default:
			return false
		}
	}
	var live net.Conn = l.live
	switch {
	case l.live != nil:
	case silent():
		_ = client.Close()
		return
	case l.dial == nil:
		l.refuse(client, "it is no HTTP, and the command is alone")
		return
	default:
		conn, err := l.connect(l.b.ctx)
		if err != nil {
			splice.Abort(client)
			return
		}
		live = conn
	}
	l.b.mu.Lock()
	l.b.other[l.to]++
	l.b.mu.Unlock()
	splice.Conns(l.b.ctx, client, live)
}

// refuse ends a connection that leads nowhere.
func (l *line) refuse(client *heard, why string) {
	l.b.Refuse("a connection to "+l.to, why)
	splice.Abort(client)
}
