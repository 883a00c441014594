package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func rawFrame(t frameType, id uint32, payload []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(payload))
	frame{typ: t, stream: id, length: len(payload)}.put(b)
	return append(b, payload...)
}

// raw says hello to n's server as a client of its own making.
func raw(t *testing.T, n *network, h hello) (io.ReadWriteCloser, welcome, error) {
	t.Helper()
	conn, err := n.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	h.Min, h.Max, h.Token, h.Window, h.Replay = 1, 1, "secret", initialWindow, minReplay
	w, err := greet(t.Context(), conn, h)
	return conn, w, err
}

// session returns the only one that v has.
func (v *Server) session(t *testing.T) *Session {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.sessions {
		return s
	}
	t.Fatal("there is no session")
	return nil
}

// A peer that lets streams begin and end but never takes the answers would make
// us keep them all.
func TestAPeerThatConfirmsNothingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{Limits: Limits{Replay: minReplay}}
		n, _ := serve(t, v)
		conn, _, err := raw(t, n, hello{})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		synctest.Wait()
		s := v.session(t)
		for id := uint32(2); ; id += 2 {
			if _, err := conn.Write(rawFrame(frameOpen, id, nil)); err != nil {
				break
			}
			if id > 1<<20 {
				t.Fatal("half a million streams were answered")
			}
		}
		<-s.Done()
		if !errors.Is(s.Err(), ErrProtocol) {
			t.Errorf("got %v, want ErrProtocol", s.Err())
		}
	})
}

func TestNothingIsKeptOfStreamsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{}
		n, _ := serve(t, v)
		conn, _, err := raw(t, n, hello{})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		for id := uint32(2); id < 200; id += 2 {
			if _, err := conn.Write(rawFrame(frameOpen, id, make([]byte, maxOpenHeader))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		s := v.session(t)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err != nil || s.peerID != 198 || len(s.streams) > 0 {
			t.Errorf("%d streams are kept after the %dth, %v", len(s.streams), s.peerID, s.err)
		}
	})
}

// A stream that is reset makes room for another, but its handler may still run.
func TestHandlersAreAsFewAsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 16
		v := &Server{Limits: Limits{Streams: most}, Handle: func(ctx context.Context, _ *Stream) { <-ctx.Done() }}
		n, _ := serve(t, v)
		conn, _, err := raw(t, n, hello{})
		if err != nil {
			t.Fatal(err)
		}
		for id := uint32(2); id < 2000; id += 2 {
			_, err := conn.Write(append(rawFrame(frameOpen, id, nil), rawFrame(frameReset, id, make([]byte, 4))...))
			if err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		s := v.session(t)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.serving != most {
			t.Errorf("%d handlers run, want %d", s.serving, most)
		}
	})
}

// Who opens more streams than there may be hears why, whichever side's limit it is.
func TestOneStreamTooManyIsSaidToBe(t *testing.T) {
	for _, tt := range []struct {
		name           string
		server, client int
	}{{"for the server", 3, 9}, {"for the client", 9, 3}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, c := serve(t, &Server{Limits: Limits{Streams: tt.server}, Handle: echo})
				c.Limits.Streams = tt.client
				s := connect(t, c)
				for range 3 {
					open(t, s, "")
				}
				synctest.Wait()
				st, err := s.Open(t.Context(), nil)
				if err == nil {
					_, err = st.Read(make([]byte, 1))
				}
				if !errors.Is(err, ErrBusy) {
					t.Errorf("the fourth stream ends with %v, want ErrBusy", err)
				}
			})
		})
	}
}

func TestMoreCreditThanAnyWindowIsRefused(t *testing.T) {
	for _, credit := range []uint32{maxCredit, 1 << 31, 1<<32 - 1} {
		t.Run(fmt.Sprint(credit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &Server{Handle: func(ctx context.Context, _ *Stream) { <-ctx.Done() }}
				n, _ := serve(t, v)
				conn, _, err := raw(t, n, hello{})
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				s := v.session(t)
				_, _ = conn.Write(rawFrame(frameOpen, 2, nil))
				_, _ = conn.Write(rawFrame(frameWindow, 2, binary.BigEndian.AppendUint32(nil, credit)))
				<-s.Done()
				if !errors.Is(s.Err(), ErrProtocol) {
					t.Errorf("got %v, want ErrProtocol", s.Err())
				}
			})
		})
	}
}

func TestASessionThatHasEndedCanNotBeTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := serve(t, &Server{Handle: echo})
		s := connect(t, c)
		id := s.ID()
		_ = s.Close()
		synctest.Wait()
		if _, _, err := raw(t, n, hello{Session: id}); !errors.Is(err, ErrSessionLost) {
			t.Errorf("got %v, want ErrSessionLost", err)
		}
	})
}

// Whatever a peer sends on as many streams as it gets: not more is kept than the
// limits add up to.
func TestUnreadStreamsCostNoMoreThanTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Limits{Streams: 300, Budget: 4 << 20}
		v := &Server{Limits: l, Handle: func(ctx context.Context, st *Stream) {
			_, _ = io.CopyN(io.Discard, st, 256<<10) // so that windows grow
			<-ctx.Done()
		}}
		_, c := serve(t, v)
		s := connect(t, c)
		for range l.Streams {
			st := open(t, s, "")
			go func() { _, _ = st.Write(make([]byte, 1<<20)) }()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		server := v.session(t)
		server.mu.Lock()
		defer server.mu.Unlock()
		kept, held := 0, 0
		for _, st := range server.streams {
			st.in.mu.Lock()
			kept += st.in.buffered
			for _, c := range st.in.chunks {
				held += len(c.buf)
			}
			st.in.mu.Unlock()
		}
		limit := l.Streams*baseWindow + l.Budget + l.Budget/2
		if kept == 0 || kept > limit {
			t.Errorf("%d bytes are kept, want some, and %d at most", kept, limit)
		}
		if held > 2*limit {
			t.Errorf("they take %d bytes of memory", held)
		}
	})
}

func TestAnIdleSessionHoldsNoBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{Handle: echo}
		_, c := serve(t, v)
		s := connect(t, c)
		st := open(t, s, "")
		go func() { _, _ = st.Write(make([]byte, 8<<20)) }()
		if _, err := io.CopyN(io.Discard, st, 8<<20); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		for _, s := range []*Session{s, v.session(t)} {
			s.mu.Lock()
			if n := len(s.out.segs) + len(s.out.free); n > 1 || s.out.kept() > 100 {
				t.Errorf("%d segments for %d bytes are held", n, s.out.kept())
			}
			s.mu.Unlock()
		}
	})
}
