package stream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// states records what an observer is told.
type states struct {
	mu   sync.Mutex
	list []State
}

func (r *states) add(s State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, s)
}

func (r *states) kinds() (out []StateKind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.list {
		out = append(out, s.Kind)
	}
	return out
}

// Each transport is cut after a random number of bytes in either direction,
// hundreds of times, while several streams echo. What arrives must be what was
// sent.
func TestNothingIsLostDoubledOrReorderedAcrossCuts(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { cutAgainAndAgain(t, seed) })
		})
	}
}

func cutAgainAndAgain(t *testing.T, seed uint64) {
	const streams, size = 6, 2 << 20
	n, c := serve(t, &Server{Handle: echo})
	rnd := rand.New(rand.NewPCG(seed, 7))
	var mu sync.Mutex
	cuts := 0
	n.prepare = func(up, down *wire) {
		mu.Lock()
		defer mu.Unlock()
		w := up
		if rnd.IntN(2) == 0 {
			w = down
		}
		// Now and then in the middle of the handshake.
		w.left = 1 + rnd.IntN([]int{300, 5000, 200 << 10}[rnd.IntN(3)])
		w.onCut = func() {
			mu.Lock()
			cuts++
			mu.Unlock()
			up.stop(errCut)
			down.stop(errCut)
		}
	}
	c.Limits = Limits{Replay: minReplay}
	var s *Session
	for s == nil { // the first handshake may be cut as well
		var err error
		if s, err = c.Connect(t.Context()); err != nil && t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = s.Close() })

	var g sync.WaitGroup
	for i := range streams {
		st := open(t, s, "")
		var sent, got hash.Hash = sha256.New(), sha256.New()
		g.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			buf := make([]byte, 100<<10)
			for left := size; left > 0; {
				p := buf[:min(left, 1+r.IntN(len(buf)))]
				for j := range p {
					p[j] = byte(r.Uint32())
				}
				sent.Write(p)
				if _, err := st.Write(p); err != nil {
					t.Errorf("stream %d: write: %v", i, err)
					return
				}
				left -= len(p)
			}
			_ = st.CloseWrite()
		})
		g.Go(func() {
			if k, err := io.Copy(got, st); err != nil || k != size {
				t.Errorf("stream %d: read %d bytes: %v", i, k, err)
			}
		})
		defer func() {
			if string(sent.Sum(nil)) != string(got.Sum(nil)) {
				t.Errorf("stream %d: bytes differ", i)
			}
		}()
	}
	g.Wait()
	mu.Lock()
	defer mu.Unlock()
	if cuts < 50 {
		t.Errorf("the transport was cut %d times only", cuts)
	}
	t.Logf("cut %d times", cuts)
}

func TestACutOfTenSecondsHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := serve(t, &Server{Handle: echo})
		var seen states
		c.OnState = seen.add
		s := connect(t, c)
		st := open(t, s, "")
		synctest.Wait()

		n.down.Store(true)
		n.cut()
		fmt.Fprint(st, "sent while cut")
		time.Sleep(10 * time.Second) // virtual
		if got := s.State(); got.Kind != Lost || !errors.Is(got.Err, errCut) {
			t.Errorf("state %+v, want lost", got)
		}
		n.down.Store(false)
		buf := make([]byte, 100)
		k, err := st.Read(buf)
		if err != nil || string(buf[:k]) != "sent while cut" {
			t.Errorf("read %q, %v", buf[:k], err)
		}
		got := s.State()
		if got.Kind != Resumed || got.Down < 10*time.Second || got.Down > 11*time.Second {
			t.Errorf("state %+v, want resumed after 10 to 11 s", got)
		}
		if kinds := fmt.Sprint(seen.kinds()); kinds != "[connected lost resumed]" {
			t.Errorf("observed %s", kinds)
		}
	})
}

// A peer that vanishes without a word is noticed by the missing pings.
func TestADeadPeerIsNoticedAndReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := serve(t, &Server{Handle: echo})
		s := connect(t, c)
		st := open(t, s, "")
		time.Sleep(20 * time.Second)
		if got := s.State(); got.Kind != Connected {
			t.Fatalf("an idle session is %s: %v", got.Kind, got.Err)
		}
		n.freeze()
		start := time.Now()
		fmt.Fprint(st, "x")
		if _, err := st.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 4*time.Second || took > 8*time.Second {
			t.Errorf("healed after %v, want about 6s", took)
		}
	})
}

func TestTheServerKeepsALostSessionForAWhile(t *testing.T) {
	for name, test := range map[string]struct {
		away time.Duration
		want error
	}{
		"back in time": {55 * time.Second, nil},
		"too late":     {65 * time.Second, ErrSessionLost},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan error, 1)
				n, c := serve(t, &Server{Handle: func(ctx context.Context, st *Stream) {
					<-ctx.Done()
					ended <- context.Cause(ctx)
				}})
				s := connect(t, c)
				st := open(t, s, "")
				synctest.Wait()
				n.down.Store(true)
				n.cut()
				time.Sleep(test.away)
				n.down.Store(false)
				time.Sleep(2 * time.Second)
				if test.want == nil {
					if got := s.State(); got.Kind != Resumed {
						t.Errorf("state %+v, want resumed", got)
					}
					return
				}
				<-s.Done()
				if !errors.Is(s.Err(), test.want) {
					t.Errorf("session: %v, want %v", s.Err(), test.want)
				}
				if _, err := st.Read(make([]byte, 1)); !errors.Is(err, test.want) {
					t.Errorf("stream: %v, want %v", err, test.want)
				}
				if err := <-ended; !errors.Is(err, test.want) {
					t.Errorf("handler: %v, want %v", err, test.want)
				}
			})
		})
	}
}

func TestARestartedServerEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c1 := serve(t, &Server{Handle: echo})
		n2, c2 := serve(t, &Server{Handle: echo})
		before := true
		c := *c1
		c.Dial = func(ctx context.Context) (io.ReadWriteCloser, error) {
			if before {
				before = false
				conn, err := c1.Dial(ctx)
				if err == nil {
					time.AfterFunc(time.Second, func() { _ = conn.Close() })
				}
				return conn, err
			}
			return c2.Dial(ctx)
		}
		s := connect(t, &c)
		<-s.Done()
		if !errors.Is(s.Err(), ErrSessionLost) {
			t.Errorf("got %v, want ErrSessionLost", s.Err())
		}
		_ = n2
	})
}

func TestAPermanentDialErrorEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := serve(t, &Server{Handle: echo})
		gone := errors.New("pod cart-1 is gone")
		dial := c.Dial
		first := true
		c.Dial = func(ctx context.Context) (io.ReadWriteCloser, error) {
			if !first {
				return nil, Permanent(gone)
			}
			first = false
			return dial(ctx)
		}
		s := connect(t, c)
		n.cut()
		<-s.Done()
		if !errors.Is(s.Err(), gone) {
			t.Errorf("got %v, want %v", s.Err(), gone)
		}
	})
}

// The client may notice a break before the server does.
func TestANewTransportReplacesOneThatTheServerBelievesIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := serve(t, &Server{Handle: echo})
		s := connect(t, c)
		st := open(t, s, "")
		synctest.Wait()
		up, down := n.last()
		up.freeze()
		down.stop(errCut) // only the client's reading side notices
		start := time.Now()
		fmt.Fprint(st, "x")
		if _, err := st.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("healed after %v, want at once", took)
		}
	})
}

func TestSessionsWithoutAClientMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := serve(t, &Server{Handle: echo, MaxSessions: 2})
		lost := connect(t, c)
		synctest.Wait()
		n.down.Store(true)
		n.cut()
		synctest.Wait() // until lost is between two attempts
		n.down.Store(false)
		connect(t, c)
		connect(t, c)
		<-lost.Done()
		if !errors.Is(lost.Err(), ErrSessionLost) {
			t.Errorf("got %v, want ErrSessionLost", lost.Err())
		}
		_, err := c.Connect(t.Context())
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Refusal != RefusedBusy {
			t.Errorf("got %v, want busy", err)
		}
	})
}

func TestSessionsInUseMakeRoomLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := serve(t, &Server{Handle: echo, MaxSessions: 2})
		used, idle := connect(t, c), connect(t, c)
		st := open(t, used, "")
		fmt.Fprint(st, "x")
		if _, err := st.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		n.down.Store(true)
		n.cut()
		synctest.Wait() // until both are between two attempts
		n.down.Store(false)
		connect(t, c)
		<-idle.Done()
		fmt.Fprint(st, "y")
		if _, err := st.Read(make([]byte, 1)); err != nil {
			t.Errorf("the session with a stream was not kept: %v", err)
		}
	})
}

// While the transport is gone, writers are held back by the replay buffer.
func TestWritersWaitWhileTheTransportIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := serve(t, &Server{Handle: echo})
		s := connect(t, c)
		synctest.Wait()
		n.down.Store(true)
		n.cut()
		total := 0
		for {
			st := open2(s)
			if st == nil {
				break
			}
			_ = st.SetWriteDeadline(time.Now().Add(time.Second))
			k, err := st.Write(make([]byte, 1<<20))
			total += k
			if err != nil {
				break
			}
		}
		if total > firstCap+maxPayload {
			t.Errorf("%d bytes were taken without a transport", total)
		}
		n.down.Store(false)
	})
}

func open2(s *Session) *Stream {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := s.Open(ctx, nil)
	if err != nil {
		return nil
	}
	return st
}
