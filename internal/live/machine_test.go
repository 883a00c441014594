package live

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/tree"
)

func wanted(content string) *Wanted {
	w := &Wanted{Tree: tree.Tree{"a": file(content)}}
	w.Digest = w.Tree.Digest()
	return w
}

// describe writes actions down.
func describe(acts []action) string {
	var all []string
	for _, a := range acts {
		s := strings.TrimPrefix(fmt.Sprintf("%T", a), "live.")
		switch a := a.(type) {
		case dial:
			s += " after " + a.after.String()
		case retry:
			s += " after " + a.after.String()
		case send:
			if a.plain {
				s += " plain"
			}
		}
		all = append(all, s)
	}
	return strings.Join(all, ", ")
}

func TestMachine(t *testing.T) {
	one, two, three := wanted("1"), wanted("2"), wanted("3")
	type step struct {
		o    observation
		want string
	}
	up := sawUp{0, one.Digest}
	refused := func(c wire.Code) sawRefused { return sawRefused{wire.Refused{Code: c, Have: one.Digest}} }
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"dials, and again after growing pauses", []step{
			{sawTimer{}, "dial after 0s"}, {sawTimer{}, ""},
			{sawDown{}, "dial after 50ms"}, {sawDown{}, "dial after 100ms"}, {sawDown{}, "dial after 200ms"},
			{sawDown{}, "dial after 400ms"}, {sawDown{}, "dial after 800ms"}, {sawDown{}, "dial after 1s"},
			{up, ""}, {sawDown{}, "dial after 50ms"},
		}},
		{"in sync from the start", []step{{sawWant{one}, "dial after 0s"}, {up, "tell"}}},
		{"wanted after it is up", []step{{up, ""}, {sawWant{one}, "tell"}}},
		{"asks for a tree that is not known", []step{
			{sawWant{two}, "dial after 0s"}, {up, "askTree"}, {sawTree{0, one.Tree, true}, "send"}, {sawApplied{1}, "tell"},
			{sawWant{three}, "send"}, {sawApplied{2}, "tell"}, {sawDown{}, "dial after 50ms"},
			{sawUp{2, three.Digest}, ""}, {sawWant{one}, "send"},
		}},
		{"knows the tree from before", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawDown{}, "dial after 50ms"}, {sawWant{two}, ""}, {up, "send"},
		}},
		{"a newer want cancels", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"}, {sawWant{three}, "abort"}, {refused(wire.Aborted), "send"},
			{sawApplied{1}, "tell"},
		}},
		{"a newer want comes too late to cancel", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"}, {sawWant{three}, "abort"}, {sawApplied{1}, "send"},
		}},
		{"the same want again is told", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{wanted("1")}, "tell"}, {sawWant{two}, "send"}, {sawWant{wanted("2")}, ""},
			{sawApplied{1}, "tell"},
		}},
		{"another base", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"},
			{sawRefused{wire.Refused{Code: wire.OtherBase, Have: three.Digest, Change: 4}}, "askTree"},
			{sawTree{4, three.Tree, true}, "send"}, {sawApplied{5}, "tell"},
		}},
		{"always another base", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"}, {refused(wire.OtherBase), "send"},
			{refused(wire.OtherBase), "send"}, {refused(wire.OtherBase), "problem, retry after 800ms"}, {sawTimer{}, "send"},
		}},
		{"a delta that does not fit", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"}, {refused(wire.BadDelta), "send plain"},
			{sawApplied{1}, "tell"}, {sawWant{three}, "send"},
		}},
		{"a file that changed meanwhile", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"}, {refused(wire.BadHash), "problem, retry after 200ms"},
			{sawTimer{}, "send"}, {refused(wire.BadHash), "problem, retry after 400ms"}, {sawWant{three}, "send"},
		}},
		{"a file that can't be read", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"},
			{sawLocal{"a", errors.New("no")}, "problem, retry after 200ms"}, {sawWant{wanted("1")}, "tell"}, {sawTimer{}, ""},
		}},
		{"no space", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"}, {refused(wire.NoSpace), "problem, retry after 1s"},
			{sawTimer{}, "send"}, {refused(wire.NoSpace), "problem, retry after 2s"},
		}},
		{"another session", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawOther{1, two.Digest, "ben"}, "problem"}, {sawTimer{}, ""},
			{sawWant{three}, "askTree"}, {sawTree{1, two.Tree, true}, "send"},
		}},
		{"another session wants the same", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"}, {sawOther{1, two.Digest, "ben"}, ""},
			{sawRefused{wire.Refused{Code: wire.OtherBase, Have: two.Digest, Change: 1}}, "tell"},
		}},
		{"an answer that was overtaken", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"}, {sawOther{2, three.Digest, "ben"}, ""},
			{sawApplied{1}, "askTree"}, {sawTree{2, three.Tree, true}, "send"},
		}},
		{"tampered with", []step{{up, ""}, {sawWant{one}, "tell"}, {sawTree{1, two.Tree, false}, "send"}}},
		{"lost while sending", []step{
			{up, ""}, {sawWant{one}, "tell"}, {sawWant{two}, "send"}, {sawDown{}, "dial after 50ms"},
			{sawUp{1, two.Digest}, "tell"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m machine
			for i, s := range tt.steps {
				var acts []action
				m, acts = next(m, s.o)
				if d := cmp.Diff(s.want, describe(acts)); d != "" {
					t.Fatalf("step %d (%T): -want +got:\n%s", i, s.o, d)
				}
			}
		})
	}
}

// world is a machine, an agent and what is on its way between them.
type world struct {
	r      *rand.Rand
	m      machine
	latest *Wanted

	tree    tree.Tree // the agent's
	change  uint64
	link    bool
	dialing bool
	timer   bool
	answers []observation // from the agent, in order
	job     *send         // what the agent has been asked
	asked   bool
	aborted bool
}

// faults lets the world be unkind.
func (w *world) step(faults bool) bool {
	type move struct {
		name string
		do   func()
	}
	var moves []move
	can := func(ok bool, name string, do func()) {
		if ok {
			moves = append(moves, move{name, do})
		}
	}
	can(w.dialing, "connect", func() {
		w.dialing = false
		if faults && w.r.IntN(3) == 0 {
			w.see(sawDown{})
			return
		}
		w.link = true
		w.see(sawUp{w.change, w.tree.Digest()})
	})
	can(len(w.answers) > 0, "answer", func() {
		o := w.answers[0]
		w.answers = w.answers[1:]
		w.see(o)
	})
	can(w.asked, "tell the tree", func() {
		w.asked = false
		w.answers = append(w.answers, sawTree{w.change, w.tree, true})
	})
	can(w.job != nil, "patch", w.patch(faults))
	can(w.timer, "timer", func() { w.timer = false; w.see(sawTimer{}) })
	if faults {
		can(true, "edit", func() { w.latest = wanted(fmt.Sprint(w.r.IntN(6))); w.see(sawWant{w.latest}) })
		can(w.link, "cut", func() { w.cut() })
		can(true, "agent restarted or pod replaced", func() {
			if w.r.IntN(2) == 0 {
				w.tree = wanted("image").Tree
			}
			w.change = 0
			w.cut()
		})
		can(true, "another session", func() {
			other := wanted(fmt.Sprint(w.r.IntN(6)))
			w.tree = other.Tree
			w.change++
			if w.link {
				w.answers = append(w.answers, sawOther{w.change, other.Digest, "ben"})
			}
		})
	}
	if len(moves) == 0 {
		return false
	}
	moves[w.r.IntN(len(moves))].do()
	return true
}

func (w *world) patch(faults bool) func() {
	return func() {
		job := *w.job
		w.job = nil
		have := w.tree.Digest()
		refuse := func(c wire.Code) {
			w.answers = append(w.answers, sawRefused{wire.Refused{Code: c, Have: have, Change: w.change}})
		}
		switch n := w.r.IntN(12); {
		case w.aborted && n < 8:
			refuse(wire.Aborted)
		case job.fromDigest != have:
			refuse(wire.OtherBase)
		case faults && n == 0:
			refuse(wire.NoSpace)
		case faults && n == 1:
			refuse(wire.BadHash)
		case !job.plain && n == 2:
			refuse(wire.BadDelta)
		case faults && n == 3:
			w.answers = append(w.answers, sawLocal{"a", errors.New("gone")})
		default:
			w.tree = job.want.Tree
			w.change++
			w.answers = append(w.answers, sawApplied{w.change})
		}
	}
}

func (w *world) cut() {
	if !w.link {
		return
	}
	w.link, w.answers, w.job, w.asked = false, nil, nil, false
	w.see(sawDown{})
}

func (w *world) see(o observation) {
	var acts []action
	w.m, acts = next(w.m, o)
	for _, a := range acts {
		switch a := a.(type) {
		case dial:
			w.dialing = true
		case askTree:
			w.asked = true
		case send:
			w.job, w.aborted = &a, false
		case abort:
			w.aborted = true
		case retry:
			w.timer = true
		case tell:
			if a.want.Digest != w.m.digest {
				panic("told what is not so")
			}
		}
	}
}

// Whatever happens, once it stops happening the agent has what was wanted last.
func TestMachineConverges(t *testing.T) {
	for seed := range uint64(3000) {
		w := &world{r: rand.New(rand.NewPCG(seed, 1)), tree: wanted("image").Tree}
		w.see(sawTimer{})
		for range w.r.IntN(120) {
			w.step(true)
		}
		w.latest = wanted("final")
		w.see(sawWant{w.latest})
		for n := 0; w.step(false); n++ {
			if n > 200 {
				t.Fatalf("seed %d: no end", seed)
			}
		}
		if got := w.tree.Digest(); got != w.latest.Digest {
			t.Fatalf("seed %d: the agent has another tree in the end; machine %+v", seed, w.m)
		}
		if w.m.told != w.latest {
			t.Fatalf("seed %d: nobody was told", seed)
		}
	}
}
