package spec

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/guard"
	"github.com/bightdev/bight/internal/release/latency"
	"github.com/bightdev/bight/internal/release/verdict"
)

const (
	// hung is after which time without an answer a request is an error.
	hung = 30 * time.Second
	// slack is what a connection to the canary's app may cost that is made first: where stable's
	// is its client's own and lasts, the canary's may have gone with the last pod that was asked.
	// What the way to the canary's pods costs counts for nothing: see steer.Outcome.Latency.
	slack = 2 * time.Millisecond
	// settle is for how long the latency of a pod that came into service counts for nothing.
	settle = 10 * time.Second
	// surge is how much the slow requests of one second may say.
	surge = 20
)

// Alpha is the probability with which a healthy version may be convicted, by all its judges
// together.
const Alpha = 0.001

// Judge is what a release is judged by. frozen are the quantiles of stable's latencies,
// as its routing has them. judges is how many node agents may convict it alone, 0 for the
// config of the controller's judge when there are none; local says whether it is the
// config of one of them.
func Judge(j v1alpha1.ReleaseJudge, frozen []metav1.Duration, judges int32, local bool) (verdict.Config, error) {
	c := verdict.Config{Hung: duration(j.Hung), Deadline: duration(j.Deadline), WarmUp: duration(j.WarmUp), Alone: j.Kept}
	if c.Hung == 0 {
		c.Hung = hung
	}
	if j.MaxErrors != nil {
		w, err := Weight(j.MaxErrors, "plan.judge.maxErrors")
		if err != nil {
			return c, err
		}
		c.MaxErrors = float64(w) / float64(release.All)
	}
	central, own := verdict.Split(Alpha, int(max(judges, 1)))
	c.Alpha = central
	if local {
		c.Alpha, c.Tells = own, true
	}
	guards, err := Guards(j)
	if err != nil {
		return c, err
	}
	for _, g := range guards {
		if !local { // nobody asks Prometheus on a node
			c.Guards = append(c.Guards, g.Name)
		}
	}
	if err := byLatency(&c, j, frozen); err != nil {
		return c, err
	}
	_, err = verdict.New(c)
	return c, err
}

// JudgeOf is what a release is judged by while its requests are shared so.
func JudgeOf(r *v1alpha1.Release, route *v1alpha1.Routing, local bool) (verdict.Config, error) {
	c, err := Judge(r.Spec.Plan.Judge, route.Quantiles, route.Judges, local)
	// Where gateways share the requests, an agent sees a part of them, without those that
	// they are compared with, and a copy looks like a request.
	c.Abstains, c.Copies = local && route.ByRoutes, Mirrored(r.Spec.Plan) && !route.ByRoutes
	return c, err
}

// Mirrored says whether a plan gives the version copies at some time.
func Mirrored(p v1alpha1.ReleasePlan) bool {
	plan, err := Plan(p)
	return err == nil && slices.ContainsFunc(plan.Steps, func(s release.Step) bool { return s.Mirror > 0 })
}

// byLatency adds what latency is judged by.
func byLatency(c *verdict.Config, j v1alpha1.ReleaseJudge, frozen []metav1.Duration) error {
	switch j.Latency {
	case "", "on", v1alpha1.LatencyOff:
	default:
		return fmt.Errorf(`plan.judge.latency is %q: write "on" or "off", with the quotes`, j.Latency)
	}
	maxSlow := 0.0
	if j.MaxSlow != nil {
		w, err := Weight(j.MaxSlow, "plan.judge.maxSlow")
		if err != nil {
			return err
		}
		if w == 0 {
			return fmt.Errorf("plan.judge.maxSlow is 0: one of a hundred of stable's requests is as slow, so give 2 or more, or 100 for any")
		}
		maxSlow = float64(w) / float64(release.All)
	}
	for _, t := range []struct {
		name string
		is   *metav1.Duration
	}{{"slack", j.Slack}, {"settle", j.Settle}} {
		if d := duration(t.is); d < 0 || d > time.Hour {
			return fmt.Errorf("plan.judge.%s is %s: give a time from 0 to an hour", t.name, d)
		}
	}
	if !MindsLatency(j) || len(frozen) != len(c.Quantiles) {
		return nil
	}
	for k, q := range frozen {
		c.Quantiles[k] = q.Duration
	}
	c.Slack, c.Settle, c.Surge = slack, settle, surge
	if j.Slack != nil {
		c.Slack = j.Slack.Duration
	}
	if j.Settle != nil {
		c.Settle = j.Settle.Duration
	}
	if maxSlow > 0 { // what is left to the default of the others
		c.MaxSlow = [...]float64{0.75, 1, maxSlow, 1}
	}
	return nil
}

// MindsLatency says whether a version is judged by its latencies, too, if stable's are
// known.
func MindsLatency(j v1alpha1.ReleaseJudge) bool { return j.Latency != v1alpha1.LatencyOff }

// Guards reads the guards of a plan, and says what makes no sense in them.
func Guards(j v1alpha1.ReleaseJudge) ([]guard.Guard, error) {
	var all []guard.Guard
	for _, g := range j.Guards {
		all = append(all, guard.Guard{Name: g.Name, Query: g.Query, Min: g.Min, Max: g.Max, Every: duration(g.Every)})
	}
	return all, guard.Check(all, "plan.judge.guards")
}

// Enough is how many of stable's latencies are enough to tell their quantiles.
const Enough = 100

// Freeze are the quantiles that the version's latencies are compared with from now on, nil
// if there are too few to tell them.
func Freeze(stable latency.Histogram) []metav1.Duration {
	if stable.N() < Enough {
		return nil
	}
	var all []metav1.Duration
	for _, part := range []float64{0.5, 0.9, 0.99, 0.999} {
		all = append(all, metav1.Duration{Duration: stable.Quantile(part)})
	}
	return all
}

// Latency says what slow is, or why nobody judges that, in one line. measured is how many
// of stable's latencies were known when the version got its first request.
func Latency(j v1alpha1.ReleaseJudge, frozen []metav1.Duration, measured int64) string {
	switch {
	case !MindsLatency(j):
		return "latency is not judged, as the plan says"
	case len(frozen) == 0:
		return fmt.Sprintf("latency is not judged: %d of stable's requests were measured before the version got its first, and it takes %d", measured, Enough)
	}
	var all []string
	for k, name := range []string{"half", "90 %", "99 %", "99.9 %"} {
		if k < len(frozen) {
			all = append(all, name+" in "+rounded(frozen[k].Duration).String())
		}
	}
	return "stable has answered " + strings.Join(slices.Clip(all), ", ")
}

// rounded is a latency to three digits.
func rounded(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
