package queue

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world is the outside of the queue: which combinations pass, the branch, the runs.
type world struct {
	t      *testing.T
	rand   *rand.Rand
	bad    map[Step]bool    // fail wherever they are
	pairs  map[[2]Step]bool // fail together, the one ahead first
	blame  bool
	lost   float64 // chance that a run ends without a result
	snap   Snapshot
	merged []Step
	out    map[Step]Action // refused
	ends   map[string]float64
	now    float64
	starts int
	asked  map[string]bool // combinations that failed, by content
}

func newWorld(t *testing.T, seed uint64, changes []Change, budget int) *world {
	return &world{
		t: t, rand: rand.New(rand.NewPCG(seed, 7)), bad: map[Step]bool{}, pairs: map[[2]Step]bool{},
		snap: Snapshot{
			Tip: "t0", Changes: changes, Budget: budget,
			Runs: []Run{{Combination: Combination{Base: "t0"}, State: Passed, Attempt: 1}},
		},
		out: map[Step]Action{}, ends: map[string]float64{}, asked: map[string]bool{},
	}
}

// passes tells whether a tree with these changes passes.
func (w *world) passes(steps []Step) bool {
	for i, s := range steps {
		if w.bad[s] {
			return false
		}
		for _, o := range steps[:i] {
			if w.pairs[[2]Step{o, s}] {
				return false
			}
		}
	}
	return true
}

// content is all that a combination has on the first tip.
func (w *world) content(c Combination) []Step {
	var steps []Step
	for base := "t0"; base != c.Base; {
		i := slices.IndexFunc(w.snap.Landed, func(l Landing) bool { return l.Before == base })
		if i < 0 {
			w.t.Fatalf("no way from the first tip to %s", c.Base)
		}
		steps = append(steps, w.snap.Landed[i].Steps...)
		base = w.snap.Landed[i].After
	}
	return append(steps, c.Steps...)
}

func (w *world) run(key string, attempt int) *Run {
	for i := range w.snap.Runs {
		if r := &w.snap.Runs[i]; r.Key() == key && r.Attempt == attempt {
			return r
		}
	}
	return nil
}

// apply does what a plan says and checks each action against the truth.
func (w *world) apply(plan []Action) {
	tip := w.snap.Tip
	for _, a := range plan {
		switch a.Kind {
		case Start:
			w.start(a)
		case Cancel:
			w.snap.Runs = slices.DeleteFunc(w.snap.Runs, func(r Run) bool { return r.Key() == a.Key() && r.Attempt == a.Attempt })
			delete(w.ends, fmt.Sprint(a.Key(), a.Attempt))
		case Merge:
			if a.Base != tip {
				w.t.Fatalf("merge on %s, the tip is %s", a.Base, tip)
			}
			w.checkMerge(a)
			after := fmt.Sprintf("t%d", len(w.snap.Landed)+1)
			w.snap.Landed = append(w.snap.Landed, Landing{w.snap.Tip, a.Steps, after})
			w.snap.Tip = after
			w.merged = append(w.merged, a.Steps...)
			w.leave(a.Steps...)
		case Refuse:
			if _, again := w.out[a.Change]; again {
				w.t.Fatalf("%v refused twice", a.Change)
			}
			w.out[a.Change] = a
			w.leave(a.Change)
		}
	}
}

func (w *world) start(a Action) {
	if w.run(a.Key(), a.Attempt) != nil {
		return // applied twice
	}
	content := fmt.Sprint(w.content(a.Combination))
	if w.asked[content] {
		w.t.Fatalf("a combination that failed is tested again: %v", a.Steps)
	}
	w.starts++
	w.snap.Runs = append(w.snap.Runs, Run{Combination: a.Combination, State: Running, Attempt: a.Attempt})
	w.ends[fmt.Sprint(a.Key(), a.Attempt)] = w.now + 50 + 20*w.rand.Float64()
	if n := len(w.ends); n > max(w.snap.Budget, 1) {
		w.t.Fatalf("%d runs under way with a budget of %d", n, w.snap.Budget)
	}
}

// checkMerge holds a merge to a run that passed with exactly that content, and to
// the order of the queue.
func (w *world) checkMerge(a Action) {
	want := fmt.Sprint(w.content(a.Combination))
	tested := slices.ContainsFunc(w.snap.Runs, func(r Run) bool {
		return r.State == Passed && len(r.Steps) > 0 && fmt.Sprint(w.content(r.Combination)) == want
	})
	if !tested {
		w.t.Fatalf("merges %v, which was not tested", a.Steps)
	}
	order := Order(w.snap.Changes)
	last := -1
	for _, s := range a.Steps {
		i := slices.IndexFunc(order, func(c Change) bool { return c.ID == s.ID && c.Head == s.Head })
		if i <= last {
			w.t.Fatalf("merges %v out of order", a.Steps)
		}
		last = i
	}
}

func (w *world) leave(steps ...Step) {
	w.snap.Changes = slices.DeleteFunc(w.snap.Changes, func(c Change) bool { return slices.Contains(steps, Step{c.ID, c.Head}) })
}

// advance ends the run that ends next, and reports whether there was one.
func (w *world) advance() bool {
	var next *Run
	for i := range w.snap.Runs {
		r := &w.snap.Runs[i]
		if r.State == Running && (next == nil || w.end(r) < w.end(next)) {
			next = r
		}
	}
	if next == nil {
		return false
	}
	w.now = w.end(next)
	delete(w.ends, fmt.Sprint(next.Key(), next.Attempt))
	switch {
	case w.rand.Float64() < w.lost:
		next.State = Lost
	case w.passes(w.content(next.Combination)):
		next.State = Passed
	default:
		next.State = Failed
		if w.blame {
			next.FailedIn = w.failedIn(w.content(next.Combination))
		}
		w.asked[fmt.Sprint(w.content(next.Combination))] = true
	}
	return true
}

func (w *world) failedIn(steps []Step) []string {
	var out []string
	for _, s := range steps {
		if w.bad[s] {
			out = append(out, service(s.ID))
		}
	}
	return out
}

// service is what a change touches, one of 20.
func service(id string) string {
	var n int
	fmt.Sscanf(id, "c%d", &n)
	return fmt.Sprint("s", n*7%20)
}

func (w *world) end(r *Run) float64 { return w.ends[fmt.Sprint(r.Key(), r.Attempt)] }

// play runs until the queue is empty.
func (w *world) play() {
	for range 10_000 {
		plan := Plan(w.snap)
		if w.starts%8 == 0 {
			if diff := cmp.Diff(plan, Plan(w.shuffled())); diff != "" {
				w.t.Fatalf("the order of the snapshot changes the plan:\n%s", diff)
			}
		}
		w.apply(plan)
		if len(w.snap.Changes) == 0 {
			return
		}
		for _, a := range Plan(w.snap) {
			if a.Kind == Start && w.run(a.Key(), a.Attempt) != nil {
				w.t.Fatalf("started twice: %v", a)
			}
		}
		moved := slices.ContainsFunc(plan, func(a Action) bool { return a.Kind == Merge || a.Kind == Refuse })
		if !w.advance() && !moved {
			w.t.Fatalf("nothing runs and %d changes wait: %v", len(w.snap.Changes), plan)
		}
	}
	w.t.Fatalf("no end; %d changes wait", len(w.snap.Changes))
}

func (w *world) shuffled() Snapshot {
	s := w.snap
	s.Changes, s.Runs, s.Landed = slices.Clone(s.Changes), slices.Clone(s.Runs), slices.Clone(s.Landed)
	w2 := rand.New(rand.NewPCG(uint64(len(s.Runs)), 3))
	w2.Shuffle(len(s.Changes), func(i, j int) { s.Changes[i], s.Changes[j] = s.Changes[j], s.Changes[i] })
	w2.Shuffle(len(s.Runs), func(i, j int) { s.Runs[i], s.Runs[j] = s.Runs[j], s.Runs[i] })
	w2.Shuffle(len(s.Landed), func(i, j int) { s.Landed[i], s.Landed[j] = s.Landed[j], s.Landed[i] })
	return s
}

// check compares the verdicts with those of testing the changes one by one.
func (w *world) check(changes []Change) {
	w.t.Helper()
	var good []Step
	for _, c := range Order(changes) {
		s := Step{c.ID, c.Head}
		if w.passes(append(slices.Clone(good), s)) {
			good = append(good, s)
			if a, refused := w.out[s]; refused {
				w.t.Errorf("%s is refused and is good: %v", c.ID, a)
			}
		} else if a, refused := w.out[s]; !refused {
			w.t.Errorf("%s is merged and is broken", c.ID)
		} else if a.Cause == Broken && (w.passes(w.content(a.Combination)) || !w.passes(w.content(*a.Without))) {
			w.t.Errorf("%s is refused on false evidence: %v", c.ID, a)
		}
	}
	if !slices.Equal(w.merged, good) {
		w.t.Errorf("merged %v\nwant   %v", w.merged, good)
	}
}

func hundred() []Change {
	changes := make([]Change, 100)
	for i := range changes {
		changes[i] = Change{
			ID: fmt.Sprintf("c%02d", i), Head: "h", Queued: time.Unix(int64(i), 0),
			Pass: Beta{Passes: 90, Failures: 10},
		}
		changes[i].Touches = []string{service(changes[i].ID)}
	}
	return changes
}

// fewest is the least number of runs with which a queue of n changes can be
// judged, k of them broken, at most limit to a run: each run tells one bit, so
// whoever does not know which are broken needs log2 C(n,k) of them on average; and
// even who knows it must show a failing run for each broken change and passing
// ones for the rest.
func fewest(n, k, limit int) (bits, proof float64) {
	lg := func(n int) float64 { v, _ := math.Lgamma(float64(n + 1)); return v / math.Ln2 }
	return lg(n) - lg(k) - lg(n-k), float64(k) + math.Ceil(float64(n-k)/float64(limit))
}

func TestHundredChangesOneInTenBroken(t *testing.T) {
	const seeds = 20
	t.Logf("100 changes, 10 of them broken; mean of %d seeds; a run takes about 60 s", seeds)
	t.Logf("%-28s %6s %6s %8s %8s %8s %8s %9s", "scenario", "limit", "budget", "runs", "fewest", "ratio", "of proof", "hours")
	for _, c := range []struct {
		name          string
		limit, budget int
		pairs         int
		blind         bool
		blame         bool    // failures tell which service they are in, one of 20
		most          float64 // the ratio that is promised; 0 is none
	}{
		{"one by one", 1, 1, 0, false, false, 1.3},
		{"one by one", 1, 4, 0, false, false, 1.3},
		{"batches", 16, 1, 0, false, false, 1.3},
		{"batches", 16, 2, 0, false, false, 1.3},
		{"batches", 16, 4, 0, false, false, 1.3},
		{"batches", 16, 8, 0, false, false, 1.3},
		{"batches, 5 are pairs", 16, 4, 5, false, false, 1.3},
		{"batches, nothing known", 16, 4, 0, true, false, 1.3},
		{"batches, failures are placed", 16, 1, 0, false, true, 0},
	} {
		total, hours := 0.0, 0.0
		for seed := range uint64(seeds) {
			changes := hundred()
			w := newWorld(t, seed, slices.Clone(changes), c.budget)
			w.snap.Limit = c.limit
			if c.blind { // then the default is all there is
				for i := range w.snap.Changes {
					w.snap.Changes[i].Pass = Beta{}
				}
			}
			w.blame = c.blame
			w.breakSome(changes, 10, c.pairs)
			w.play()
			w.check(changes)
			if len(w.out) != 10 {
				t.Fatalf("%d refused, want 10", len(w.out))
			}
			total += float64(w.starts)
			hours += w.now / 3600
		}
		bits, proof := fewest(100, 10, c.limit)
		mean, least := total/seeds, max(bits, proof)
		t.Logf("%-28s %6d %6d %8.1f %8.1f %8.2f %8.1f %9.2f", c.name, c.limit, c.budget, mean, least, mean/least, proof, hours/seeds)
		if c.most > 0 && mean > c.most*least {
			t.Errorf("%s, limit %d, budget %d: %.1f runs, the fewest possible are %.1f", c.name, c.limit, c.budget, mean, least)
		}
	}
}

// breakSome breaks n of the changes, pairs of them only together with one ahead.
func (w *world) breakSome(changes []Change, n, pairs int) {
	perm := w.rand.Perm(len(changes))
	step := func(i int) Step { return Step{changes[i].ID, changes[i].Head} }
	for _, i := range perm[pairs:n] {
		w.bad[step(i)] = true
	}
	for i := range pairs {
		a, b := perm[n+2*i], perm[n+2*i+1]
		w.pairs[[2]Step{step(min(a, b)), step(max(a, b))}] = true
	}
}
