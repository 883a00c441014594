package queue

import (
	"cmp"
	"fmt"
	"slices"
)

// worthwhile is how likely the result of a run must be needed for the run to be
// started before that is certain.
const worthwhile = 0.6

// speculate spends the budget on the runs that are likeliest to be needed, from a
// node where everything known has been followed.
func (p *planner) speculate(root node) {
	p.cancelUseless(root)
	free := p.Budget - p.underWay()
	open := []node{root}
	if p.needsBase(root) {
		if got := p.results.of(nil); got.run.State == Running {
			p.wanted[p.results.key(nil)] = true
		} else if p.results.exhausted(nil) {
			p.stuck = fmt.Sprintf("the test of the branch itself ended %d times without a result", attempts)
			return
		} else {
			free = p.start(nil, 1, free)
		}
	}
	for len(open) > 0 {
		best := slices.MaxFunc(open, func(a, b node) int {
			return cmp.Or(cmp.Compare(a.chance, b.chance), cmp.Compare(b.depth, a.depth))
		})
		open = slices.DeleteFunc(open, func(n node) bool { return same(n, best) })
		n, k, live := p.follow(best)
		if !live {
			continue
		}
		x := p.choose(n, k)
		if x == 0 {
			if n.depth == 0 {
				p.stuck = fmt.Sprintf("the test of %s ended %d times without a result", p.order[k.ahead[0]].ID, attempts)
			}
			n.at, n.failing, n.depth = k.ahead[0]+1, 0, n.depth+1 // as if it were not there
			open = append(open, n)
			continue
		}
		steps := p.with(n, k.ahead[:x])
		if p.results.state(steps) == Running {
			p.wanted[p.results.key(steps)] = true
		} else {
			if free <= 0 && n.chance == 1 {
				free += p.preempt()
			}
			if free <= 0 {
				return
			}
			free = p.start(steps, n.chance, free)
		}
		for _, child := range p.children(n, k, x) {
			if child.chance >= worthwhile {
				open = append(open, child)
			}
		}
	}
}

func same(a, b node) bool {
	return a.at == b.at && a.failing == b.failing && a.depth == b.depth && slices.Equal(a.accepted, b.accepted)
}

// needsBase reports whether the first change can't be convicted before the branch
// itself was tested.
func (p *planner) needsBase(n node) bool {
	k := p.look(n)
	return len(n.accepted) == 0 && len(k.ahead) > 0 && k.failed == 1 && p.results.tipState() != Passed
}

// follow goes on along known results, without deciding anything.
func (p *planner) follow(n node) (node, known, bool) {
	for {
		k := p.look(n)
		switch {
		case len(k.ahead) == 0:
			return n, k, false
		case k.passed > 0:
			n = p.accept(n, k, k.passed)
		case k.failed == 1:
			n.at, n.failing = k.ahead[0]+1, 0
		default:
			return n, k, true
		}
	}
}

// odds are the chances of passing of the changes ahead, in the light of what failed.
func (p *planner) odds(k known) []float64 {
	pass := make([]float64, len(k.ahead))
	for i, at := range k.ahead {
		pass[i] = p.pass[at]
	}
	if k.failed > len(k.ahead) {
		return pass
	}
	changes := make([]Change, k.failed)
	for i := range changes {
		changes[i] = p.order[k.ahead[i]]
	}
	return append(blamed(changes, pass[:k.failed], k.failedIn), pass[k.failed:]...)
}

// choose returns how many of the changes ahead to test next: what is being tested
// already if that tells something, else what needs the fewest runs. 0 is none: all
// were lost too often.
func (p *planner) choose(n node, k known) int {
	longest := min(len(k.ahead), k.failed-1)
	want := 0
	if k.failed <= len(k.ahead) {
		want = search(first(p.odds(k)[:k.failed])).split[0][k.failed]
	} else {
		want = min(p.batch[k.ahead[0]], p.Limit)
	}
	best, running := 0, false
	better := func(x int, live bool) bool {
		if best == 0 || live != running {
			return best == 0 || live
		}
		return distance(x, want) < distance(best, want)
	}
	steps := p.with(n, nil)
	for x := 1; x <= longest; x++ {
		steps = append(steps, p.steps[k.ahead[x-1]])
		live := p.results.state(steps) == Running
		if p.cancel[p.results.key(steps)] || !live && (p.results.exhausted(steps) || x > p.Limit) {
			continue
		}
		if better(x, live) {
			best, running = x, live
		}
	}
	return best
}

func distance(a, b int) int { return max(a-b, b-a) }

// children are the two nodes after the test of the next x changes.
func (p *planner) children(n node, k known, x int) []node {
	pass := p.odds(k)
	all := func(x int) float64 {
		out := 1.0
		for _, v := range pass[:x] {
			out *= v
		}
		return out
	}
	chance := all(x)
	if k.failed <= len(k.ahead) {
		whole := all(k.failed)
		chance = (chance - whole) / (1 - whole)
	}
	yes := n
	if k.failed <= len(k.ahead) {
		yes.failing = len(n.accepted) + k.failed
	}
	yes = p.accept(yes, k, x)
	yes.chance, yes.depth = n.chance*chance, n.depth+1
	no := n
	no.failing = len(n.accepted) + x
	no.chance, no.depth = n.chance*(1-chance), n.depth+1
	return []node{yes, no}
}

// start starts a run if the budget allows, and returns what is left of it.
func (p *planner) start(steps []Step, chance float64, free int) int {
	if free <= 0 {
		free += p.preempt()
	}
	if free <= 0 {
		return free
	}
	attempt := p.results.of(steps).run.Attempt + 1
	reason := "its result is needed next"
	switch {
	case len(steps) == 0:
		reason = "the branch itself must pass before a change can be blamed"
	case attempt > 1:
		reason = fmt.Sprintf("the last run of it ended without a result; this is attempt %d of %d", attempt, attempts)
	case chance < 1:
		reason = fmt.Sprintf("its result will be needed with a chance of %.0f %%", 100*chance)
	}
	p.starts = append(p.starts, Action{
		Kind: Start, Combination: Combination{p.Tip, steps}, Attempt: attempt, Chance: chance, Reason: reason,
	})
	return free - 1
}
