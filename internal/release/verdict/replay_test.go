package verdict

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// court is a judge with its tape, as the controller and the node agents have it.
type court struct {
	t    *testing.T
	j    *Judge
	c    Config
	s    State
	tape *Tape
	text []byte
}

func newCourt(t *testing.T, c Config, most int) *court {
	t.Helper()
	j := judge(t, c)
	k := &court{t: t, j: j, c: c, s: j.Start(t0), tape: &Tape{Judge: "controller", Most: most}}
	k.tape.Begin(c, k.s, 0)
	return k
}

func (k *court) see(all ...Observation) {
	for _, o := range all {
		was := k.s
		var v Verdict
		k.s, v = k.j.Next(k.s, o)
		k.tape.Took(o, was, k.s)
		k.tape.Say(v)
	}
}

// write appends what is new to the text, as though to a file.
func (k *court) write() {
	k.t.Helper()
	text, err := k.tape.Drain()
	if err != nil {
		k.t.Fatal(err)
	}
	k.text = append(k.text, text...)
}

// save is what a process writes down of its judge, and restart another one that goes on.
func (k *court) save() (kept []byte, taken int64) {
	k.t.Helper()
	taken = k.tape.Taken()
	kept, err := json.Marshal(k.s)
	if err != nil {
		k.t.Fatal(err)
	}
	return kept, taken
}

func (k *court) restart(kept []byte, taken int64) {
	k.t.Helper()
	var err error
	if k.s, err = k.j.Load(kept); err != nil {
		k.t.Fatal(err)
	}
	k.tape = &Tape{Judge: "controller"}
	k.tape.Begin(k.c, k.s, taken)
}

func (k *court) replay() Course {
	k.t.Helper()
	k.write()
	var r Record
	if err := r.UnmarshalText(k.text); err != nil {
		k.t.Fatal(err)
	}
	c, err := r.Replay(nil)
	if err != nil {
		k.t.Fatal(err)
	}
	return c
}

// same checks that a course is what the judge has come to.
func (k *court) same(c Course) {
	k.t.Helper()
	if !c.Same() {
		k.t.Errorf("%d compared, these differ: %s", c.Compared, strings.Join(c.Differs, "\n"))
	}
	if diff := cmp.Diff(k.j.Verdict(k.s), c.Verdict); diff != "" {
		k.t.Errorf("the verdict (-was +replayed):\n%s", diff)
	}
}

// failing is a canary that goes well for a while, and then fails.
func failing(from, well, bad int) (all []Observation) {
	for i := range well {
		all = append(all, Observation{At: at(time.Duration(from+i) * time.Second), Counts: &Counts{Cells: []Cell{{
			Weight: 0.05, Canary: Tally{Closed: [5]int64{10}}, Stable: Tally{Closed: [5]int64{190}, Failed: 1},
		}}}})
	}
	for i := range bad {
		r := Request{ID: "r", Canary: true, Weight: 0.05, Pod: "a", Answer: Answer{Status: 500}}
		all = append(all, Observation{At: at(time.Duration(from+well)*time.Second + time.Duration(i)*time.Millisecond), Request: &r})
	}
	return all
}

func later(d time.Duration) Observation { return Observation{At: at(d)} }

func TestATapeReplaysToTheSameVerdict(t *testing.T) {
	k := newCourt(t, Config{Hung: time.Second}, 0)
	k.see(later(ms), later(2*ms))
	k.see(failing(1, 30, 0)...)
	for i := range 200 {
		k.see(later(31*time.Second + time.Duration(i)*100*ms))
	}
	k.write()
	k.see(failing(60, 1, 20)...)
	if k.s.Is != Bad {
		t.Fatalf("it is %s", k.s.Is)
	}
	k.see(failing(90, 1, 5)...)
	c := k.replay()
	k.same(c)
	if c.Observations > 60 { // 31, some that stake anew, and what convicts
		t.Errorf("%d observations are kept: those that tell nothing, too", c.Observations)
	}
	if c.Compared != 2 { // collecting and bad
		t.Errorf("%d were compared", c.Compared)
	}
}

func TestATapeGoesOnWithAnotherProcess(t *testing.T) {
	k := newCourt(t, Config{Hung: time.Second}, 0)
	k.see(failing(0, 10, 0)...)
	k.see(later(10500 * ms))
	kept, n := k.save()
	k.write()
	k.see(failing(11, 3, 2)...) // which reaches the file, and not the status
	k.write()
	k.text = append(k.text, []byte("{\"at\":\"cut")...)
	k.text = k.text[:strings.LastIndexByte(string(k.text), '\n')+1]
	k.restart(kept, n)
	k.see(failing(20, 10, 0)...)
	kept, n = k.save()
	k.restart(kept, n) // of this one nothing reached the file
	k.see(failing(40, 10, 20)...)
	c := k.replay()
	if c.Lost == 0 {
		t.Error("nobody is told that something is lost")
	}
	k.same(c)
	// Without the loss the state in the middle is compared, too.
	k = newCourt(t, Config{Hung: time.Second}, 0)
	k.see(failing(0, 10, 0)...)
	kept, n = k.save()
	k.see(failing(11, 3, 2)...)
	k.write()
	k.restart(kept, n)
	k.see(failing(20, 1, 20)...)
	c = k.replay()
	k.same(c)
	if c.Lost != 0 || c.Compared != 4 {
		t.Errorf("%d lost, %d compared", c.Lost, c.Compared)
	}
}

func TestATapeGoesOnWithAnotherConfig(t *testing.T) {
	k := newCourt(t, Config{Hung: time.Second}, 0)
	k.see(failing(0, 10, 0)...)
	k.see(later(10500 * ms))
	kept, n := k.save()
	k.c.Quantiles, k.c.MaxErrors = [4]time.Duration{1, 2, 3, 4}, 0.02
	k.j = judge(t, k.c)
	var err error
	if k.s, err = k.j.Load(kept); err != nil {
		t.Fatal(err)
	}
	k.tape.Begin(k.c, k.s, n)
	k.see(failing(20, 1, 20)...)
	k.same(k.replay())
}

func TestATapeIsBounded(t *testing.T) {
	k := newCourt(t, Config{Hung: time.Second, Tells: true}, 50)
	k.see(failing(0, 500, 0)...)
	k.s, _ = k.j.Drain(k.s)
	k.see(failing(501, 60, 20)...)
	r, err := k.tape.Record()
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Replay(nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Observations < 50 || c.Observations > 100 || c.From+int64(c.Observations) != k.tape.Taken() {
		t.Errorf("from %d on %d are kept of %d", c.From, c.Observations, k.tape.Taken())
	}
	if c.Verdict.Is != Bad || !c.Same() {
		t.Errorf("it is %s; differs: %v", c.Verdict.Is, c.Differs)
	}
}

func TestAClockThatIsPutBackIsReplayed(t *testing.T) {
	k := newCourt(t, Config{Hung: time.Second}, 0)
	k.see(failing(100, 10, 0)...)
	k.see(later(200 * time.Second))
	k.see(later(209 * time.Second))
	k.see(failing(50, 3, 20)...)
	k.same(k.replay())
}

// A record that somebody has changed leads to something else, which is told.
func TestWhatWasChangedDiffers(t *testing.T) {
	k := newCourt(t, Config{Hung: time.Second}, 0)
	k.see(failing(0, 3, 20)...)
	k.write()
	for _, change := range [][2]string{{`"status":500`, `"status":200`}, {`"e":`, `"e":1`}, {`"failed":1}`, `"failed":7}`}} {
		var r Record
		if err := r.UnmarshalText([]byte(strings.Replace(string(k.text), change[0], change[1], 1))); err != nil {
			t.Fatal(err)
		}
		c, err := r.Replay(nil)
		if err != nil || c.Same() {
			t.Errorf("%s for %s: same %v, %v", change[1], change[0], c.Same(), err)
		}
	}
}

func TestAnotherConfigGivesAnotherVerdict(t *testing.T) {
	k := newCourt(t, Config{Hung: time.Second, Alpha: 0.0001}, 0)
	k.see(failing(0, 3, 20)...)
	k.write()
	var r Record
	if err := r.UnmarshalText(k.text); err != nil {
		t.Fatal(err)
	}
	for alpha, want := range map[float64]Kind{0.01: Bad, 1e-30: Collecting} {
		c, err := r.Replay(func(c *Config) { c.Alpha = alpha })
		if err != nil || c.Verdict.Is != want || c.Compared != 0 {
			t.Errorf("with %v: %+v, %v", alpha, c.Verdict, err)
		}
	}
}

func TestThePathTellsWhatMovedIt(t *testing.T) {
	k := newCourt(t, Config{Hung: time.Second}, 0)
	k.see(failing(0, 300, 20)...)
	c := k.replay()
	points := Thin(c.Points, 10)
	if len(points) < 5 || len(points) > 16 {
		t.Errorf("%d points are left", len(points))
	}
	last := points[len(points)-1]
	if last.Is != Bad || last.E != k.j.Verdict(k.s).E || last.Canary.Errors == 0 || last.Stable.Errors != 300 || last.Canary.Requests-last.Canary.Errors != 3000 {
		t.Errorf("it ends at %+v", last)
	}
	found := slices.ContainsFunc(points, func(p Point) bool {
		return len(p.Moves) > 0 && p.Moves[0].What == "errors of the canary" && p.Moves[0].By > 1
	})
	if !found {
		t.Errorf("nothing tells what moved it: %+v", points)
	}
	if Thin(nil, 5) != nil {
		t.Error("of nothing something is left")
	}
}

func TestARecordThatIsNoneIsRefused(t *testing.T) {
	for _, text := range []string{"", "{}\n", "{\"at\":\"2026-01-01T00:00:00Z\"}\n", "{\"log\":{\"start\":\"2026-01-01T00:00:00Z\",\"config\":{}}}\n{}\n", "nonsense\n"} {
		var r Record
		if err := r.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken for a record", text)
		}
	}
}
