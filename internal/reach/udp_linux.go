package reach

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// admitUDP counts a flow of a session; release ends it.
func (v *Server) admitUDP(s *stream.Session) (release func(), ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.udp == nil {
		v.udp = map[*stream.Session]int{}
	}
	if v.udp[s] >= cmp.Or(v.UDPFlows, 1024) {
		return nil, false
	}
	v.udp[s]++
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.udp[s]--; v.udp[s] == 0 {
			delete(v.udp, s)
		}
	}, true
}

// serveUDP carries the datagrams of a flow.
func (v *Server) serveUDP(ctx context.Context, st *stream.Stream, addr string) {
	release, ok := v.admitUDP(st.Session())
	if !ok {
		sendStatus(st, errBusy)
		_ = st.CloseWrite()
		return
	}
	defer release()
	conn, err := v.dial(ctx, "udp", addr)
	sendStatus(st, err)
	if err != nil {
		v.Log.Debug("datagrams can't be sent", "to", addr, "err", err)
		_ = st.CloseWrite()
		return
	}
	f := &udpFlow{
		st: st, conn: conn, bufs: &v.bufs,
		idle: cmp.Or(v.UDPIdle, time.Minute), born: time.Now(),
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var g sync.WaitGroup
	g.Go(func() {
		f.upward()
		_ = conn.Close()
	})
	err = f.downward()
	_ = st.Close()
	_ = conn.Close()
	g.Wait()
	if err != nil {
		v.Log.Debug("flow of datagrams ended", "to", addr, "err", err)
	}
}

// udpFlow is one flow in the pod.
type udpFlow struct {
	st   *stream.Stream
	conn net.Conn
	bufs *buffers
	idle time.Duration
	born time.Time
	used atomic.Int64 // when the laptop sent last, since born
}

// upward sends what the laptop does, until either side has ended.
func (f *udpFlow) upward() {
	in := frames{r: f.st, notes: true}
	for {
		msg, note, err := in.next()
		if err != nil {
			return
		}
		f.used.Store(int64(time.Since(f.born)))
		if note {
			continue // only the agent has something to note
		}
		if _, err := f.conn.Write(msg); err != nil {
			if errors.Is(err, net.ErrClosed) || f.note(err) != nil {
				return
			}
		}
	}
}

// note tells the laptop of a datagram that was refused.
func (f *udpFlow) note(err error) error {
	_, err = f.st.Write([]byte{noteLength >> 8, noteLength & 0xff, byte(statusOf(err))})
	return err
}

// downward sends to the laptop what comes for it, until the flow is idle or
// closed.
func (f *udpFlow) downward() error {
	src := newSource(f.conn, f.bufs)
	src.datagrams = true
	var last time.Duration // when something came, since f.born
	for {
		idleAt := f.born.Add(max(last, time.Duration(f.used.Load())) + f.idle)
		if err := f.conn.SetReadDeadline(idleAt); err != nil {
			return nil // closed
		}
		buf, n, err := src.read()
		switch {
		case err == nil:
			last = time.Since(f.born)
			err = sendFrame(f.st, f.bufs, (*buf)[:n])
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err = nil; time.Since(f.born)-time.Duration(f.used.Load()) >= f.idle {
				err = io.EOF
			}
		case errors.Is(err, net.ErrClosed):
			err = io.EOF
		case statusOf(err) != statusOther:
			err = f.note(err)
		}
		if buf != nil {
			f.bufs.put(buf)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
