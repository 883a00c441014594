// Package queue decides what a merge queue does next.
//
// The main entry is [Plan], a pure function from one [Snapshot] of the queue to
// the [Action]s that follow from it. It keeps nothing between two calls, reads no
// clock and starts nothing, so whoever calls it may crash, or apply a plan twice,
// and a snapshot taken afresh puts things right. All of it is safe for concurrent
// use.
//
// The unit of work is a run: the test of a [Combination], a base of the branch
// with some changes on it in the queue's order. Only what a run has passed as a
// whole is merged. A change is refused only on a pair of runs: one that passed
// without it, and one that failed with nothing but it added.
//
// Runs are saved by testing several changes at once and, when that fails, by
// looking for the first broken one with the fewest expected runs; no combination
// that failed is tested again. Runs are started ahead of results along the paths
// that are likeliest (the product of the probabilities of the results that lead
// there), as many at once as the budget allows.
package queue

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"time"
)

// Snapshot is all that a plan is made from.
type Snapshot struct {
	// Tip identifies what is at the head of the branch. A tree's hash serves
	// better than a commit's: a push that leaves the tree as it was then leaves
	// all results valid.
	Tip string
	// Changes wait to be merged, in any order; see [Order].
	Changes []Change
	// Runs are the combinations that are or were tested. Old ones may be left out;
	// what they showed may then be tested anew.
	Runs []Run
	// Landed are the merges by which the queue moved the branch, at least those
	// since the Base of the oldest of Runs. A tip that no Landing leads to was
	// pushed by somebody else: then results on earlier bases count no more.
	Landed []Landing
	// Budget is how many runs may be under way at once; less than one is one.
	Budget int
	// Limit is how many changes a combination may add to what is known to pass;
	// less than one is 16. Large batches need the fewest runs; with a limit of one
	// and a larger budget there are more of them, and the queue is empty sooner.
	Limit int
}

// Change is a change that waits to be merged.
type Change struct {
	ID   string
	Head string // its commit; another one makes it another change as far as results go
	// Pass is what is believed about its chance of passing.
	Pass Beta
	// Priority moves it ahead of changes queued up to Priority times [HeadStart]
	// before it; it is taken as within -6 and 6.
	Priority int
	Queued   time.Time
	// Conflicts are the IDs of changes that it can't be merged together with.
	Conflicts []string
	// Unmergeable says why it can't be merged on the tip, "" if it can.
	Unmergeable string
	// Touches names what it affects (services, packages), in the words of
	// Run.FailedIn. Empty is unknown.
	Touches []string
}

// Beta is a belief about a chance: as after so many passes and failures.
type Beta struct {
	Passes, Failures float64
}

// Mean is the chance of passing. Without any observation it is 0.9.
func (b Beta) Mean() float64 {
	p, f := max(b.Passes, 0), max(b.Failures, 0)
	if !(p+f > 0) || p+f > 1e12 { // also NaN
		p, f = 9, 1
	}
	return min(max(p/(p+f), 0.02), 0.999)
}

// Step is a change as part of a combination.
type Step struct {
	ID   string `json:"id"`
	Head string `json:"head"`
}

// Combination is what a run tests: a base of the branch and changes on it.
// Without steps it is the base itself.
type Combination struct {
	Base  string `json:"base"`
	Steps []Step `json:"steps,omitempty"`
}

// Key identifies the combination: the same key, the same content.
func (c Combination) Key() string {
	h := sha256.New()
	add := func(s string) {
		h.Write([]byte(strconv.Itoa(len(s))))
		h.Write([]byte{':'})
		h.Write([]byte(s))
	}
	add(c.Base)
	for _, s := range c.Steps {
		add(s.ID)
		add(s.Head)
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// State is how a run stands.
type State string

const (
	Running State = "running"
	Passed  State = "passed"
	Failed  State = "failed"
	// Lost is a run that ended without showing anything about the combination: its
	// worker died, a registry was away. It is started again, up to three times.
	Lost State = "lost"
)

// Run is the test of a combination.
type Run struct {
	Combination
	State State
	// Attempt counts the runs of this combination, from 1. The highest one counts.
	Attempt int
	// FailedIn names what a failed run's failures are in, in the words of
	// Change.Touches. It guides the search for the broken change and convicts
	// nobody.
	FailedIn []string
	// Ended is when it did; it tells losses in an outage from those of one change.
	Ended time.Time
}

// Landing is a merge that the queue made.
type Landing struct {
	Before string
	Steps  []Step
	After  string
}

// Kind says what an action does.
type Kind string

const (
	// Merge brings the steps of the combination to the branch, all at once.
	Merge Kind = "merge"
	// Refuse takes Change from the queue.
	Refuse Kind = "refuse"
	// Cancel ends a run that nothing can be learnt from any more.
	Cancel Kind = "cancel"
	// Start begins the test of the combination.
	Start Kind = "start"
	// Wait tells that nothing is to be done until something happens, and what.
	Wait Kind = "wait"
)

// Cause is why a change is refused.
type Cause string

const (
	// Broken: the combination failed and the same without the change passed.
	Broken Cause = "broken"
	// Conflict: it can't be merged with Other, or, where that is "", the branch.
	Conflict Cause = "conflict"
	// Unjudged: its runs were lost again and again while others were not.
	Unjudged Cause = "unjudged"
)

// Action is one thing to do. Those of a plan are to be applied in its order.
// Start and Merge are for a combination whose Base is the snapshot's tip, also
// when a Merge of the same plan moves the branch first.
type Action struct {
	Kind Kind `json:"kind"`
	// Combination is what is started, cancelled or merged; of a refusal the one
	// that failed.
	Combination `json:"combination"`
	// Attempt numbers a started or cancelled run of the combination.
	Attempt int `json:"attempt,omitempty"`
	// Change is the refused one, Cause why, Other what it conflicts with.
	Change Step   `json:"change,omitzero"`
	Cause  Cause  `json:"cause,omitempty"`
	Other  string `json:"other,omitempty"`
	// Without is what passed when the change was not there.
	Without *Combination `json:"without,omitempty"`
	// Chance is how likely the result of a started run will be needed.
	Chance float64 `json:"chance,omitempty"`
	// Reason is for people.
	Reason string `json:"reason"`
}

// HeadStart is what one step of priority is worth in time of waiting. Since
// priority is nothing but time, no change waits for ever.
const HeadStart = 10 * time.Minute

// Order sorts changes as they are to be merged. Of several with one ID the last
// one counts.
func Order(changes []Change) []Change {
	byID := map[string]Change{}
	for _, c := range changes {
		byID[c.ID] = c
	}
	out := make([]Change, 0, len(byID))
	for _, c := range changes {
		if last, ok := byID[c.ID]; ok {
			out = append(out, last)
			delete(byID, c.ID)
		}
	}
	due := func(c Change) time.Time {
		return c.Queued.Add(-time.Duration(min(max(c.Priority, -6), 6)) * HeadStart)
	}
	slices.SortFunc(out, func(a, b Change) int {
		return cmp.Or(due(a).Compare(due(b)), a.Queued.Compare(b.Queued), cmp.Compare(a.ID, b.ID))
	})
	return out
}
