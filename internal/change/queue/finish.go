package queue

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// running returns the runs under way on the tip, by key, in a fixed order.
func (p *planner) running() []string {
	var keys []string
	for key, r := range p.results.runs {
		if r.run.State == Running && !p.cancel[key] {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		ra, rb := p.results.runs[a], p.results.runs[b]
		return cmp.Or(cmp.Compare(len(ra.steps), len(rb.steps)), cmp.Compare(a, b))
	})
	return keys
}

func (p *planner) underWay() int { return len(p.running()) }

// cancelUseless cancels the runs whose result could tell nothing at the node.
func (p *planner) cancelUseless(n node) {
	k := p.look(n)
	needsBase := p.needsBase(n)
	for _, key := range p.running() {
		steps := p.results.runs[key].steps
		if len(steps) == 0 && needsBase {
			continue
		}
		if !p.useful(n, k, steps) {
			p.cancel[key] = true
		}
	}
}

// useful reports whether a combination may come to be asked for: it goes on from
// what is accepted with changes that wait, in their order, and does not hold what
// is known to fail.
func (p *planner) useful(n node, k known, steps []Step) bool {
	if len(steps) <= len(n.accepted) || !slices.Equal(steps[:len(n.accepted)], n.accepted) {
		return false
	}
	steps = steps[len(n.accepted):]
	at := n.at
	in := ids(n.accepted)
	for _, s := range steps {
		i, waits := p.at[s.ID]
		if !waits || i < at || p.steps[i] != s || p.order[i].Unmergeable != "" || p.barred(i, in) != "" {
			return false
		}
		in[s.ID] = true
		at = i + 1
	}
	if k.failed > len(k.ahead) || len(steps) < k.failed {
		return true
	}
	for x, i := range k.ahead[:k.failed] {
		if steps[x] != p.steps[i] {
			return true
		}
	}
	return false
}

// preempt cancels the longest run that no likely path needs and returns how many
// it cancelled.
func (p *planner) preempt() int {
	keys := p.running()
	for _, key := range slices.Backward(keys) {
		if !p.wanted[key] {
			p.cancel[key] = true
			return 1
		}
	}
	return 0
}

func (p *planner) tipBroken() bool { return p.results.tipState() == Failed }

// repair plans for a branch that is broken in itself: no change can be blamed, and
// the first that passes alone is merged, whatever its place in the queue.
func (p *planner) repair() {
	for _, key := range p.running() {
		if steps := p.results.runs[key].steps; len(steps) != 1 || !slices.Contains(p.steps, steps[0]) {
			p.cancel[key] = true
		}
	}
	free := p.Budget - p.underWay()
	for i, c := range p.order {
		steps := p.steps[i : i+1]
		switch {
		case c.Unmergeable != "" || p.results.exhausted(steps):
		case p.results.state(steps) == Passed:
			p.decided = append(p.decided, Action{
				Kind: Merge, Combination: Combination{p.Tip, slices.Clone(steps)}, Attempt: p.results.of(steps).run.Attempt,
				Reason: "the branch itself fails and passes with this change, so it goes first",
			})
			p.starts = nil
			return
		case p.results.state(steps) == Running:
			p.wanted[p.results.key(steps)] = true
		case p.results.state(steps) == Failed:
		case free > 0:
			free = p.start(slices.Clone(steps), 1, free)
		}
	}
	p.stuck = "the branch itself fails at " + p.Tip + ": queue a change that repairs it; no other can be merged or blamed before"
}

// finish puts the plan together: decisions, then what is ended, then what is begun.
func (p *planner) finish() []Action {
	out := p.decided
	out = append(out, p.cancelled()...)
	out = append(out, p.starts...)
	if len(out) > 0 || len(p.order) == 0 {
		return out
	}
	wait := Action{Kind: Wait, Combination: Combination{Base: p.Tip}, Reason: p.stuck}
	if keys := p.running(); len(keys) > 0 {
		names := make([]string, len(keys))
		for i, key := range keys {
			names[i] = titles(Combination{p.Tip, p.results.runs[key].steps})
		}
		wait.Reason = fmt.Sprintf("waits for the test of %s", strings.Join(names, "; "))
		if p.stuck != "" {
			wait.Reason = p.stuck + "; " + wait.Reason
		}
	}
	return []Action{wait}
}

// cancelled ends what was found useless, what is on a base that the branch has
// left, and all but the newest of several attempts.
func (p *planner) cancelled() []Action {
	var out []Action
	for _, run := range p.Runs {
		if run.State != Running {
			continue
		}
		reason := ""
		steps, ok := p.results.onTip(run.Combination)
		switch key := p.results.key(steps); {
		case !ok:
			reason = "the branch has moved away from its base"
		case p.cancel[key]:
			reason = "nothing can be learnt from it any more"
		case len(p.order) == 0:
			reason = "no change waits"
		case newer(p.results.runs[key].run, run):
			reason = "a later attempt is there"
		default:
			continue
		}
		out = append(out, Action{Kind: Cancel, Combination: run.Combination, Attempt: run.Attempt, Reason: reason})
	}
	slices.SortFunc(out, func(a, b Action) int {
		return cmp.Or(cmp.Compare(a.Key(), b.Key()), cmp.Compare(a.Attempt, b.Attempt))
	})
	return slices.CompactFunc(out, func(a, b Action) bool { return a.Key() == b.Key() && a.Attempt == b.Attempt })
}
