package queue

import (
	"fmt"
	"slices"
	"strings"
)

// most is how many changes a combination may add at all.
const most = 64

// Plan returns what is to be done now. The same snapshot gives the same plan, in
// whatever order its changes and runs come; the snapshot after a plan was applied
// gives no second start of a run.
func Plan(s Snapshot) []Action {
	p := newPlanner(s)
	if n := p.settle(); len(n.accepted) == 0 && p.tipBroken() {
		p.repair()
	} else {
		p.speculate(n)
	}
	return p.finish()
}

// planner makes one plan.
type planner struct {
	Snapshot
	order   []Change
	steps   []Step    // of order
	pass    []float64 // of order
	batch   []int     // of order: how many to test at once from there on
	at      map[string]int
	results results

	decided []Action // merges and refusals
	starts  []Action
	cancel  map[string]bool // by key of the steps on the tip
	wanted  map[string]bool // runs under way that a likely path needs
	stuck   string          // why nothing can be started
}

func newPlanner(s Snapshot) *planner {
	s.Budget = max(s.Budget, 1)
	if s.Limit < 1 {
		s.Limit = 16
	}
	s.Limit = min(s.Limit, most)
	p := &planner{
		Snapshot: s, order: Order(s.Changes), at: map[string]int{}, results: newResults(s),
		cancel: map[string]bool{}, wanted: map[string]bool{},
	}
	for i, c := range p.order {
		p.steps = append(p.steps, Step{c.ID, c.Head})
		p.pass = append(p.pass, c.Pass.Mean())
		p.at[c.ID] = i
	}
	p.batch = batches(p.pass, s.Limit)
	return p
}

// node is a place on a path of results: some changes are accepted, those before at
// are decided, the rest is not.
type node struct {
	accepted []Step
	at       int
	// failing is the number of steps of a combination that begins with accepted
	// and goes on with the next changes that is taken to fail; 0 is none.
	failing int
	chance  float64
	depth   int
}

// ahead returns the positions of the changes that may follow at a node, as many as
// any combination has use for. One that conflicts with an accepted change or with
// one ahead of it is left out.
func (p *planner) ahead(n node) []int {
	want := max(p.Limit, p.results.longest-len(n.accepted), n.failing-len(n.accepted))
	in := ids(n.accepted)
	var out []int
	for i := n.at; i < len(p.order) && len(out) < want; i++ {
		if p.barred(i, in) == "" && p.order[i].Unmergeable == "" {
			out = append(out, i)
			in[p.order[i].ID] = true
		}
	}
	return out
}

// barred returns the change among in that change i conflicts with.
func (p *planner) barred(i int, in map[string]bool) string {
	for _, other := range p.order[i].Conflicts {
		if in[other] {
			return other
		}
	}
	for id := range in {
		if j, ok := p.at[id]; ok && slices.Contains(p.order[j].Conflicts, p.order[i].ID) {
			return id
		}
	}
	return ""
}

// with returns the steps of a node's accepted changes and some more.
func (p *planner) with(n node, more []int) []Step {
	out := slices.Clip(slices.Clone(n.accepted))
	for _, i := range more {
		out = append(out, p.steps[i])
	}
	return out
}

// known is what results tell at a node about the changes ahead of it.
type known struct {
	ahead  []int
	passed int // the longest stretch that passed, 0 for none
	failed int // the shortest one beyond that which failed; len(ahead)+1 for none
	// failedIn belongs to failed.
	failedIn []string
}

func (p *planner) look(n node) known {
	k := known{ahead: p.ahead(n)}
	states := make([]result, len(k.ahead)+1)
	steps := p.with(n, nil)
	for x := 1; x <= len(k.ahead); x++ {
		steps = append(steps, p.steps[k.ahead[x-1]])
		states[x] = p.results.of(steps)
		if states[x].run.State == Passed {
			k.passed = x
		}
	}
	k.failed = len(k.ahead) + 1
	for x := k.passed + 1; x <= len(k.ahead); x++ {
		if states[x].run.State == Failed {
			k.failed, k.failedIn = x, states[x].run.FailedIn
			break
		}
	}
	if hyp := n.failing - len(n.accepted); n.failing > 0 && hyp > k.passed && hyp < k.failed {
		k.failed, k.failedIn = hyp, nil
	}
	return k
}

// accept is the node after the next x changes ahead were accepted.
func (p *planner) accept(n node, k known, x int) node {
	n.accepted = p.with(n, k.ahead[:x])
	n.at = k.ahead[x-1] + 1
	if n.failing <= len(n.accepted) {
		n.failing = 0
	}
	return n
}

// settle follows what is known as far as it goes, deciding on the way.
func (p *planner) settle() node {
	n := node{chance: 1}
	for {
		n = p.turnAway(n)
		k := p.look(n)
		switch {
		case len(k.ahead) == 0:
			return p.merge(n)
		case k.passed > 0:
			next := p.accept(n, k, k.passed)
			p.refuseBarred(next.accepted, n.at, next.at)
			n = next
		case k.failed == 1 && (len(n.accepted) > 0 || p.results.tipState() == Passed):
			i := k.ahead[0]
			without := p.results.of(n.accepted).run.Combination
			failed := p.results.of(p.with(n, k.ahead[:1])).run
			p.decided = append(p.decided, Action{
				Kind: Refuse, Cause: Broken, Change: p.steps[i], Combination: failed.Combination,
				Attempt: failed.Attempt, Without: &without,
				Reason: fmt.Sprintf("%s fails and passes without %s", titles(failed.Combination), p.order[i].ID),
			})
			n.at = i + 1
		case p.results.exhausted(p.with(n, k.ahead[:1])) && k.failed > 1 && p.othersJudged(k.ahead[0], p.results.of(p.with(n, k.ahead[:1])).run):
			i := k.ahead[0]
			p.decided = append(p.decided, Action{
				Kind: Refuse, Cause: Unjudged, Change: p.steps[i],
				Combination: p.results.of(p.with(n, k.ahead[:1])).run.Combination,
				Reason: fmt.Sprintf("its test ended %d times without a result, while those of others had one: "+
					"see the logs of its runs and queue it again", attempts),
			})
			n.at = i + 1
		default:
			return p.merge(n)
		}
	}
}

// turnAway refuses the changes at the head that can't be merged into the branch.
func (p *planner) turnAway(n node) node {
	in := ids(n.accepted)
	for n.at < len(p.order) && (p.order[n.at].Unmergeable != "" || p.barred(n.at, in) != "") {
		p.refuseBarred(n.accepted, n.at, n.at+1)
		n.at++
	}
	return n
}

// ids are the changes of a combination.
func ids(steps []Step) map[string]bool {
	in := map[string]bool{}
	for _, s := range steps {
		in[s.ID] = true
	}
	return in
}

// refuseBarred refuses those between two positions that conflict with what was
// accepted.
func (p *planner) refuseBarred(accepted []Step, from, to int) {
	in := ids(accepted)
	for i := from; i < to; i++ {
		switch other := p.barred(i, in); {
		case in[p.order[i].ID]:
		case p.order[i].Unmergeable != "":
			p.decided = append(p.decided, Action{
				Kind: Refuse, Cause: Conflict, Change: p.steps[i], Combination: Combination{Base: p.Tip},
				Reason: fmt.Sprintf("it can't be merged into the branch: %s", p.order[i].Unmergeable),
			})
		case other != "":
			p.decided = append(p.decided, Action{
				Kind: Refuse, Cause: Conflict, Change: p.steps[i], Other: other, Combination: Combination{Base: p.Tip, Steps: accepted},
				Reason: fmt.Sprintf("it can't be merged together with %s, which was ahead of it and passed", other),
			})
		}
	}
}

// othersJudged reports whether the infrastructure was able to judge a combination
// without change i that adds something, not before its last loss.
func (p *planner) othersJudged(i int, lost Run) bool {
	for _, r := range p.results.runs {
		if !r.run.Ended.Before(lost.Ended) && (r.run.State == Passed || r.run.State == Failed) && len(r.steps) > 0 && !slices.Contains(r.steps, p.steps[i]) {
			return true
		}
	}
	return false
}

// merge puts the merge of what was accepted before the refusals that rest on it.
func (p *planner) merge(n node) node {
	if len(n.accepted) == 0 {
		return n
	}
	ran := p.results.of(n.accepted).run
	p.decided = slices.Insert(p.decided, 0, Action{
		Kind: Merge, Combination: Combination{p.Tip, n.accepted}, Attempt: ran.Attempt,
		Reason: "it passed as a whole",
	})
	return n
}

// titles names a combination for people.
func titles(c Combination) string {
	if len(c.Steps) == 0 {
		return "the branch itself"
	}
	ids := make([]string, len(c.Steps))
	for i, s := range c.Steps {
		ids[i] = s.ID
	}
	return strings.Join(ids, " + ") + " on " + c.Base
}
