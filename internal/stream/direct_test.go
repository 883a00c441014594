package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// besides is a direct way to v, beside that of serve.
func besides(t *testing.T, v *Server, c *Client) *network {
	t.Helper()
	n := newNetwork(t)
	ctx, cancel := context.WithCancel(t.Context())
	var resuming sync.WaitGroup
	resuming.Go(func() {
		for {
			conn, err := n.Accept()
			if err != nil {
				return
			}
			resuming.Go(func() { v.Resume(ctx, conn) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = n.Close()
		resuming.Wait()
	})
	c.Direct = func(context.Context, *Session) (func(context.Context) (io.ReadWriteCloser, error), error) {
		return n.dial, nil
	}
	return n
}

// dials is how many transports there were.
func (n *network) dials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.links)
}

// say sends a line over an echo and checks that it comes back.
func say(t *testing.T, st *Stream, line string) {
	t.Helper()
	if _, err := io.WriteString(st, line); err != nil {
		t.Fatalf("write %q: %v", line, err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(st, got); err != nil || string(got) != line {
		t.Fatalf("read %q, %v, want %q", got, err, line)
	}
}

func TestASessionMovesToTheDirectWayWithoutALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{Handle: echo}
		_, c := serve(t, v)
		n := besides(t, v, c)
		var seen states
		c.OnState = seen.add
		s := connect(t, c)
		st := open(t, s, "")
		say(t, st, "before")
		if n.dials() != 0 {
			t.Error("the direct way is dialled by a session that has just begun")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := s.State(); got.Kind != Moved || !got.Direct {
			t.Errorf("client: %+v, want moved", got)
		}
		if got := v.session(t).State(); got.Kind != Moved || !got.Direct {
			t.Errorf("server: %+v, want moved", got)
		}
		say(t, st, "after")
		time.Sleep(time.Hour)
		say(t, st, "long after")
		if kinds := fmt.Sprint(seen.kinds()); kinds != "[connected moved]" || n.dials() != 1 {
			t.Errorf("observed %s with %d direct transports", kinds, n.dials())
		}
	})
}

// What a transport carries when it is left must arrive, in either direction, however
// often the session is moved and whatever is cut.
func TestMovesUnderLoadLoseNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		cut  []int // after how many bytes the direct transports are cut, 0 for never
	}{
		{"never cut", nil},
		{"cut in the middle", []int{300 << 10, 100 << 10, 800 << 10, 0}},
		{"cut while it moves", []int{1, 100, 400, 500, 700, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { moveUnderLoad(t, tt.cut) })
		})
	}
}

func moveUnderLoad(t *testing.T, cuts []int) {
	const size = 256 << 10
	v := &Server{Handle: echo}
	_, c := serve(t, v)
	direct := besides(t, v, c)
	direct.prepare = func(up, down *wire) {
		if len(cuts) == 0 {
			return
		}
		w := up
		if len(cuts)%2 == 0 {
			w = down
		}
		if cuts[0] > 0 {
			w.left = cuts[0]
		}
		cuts = cuts[1:]
		w.onCut = func() { up.stop(errCut); down.stop(errCut) }
	}
	s := connect(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	var g sync.WaitGroup
	for i := range uint64(4) {
		st := open(t, s, "")
		g.Go(func() {
			r := rand.New(rand.NewPCG(i, 3))
			sent, got := make([]byte, size), make([]byte, size)
			for round := 0; ctx.Err() == nil; round++ {
				for j := range sent {
					sent[j] = byte(r.Uint32())
				}
				go func() { _, _ = st.Write(sent) }()
				if _, err := io.ReadFull(st, got); err != nil {
					t.Errorf("stream %d, round %d: %v", i, round, err)
					return
				}
				if !bytes.Equal(sent, got) {
					t.Errorf("stream %d, round %d: bytes differ", i, round)
					return
				}
				time.Sleep(time.Duration(r.IntN(200)) * time.Second) // virtual
			}
		})
	}
	g.Wait()
	if got := s.State(); !got.Direct || s.Err() != nil {
		t.Errorf("in the end: %+v, %v", got, s.Err())
	}
	t.Logf("%d direct transports", direct.dials())
}

// In real time: transfers in both directions are under way when the session moves, and
// some of the direct transports are cut soon after, or while it moves.
func TestMovesInTheMiddleOfTransfersLoseNothing(t *testing.T) {
	v := &Server{Handle: echo}
	_, c := serve(t, v)
	n := besides(t, v, c)
	rnd := rand.New(rand.NewPCG(5, 7))
	n.prepare = func(up, down *wire) {
		w := []*wire{up, down}[rnd.IntN(2)]
		w.left = []int{-1, 250 + rnd.IntN(300), 250 + rnd.IntN(1<<20)}[rnd.IntN(3)]
		w.onCut = func() { up.stop(errCut); down.stop(errCut) }
	}
	moved := 0
	for i := range uint64(40) {
		c.settle = time.Duration(1+rnd.IntN(20_000)) * time.Microsecond
		changes := make(chan StateKind, 10)
		c.OnState = func(s State) {
			if s.Kind != Connected {
				changes <- s.Kind
			}
		}
		s := connect(t, c)
		over := make(chan struct{})
		var g sync.WaitGroup
		for k := range uint64(2) {
			st := open(t, s, "")
			sent, got := sha256.New(), sha256.New()
			g.Go(func() {
				source := rand.NewChaCha8([32]byte{byte(i), byte(k)})
				buf := make([]byte, 64<<10)
				for more := true; more; {
					select {
					case <-over:
						more = false
					default:
					}
					_, _ = source.Read(buf)
					sent.Write(buf)
					if _, err := st.Write(buf); err != nil {
						t.Errorf("session %d: write: %v", i, err)
						return
					}
				}
				_ = st.CloseWrite()
			})
			g.Go(func() {
				if _, err := io.Copy(got, st); err != nil {
					t.Errorf("session %d: read: %v", i, err)
				}
			})
			defer func() {
				if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
					t.Errorf("session %d: bytes differ", i)
				}
			}()
		}
		select {
		case kind := <-changes:
			if kind == Moved {
				moved++
			}
		case <-time.After(30 * time.Second):
			t.Errorf("session %d did not move", i)
		}
		time.Sleep(5 * time.Millisecond) // some more on the new transport
		close(over)
		g.Wait()
		_ = s.Close()
	}
	if moved < 10 {
		t.Errorf("%d of 40 sessions moved", moved)
	}
	t.Logf("%d of 40 sessions moved", moved)
}

func TestADirectWayThatBreaksIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{Handle: echo}
		_, c := serve(t, v)
		n := besides(t, v, c)
		var seen states
		c.OnState = seen.add
		s := connect(t, c)
		st := open(t, s, "")
		time.Sleep(time.Minute)
		n.down.Store(true)
		n.cut()
		synctest.Wait()
		say(t, st, "by the port-forward")
		if got := s.State(); got.Kind != Resumed || got.Direct || got.Down > time.Second {
			t.Errorf("state %+v, want resumed at once", got)
		}
		n.down.Store(false)
		time.Sleep(15 * time.Second)
		say(t, st, "direct again")
		if got := s.State(); got.Kind != Moved || !got.Direct {
			t.Errorf("state %+v, want moved", got)
		}
		n.cut() // it did not last
		synctest.Wait()
		if got := s.State(); got.Kind != Resumed || got.Direct {
			t.Errorf("state %+v, want resumed by the port-forward", got)
		}
		time.Sleep(5 * time.Minute)
		n.cut()
		synctest.Wait()
		if got := s.State(); got.Kind != Resumed || !got.Direct {
			t.Errorf("state %+v, want resumed by the direct way", got)
		}
		if kinds := fmt.Sprint(seen.kinds()); kinds != "[connected moved lost resumed moved lost resumed moved lost resumed]" {
			t.Errorf("observed %s", kinds)
		}
	})
}

// Nobody may notice a direct way on which nothing answers, whatever it is that does
// not.
func TestASilentDirectWayIsNotNoticed(t *testing.T) {
	for name, set := range map[string]func(n *network, c *Client){
		"the question": func(_ *network, c *Client) {
			c.Direct = func(ctx context.Context, _ *Session) (func(context.Context) (io.ReadWriteCloser, error), error) {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
		},
		"the dial": func(_ *network, c *Client) {
			dial := func(ctx context.Context) (io.ReadWriteCloser, error) {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
			c.Direct = func(context.Context, *Session) (func(context.Context) (io.ReadWriteCloser, error), error) {
				return dial, nil
			}
		},
		"the handshake": func(n *network, _ *Client) {
			n.prepare = func(up, down *wire) { down.frozen = true }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &Server{Handle: echo}
				_, c := serve(t, v)
				set(besides(t, v, c), c)
				var seen states
				c.OnState = seen.add
				s := connect(t, c)
				st := open(t, s, "")
				for range 600 {
					say(t, st, "hello")
					time.Sleep(time.Second)
				}
				if kinds := fmt.Sprint(seen.kinds()); kinds != "[connected]" {
					t.Errorf("observed %s", kinds)
				}
			})
		})
	}
}

// The server agrees, and the direct way falls silent then.
func TestADirectWayThatFallsSilentAtTheMoveIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{Handle: echo}
		_, c := serve(t, v)
		n := besides(t, v, c)
		n.prepare = func(up, down *wire) {
			down.left = 150 // the first answer, and not all of the second
			down.onCut = down.freeze
		}
		s := connect(t, c)
		st := open(t, s, "")
		time.Sleep(settleTime + time.Millisecond)
		began := time.Now()
		say(t, st, "hello")
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		if got := s.State(); got.Direct || got.Kind != Resumed {
			t.Errorf("state %+v, want resumed by the port-forward", got)
		}
	})
}

// It has carried the session for a minute, and nothing comes any more, nor by another
// attempt there.
func TestADirectWayThatFallsSilentIsLeftSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{Handle: echo}
		_, c := serve(t, v)
		n := besides(t, v, c)
		var silent atomic.Bool
		n.prepare = func(up, down *wire) { down.frozen = silent.Load() }
		s := connect(t, c)
		st := open(t, s, "")
		time.Sleep(time.Minute)
		for ms := range 20 { // whenever that is between two signs of life
			time.Sleep(time.Minute + time.Duration(ms)*100*time.Millisecond)
			if got := s.State(); !got.Direct {
				t.Fatalf("state %+v, want direct", got)
			}
			silent.Store(true)
			n.freeze()
			began := time.Now()
			say(t, st, "hello")
			if took := time.Since(began); took < time.Second || took > 5*time.Second {
				t.Errorf("it took %v, want 3 to 5 s", took)
			}
			silent.Store(false)
			time.Sleep(10 * time.Minute)
		}
	})
}

func TestAttemptsAtADirectWayGetRarer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, &Server{Handle: echo})
		var mu sync.Mutex
		var at []time.Duration
		began := time.Now()
		c.Direct = func(context.Context, *Session) (func(context.Context) (io.ReadWriteCloser, error), error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(began).Round(time.Second))
			return nil, errors.New("not now")
		}
		connect(t, c)
		time.Sleep(20 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		var want []time.Duration
		for _, s := range []int{1, 11, 31, 71, 151, 311, 611, 911} {
			want = append(want, time.Duration(s)*time.Second)
		}
		if !slices.Equal(at[:len(want)], want) {
			t.Errorf("attempts at %v, want %v", at, want)
		}
	})
}

func TestAServerWithoutADirectWayIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := serve(t, &Server{Handle: echo})
		asked := 0
		c.Direct = func(context.Context, *Session) (func(context.Context) (io.ReadWriteCloser, error), error) {
			asked++
			return nil, Permanent(errors.New("there is none"))
		}
		s := connect(t, c)
		time.Sleep(time.Hour)
		n.cut()
		time.Sleep(time.Hour)
		if got := s.State(); asked != 1 || got.Kind != Resumed {
			t.Errorf("asked %d times; state %+v", asked, got)
		}
	})
}

// Only who has the session's token, and knows the session, may take it over.
func TestTheDirectWayTakesNoStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{Handle: echo}
		_, c := serve(t, v)
		n := besides(t, v, c)
		c.Direct = nil
		s := connect(t, c)
		st := open(t, s, "")
		say(t, st, "hello")
		own := hello{Min: 1, Max: 1, Token: "secret", Window: baseWindow, Replay: minReplay, Session: s.ID()}
		for name, change := range map[string]func(*hello){
			"another token":        func(h *hello) { h.Token = "guess" },
			"no session":           func(h *hello) { h.Session = "" },
			"no session to move":   func(h *hello) { h.Session, h.Move = "", true },
			"another session":      func(h *hello) { h.Session = newSessionID() },
			"another to move":      func(h *hello) { h.Session, h.Move = newSessionID(), true },
			"another token, moved": func(h *hello) { h.Token, h.Move = "guess", true },
		} {
			h := own
			change(&h)
			conn, err := n.dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var refused *RefusedError
			if _, err := greet(t.Context(), conn, h); !errors.As(err, &refused) && !errors.Is(err, ErrSessionLost) {
				t.Errorf("%s: got %v, want a refusal", name, err)
			}
			_ = conn.Close()
		}
		say(t, st, "still here")
		if got := s.State(); got.Kind != Connected {
			t.Errorf("state %+v", got)
		}
	})
}

// mayMove is a transport to which a session may move, as the server has said, and what was
// said to the server.
func mayMove(t *testing.T, n *network, c *Client, s *Session) (io.ReadWriteCloser, hello) {
	t.Helper()
	conn, err := n.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h := c.hello(c.Limits.withDefaults())
	h.Session, h.Move = s.ID(), true
	if _, err := greet(t.Context(), conn, h); err != nil {
		t.Fatal(err)
	}
	return conn, h
}

// A client that says it moves and does not costs its connection.
func TestAMoveThatDoesNotComeIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{Handle: echo}
		_, c := serve(t, v)
		n := besides(t, v, c)
		c.Direct = nil
		s := connect(t, c)
		conn, _ := mayMove(t, n, c, s)
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want %v", err, io.EOF)
		}
		say(t, open(t, s, ""), "hello")
		if got := s.State(); got.Kind != Connected {
			t.Errorf("state %+v", got)
		}
	})
}

// A position that cannot be gone on from ends the session, as it does elsewhere.
func TestAMoveToAnImpossiblePositionEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{Handle: echo}
		_, c := serve(t, v)
		n := besides(t, v, c)
		c.Direct = nil
		s := connect(t, c)
		conn, h := mayMove(t, n, c, s)
		if _, err := exchange(t.Context(), conn, commit{Received: 1 << 40}, h); !errors.Is(err, ErrSessionLost) {
			t.Errorf("got %v, want %v", err, ErrSessionLost)
		}
		// The client of the session goes on where it was.
		say(t, open(t, s, ""), "hello")
		if got := s.State(); got.Kind != Resumed {
			t.Errorf("state %+v", got)
		}
	})
}

func TestASessionThatEndsWhileItMoves(t *testing.T) {
	for name, end := range map[string]func(v *Server, s *Session){
		"at the client": func(_ *Server, s *Session) { go s.Close() },
		"at the server": func(v *Server, _ *Session) {
			v.End(func(string) bool { return true }, errors.New("over"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &Server{Handle: echo}
				_, c := serve(t, v)
				n := besides(t, v, c)
				began := make(chan *Session, 1)
				n.prepare = func(_, down *wire) {
					down.left = 20 // within the first answer
					down.onCut = func() { end(v, <-began) }
				}
				s := connect(t, c)
				began <- s
				<-s.Done()
				up, down := n.last()
				for _, w := range []*wire{up, down} {
					w.mu.Lock()
					if w.err == nil {
						t.Error("the direct transport was left open")
					}
					w.mu.Unlock()
				}
			})
		})
	}
}

// A session that is closed just when it has moved says so to the other side.
func TestAClosedSessionEndsOnBothSidesAfterItMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Server{Handle: echo}
		_, c := serve(t, v)
		besides(t, v, c)
		s := connect(t, c)
		time.Sleep(settleTime)
		server := v.session(t)
		_ = s.Close()
		<-server.Done()
		if err := server.Err(); !errors.Is(err, ErrPeerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("server: %v", err)
		}
	})
}
