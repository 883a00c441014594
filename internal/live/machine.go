package live

import (
	"fmt"
	"time"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

// Wanted is what a pod's files should be.
type Wanted struct {
	Tree    tree.Tree
	Source  tree.Hash // label, kept by the agent: what the tree was built from
	Restart bool      // the change takes effect only when the process starts anew
	Seq     uint64    // given back in events
	Digest  tree.Hash // of Tree; zero: it is computed
}

// request is what the agent was asked and has not answered.
type request int

const (
	nothing request = iota
	forTree
	forPatch
)

// machine is all that decides what a Target does next. step is its only way to
// change.
type machine struct {
	up      bool    // there is a conversation
	dialing bool    // one is being opened, or will be after a pause
	pending request // what is not answered

	change uint64    // how often the agent's tree has changed
	digest tree.Hash // of the agent's tree, when up
	have   tree.Tree // that tree; nil: not known

	// What was known before the conversation ended; often it still is so.
	lastDigest tree.Hash
	lastTree   tree.Tree

	want   *Wanted
	sent   *Wanted // in the patch that is pending
	told   *Wanted // that it is there
	plain  bool    // send without deltas: one did not fit
	held   bool    // wait for a timer or another want before trying again
	yield  bool    // another session has changed the tree: wait for another want
	fails  int     // patches in a row that came to nothing
	misses int     // conversations in a row that came to nothing
}

// observation is something that happened.
type observation interface{ isObservation() }

type (
	sawWant struct{ want *Wanted }
	sawUp   struct { // a conversation was opened
		change uint64
		digest tree.Hash
	}
	sawDown struct{ err error } // it has ended, or could not be opened
	sawTree struct {            // the answer to askTree, or a verification
		change uint64
		tree   tree.Tree
		asked  bool
	}
	sawApplied struct{ change uint64 }
	sawRefused struct{ why wire.Refused }
	sawLocal   struct { // the patch could not be read from this machine and was given up
		path string
		err  error
	}
	sawOther struct { // another session has changed the tree
		change uint64
		digest tree.Hash
		by     string
	}
	sawTimer struct{} // of retry
)

func (sawWant) isObservation()    {}
func (sawUp) isObservation()      {}
func (sawDown) isObservation()    {}
func (sawTree) isObservation()    {}
func (sawApplied) isObservation() {}
func (sawRefused) isObservation() {}
func (sawLocal) isObservation()   {}
func (sawOther) isObservation()   {}
func (sawTimer) isObservation()   {}

// action is something to do.
type action interface{ isAction() }

type (
	dial    struct{ after time.Duration }
	askTree struct{}
	send    struct { // a patch
		from       tree.Tree
		fromDigest tree.Hash
		want       *Wanted
		plain      bool
	}
	abort   struct{}                      // the patch, if that is still possible; an answer comes anyway
	retry   struct{ after time.Duration } // sawTimer then; replaces an earlier one
	tell    struct{ want *Wanted }        // that the agent has it
	problem struct {
		path string
		err  error
	}
)

func (dial) isAction()    {}
func (askTree) isAction() {}
func (send) isAction()    {}
func (abort) isAction()   {}
func (retry) isAction()   {}
func (tell) isAction()    {}
func (problem) isAction() {}

// backoff grows from first, doubling, to most.
func backoff(n int, first, most time.Duration) time.Duration {
	d := first << min(max(n-1, 0), 20)
	return min(d, most)
}

// next returns what follows from an observation.
func next(m machine, o observation) (machine, []action) {
	var acts []action
	switch o := o.(type) {
	case sawWant:
		m.want, m.held, m.yield, m.fails = o.want, false, false, 0
		if m.pending == forPatch && m.sent.Digest != o.want.Digest {
			acts = append(acts, abort{})
		}
	case sawUp:
		m.up, m.dialing, m.misses, m.pending = true, false, 0, nothing
		m.held, m.yield, m.fails = false, false, 0
		m.change = 0
		m = m.learn(o.change, o.digest, nil)
	case sawDown:
		m.up, m.dialing, m.pending, m.sent, m.have = false, false, nothing, nil, nil
		m.misses++
	case sawTree:
		if o.asked && m.pending == forTree {
			m.pending = nothing
		}
		m = m.learn(o.change, o.tree.Digest(), o.tree)
	case sawApplied:
		m.pending, m.plain, m.fails = nothing, false, 0
		m = m.learn(o.change, m.sent.Digest, m.sent.Tree)
		m.sent = nil
	case sawRefused:
		m, acts = m.refused(o.why)
	case sawLocal:
		m.pending, m.sent = nothing, nil
		m, acts = m.hold(o.path, o.err, 200*time.Millisecond)
	case sawOther:
		// What was wanted and not yet sent is sent; what was sent and undone is
		// not fought for.
		had := m.want != nil && m.told == m.want
		m = m.learn(o.change, o.digest, nil)
		if had && m.digest != m.want.Digest {
			m.yield = true
			acts = append(acts, problem{err: fmt.Errorf("the files of the pod were changed by another session (%s): save a file, or restart one of the two sessions, to say which one counts", o.by)})
		}
	case sawTimer:
		m.held = false
	}
	m, more := m.proceed()
	return m, append(acts, more...)
}

// learn notes what the agent has, unless something newer is known: answers and
// events may overtake each other. Where the tree is not given, it may be one that
// is known.
func (m machine) learn(change uint64, digest tree.Hash, t tree.Tree) machine {
	if change < m.change {
		return m
	}
	m.change = change
	switch {
	case t != nil:
	case m.want != nil && m.want.Digest == digest:
		t = m.want.Tree
	case m.lastTree != nil && m.lastDigest == digest:
		t = m.lastTree
	}
	if m.told != nil && m.told.Digest != digest {
		m.told = nil
	}
	m.digest, m.have = digest, t
	if t != nil {
		m.lastDigest, m.lastTree = digest, t
	}
	return m
}

// refused decides what follows from a refused patch.
func (m machine) refused(why wire.Refused) (machine, []action) {
	if m.pending != forPatch {
		return m, nil
	}
	m.pending, m.sent = nothing, nil
	err := fmt.Errorf("the pod's agent refused the change: %s", why.Text)
	switch why.Code {
	case wire.Aborted:
		return m, nil
	case wire.OtherBase:
		m = m.learn(why.Change, why.Have, nil)
		if m.fails++; m.fails < 3 {
			return m, nil
		}
		return m.hold(why.Path, err, 100*time.Millisecond)
	case wire.BadDelta:
		if !m.plain {
			m.plain = true
			return m, nil
		}
	case wire.BadHash:
		err = fmt.Errorf("%q changed while it was being sent; it is sent again when that has settled", why.Path)
		return m.hold(why.Path, err, 200*time.Millisecond)
	}
	return m.hold(why.Path, err, time.Second)
}

// hold reports err and has the patch tried again after a pause.
func (m machine) hold(path string, err error, first time.Duration) (machine, []action) {
	m.held = true
	m.fails++
	return m, []action{problem{path, err}, retry{backoff(m.fails, first, 30*time.Second)}}
}

// proceed starts what can be started.
func (m machine) proceed() (machine, []action) {
	if !m.up {
		if m.dialing {
			return m, nil
		}
		m.dialing = true
		after := time.Duration(0)
		if m.misses > 0 {
			after = backoff(m.misses, 50*time.Millisecond, time.Second)
		}
		return m, []action{dial{after}}
	}
	if m.want == nil || m.pending != nothing {
		return m, nil
	}
	if m.digest == m.want.Digest {
		m.have = m.want.Tree // the same, and it says where the content is
		m.lastDigest, m.lastTree = m.digest, m.have
		if m.told == m.want {
			return m, nil
		}
		m.told = m.want
		return m, []action{tell{m.want}}
	}
	if m.held || m.yield {
		return m, nil
	}
	if m.have == nil {
		m.pending = forTree
		return m, []action{askTree{}}
	}
	m.pending, m.sent = forPatch, m.want
	return m, []action{send{m.have, m.digest, m.want, m.plain}}
}
