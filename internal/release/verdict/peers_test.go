package verdict

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// second is what the peers' metrics see of one second: requests and errors of both.
type second struct{ canary, canaryBad, stable, stableBad float64 }

// peer is a rule that looks at the seconds so far, and says when it aborts. The
// rules are as the source of each has them. Their windows are exact here, without
// the delay of a scrape, which makes them look better than they are.
type peer struct {
	name string
	// abort is given the seconds up to now, at each multiple of every seconds, and the
	// number of failed checks so far, which it changes.
	every int
	abort func(s []second, failed *int) bool
}

// rate of success of the canary in the last n seconds, and whether there is any data.
func success(s []second, n int) (float64, bool) {
	var all, bad float64
	for _, x := range s[max(0, len(s)-n):] {
		all, bad = all+x.canary, bad+x.canaryBad
	}
	return 1 - bad/max(all, 1), all > 0
}

// flagger checks at each tick of a timer, counts failed checks, no data among them,
// and rolls back at the first tick that finds the threshold reached.
func flagger(every, threshold int, least float64) peer {
	return peer{fmt.Sprintf("Flagger %ds/%d/%v%%", every, threshold, 100*least), every, func(s []second, failed *int) bool {
		if *failed >= threshold {
			return true
		}
		if rate, some := success(s, max(every, 60)); !some || rate < least {
			*failed++
		}
		return false
	}}
}

// argo measures in each interval, the first after one, and aborts when more than a
// limit of measurements have failed.
func argo(every, limit int, least float64) peer {
	return peer{fmt.Sprintf("Argo %ds/%d/%v%%", every, limit, 100*least), every, func(s []second, failed *int) bool {
		if rate, some := success(s, max(every, 60)); !some || rate < least {
			*failed++
		}
		return *failed > limit
	}}
}

// pipecd compares the error rates of canary and stable, points of 15 s, by a
// Mann-Whitney test at 0.05 in each interval, and fails at the first that rejects
// with the canary's the higher.
func pipecd() peer {
	return peer{"PipeCD MWU 300s", 300, func(s []second, _ *int) bool {
		var a, b []float64
		for i := len(s) - 300; i+15 <= len(s); i += 15 {
			var x second
			for _, y := range s[i : i+15] {
				x.canary, x.canaryBad, x.stable, x.stableBad = x.canary+y.canary, x.canaryBad+y.canaryBad, x.stable+y.stable, x.stableBad+y.stableBad
			}
			a, b = append(a, x.canaryBad/max(x.canary, 1)), append(b, x.stableBad/max(x.stable, 1))
		}
		return mannWhitney(a, b) > 1.96
	}}
}

// mannWhitney is z of the rank sum of a, by the normal approximation with ties.
func mannWhitney(a, b []float64) float64 {
	all := slices.Sorted(slices.Values(slices.Concat(a, b)))
	rank := map[float64]float64{}
	var ties float64
	for i := 0; i < len(all); {
		k := i
		for k < len(all) && all[k] == all[i] {
			k++
		}
		rank[all[i]] = float64(i+1+k) / 2
		n := float64(k - i)
		ties += n*n*n - n
		i = k
	}
	na, nb := float64(len(a)), float64(len(b))
	n := na + nb
	u := -na * (na + 1) / 2
	for _, v := range a {
		u += rank[v]
	}
	sigma := math.Sqrt(na * nb / 12 * (n + 1 - ties/(n*(n-1))))
	if sigma == 0 {
		return 0
	}
	return (u - na*nb/2) / sigma
}

// TestPeersRulesBesideOurs prints what rules on a timer do with the same traffic.
func TestPeersRulesBesideOurs(t *testing.T) {
	rules := []peer{flagger(60, 10, .99), flagger(10, 1, .99), argo(300, 3, .95), argo(30, 0, .99), pipecd()}
	j := judge(t, Config{})
	names := []string{}
	for _, p := range rules {
		names = append(names, p.name)
	}
	t.Logf("share of canaries aborted in 30 min, median seconds, median requests failed by then; 5 %% weight, 0.2 %% errors")
	t.Logf("%-26s  %s", "", strings.Join(padded(append(names, "E (this package)")), "  "))
	for _, c := range []struct {
		name    string
		few     int
		w       world
		healthy bool
	}{
		{"healthy, 20 rps", 100, world{rps: 20}, true},
		{"healthy, 200 rps", 60, world{rps: 200}, true},
		{"healthy, 2000 rps", 12, world{rps: 2000}, true},
		{"shared outage, 200 rps", 40, world{rps: 200, base: between(600, 630, .5, .002)}, true},
		{"all fail, 200 rps", 40, world{rps: 200, worse: 500}, false},
		{"all fail, 20 rps", 40, world{rps: 20, worse: 500}, false},
		{"10 % fail, 200 rps", 40, world{rps: 200, worse: 50}, false},
		{"2 % fail, 200 rps", 40, world{rps: 200, worse: 10}, false},
		{"0.6 % fail, 2000 rps", 12, world{rps: 2000, worse: 3}, false},
	} {
		n := min(runs(t, c.few), 25*c.few)
		all := each(n, func(r *rand.Rand) []found { return c.w.compare(j, r, rules) })
		var row []string
		for i := range len(rules) + 1 {
			var times, errors []float64
			for _, one := range all {
				if f := one[i]; f.is == Bad {
					times, errors = append(times, f.after), append(errors, float64(f.errors))
				}
			}
			cell := "0 %"
			if len(times) > 0 {
				cell = fmt.Sprintf("%.3g %% %.3g s %.0f", 100*float64(len(times))/float64(n), quantile(times, .5), quantile(errors, .5))
			}
			row = append(row, cell)
			if i == len(rules) && c.healthy && float64(len(times)) > most(0.001, n) {
				t.Errorf("%s: %d of %d healthy canaries convicted", c.name, len(times), n)
			}
			if i == len(rules) && !c.healthy && float64(len(times)) < 0.95*float64(n) {
				t.Errorf("%s: %d of %d bad canaries convicted, want nearly all", c.name, len(times), n)
			}
		}
		t.Logf("%-26s  %s", fmt.Sprintf("%s (%d)", c.name, n), strings.Join(padded(row), "  "))
	}
}

func padded(cells []string) []string {
	for i := range cells {
		cells[i] = fmt.Sprintf("%-22s", cells[i])
	}
	return cells
}

// compare runs the peers' rules and ours on the same second after second.
func (w world) compare(j *Judge, r *rand.Rand, rules []peer) []found {
	out := make([]found, len(rules)+1)
	failed := make([]int, len(rules))
	var seen []second
	var errors int64
	s := j.Start(t0)
	w.run(r, 1800, func(k tick) bool {
		var x second
		for _, canary := range k.errors {
			if canary {
				x.canaryBad++
			} else {
				x.stableBad++
			}
		}
		x.canary, x.stable = float64(k.canaryOK)+x.canaryBad, float64(k.stableOK)+x.stableBad
		seen = append(seen, x)
		if ours := &out[len(rules)]; ours.is == "" {
			before := s.Canary.Failed
			k.feed(j, &s.core, 1, 1, nil)
			if s.Is == Bad {
				*ours = found{is: Bad, after: k.within(s.Canary.Failed - before), errors: s.Canary.Failed}
			}
		}
		errors += int64(x.canaryBad)
		done := out[len(rules)].is != ""
		for i, p := range rules {
			if out[i].is == "" && len(seen)%p.every == 0 && p.abort(seen, &failed[i]) {
				out[i] = found{is: Bad, after: float64(len(seen)), errors: errors}
			}
			done = done && out[i].is != ""
		}
		return !done
	})
	return out
}

// within is when the nth error of the canary in a tick came, if they are spread
// evenly over it.
func (k tick) within(nth int64) float64 {
	var n int64
	for _, canary := range k.errors {
		if canary {
			n++
		}
	}
	return k.t - 1 + float64(nth)/float64(n+1)
}
