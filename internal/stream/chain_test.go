package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// chain is what lies between laptop and pod: so many bytes per second, so long a
// way, and buffers that take sixteen megabytes before a writer notices.
type chain struct {
	rate  float64 // bytes per second
	delay time.Duration
}

var chains = []struct {
	name string
	chain
}{
	{"280 MB/s, 0.2 ms", chain{280e6, 100 * time.Microsecond}},
	{"50 MB/s, 20 ms", chain{50e6, 10 * time.Millisecond}},
	{"2 MB/s, 40 ms", chain{2e6, 20 * time.Millisecond}},
}

const (
	chainBuffer = 16 << 20
	chainPiece  = 16 << 10
)

// lane is one direction of a chain.
type lane struct {
	chain
	mu     sync.Mutex
	cond   *sync.Cond
	pieces []piece
	size   int
	free   time.Time // when the last piece has left the bottleneck
	closed bool
}

type piece struct {
	at time.Time // when it comes out
	b  []byte
}

func newLane(c chain) *lane {
	l := &lane{chain: c}
	l.cond = sync.NewCond(&l.mu)
	return l
}

func (l *lane) write(p []byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 {
		for l.size >= chainBuffer && !l.closed {
			l.cond.Wait()
		}
		if l.closed {
			return n, errCut
		}
		k := min(len(p), chainPiece)
		if now := time.Now(); l.free.Before(now) {
			l.free = now
		}
		l.free = l.free.Add(time.Duration(float64(k) / l.rate * float64(time.Second)))
		l.pieces = append(l.pieces, piece{l.free.Add(l.delay), slices.Clone(p[:k])})
		l.size += k
		p, n = p[k:], n+k
		l.cond.Broadcast()
	}
	return n, nil
}

func (l *lane) read(p []byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pieces) == 0 && !l.closed {
		l.cond.Wait()
	}
	if len(l.pieces) == 0 || l.closed {
		return 0, io.EOF
	}
	if wait := time.Until(l.pieces[0].at); wait > 0 { // there is one reader
		l.mu.Unlock()
		time.Sleep(wait)
		l.mu.Lock()
	}
	for now := time.Now(); n < len(p) && len(l.pieces) > 0 && !l.pieces[0].at.After(now); {
		k := copy(p[n:], l.pieces[0].b)
		n += k
		if l.pieces[0].b = l.pieces[0].b[k:]; len(l.pieces[0].b) == 0 {
			l.pieces = l.pieces[1:]
		}
	}
	l.size -= n
	l.cond.Broadcast()
	return n, nil
}

func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.cond.Broadcast()
}

// chainEnd is one end of a chain.
type chainEnd struct {
	net.Conn // nil: only what is below may be used
	in, out  *lane
}

func (e *chainEnd) Read(p []byte) (int, error)  { return e.in.read(p) }
func (e *chainEnd) Write(p []byte) (int, error) { return e.out.write(p) }
func (e *chainEnd) Close() error {
	e.in.close()
	e.out.close()
	return nil
}

// across connects a session to a server over a chain. The server's streams do
// what their header says: echo, sink, source or stall.
func across(t testing.TB, c chain, l Limits) *Session {
	t.Helper()
	n := newNetwork(t)
	v := &Server{Token: "secret", Limits: l, Handle: func(ctx context.Context, st *Stream) {
		switch string(st.Header()) {
		case "echo":
			echo(ctx, st)
		case "sink":
			countInto(st)
		case "source":
			for buf := make([]byte, 32<<10); ; {
				if _, err := st.Write(buf); err != nil {
					return
				}
			}
		case "stall":
			<-ctx.Done()
		}
	}}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- v.Serve(ctx, n) }()
	client := &Client{Token: "secret", Limits: l, Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
		up, down := newLane(c), newLane(c)
		select {
		case n.accept <- &chainEnd{in: up, out: down}:
			return &chainEnd{in: down, out: up}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	s, err := client.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-s.Done()
		<-served
	})
	return s
}

// countInto reads everything and says now and then how much that was.
func countInto(st *Stream) {
	buf := make([]byte, 256<<10)
	var got, told uint64
	for {
		n, err := st.Read(buf)
		if err != nil {
			return
		}
		if got += uint64(n); got-told >= 64<<10 {
			told = got
			if _, err := st.Write(binary.BigEndian.AppendUint64(nil, got)); err != nil {
				return
			}
		}
	}
}

// bulk moves bytes to or from the server until stop is called, and counts those
// that have arrived.
func bulk(t testing.TB, s *Session, direction string) (arrived *atomic.Int64, stop func()) {
	t.Helper()
	arrived = new(atomic.Int64)
	var g sync.WaitGroup
	var st *Stream
	if direction == "down" {
		st = open(t, s, "source")
		g.Go(func() {
			for buf := make([]byte, 256<<10); ; {
				n, err := st.Read(buf)
				if err != nil {
					return
				}
				arrived.Add(int64(n))
			}
		})
	} else {
		st = open(t, s, "sink")
		g.Go(func() {
			for buf := make([]byte, 32<<10); ; {
				if _, err := st.Write(buf); err != nil {
					return
				}
			}
		})
		g.Go(func() {
			for b := make([]byte, 8); ; {
				if _, err := io.ReadFull(st, b); err != nil {
					return
				}
				arrived.Store(int64(binary.BigEndian.Uint64(b)))
			}
		})
	}
	return arrived, func() {
		st.Reset(CodeAborted)
		g.Wait()
	}
}

// echoes returns the times of n small round trips, sorted.
func echoes(t testing.TB, st *Stream, n int) []time.Duration {
	t.Helper()
	buf := make([]byte, 64)
	var took []time.Duration
	for range n {
		start := time.Now()
		if _, err := st.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(st, buf); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took
}

func median(d []time.Duration) time.Duration { return d[len(d)/2] }

// beside measures small round trips beside a bulk transfer: idle before, and then
// the bulk's rate alone and with them.
func beside(t testing.TB, s *Session, direction string, warm time.Duration, n int) (idle, busy []time.Duration, alone, together float64) {
	t.Helper()
	st := open(t, s, "echo")
	idle = echoes(t, st, n)
	arrived, stop := bulk(t, s, direction)
	defer stop()
	rate := func(during func()) float64 {
		from, start := arrived.Load(), time.Now()
		during()
		return float64(arrived.Load()-from) / time.Since(start).Seconds()
	}
	time.Sleep(warm)
	alone = rate(func() { time.Sleep(warm) })
	echoes(t, st, n/4+1) // who sends the bulk has to learn of them
	together = rate(func() { busy = echoes(t, st, n) })
	_ = st.Close()
	return idle, busy, alone, together
}

// In virtual time: what comes out is due to what is kept under way alone.
func TestSmallRequestsDoNotWaitBehindBulk(t *testing.T) {
	for _, c := range chains {
		for _, direction := range []string{"up", "down"} {
			t.Run(c.name+" "+direction, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := across(t, c.chain, Limits{})
					warm := time.Duration(min(1, 100e6/c.rate) * float64(time.Second))
					warm = max(warm/2, 40*c.delay)
					idle, busy, alone, together := beside(t, s, direction, warm, 40)
					t.Logf("idle %v, beside bulk %v (worst %v); bulk %.1f MB/s alone, %.1f together",
						median(idle), median(busy), busy[len(busy)-1], alone/1e6, together/1e6)
					if limit := 10 * median(idle); median(busy) > limit {
						t.Errorf("median of %v beside bulk, want at most %v", median(busy), limit)
					}
					if alone < 0.9*c.rate {
						t.Errorf("bulk alone gets %.1f MB/s of %.1f", alone/1e6, c.rate/1e6)
					}
					if together < 0.8*alone {
						t.Errorf("bulk gets %.1f MB/s beside small requests, %.1f alone", together/1e6, alone/1e6)
					}
				})
			})
		}
	}
}

func TestAStalledReaderSlowsNobodyDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := across(t, chains[0].chain, Limits{})
		st := open(t, s, "echo")
		idle := median(echoes(t, st, 20))
		var g sync.WaitGroup
		for range 4 {
			open(t, s, "source") // which is never read
			stalled := open(t, s, "stall")
			g.Go(func() { _, _ = stalled.Write(make([]byte, 32<<20)) })
		}
		time.Sleep(time.Second)
		if got := median(echoes(t, st, 20)); 2*got > 3*idle {
			t.Errorf("small requests take %v, %v without the stalled", got, idle)
		}
		for _, direction := range []string{"up", "down"} {
			arrived, stop := bulk(t, s, direction)
			time.Sleep(200 * time.Millisecond)
			from := arrived.Load()
			time.Sleep(200 * time.Millisecond)
			if got := float64(arrived.Load()-from) / 0.2; got < 280e6/1.5 {
				t.Errorf("%s: %.0f MB/s of 280 beside stalled readers", direction, got/1e6)
			}
			stop()
		}
		_ = s.Close()
		g.Wait()
	})
}

// A window of 64 KiB gives 3.2 MB/s here.
func TestALongWayIsFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 50 << 20
		s := across(t, chains[1].chain, Limits{})
		st := open(t, s, "source")
		start := time.Now()
		if _, err := io.CopyN(io.Discard, st, size); err != nil {
			t.Fatal(err)
		}
		if rate := size / time.Since(start).Seconds(); rate < 32e6 {
			t.Errorf("%.1f MB/s from the first byte on, want 32", rate/1e6)
		}
	})
}

func TestAThousandFlowsAreServedAlike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const flows = 1000
		s := across(t, chains[0].chain, Limits{})
		var got [flows]atomic.Int64
		var g sync.WaitGroup
		for i := range flows {
			st := open(t, s, "source")
			g.Go(func() {
				for buf := make([]byte, 16<<10); ; {
					n, err := st.Read(buf)
					got[i].Add(int64(n))
					if err != nil {
						return
					}
				}
			})
		}
		time.Sleep(500 * time.Millisecond)
		var sums []int64
		for i := range flows {
			sums = append(sums, got[i].Load())
		}
		_ = s.Close()
		g.Wait()
		slices.Sort(sums)
		if sums[0] < sums[flows/2]/2 {
			t.Errorf("the slowest got %d bytes, the median %d", sums[0], sums[flows/2])
		}
		t.Logf("slowest %d, median %d, fastest %d bytes", sums[0], sums[flows/2], sums[flows-1])
	})
}

// BenchmarkChain tells how a session does on chains like those of a cluster, in
// real time: the median of small requests idle and beside bulk, and the bulk's
// rate alone and beside them.
func BenchmarkChain(b *testing.B) {
	for _, c := range chains[:2] {
		for _, direction := range []string{"up", "down"} {
			b.Run(fmt.Sprint(c.name, " ", direction), func(b *testing.B) {
				s := across(b, c.chain, Limits{})
				idle, busy, alone, together := beside(b, s, direction, time.Second, max(b.N, 200))
				for name, d := range map[string]time.Duration{"idle": median(idle), "beside": median(busy), "beside-p99": busy[len(busy)*99/100]} {
					b.ReportMetric(float64(d.Microseconds())/1000, name+"-ms")
				}
				b.ReportMetric(alone/1e6, "alone-MB/s")
				b.ReportMetric(together/1e6, "together-MB/s")
			})
		}
	}
}
