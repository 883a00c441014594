package latency

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ms = time.Millisecond

func of(all ...time.Duration) (h Histogram) {
	for _, d := range all {
		h.Add(d)
	}
	return h
}

// Every latency is in one bucket, the buckets are in order without a gap, and none is
// wider than a sixteenth.
func TestBuckets(t *testing.T) {
	last := time.Duration(-1)
	for b := range buckets {
		end := endOf(b)
		if got := bucketOf(end); got != b {
			t.Fatalf("%s is in bucket %d, want %d", end, got, b)
		}
		if got := bucketOf(last + 1); got != b {
			t.Fatalf("%s is in bucket %d, want %d", last+1, got, b)
		}
		if wide := end - last; end > 1024 && wide*16 > end {
			t.Fatalf("the bucket up to %s is %s wide", end, wide)
		}
		last = end
	}
	for d, want := range map[time.Duration]int{-5: 0, 0: 0, math.MaxInt64: buckets - 1} {
		if got := bucketOf(d); got != want {
			t.Errorf("%d is in bucket %d, want %d", d, got, want)
		}
	}
}

// A quantile is never below the true one, and at most a sixteenth above it.
func TestQuantiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 99, 100, 1000, 50_000} {
		var all []time.Duration
		var h Histogram
		for range n {
			d := time.Duration(float64(5*ms) * math.Exp(1.5*r.NormFloat64()))
			all = append(all, d)
			h.Add(d)
		}
		slices.Sort(all)
		for _, q := range []float64{0.5, 0.9, 0.99, 0.999} {
			want := all[min(int(math.Ceil(q*float64(n+1))), n)-1]
			if got := h.Quantile(q); got < want || got > want+want/16+1 {
				t.Errorf("of %d, %v is %s, want %s", n, q, got, want)
			}
		}
	}
	if got := (Histogram{}).Quantile(0.5); got != 0 {
		t.Errorf("of none it is %s", got)
	}
}

// A part of a hundred of a hundred latencies is known no better than by the largest.
func TestFewLatenciesAreTakenForTheirLargest(t *testing.T) {
	h := of(slices.Repeat([]time.Duration{ms}, 98)...)
	h.Add(20 * ms)
	h.Add(100 * ms)
	if got := h.Quantile(0.99); got < 100*ms {
		t.Errorf("99 %% of 100 are below %s, and one took 100 ms", got)
	}
	if got := h.Quantile(0.5); got > 2*ms {
		t.Errorf("half of them are below %s", got)
	}
}

func TestMergedIsAsIfCountedTogether(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	parts := make([]Histogram, 5)
	var all, merged Histogram
	for range 2000 {
		d := time.Duration(r.ExpFloat64() * float64(time.Second))
		all.Add(d)
		parts[r.IntN(len(parts))].Add(d)
	}
	for _, p := range parts {
		merged.Merge(p)
	}
	if d := cmp.Diff(all, merged, cmp.AllowUnexported(Histogram{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	merged.Merge(Histogram{counts: []uint64{math.MaxUint64, math.MaxUint64}})
	merged.Merge(Histogram{counts: []uint64{math.MaxUint64, math.MaxUint64}})
	if n := merged.N(); n < 0 || n > 1<<60 {
		t.Errorf("too many are %d", n)
	}
}

func TestJSON(t *testing.T) {
	h := of(ms, 2*ms, 2*ms, 9*ms)
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 200 {
		t.Errorf("%d bytes: %s", len(b), b)
	}
	var back Histogram
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(h, back, cmp.AllowUnexported(Histogram{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, bad := range []string{`{"first":-1,"counts":[1]}`, `{"first":490,"counts":[1,1,1,1,1,1,1,1,1,1]}`, `{"counts":[-1]}`, `{"first":99999999999999,"counts":[]}`, `7`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil || !strings.HasPrefix(err.Error(), "read a histogram of latencies: ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	var odd Histogram
	if err := json.Unmarshal([]byte(`{"first":3,"counts":[0,0,5,0]}`), &odd); err != nil || odd.N() != 5 || odd.first != 5 {
		t.Errorf("%+v, %v", odd, err)
	}
}

// What is older than the window is forgotten, and its memory is bounded.
func TestAWindowIsOfTheLastMinutes(t *testing.T) {
	t0 := time.Unix(1_000_000_020, 0) // the 20th second of a minute or so
	var w Window
	if h, over := w.Sum(t0); h.N() != 0 || over != 0 {
		t.Errorf("an empty one has %d in %s", h.N(), over)
	}
	for i := range 20 * 60 {
		w.Add(ms, t0.Add(time.Duration(i)*time.Second))
	}
	now := t0.Add(20*time.Minute - time.Second)
	h, over := w.Sum(now)
	if over < 4*time.Minute || over > 5*time.Minute || h.N() != int64(over/time.Second)+1 {
		t.Errorf("%d in %s", h.N(), over)
	}
	w.Add(ms, t0) // long ago
	if again, _ := w.Sum(now); again.N() != h.N() {
		t.Errorf("what is too old counts: %d, were %d", again.N(), h.N())
	}
	if h, _ := w.Sum(now.Add(time.Hour)); h.N() != 0 {
		t.Errorf("after an hour there are %d", h.N())
	}
}

func TestWindowsAreMergedByTheirTimes(t *testing.T) {
	t0 := time.Unix(1_000_000_000, 0)
	var a, b Window
	a.Begin(t0)
	b.Add(ms, t0.Add(-10*time.Minute))
	b.Add(2*ms, t0.Add(-time.Minute))
	b.Add(3*ms, t0)
	a.Add(3*ms, t0)
	a.Merge(&b)
	h, over := a.Sum(t0)
	if d := cmp.Diff(of(2*ms, 3*ms, 3*ms), h, cmp.AllowUnexported(Histogram{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if over < 4*time.Minute || over > 5*time.Minute {
		t.Errorf("over %s", over)
	}
	var c Window
	c.Begin(t0)
	if h, over := c.Sum(t0.Add(3 * time.Second)); h.N() != 0 || over != 3*time.Second {
		t.Errorf("%d over %s", h.N(), over)
	}
}

func BenchmarkAdd(b *testing.B) {
	var w Window
	at := time.Unix(1_000_000_000, 0)
	for b.Loop() {
		w.Add(3*ms, at)
	}
}
