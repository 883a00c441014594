package verdict

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Observation is one thing that was seen, and when, by the clock of whoever keeps
// the log. One without content tells that time has passed.
type Observation struct {
	At      time.Time `json:"at"`
	Request *Request  `json:"request,omitempty"`
	Counts  *Counts   `json:"counts,omitempty"`
	Block   *Block    `json:"block,omitempty"`
	Pod     *Pod      `json:"pod,omitempty"`
	Guard   *Guard    `json:"guard,omitempty"`
	// Extend moves the deadline, when a person decides to wait on.
	Extend *time.Time `json:"extend,omitempty"`
}

// Request is one request that is worth telling alone: it failed, or it was slower
// than one of Config.Quantiles, at the end or while it is in flight. An error or a
// slowness that is told here must not be in a [Counts] too. That a request ended
// well is told by Tally.Closed alone, whether it is told here or not.
type Request struct {
	ID     string `json:"id"`
	Canary bool   `json:"canary,omitempty"`
	// Weight is the probability with which the request could go to the canary when it
	// was decided where it goes. It must be the true one: the bounds rest on it.
	Weight float64 `json:"weight"`
	Pod    string  `json:"pod,omitempty"`
	Answer
	// Elapsed is the time from the decision to the header of the answer, or to now.
	Elapsed time.Duration `json:"elapsedNs"`
	// Told is Elapsed of the last Request with this ID that was observed, 0 for none,
	// so that what it already counted for is not counted twice.
	Told time.Duration `json:"toldNs,omitempty"`
	// Trace, Client and Connection tell requests that belong together. The first that
	// is not empty counts once in Config.Once. Give those inside of which the version
	// is not decided anew for each request: errors of one decision are one piece of
	// evidence. A connection that many clients share is none of them.
	Trace      string `json:"trace,omitempty"`
	Client     string `json:"client,omitempty"`
	Connection string `json:"connection,omitempty"`
	// Chosen says that the version was not drawn but chosen, by a header, a cookie or
	// an earlier request. Such requests count for [Good] and not for [Bad]; there they
	// count as a [Block].
	Chosen bool `json:"chosen,omitempty"`
	// Cold says that the pod was in its warm-up when the request was sent to it: the
	// request counts for nothing. [Config.Cold] tells.
	Cold bool `json:"cold,omitempty"`
	// Unrated says that the request's latency counts for nothing. [Config.Settling] tells.
	Unrated bool `json:"unrated,omitempty"`
}

// bands is the number of bands of latency that four quantiles make.
const bands = 5

// Tally is what happened to requests of one arm that had the same Weight.
type Tally struct {
	// Closed are the requests that did not fail, by the band of their latency: the
	// first is up to Quantiles[0], the last is over Quantiles[3]. A request is counted
	// only when all that were sent off in the same interval of time have ended, or are
	// over Config.Hung: a version that answers quickly or never must not look good, or
	// the other one bad, for as long as the rest is out.
	Closed [bands]int64 `json:"closed,omitzero"`
	// Unrated are requests that did not fail either, and whose latency counts for nothing.
	Unrated int64 `json:"unrated,omitempty"`
	// Failed are errors, counted at once.
	Failed int64 `json:"failed,omitempty"`
	// Settled are errors that are counted as Closed are: they were among Failed before, and
	// are told again when all requests beside them are known. Only those of requests to a
	// canary that had all of them, see Config.Alone.
	Settled int64 `json:"settled,omitempty"`
	// Repeated are errors that are no evidence of their own: of the same trace, client
	// or connection, or of a pod that is known to be bad.
	Repeated int64 `json:"repeated,omitempty"`
	// Slow are the requests that were slower than each quantile, counted at once,
	// and SlowRepeated those of them that are no evidence of their own.
	Slow         [bands - 1]int64 `json:"slow,omitzero"`
	SlowRepeated [bands - 1]int64 `json:"slowRepeated,omitzero"`
}

func (t *Tally) add(o Tally) {
	t.Failed, t.Repeated = sane(t.Failed+sane(o.Failed)), sane(t.Repeated+sane(o.Repeated))
	t.Unrated, t.Settled = sane(t.Unrated+sane(o.Unrated)), sane(t.Settled+sane(o.Settled))
	for i := range t.Closed {
		t.Closed[i] = sane(t.Closed[i] + sane(o.Closed[i]))
	}
	for i := range t.Slow {
		t.Slow[i] = sane(t.Slow[i] + sane(o.Slow[i]))
		t.SlowRepeated[i] = sane(t.SlowRepeated[i] + sane(o.SlowRepeated[i]))
	}
}

// ok is the number of closed requests that did not fail.
func (t Tally) ok() int64 {
	n := sane(t.Unrated)
	for _, c := range t.Closed {
		n += sane(c)
	}
	return n
}

// limit keeps every count far from where a float64 or an int64 could not hold it.
const limit = int64(1e12)

func sane(n int64) int64 { return min(max(n, 0), limit) }

// Cell is what happened to requests that had the same Weight.
type Cell struct {
	Weight float64 `json:"weight"`
	Chosen bool    `json:"chosen,omitempty"`
	// Copies says that the requests are stable's of which the canary got copies, and these.
	// Canary.Failed are the copies that failed where the original did not, Stable.Failed the
	// originals that failed where the copy did not, and Repeated of either are those where
	// both did; Slow and SlowRepeated are alike. An original whose client has left is one that
	// failed and was slow: see copies.go. All of that is evidence. Canary.Repeated are
	// also copies that failed, and SlowRepeated such that were slow, of whose originals
	// nothing is known. Weight is 0.5. See copies.go for when a pair may count.
	Copies bool  `json:"copies,omitempty"`
	Canary Tally `json:"canary,omitzero"`
	Stable Tally `json:"stable,omitzero"`
	// Pods are Canary.Failed by pod. Those that are missing are of unknown pods.
	Pods []PodErrors `json:"pods,omitempty"`
}

// Counts are many requests at once: what a proxy counts, and all that it has to
// send. The increments of every bet's logarithm are linear in them, so they are as
// good as the increments, and can be checked and added up. The zero value is none.
type Counts struct {
	Cells []Cell `json:"cells,omitempty"`
	// Moved are requests in Cells that were evidence, the newest of them.
	Moved []Moved `json:"moved,omitempty"`
}

// PodErrors is how many errors of the canary one pod gave.
type PodErrors struct {
	Pod    string `json:"pod"`
	Errors int64  `json:"errors"`
}

// Moved is a request to the canary that moved E.
type Moved struct {
	ID      string        `json:"id"`
	Pod     string        `json:"pod,omitempty"`
	Why     string        `json:"why"`
	Elapsed time.Duration `json:"elapsedNs"`
}

const (
	// maxMoved is how many requests are kept as evidence. The newest stay.
	maxMoved = 32
	// maxCells is how many different weights one Counts may hold. What comes under
	// one more is left out, which depends on no outcome.
	maxCells = 64
	// maxName is how much is kept of a name that comes with a request.
	maxName = 128
)

// Merge is a and b in one. It is the same in any order, except for which requests
// are kept as evidence when there are too many.
func Merge(a, b Counts) Counts {
	out := a.clone()
	for _, c := range b.Cells {
		out.add(c)
	}
	out.Moved = newest(slices.Concat(a.Moved, b.Moved))
	slices.SortFunc(out.Cells, compareCells)
	for i := range out.Cells {
		slices.SortFunc(out.Cells[i].Pods, func(x, y PodErrors) int { return cmp.Compare(x.Pod, y.Pod) })
	}
	return out
}

func (c Counts) clone() Counts {
	out := Counts{Cells: slices.Clone(c.Cells), Moved: slices.Clone(c.Moved)}
	for i := range out.Cells {
		out.Cells[i].Pods = slices.Clone(out.Cells[i].Pods)
	}
	return out
}

func compareCells(x, y Cell) int {
	last := map[bool]int{true: 1}
	return cmp.Or(cmp.Compare(last[x.Copies], last[y.Copies]), cmp.Compare(last[x.Chosen], last[y.Chosen]), cmp.Compare(x.Weight, y.Weight))
}

func (c *Counts) add(o Cell) {
	i := slices.IndexFunc(c.Cells, func(at Cell) bool { return compareCells(at, o) == 0 })
	if i < 0 {
		if len(c.Cells) == maxCells {
			return
		}
		c.Cells = append(c.Cells, Cell{Weight: o.Weight, Chosen: o.Chosen, Copies: o.Copies})
		i = len(c.Cells) - 1
	}
	at := &c.Cells[i]
	at.Canary.add(o.Canary)
	at.Stable.add(o.Stable)
	for _, p := range o.Pods {
		at.pod(p)
	}
}

func (c *Cell) pod(o PodErrors) {
	if i := slices.IndexFunc(c.Pods, func(p PodErrors) bool { return p.Pod == o.Pod }); i >= 0 {
		c.Pods[i].Errors = sane(c.Pods[i].Errors + sane(o.Errors))
	} else if len(c.Pods) < maxPods {
		c.Pods = append(c.Pods, PodErrors{o.Pod, sane(o.Errors)})
	}
}

func newest(m []Moved) []Moved { return slices.Clone(m[max(0, len(m)-maxMoved):]) }

func name(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxName)], "?") }

// Block is how both versions did with one cohort in one stretch of time, where the
// version is not drawn for each request. The unit is whatever the version is chosen
// for, mostly a client, and counts once. Both arms must be of the same cohort, all
// of them must have ended, and N must not depend on how they ended.
type Block struct {
	Canary Arm `json:"canary"`
	Stable Arm `json:"stable"`
}

// Arm is one side of a Block.
type Arm struct {
	N      int64 `json:"n"`
	Failed int64 `json:"failed,omitempty"`
}

// PodEvent is what happened to a pod.
type PodEvent string

const (
	PodReady   PodEvent = "ready"      // it is in service
	PodGone    PodEvent = "gone"       // it was deleted, by whoever
	PodCrashed PodEvent = "crashed"    // a container ended and is started again
	PodOOM     PodEvent = "oom-killed" // a container was killed for its memory
	PodFailing PodEvent = "failing"    // a probe failed that had passed before
	PodNever   PodEvent = "never"      // it was not ready when it had to be
)

// Pod is an event of one pod of the canary or of stable.
type Pod struct {
	Name   string   `json:"name"`
	Canary bool     `json:"canary,omitempty"`
	Event  PodEvent `json:"event"`
}

// GuardAnswer is what a guard says.
type GuardAnswer string

const (
	GuardPass   GuardAnswer = "pass"
	GuardFail   GuardAnswer = "fail"
	GuardNoData GuardAnswer = "no data"
)

// Guard is an answer from outside, of a PromQL query for example.
type Guard struct {
	Name   string      `json:"name"`
	Answer GuardAnswer `json:"answer"`
	Value  string      `json:"value,omitempty"` // for people
}
