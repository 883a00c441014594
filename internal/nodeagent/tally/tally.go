// Package tally makes of what doors tell about requests what the judge of a release
// takes.
//
// The main type is [Tally]. What is evidence by itself, an error or a slow request, it
// gives back at once, as a [verdict.Request]. Requests that went well it counts, and
// hands out when package verdict lets them count: when all that were sent off in the
// same stretch of time have ended, or are overdue. Each [Door] numbers its requests
// without a gap, so a stretch is a range of numbers, and nobody has to be told when a
// request begins. Of requests and their copies it makes pairs, see pairs.go; the requests
// count as what they are, besides.
//
// The package is pure. Nothing here is safe for concurrent use.
package tally

import (
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

// Tally counts the requests of one release.
type Tally struct {
	config verdict.Config
	slow   [2][]time.Duration // of stable and of the canary
	canary string             // the version's name
	// seen is since when a pod of the canary is known. Those that are no more are
	// forgotten when there are many.
	seen map[netip.Addr]time.Time
	// bare are the routings in which the canary had no pod, by generation.
	bare  map[int64]bool
	doors []*Door
	ready verdict.Counts
	seed  maphash.Seed // of aliases
}

// most is how much of what is over is remembered.
const most = 256

// New makes a tally for a judge with this config. canary is the name of the version
// that is judged; every other is stable.
func New(c verdict.Config, canary string) *Tally {
	t := &Tally{canary: canary, seen: map[netip.Addr]time.Time{}, bare: map[int64]bool{}, seed: maphash.MakeSeed()}
	t.Judged(c)
	return t
}

// Judged takes another config, from here on.
func (t *Tally) Judged(c verdict.Config) {
	t.config, t.slow = c, [2][]time.Duration{c.Slow(false), c.Slow(true)}
}

// slowOf are the latencies over which a request of a version is slow.
func (t *Tally) slowOf(canary bool) []time.Duration {
	if canary {
		return t.slow[1]
	}
	return t.slow[0]
}

// way is what the way to a pod of the canary may cost a request that is still without an
// answer. What it did cost is told with the answer: see steer.Outcome.Latency. On a machine
// that is short of processors two doors wait for one where stable's requests have one door.
const way = 250 * time.Millisecond

// Slow are the times at which a door has to report a request that is still without an
// answer, of whatever version.
func Slow(c verdict.Config) []time.Duration {
	all := slices.Concat(c.Slow(false), c.Slow(true), []time.Duration{c.Hung})
	for _, d := range c.Slow(true) {
		if d += way; d < c.Hung {
			all = append(all, d)
		}
	}
	all = slices.DeleteFunc(all, func(d time.Duration) bool { return d <= 0 })
	slices.Sort(all)
	return slices.Compact(all)
}

// Routed says which pods the canary has in a routing. It is told before a door obeys
// that.
func (t *Tally) Routed(generation int64, pods []netip.Addr, now time.Time) {
	if len(pods) == 0 {
		t.bare[generation] = true
	}
	if len(t.bare) > most {
		delete(t.bare, slices.Min(slices.Collect(maps.Keys(t.bare))))
	}
	for _, p := range pods {
		if _, known := t.seen[p]; !known {
			t.seen[p] = now
		}
	}
	for p := range t.seen {
		if len(t.seen) > most && !slices.Contains(pods, p) {
			delete(t.seen, p)
		}
	}
}

// Door is one door of a pod of stable.
type Door struct {
	t      *Tally
	name   string
	bound  uint64 // the last number of the last stretch that has an end
	open   stretch
	ended  []*stretch // oldest first; not all of their requests are known
	closed bool
	// pairing are the pairs that are waited for, by number; of those up to skipped that are
	// not among them nothing is expected.
	pairing []*pair
	skipped uint64
}

// stretch are requests that were sent off one after the other.
type stretch struct {
	from, to uint64 // numbers: after from, up to to
	known    int    // requests that have ended, or are overdue
	at       time.Time
	counts   verdict.Counts
}

// Door begins to count the requests of a door. Of those up to the number last nothing
// is expected, nor of their copies. name is for reports.
func (t *Tally) Door(name string, last uint64) *Door {
	d := &Door{t: t, name: name, bound: last, skipped: last}
	t.doors = append(t.doors, d)
	return d
}

// Mark says that all requests up to the number last have been sent off by now. No
// request beyond it may have been added.
func (d *Door) Mark(last uint64, now time.Time) {
	if last <= d.bound || d.closed {
		return
	}
	s := d.open
	s.from, s.to, s.at = d.bound, last, now
	d.open, d.bound = stretch{}, last
	d.ended = append(d.ended, &s)
}

// Close says that no more requests will come. What is under way may still be added.
func (d *Door) Close(last uint64, now time.Time) {
	d.Mark(last, now)
	d.closed = true
}

// find returns the stretch of a number, nil if nobody waits for that any more.
func (d *Door) find(id uint64) *stretch {
	if id > d.bound {
		return &d.open
	}
	i, _ := slices.BinarySearchFunc(d.ended, id, func(s *stretch, id uint64) int {
		if s.to < id {
			return -1
		}
		return 1
	})
	if i < len(d.ended) && d.ended[i].from < id {
		return d.ended[i]
	}
	return nil
}

// Add takes in an outcome. What it returns, if not nil, is worth telling alone.
func (d *Door) Add(o *steer.Outcome) *verdict.Request {
	if o.Copy || o.Copied {
		d.pairs(o)
	}
	if o.Copy {
		return nil
	}
	hung := d.t.config.Hung
	overdue := o.Told > hung // it counts already
	s := d.find(o.ID)
	if !overdue && (!o.Running || o.Latency > hung) && s != nil {
		s.known++
	}
	r := d.request(o)
	if r == nil {
		return nil
	}
	failed := verdict.Classify(r.Answer) == verdict.Failed
	if verdict.Classify(r.Answer) == verdict.Succeeded && !overdue && o.Latency <= hung {
		counts := &d.t.ready
		if s != nil {
			counts = &s.counts
		}
		count(counts, r, d.t.band(r))
	}
	if r.Canary && r.Weight >= 1 && !overdue && (failed || hung > 0 && o.Latency > hung) {
		counts := &d.t.ready
		if s != nil {
			counts = &s.counts
		}
		cell(counts, r).Canary.Settled++
	}
	if failed || overdue || o.Latency > hung && hung > 0 || d.t.crosses(r) {
		return r
	}
	return nil
}

// ID is how a request, or a copy, is known among all those of a release.
func (d *Door) ID(o *steer.Outcome) string {
	id := d.name + "/" + strconv.FormatUint(o.ID, 10)
	if o.Copy {
		id += "/copy"
	}
	return id
}

// crosses says whether a request is slower than the last that was told of it.
func (t *Tally) crosses(r *verdict.Request) bool {
	return !r.Unrated && slices.ContainsFunc(t.slowOf(r.Canary), func(d time.Duration) bool { return r.Told <= d && r.Elapsed > d })
}

// alias is the same for the same key, and tells nobody which: what a judge is told is kept, and
// shown, and a key may be a person's address.
func (t *Tally) alias(key string) string {
	if key == "" {
		return ""
	}
	return strconv.FormatUint(maphash.String(t.seed, key), 36)
}

// request is an outcome in the judge's terms, nil if it counts for nothing.
func (d *Door) request(o *steer.Outcome) *verdict.Request {
	t := d.t
	r := &verdict.Request{
		ID: d.ID(o), Canary: o.Version == t.canary,
		Answer: verdict.Answer{Status: o.Status, Broken: o.Broken, Cancelled: o.Cancelled, Running: o.Running},
		Weight: float64(o.Weight) / float64(steer.All), Elapsed: o.Latency, Told: o.Told, Chosen: !o.Drawn(),
	}
	if o.GRPC >= 0 {
		status := o.GRPC
		r.GRPC = &status
	}
	if r.Chosen {
		r.Client = t.alias(o.Key) // whose version is not drawn anew for each request
	}
	if !r.Canary {
		r.Weight = float64(steer.All-o.Weight) / float64(steer.All)
		return r
	}
	switch {
	case o.Fallback && t.bare[o.Generation], o.Unheard:
		return nil // there was nobody to ask, or no way to him, which tells nothing of the version
	case o.Fallback && !o.Running:
		// Whatever stable made of it: the canary has not answered.
		r.Answer = verdict.Answer{Broken: true}
	case o.Pod.IsValid():
		r.Pod = o.Pod.Addr().Unmap().String()
	}
	if t.config.WarmUp > 0 && t.young(o, t.config.Cold) {
		return nil
	}
	r.Unrated = t.config.Settle > 0 && t.young(o, t.config.Settling)
	if o.Carried || o.Tries == 0 {
		r.Told = t.arrived(o.Told)
		if o.Status == 0 {
			r.Elapsed = t.arrived(o.Latency)
		}
	}
	return r
}

// arrived is for how long a pod of the canary has had a request that is without an answer.
// One that is overdue is, wherever it is.
func (t *Tally) arrived(elapsed time.Duration) time.Duration {
	if t.config.Hung > 0 && elapsed > t.config.Hung {
		return elapsed
	}
	return max(elapsed-way, 0)
}

// young says whether the pod that was asked had come into service too short a time before;
// of a request that no pod has answered, whether all of them had.
func (t *Tally) young(o *steer.Outcome, is func(ready, now time.Time) bool) bool {
	if since, known := t.seen[o.Pod.Addr().Unmap()]; known {
		return is(since, o.Time)
	}
	for _, since := range t.seen {
		if !is(since, o.Time) {
			return false
		}
	}
	return len(t.seen) > 0
}

// band is that of a request's latency, as verdict.Tally has them.
func (t *Tally) band(r *verdict.Request) int { return over(t.slowOf(r.Canary), r.Elapsed) }

// count counts a request that went well.
func count(c *verdict.Counts, r *verdict.Request, band int) {
	at := cell(c, r)
	switch {
	case r.Canary && r.Unrated:
		at.Canary.Unrated++
	case r.Canary:
		at.Canary.Closed[band]++
	default:
		at.Stable.Closed[band]++
	}
}

// cell is where a request counts.
func cell(c *verdict.Counts, r *verdict.Request) *verdict.Cell {
	i := slices.IndexFunc(c.Cells, func(at verdict.Cell) bool { return at.Weight == r.Weight && at.Chosen == r.Chosen })
	if i < 0 {
		i = len(c.Cells)
		c.Cells = append(c.Cells, verdict.Cell{Weight: r.Weight, Chosen: r.Chosen})
	}
	return &c.Cells[i]
}

// Take returns what may count by now and has not been taken yet.
func (t *Tally) Take(now time.Time) verdict.Counts {
	out := t.ready
	t.ready = verdict.Counts{}
	for _, d := range t.doors {
		d.ended = slices.DeleteFunc(d.ended, func(s *stretch) bool {
			over := uint64(s.known) >= s.to-s.from || now.Sub(s.at) > t.config.Hung
			if over {
				out = verdict.Merge(out, s.counts)
			}
			return over
		})
		d.settle(&out, now)
	}
	t.doors = slices.DeleteFunc(t.doors, func(d *Door) bool { return d.closed && len(d.ended)+len(d.pairing) == 0 })
	return out
}

// Waiting says whether there are requests that were sent off and are not known.
func (t *Tally) Waiting() bool {
	return slices.ContainsFunc(t.doors, func(d *Door) bool { return len(d.ended) > 0 })
}
