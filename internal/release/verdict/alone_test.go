package verdict

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// whole is what a version with all requests has done in a stretch of time.
func whole(d time.Duration, well, failed int64) Observation {
	return Observation{At: at(d), Counts: &Counts{Cells: []Cell{{Weight: 1, Canary: Tally{Closed: [5]int64{well}, Failed: failed, Settled: failed}}}}}
}

// before is what stable has done before that.
func before(well, failed int64) Observation {
	return Observation{At: at(0), Counts: &Counts{Cells: []Cell{{Weight: 0, Stable: Tally{Closed: [5]int64{well}, Failed: failed}}}}}
}

func TestAVersionWithAllRequestsIsJudgedAlone(t *testing.T) {
	const second = time.Second
	for _, tt := range []struct {
		name     string
		config   Config
		rate     float64 // of errors, from the tenth second on
		stable   int64   // errors in 1000 requests before
		from, to time.Duration
		within   time.Duration // of the conviction; 0 for none
	}{
		{"it is well", Config{Alone: true}, 0.001, 0, 0, 600 * second, 0},
		{"it fails as often as is allowed", Config{Alone: true}, 0.01, 0, 0, 600 * second, 0},
		{"it is down", Config{Alone: true}, 1, 0, 10 * second, 600 * second, 6 * second},
		{"every tenth request fails", Config{Alone: true}, 0.1, 0, 10 * second, 600 * second, 12 * second},
		{"nobody minds", Config{}, 1, 0, 10 * second, 60 * second, 0},
		{"a trouble of two seconds", Config{Alone: true}, 1, 0, 10 * second, 12 * second, 0},
		{"it fails as often as the version before", Config{Alone: true}, 0.05, 50, 0, 600 * second, 0},
		{"it fails far more often than that", Config{Alone: true}, 0.5, 50, 10 * second, 600 * second, 12 * second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.Hung = 30 * second
			j := judge(t, tt.config)
			r := rand.New(rand.NewPCG(1, 2))
			s, _ := j.Next(j.Start(t0), before(1000-tt.stable, tt.stable))
			for d := time.Duration(0); d < 600*second; d += second / 4 {
				rate := 0.0
				if d >= tt.from && d < tt.to {
					rate = tt.rate
				}
				n, failed := int64(100), int64(0)
				for range n {
					if r.Float64() < rate {
						failed++
					}
				}
				var v Verdict
				if s, v = j.Next(s, whole(d, n-failed, failed)); v.Is != Bad {
					continue
				}
				if tt.within == 0 || d-tt.from > tt.within {
					t.Fatalf("it is convicted after %s: %s", d-tt.from, v.Why)
				}
				if !strings.Contains(v.Why, "since it has all of them") {
					t.Errorf("it says %q", v.Why)
				}
				return
			}
			if tt.within > 0 {
				t.Errorf("it is not convicted: %+v", s.Alone)
			}
		})
	}
}

// TestNoBetAloneGains has many versions that fail just as often as is allowed.
func TestNoBetAloneGains(t *testing.T) {
	j := judge(t, Config{Alone: true, Hung: time.Second, Alpha: 0.05})
	n := runs(t, 200)
	convicted := 0
	for _, bad := range each(n, func(r *rand.Rand) bool {
		s := j.Start(t0)
		for d := time.Duration(0); d < 300*time.Second; d += time.Second {
			failed := choose(r, 100, 0.01)
			j.observe(&s.core, whole(d, 100-failed, failed))
		}
		return s.Is == Bad
	}) {
		if bad {
			convicted++
		}
	}
	if float64(convicted) > most(0.05, n) {
		t.Errorf("%d of %d are convicted, with alpha 0.05", convicted, n)
	}
}

func TestErrorsAloneCountWithTheSuccessesBesideThem(t *testing.T) {
	j := judge(t, Config{Alone: true, Hung: time.Minute})
	s := j.Start(t0)
	for d := range 100 { // told at once, and what was beside them is not known yet
		s, _ = j.Next(s, Observation{At: at(time.Duration(d) * time.Second), Request: &Request{Canary: true, Weight: 1, Answer: Answer{Status: 500}}})
	}
	if s.Is == Bad || s.Alone.N != 0 {
		t.Errorf("%+v", s.Alone)
	}
}

// A pod may err while it answers everything, and then beside the version before: a release
// may start so, and a controller that has just begun.
func TestErrorsAloneArePaidByNoPod(t *testing.T) {
	j := judge(t, Config{Alone: true, Hung: time.Minute})
	of := func(d time.Duration, weight float64) Observation {
		return Observation{At: at(d), Counts: &Counts{Cells: []Cell{{
			Weight: weight, Canary: Tally{Closed: [5]int64{99}, Failed: 1}, Stable: Tally{Closed: [5]int64{100}}, Pods: []PodErrors{{"a", 1}},
		}}}}
	}
	s, _ := see(j, j.Start(t0), of(time.Second, 1))
	if len(s.Pods) != 1 || s.Pods[0].Paid != nil || len(s.Marks) != 1 || s.Marks[0].Pod != "a" {
		t.Errorf("alone: %+v, marks %+v", s.Pods, s.Marks)
	}
	beside, _ := see(j, j.Start(t0), of(time.Second, 0.1))
	if s, _ = see(j, s, of(2*time.Second, 0.1)); !slices.Equal(s.Pods[0].Paid, beside.Pods[0].Paid) || len(s.Marks) != 2 {
		t.Errorf("it has paid %v, want %v; marks %+v", s.Pods[0].Paid, beside.Pods[0].Paid, s.Marks)
	}
	if again, _ := see(j, s, of(3*time.Second, 1)); !slices.Equal(again.Pods[0].Paid, s.Pods[0].Paid) {
		t.Errorf("alone once more, it has paid %v, want %v", again.Pods[0].Paid, s.Pods[0].Paid)
	}
}

func TestAStateOfBeforeIsJudgedAloneFromNowOn(t *testing.T) {
	s, _ := judge(t, Config{Hung: time.Minute}).Next(judge(t, Config{Hung: time.Minute}).Start(t0), before(1000, 0))
	text, err := json.Marshal(s)
	if err != nil || strings.Contains(string(text), `"alone"`) {
		t.Fatalf("%v: %s", err, text)
	}
	j := judge(t, Config{Alone: true, Hung: time.Minute})
	for range 2 {
		if s, err = j.Load(text); err != nil || s.Alone == nil || len(s.Alone.Wealth.Logs) != len(ratios) {
			t.Fatalf("%v: %+v", err, s.Alone)
		}
		s, _ = j.Next(s, whole(time.Second, 100, 1))
		if text, err = json.Marshal(s); err != nil {
			t.Fatal(err)
		}
	}
	if s.Alone.N != 202 {
		t.Errorf("%+v", s.Alone)
	}
}

func TestReplayAloneGivesTheSameBytes(t *testing.T) {
	l := some(1, 60)
	l.Config.Alone = true
	for d := range 40 {
		l.Observations = append(l.Observations, whole(time.Hour+time.Duration(d)*time.Second/3, 90, int64(d%3)))
	}
	text, err := Record{l}.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var read Record
	if err := read.UnmarshalText(text); err != nil {
		t.Fatal(err)
	}
	if want, got := play(t, l), play(t, read[0]); got != want || !strings.Contains(got, `"alone"`) {
		t.Errorf("%s\n%s", want, got)
	}
}

func TestSides(t *testing.T) {
	j := judge(t, Config{Hung: time.Minute, Quantiles: [4]time.Duration{ms, 2 * ms, 3 * ms, 4 * ms}})
	s, _ := j.Next(j.Start(t0), Observation{At: at(0), Counts: &Counts{Cells: []Cell{
		{Weight: 0.5, Canary: Tally{Closed: [5]int64{6, 0, 0, 2, 0}, Slow: [4]int64{2, 2, 2, 0}, Failed: 1}, Stable: Tally{Closed: [5]int64{9}, Unrated: 1}},
		{Weight: 0.5, Chosen: true, Stable: Tally{Closed: [5]int64{5}}},
	}}})
	stable, canary := s.Sides()
	if (stable != Side{Requests: 15, Rated: 14}) || (canary != Side{Requests: 9, Errors: 1, Above: 2, Slow: 2, Rated: 8}) {
		t.Errorf("stable %+v, canary %+v", stable, canary)
	}
}

// A judge that abstains tells of every error, however many there are, and says nothing itself.
func TestWhoAbstainsTellsOfEveryError(t *testing.T) {
	j := judge(t, Config{Hung: time.Minute, Tells: true, Abstains: true})
	s := j.Start(t0)
	for i, pod := range []string{"10.0.0.1", "10.0.0.2"} {
		s, _ = j.Next(s, Observation{At: at(0), Pod: &Pod{Name: pod, Canary: true, Event: PodReady}})
		s, _ = j.Next(s, Observation{At: at(time.Duration(i+1) * time.Second), Counts: &Counts{Cells: []Cell{{Weight: 0.05, Canary: Tally{Closed: [5]int64{9}}}}}})
	}
	var v Verdict
	for i := range 2000 {
		s, v = j.Next(s, Observation{At: at(3*time.Second + time.Duration(i)*time.Millisecond), Request: &Request{
			ID: fmt.Sprint(i), Canary: true, Weight: 0.05, Pod: "10.0.0.1", Answer: Answer{Status: 500},
		}})
	}
	if v.Is == Bad {
		t.Errorf("it says %s", v.Why)
	}
	_, told := j.Drain(s)
	var failed int64
	for _, c := range told.Cells {
		failed += c.Canary.Failed
	}
	if failed != 2000 {
		t.Errorf("%d errors are told", failed)
	}
}
