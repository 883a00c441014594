package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestStreamCarriesHeaderAndBytesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, &Server{Version: "v9", Features: []string{"b", "a"}, Handle: func(_ context.Context, st *Stream) {
			fmt.Fprintf(st, "header %s\n", st.Header())
			_, _ = io.Copy(st, st)
		}})
		c.Features = []string{"a", "c"}
		s := connect(t, c)
		if got := s.PeerVersion(); got != "v9" {
			t.Errorf("peer's version %q, want v9", got)
		}
		if got := s.Features(); len(got) != 1 || got[0] != "a" {
			t.Errorf("features %q, want a", got)
		}
		st := open(t, s, "exec")
		if _, err := st.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := st.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(st)
		if err != nil || string(got) != "header exec\nhello" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := st.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after CloseWrite: %v, want net.ErrClosed", err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := len(s.streams); n != 0 {
			t.Errorf("%d streams are kept after both sides closed", n)
		}
	})
}

func TestServerSideMayOpenStreamsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, &Server{Handle: func(ctx context.Context, st *Stream) {
			back, err := st.Session().Open(ctx, []byte("back"))
			if err != nil {
				t.Error(err)
				return
			}
			defer back.Close()
			fmt.Fprint(back, "from the pod")
			_ = back.CloseWrite()
			_, _ = io.Copy(io.Discard, back)
		}})
		got := make(chan string, 1)
		c.Handle = func(_ context.Context, st *Stream) {
			b, _ := io.ReadAll(st)
			got <- string(st.Header()) + " " + string(b)
		}
		open(t, connect(t, c), "")
		if g := <-got; g != "back from the pod" {
			t.Errorf("got %q", g)
		}
	})
}

func TestStreamsNobodyHandlesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, &Server{})
		st := open(t, connect(t, c), "x")
		var reset *ResetError
		if _, err := st.Read(make([]byte, 1)); !errors.As(err, &reset) || reset.Code != CodeRefused {
			t.Errorf("read: %v, want refused", err)
		}
	})
}

func TestResetReachesThePeerWithItsCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errs := make(chan error, 2)
		_, c := serve(t, &Server{Handle: func(_ context.Context, st *Stream) {
			_, err := st.Read(make([]byte, 1))
			errs <- err
			_, err = st.Write([]byte("x"))
			errs <- err
		}})
		st := open(t, connect(t, c), "x")
		st.Reset(CodeUser + 7)
		for range 2 {
			var reset *ResetError
			if err := <-errs; !errors.As(err, &reset) || reset.Code != CodeUser+7 {
				t.Errorf("peer saw %v, want code %d", err, CodeUser+7)
			}
		}
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("own read: %v, want net.ErrClosed", err)
		}
	})
}

func TestCloseStopsThePeersWritesButDeliversOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type seen struct {
			got  string
			werr error
		}
		result := make(chan seen, 1)
		_, c := serve(t, &Server{Handle: func(_ context.Context, st *Stream) {
			var r seen
			for r.werr == nil {
				_, r.werr = st.Write(make([]byte, 1000))
			}
			b, _ := io.ReadAll(st)
			r.got = string(b)
			result <- r
		}})
		st := open(t, connect(t, c), "x")
		fmt.Fprint(st, "last words")
		_ = st.Close()
		r := <-result
		var reset *ResetError
		if !errors.As(r.werr, &reset) || reset.Code != CodeUnread {
			t.Errorf("peer's write: %v, want unread", r.werr)
		}
		if r.got != "last words" {
			t.Errorf("peer read %q", r.got)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, &Server{Handle: func(ctx context.Context, st *Stream) { <-ctx.Done() }})
		st := open(t, connect(t, c), "x")
		start := time.Now()
		_ = st.SetReadDeadline(start.Add(3 * time.Second))
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v, want deadline exceeded", err)
		}
		_ = st.SetWriteDeadline(start.Add(5 * time.Second))
		n, err := st.Write(make([]byte, 64<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v, want deadline exceeded", err)
		}
		if n != initialWindow {
			t.Errorf("wrote %d, want the window of %d", n, initialWindow)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %v, want 5s", took)
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
		// Moving a deadline wakes who waits.
		_ = st.SetDeadline(time.Time{})
		time.AfterFunc(time.Second, func() { _ = st.SetReadDeadline(time.Now()) })
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v, want deadline exceeded", err)
		}
	})
}

func TestAStalledStreamDoesNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, &Server{Handle: func(ctx context.Context, st *Stream) {
			if string(st.Header()) == "stall" {
				<-ctx.Done()
				return
			}
			echo(ctx, st)
		}})
		s := connect(t, c)
		var g sync.WaitGroup
		for range 8 {
			st := open(t, s, "stall")
			g.Go(func() { _, _ = st.Write(make([]byte, 32<<20)) })
		}
		synctest.Wait()
		st := open(t, s, "echo")
		want := bytes.Repeat([]byte("abc"), 1<<20)
		g.Go(func() {
			_, _ = st.Write(want)
			_ = st.CloseWrite()
		})
		got, err := io.ReadAll(st)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("echo of %d bytes gave %d, %v", len(want), len(got), err)
		}
		_ = s.Close()
		g.Wait()
	})
}

// A bulk stream never gets more than one batch ahead of small ones.
func TestStreamsTakeTurns(t *testing.T) {
	s := newSession(t.Context(), newSessionID(), true, Limits{}.withDefaults(), peer{Window: 1 << 30, Replay: minReplay})
	bulk, small := newStream(s, 2, nil), newStream(s, 4, nil)
	late := newStream(s, 0, []byte("late"))
	bulk.pending = make([]byte, 100<<20)
	small.pending = make([]byte, 100)
	s.turns.add(bulk)
	s.takeTurns()
	s.turns.add(small)
	s.turns.add(late)
	s.out.next(nil, s.gov.batch())
	s.out.written()
	from := s.out.sent
	s.takeTurns()
	var order []uint32
	for _, b := range s.out.next(nil, 1<<20) {
		for len(b) > 0 {
			f, err := parseFrame([headerSize]byte(b))
			if err != nil {
				t.Fatal(err)
			}
			order = append(order, f.stream)
			b = b[headerSize+f.length:]
		}
	}
	if len(order) < 3 || order[0] != 4 || order[1] != late.id || order[2] != 2 {
		t.Errorf("order after position %d: %v", from, order)
	}
	if late.id == 0 {
		t.Error("a stream that wants to open got no turn")
	}
	if n := s.out.unsent(); n > s.gov.batch()+maxPayload {
		t.Errorf("%d bytes wait for the transport", n)
	}
}

func TestWindowsGrowWhenTheReaderKeepsUpAndOnlyThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, &Server{Handle: func(_ context.Context, st *Stream) {
			for {
				if _, err := st.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}})
		c.Limits = Limits{Window: 4 << 20, Budget: 4 << 20}
		s := connect(t, c)
		fast, slow := open(t, s, "fast"), open(t, s, "slow")
		if _, err := io.CopyN(io.Discard, fast, 64<<20); err != nil {
			t.Fatal(err)
		}
		for range 40 {
			synctest.Wait() // the sender fills the window each time
			if _, err := io.CopyN(io.Discard, slow, 64<<10); err != nil {
				t.Fatal(err)
			}
		}
		if w := fast.in.window; w != 4<<20 {
			t.Errorf("the fast reader's window is %d, want %d", w, 4<<20)
		}
		if w := slow.in.window; w != initialWindow {
			t.Errorf("the slow reader's window is %d, want %d", w, initialWindow)
		}
		_ = fast.Close()
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.budget != 4<<20 {
			t.Errorf("budget is %d after the stream closed, want all of it", s.budget)
		}
	})
}

func TestClientsThatDoNotSpeakTheProtocolAreDropped(t *testing.T) {
	big := "bight/s\n\xff\xff"
	for name, in := range map[string]string{
		"HTTP":           "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
		"TLS":            "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"one byte":       "x",
		"huge hello":     big,
		"hello, no JSON": "bight/s\n\x00\x03abc",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, c := serve(t, &Server{Handle: echo})
				conn, err := n.dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				_, _ = io.WriteString(conn, in)
				got, _ := io.ReadAll(conn)
				if len(got) != 0 || time.Since(start) != 0 {
					t.Errorf("answered %q after %v", got, time.Since(start))
				}
				st := open(t, connect(t, c), "") // the others are served
				fmt.Fprint(st, "x")
				if _, err := st.Read(make([]byte, 1)); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestASilentClientIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := serve(t, &Server{Handle: echo})
		conn, err := n.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, _ = io.ReadAll(conn)
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("dropped after %v, want 5s", took)
		}
	})
}

func TestWrongTokenIsRefusedAndNeverLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		_, c := serve(t, &Server{Handle: echo, Token: "server-secret", Log: log})
		c.Token, c.Log = "client-secret", log
		_, err := c.Connect(t.Context())
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Refusal != RefusedToken {
			t.Fatalf("got %v, want a refused token", err)
		}
		synctest.Wait()
		if all := logged.String() + err.Error(); strings.Contains(all, "-secret") {
			t.Errorf("a token was told: %s", all)
		}
	})
}

func TestServerWithoutATokenDoesNotStart(t *testing.T) {
	if err := (&Server{}).Serve(t.Context(), newNetwork(t)); err == nil {
		t.Error("it served")
	}
}

func TestConnectTriesOnceAndNamesTheCause(t *testing.T) {
	want := errors.New("no such pod")
	c := &Client{Token: "x", Dial: func(context.Context) (io.ReadWriteCloser, error) { return nil, want }}
	if _, err := c.Connect(t.Context()); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestConnectToWhatDoesNotAnswerHonoursTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{Token: "x", Dial: func(context.Context) (io.ReadWriteCloser, error) {
			return &end{in: newWire(1), out: newWire(1 << 20)}, nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := c.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want deadline exceeded", err)
		}
	})
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan int, 1)
		_, c := serve(t, &Server{Handle: func(_ context.Context, st *Stream) {
			n, _ := io.Copy(io.Discard, st)
			got <- int(n)
		}})
		s := connect(t, c)
		st := open(t, s, "")
		if _, err := st.Write(make([]byte, 5<<20)); err != nil {
			t.Fatal(err)
		}
		_ = st.Close()
		start := time.Now()
		_ = s.Close()
		if n := <-got; n != 5<<20 {
			t.Errorf("peer read %d bytes, want %d", n, 5<<20)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("Close waited %v", took)
		}
		if !errors.Is(s.Err(), net.ErrClosed) {
			t.Errorf("Err = %v", s.Err())
		}
		if _, err := s.Open(t.Context(), nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Open after Close: %v", err)
		}
	})
}

// held is a transport by a relay that, like a port-forward's, does not tell that its
// far end is gone before it has heard that nothing more will be written here.
type held struct {
	io.ReadWriteCloser
	once    sync.Once
	written chan struct{}
}

func (h *held) Read(p []byte) (int, error) {
	n, err := h.ReadWriteCloser.Read(p)
	if err != nil {
		<-h.written
	}
	return n, err
}

func (h *held) CloseWrite() error {
	h.once.Do(func() {
		h.ReadWriteCloser.(*end).out.stop(io.EOF)
		close(h.written)
	})
	return nil
}

func (h *held) Close() error {
	_ = h.CloseWrite()
	return h.ReadWriteCloser.Close()
}

func TestCloseDoesNotWaitForARelayThatWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got, over := make(chan int64, 1), make(chan struct{})
		_, c := serve(t, &Server{Handle: func(_ context.Context, st *Stream) {
			n, _ := io.Copy(io.Discard, st)
			got <- n
			<-st.Session().ctx.Done()
			close(over)
		}})
		dial := c.Dial
		c.Dial = func(ctx context.Context) (io.ReadWriteCloser, error) {
			conn, err := dial(ctx)
			return &held{ReadWriteCloser: conn, written: make(chan struct{})}, err
		}
		s := connect(t, c)
		st := open(t, s, "")
		if _, err := st.Write(make([]byte, 5<<20)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_ = s.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("Close waited %v", took)
		}
		if n := <-got; n != 5<<20 {
			t.Errorf("peer read %d bytes, want %d", n, 5<<20)
		}
		<-over
		if took := time.Since(start); took != 0 { // it had the goaway, or would wait for another transport
			t.Errorf("the session was over at its peer after %v", took)
		}
	})
}

func TestTheSessionEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, &Server{Handle: echo})
		ctx, cancel := context.WithCancelCause(t.Context())
		s, err := c.Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		st := open(t, s, "")
		why := errors.New("user pressed Ctrl-C")
		cancel(why)
		<-s.Done()
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, why) {
			t.Errorf("read: %v, want %v", err, why)
		}
	})
}

func TestOpenWaitsForRoomAndHonoursItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, c := serve(t, &Server{Handle: echo})
		s := connect(t, c)
		synctest.Wait()
		n.freeze()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var err error
		for range 1000 {
			if _, err = s.Open(ctx, make([]byte, maxOpenHeader)); err != nil {
				break
			}
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want deadline exceeded", err)
		}
		if _, err := s.Open(t.Context(), make([]byte, maxOpenHeader+1)); err == nil {
			t.Error("a header that is too large was taken")
		}
	})
}
