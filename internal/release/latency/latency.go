// Package latency counts latencies in little memory, so that their quantiles can be
// told, and counts of many places can be added up.
//
// The main type is [Histogram]: buckets that are at most 1/16 wide, from a microsecond
// to a quarter of an hour. [Window] is one of the last minutes. The package is pure, and
// nothing here is safe for concurrent use.
package latency

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"time"
)

const (
	// fine is how many bits of a latency tell one bucket from the next: a bucket is
	// 1/16 of its latency wide at most.
	fine = 4
	// unit is what is told apart at the least, in nanoseconds as a power of two.
	unit = 10
	// octaves is how many powers of two above that there are: up to 18 minutes.
	octaves = 30
	// buckets is how many there are.
	buckets = (octaves + 1) << fine
)

// Histogram is a count of latencies. The zero value is empty.
type Histogram struct {
	first  int      // bucket of counts[0]
	counts []uint64 // of buckets, none empty at either end
}

// bucketOf returns the bucket of a latency. Those of the first octave are as wide as
// each other, those of each further one twice as wide.
func bucketOf(d time.Duration) int {
	n := uint64(max(d, 0)) >> (unit - fine)
	if n < 1<<fine {
		return int(n)
	}
	octave := bits.Len64(n) - fine // from 1
	return min((octave-1)<<fine+int(n>>(octave-1)), buckets-1)
}

// endOf is the largest latency in a bucket.
func endOf(bucket int) time.Duration {
	octave, sub := bucket>>fine, uint64(bucket&(1<<fine-1))
	next := sub + 1 // of the first octave, where the bucket ends
	if octave > 0 {
		next = (1<<fine + sub + 1) << (octave - 1)
	}
	return time.Duration(next<<(unit-fine)) - 1
}

// Add counts one latency.
func (h *Histogram) Add(d time.Duration) { h.add(bucketOf(d), 1) }

func (h *Histogram) add(bucket int, n uint64) {
	switch {
	case n == 0:
		return
	case len(h.counts) == 0:
		h.first, h.counts = bucket, []uint64{0}
	case bucket < h.first:
		h.counts = append(make([]uint64, h.first-bucket), h.counts...)
		h.first = bucket
	}
	if missing := bucket - h.first + 1 - len(h.counts); missing > 0 {
		h.counts = append(h.counts, make([]uint64, missing)...)
	}
	at := &h.counts[bucket-h.first]
	*at = min(*at+min(n, limit), limit)
}

// limit keeps every sum far from where a uint64 could not hold it.
const limit = 1 << 50

// Merge adds what another has counted.
func (h *Histogram) Merge(o Histogram) {
	for i, n := range o.counts {
		h.add(o.first+i, n)
	}
}

// N is how many were counted.
func (h Histogram) N() int64 {
	var n uint64
	for _, c := range h.counts {
		n += c
	}
	return int64(n)
}

// Quantile is a latency that a part q of all stays below or at, rather too large than
// too small: the end of the bucket of the one that is next. Of few latencies the last
// part of a thousand is below the largest there was. It is 0 if there are none.
func (h Histogram) Quantile(q float64) time.Duration {
	n := h.N()
	if n == 0 {
		return 0
	}
	rank := min(max(int64(math.Ceil(q*float64(n+1))), 1), n)
	for i, c := range h.counts {
		if rank -= int64(c); rank <= 0 {
			return endOf(h.first + i)
		}
	}
	return endOf(buckets - 1)
}

// wire is a histogram as JSON.
type wire struct {
	First  int      `json:"first"`
	Counts []uint64 `json:"counts"`
}

// MarshalJSON writes what lies between the smallest and the largest latency.
func (h Histogram) MarshalJSON() ([]byte, error) { return json.Marshal(wire{h.first, h.counts}) }

// UnmarshalJSON reads a histogram that may be anybody's.
func (h *Histogram) UnmarshalJSON(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("read a histogram of latencies: %w", err)
	}
	if w.First < 0 || w.First > buckets || len(w.Counts) > buckets-w.First {
		return fmt.Errorf("read a histogram of latencies: %d counts from bucket %d on, and there are %d buckets", len(w.Counts), w.First, buckets)
	}
	*h = Histogram{}
	for i, n := range w.Counts {
		h.add(w.First+i, n)
	}
	return nil
}

// Window is a histogram of the last minutes. The zero value is empty.
type Window struct {
	slots [slots]slot
	since time.Time // when it was begun
}

// A window is of so many stretches, of which the oldest is dropped as a whole.
const (
	slots   = 5
	stretch = time.Minute
)

type slot struct {
	number int64 // of the stretch
	counts Histogram
}

// Begin says that latencies are counted from then on, whether any come or not.
func (w *Window) Begin(at time.Time) {
	if w.since.IsZero() || at.Before(w.since) {
		w.since = at
	}
}

// Add counts a latency of a moment. One that is older than the window is left out.
func (w *Window) Add(d time.Duration, at time.Time) {
	w.Begin(at)
	if s := w.slot(at.Unix() / int64(stretch/time.Second)); s != nil {
		s.counts.Add(d)
	}
}

func (w *Window) slot(number int64) *slot {
	s := &w.slots[number%slots]
	if s.number < number {
		*s = slot{number: number}
	}
	if s.number > number {
		return nil
	}
	return s
}

// Merge adds what another window has counted at the same times.
func (w *Window) Merge(o *Window) {
	for i := range o.slots {
		if len(o.slots[i].counts.counts) == 0 {
			continue
		}
		if s := w.slot(o.slots[i].number); s != nil {
			s.counts.Merge(o.slots[i].counts)
		}
	}
	if !o.since.IsZero() {
		w.Begin(o.since)
	}
}

// Sum is what was counted in the last minutes, and how long that has taken.
func (w *Window) Sum(now time.Time) (h Histogram, over time.Duration) {
	last := now.Unix() / int64(stretch/time.Second)
	for i := range w.slots {
		if s := &w.slots[i]; s.number > last-slots && s.number <= last {
			h.Merge(s.counts)
		}
	}
	if w.since.IsZero() {
		return h, 0
	}
	begin := time.Unix((last-slots+1)*int64(stretch/time.Second), 0)
	if w.since.After(begin) {
		begin = w.since
	}
	return h, max(now.Sub(begin), 0)
}
