package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// servedLine leads to a service of this process that does what the wire service does.
// Transfers of more than a byte wait for as many requests as held says.
func servedLine(t *testing.T, held int) *line {
	t.Helper()
	var requests sync.WaitGroup
	requests.Add(held)
	left := atomic.Int64{}
	left.Store(int64(held))
	return &line{dial: func(_ context.Context, port int) (net.Conn, error) {
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close() })
		go func() {
			defer there.Close()
			for {
				if port == wireEcho {
					if _, err := io.CopyN(there, there, smallRequest); err != nil {
						return
					}
					if left.Add(-1) >= 0 {
						requests.Done()
					}
					continue
				}
				var b [8]byte
				if _, err := io.ReadFull(there, b[:]); err != nil {
					return
				}
				n := int64(binary.BigEndian.Uint64(b[:]))
				if n > 1 {
					requests.Wait()
				}
				if port == wireSwallow {
					_, _ = io.CopyN(io.Discard, there, n)
					_, _ = there.Write(b[:1])
				} else if _, err := io.CopyN(there, zeros{}, n); err != nil {
					return
				}
			}
		}()
		return here, nil
	}}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestALineCarriesOutOrders(t *testing.T) {
	for _, test := range []struct {
		order order
		held  int
		each  int // requests or connections, at least
		took  bool
	}{
		{order{Task: taskEcho, Count: 20, Every: time.Microsecond}, 0, 20, false},
		{order{Task: taskUp, Bytes: 1<<20 + 1}, 0, 0, true},
		{order{Task: taskDown, Bytes: 1<<20 + 1}, 0, 0, true},
		{order{Task: taskUp, Bytes: 1 << 20, Echo: true, Every: time.Microsecond}, 20, 15, true},
		{order{Task: taskDown, Bytes: 1 << 20, Echo: true, Every: time.Microsecond}, 20, 15, true},
		{order{Task: taskStall, Count: 2}, 0, 0, false},
		{order{Task: taskResume}, 0, 0, false},
		{order{Task: taskCrowd, Count: 100, Bytes: 1000}, 0, 100, false},
	} {
		l := servedLine(t, test.held)
		out, err := l.do(t.Context(), test.order)
		if err != nil {
			t.Errorf("%+v: %v", test.order, err)
		}
		if len(out.Each) < test.each || out.Took > 0 != test.took {
			t.Errorf("%+v gave %d durations and %s", test.order, len(out.Each), out.Took)
		}
		if slices.ContainsFunc(out.Each, func(d time.Duration) bool { return d <= 0 }) {
			t.Errorf("%+v took no time: %v", test.order, out.Each)
		}
	}
}

func TestAStalledTransferEndsWithResume(t *testing.T) {
	l := servedLine(t, 0)
	if _, err := l.do(t.Context(), order{Task: taskStall, Count: 3}); err != nil {
		t.Fatal(err)
	}
	if got := len(l.stalled); got != 3 {
		t.Errorf("%d connections are stalled, want 3", got)
	}
	conn := l.stalled[0]
	l.resume()
	if _, err := conn.Read(make([]byte, 1)); err != io.ErrClosedPipe || len(l.stalled) != 0 {
		t.Errorf("it is open still: %v", err)
	}
}

func TestOrdersAreObeyedOneByOne(t *testing.T) {
	in := `{"task":"echo","count":3,"every":1000}` + "\n" + `{"task":"sing"}` + "\n" + `{"task":"crowd","count":2,"bytes":10}` + "\n"
	var out bytes.Buffer
	if err := obey(t.Context(), strings.NewReader(in), &out, servedLine(t, 0)); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		Each  int
		Error string
	}
	var got []answer
	for d := json.NewDecoder(&out); d.More(); {
		var o outcome
		if err := d.Decode(&o); err != nil {
			t.Fatal(err)
		}
		got = append(got, answer{len(o.Each), o.Error})
	}
	want := []answer{{3, ""}, {0, `there is no task "sing"`}, {2, ""}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

func TestADelayHoldsUpEachByteAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunks, by = 500, 10 * time.Millisecond
		in, feed := net.Pipe()
		sink, out := net.Pipe()
		go func() {
			carryLate(out, in, by)
			out.Close()
		}()
		began := time.Now()
		go func() {
			defer feed.Close()
			for i := range chunks {
				_, _ = feed.Write([]byte{byte(i)})
			}
		}()
		got, err := io.ReadAll(sink)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range got {
			if b != byte(i) {
				t.Fatalf("byte %d is %d", i, b)
			}
		}
		if took := time.Since(began); len(got) != chunks || took != by {
			t.Errorf("%d bytes came after %s, want %d after %s", len(got), took, chunks, by)
		}
	})
}

func TestADelayEndsWhenNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, feed := net.Pipe()
		sink, out := net.Pipe()
		sink.Close()
		ended := make(chan struct{})
		go func() { defer close(ended); carryLate(out, in, time.Millisecond) }()
		for {
			if _, err := feed.Write([]byte("more")); err != nil {
				break
			}
		}
		<-ended
	})
}

func TestQuantile(t *testing.T) {
	all := []time.Duration{5, 1, 4, 2, 3}
	for _, test := range []struct {
		all  []time.Duration
		q    float64
		want time.Duration
	}{{nil, 0.5, 0}, {all, 0, 1}, {all, 0.5, 3}, {all, 0.99, 4}, {all, 1, 5}} {
		if got := quantile(test.all, test.q); got != test.want {
			t.Errorf("quantile %g of %v = %d, want %d", test.q, test.all, got, test.want)
		}
	}
}

func TestALaptopRemembersWhoCameFirst(t *testing.T) {
	l, err := openLaptop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	all := doors{}
	for _, pod := range []string{"a", "b"} {
		all = append(all, newDoor(pod, func(ctx context.Context) (net.Conn, error) { return directLine("127.0.0.1").dial(ctx, l.port) }))
	}
	defer all.close()
	for range 2 {
		for _, d := range all {
			if answer, err := d.ask(t.Context()); err != nil || answer != byLaptop {
				t.Fatalf("answer %q, %v", answer, err)
			}
		}
	}
	seen, err := l.seenFrom(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	if first := l.first["b"]; !seen.Equal(first) {
		t.Errorf("seen at %s, want %s, the later of the first ones", seen, first)
	}
	if err := all.kept(); err != nil {
		t.Error(err)
	}
	if err := all.answeredByApp(t.Context()); err == nil {
		t.Error("the laptop's answer was taken for the app's")
	}
}
