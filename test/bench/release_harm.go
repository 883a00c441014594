package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/client"
)

// broken measures how many requests fail until a version that answers nothing well has
// none any more, by the evidence alone.
func broken(ctx context.Context, b *bed) ([]row, error) {
	q, err := b.quay(ctx, "bench-broken", 3)
	if err != nil {
		return nil, err
	}
	defer q.remove()
	var rows []row
	for _, rate := range []int{20, 200} {
		var harm []float64
		var took []time.Duration
		for range b.samples {
			n, lasted, err := q.convict(ctx, rate)
			if err != nil {
				return rows, err
			}
			b.detail(fmt.Sprintf("convicted after %d requests", n), lasted)
			harm, took = append(harm, float64(n)), append(took, lasted)
		}
		name := fmt.Sprintf("release: a version that always fails, at 5 %% of %d requests/s", rate)
		what := fmt.Sprintf("requests of users that fail in all, the most of %d releases", len(harm))
		rows = append(rows,
			row{Name: name + ": failed requests", Ours: series{What: "requests of users that fail in all", Unit: "requests", Values: harm}},
			row{Name: name + ", the most", Limit: 4, Ours: series{What: what, Unit: "requests", Values: []float64{upper(harm, 1)}}},
			row{Name: name + ": undone after", Ours: durations("from the first request that fails to the last", took)})
	}
	return rows, nil
}

// convict releases a version that fails until it is undone, and returns how many
// requests did fail, and for how long.
func (q *quay) convict(ctx context.Context, rate int) (n int, lasted time.Duration, err error) {
	if err := q.start(ctx, rate, 8); err != nil {
		return 0, 0, err
	}
	r, who, err := q.version(ctx, 5, true, client.Env{Name: "BROKEN", Value: "yes"})
	if err != nil {
		return 0, 0, err
	}
	err = q.reaches(ctx, r.Name, func(r *v1alpha1.Release) bool { return r.Status.Phase == string(release.Undone) })
	if err != nil {
		return 0, 0, err
	}
	if err := q.over(ctx, r.Name); err != nil {
		return 0, 0, err
	}
	all, err := q.stop(ctx)
	if err != nil {
		return 0, 0, err
	}
	first, last := int64(0), int64(0)
	for _, a := range all {
		switch {
		case a.Why == "":
		case a.Who != who:
			return 0, 0, fmt.Errorf("a request fails that was not the version's, %s after the first: %s", time.Duration(a.At-all[0].At).Round(time.Millisecond), a.Why)
		default:
			n++
			if first == 0 || a.At < first {
				first = a.At
			}
			last = max(last, a.At+a.Took)
		}
	}
	return n, time.Duration(last - first), nil
}

// How many versions of how many workloads at once are released though nothing is wrong with
// them, and how many of a thousand requests each workload fails at anyway.
const (
	healthyVersions = 200
	healthyAtOnce   = 4
	healthyFlaky    = 3
)

// healthy counts the versions that the evidence is against, of those that are no worse than
// the one before.
func healthy(ctx context.Context, b *bed) ([]row, error) {
	var quays []*quay
	defer func() {
		for _, q := range quays {
			q.remove()
		}
	}()
	flaky := client.Env{Name: "FLAKY", Value: strconv.Itoa(healthyFlaky)}
	for i := range healthyAtOnce {
		q, err := b.quay(ctx, fmt.Sprint("bench-healthy-", i), 2)
		if err != nil {
			return nil, err
		}
		quays = append(quays, q)
		// Nobody asks yet, so a version comes that the others are compared with.
		r, _, err := q.version(ctx, 1, false, flaky)
		if err == nil {
			_, err = q.releases.Give(ctx, r.Name, client.Promote(), "", patience, func(string) {})
		}
		if err == nil {
			err = q.over(ctx, r.Name)
		}
		if err == nil {
			err = q.start(ctx, 50, 4)
		}
		if err != nil {
			return nil, err
		}
	}
	var mu sync.Mutex
	var requests, errs, judged, wrong float64
	group, ctx := errgroup.WithContext(ctx)
	for i, q := range quays {
		group.Go(func() error {
			for range (healthyVersions + healthyAtOnce - 1 - i) / healthyAtOnce {
				r, err := q.healthy(ctx, flaky)
				if err != nil {
					return err
				}
				mu.Lock()
				judged++
				if v := r.Status.Verdict; v != nil {
					requests, errs = requests+float64(v.Requests), errs+float64(v.Errors)
				}
				if r.Status.Phase != string(release.Promoted) {
					wrong++
					b.say("  release %s is %s: %s", r.Name, r.Status.Phase, r.Status.Message)
				}
				mu.Unlock()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	what := fmt.Sprintf("of %.0f of %d workloads at once, at 50 requests/s each, of which %.1f %% fail at every version; the new ones had %.0f requests and %.0f errors",
		judged, healthyAtOnce, float64(healthyFlaky)/10, requests, errs)
	return []row{{Name: "release: healthy versions that are undone", Limit: 0.5, Ours: series{What: what, Unit: "releases", Values: []float64{wrong}}}}, nil
}

// healthy releases a version like the one before, and returns how that has ended.
func (q *quay) healthy(ctx context.Context, env client.Env) (r *v1alpha1.Release, err error) {
	q.versions++
	step := func(weight int32) v1alpha1.ReleaseStep {
		return v1alpha1.ReleaseStep{Weight: intstr.FromInt32(weight), For: &meta.Duration{Duration: 3 * time.Second}}
	}
	w := client.Wish{
		Deployment: shopName, Env: []client.Env{{Name: "WHO", Value: fmt.Sprint("v", q.versions)}, env},
		Plan: v1alpha1.ReleasePlan{
			Steps: []v1alpha1.ReleaseStep{step(20), step(50)}, Keep: &meta.Duration{Duration: time.Second},
			Judge: v1alpha1.ReleaseJudge{Settle: &meta.Duration{Duration: 500 * time.Millisecond}}, // so that latency is judged, too
		},
	}
	if r, err = q.releases.Start(ctx, w, func(string) {}); err != nil {
		return nil, err
	}
	err = q.reaches(ctx, r.Name, func(now *v1alpha1.Release) bool {
		r = now
		return release.Phase(now.Status.Phase).Ended()
	})
	if err != nil {
		return nil, err
	}
	return r, q.over(ctx, r.Name)
}

// losses counts what is lost by orders while the workload is asked as often as it bears.
func losses(ctx context.Context, b *bed) ([]row, error) {
	q, err := b.quay(ctx, "bench-losses", 3)
	if err != nil {
		return nil, err
	}
	defer q.remove()
	const rate = 2000
	var rows []row
	for _, last := range []string{"undo", "promote"} {
		r, _, err := q.version(ctx, 20, false)
		if err != nil {
			return rows, err
		}
		if err := q.start(ctx, rate, 32); err != nil {
			return rows, err
		}
		began, orders := time.Now(), 0
		for _, w := range []release.Weight{1000, 5000, 0, 10000, 2500} {
			b.rest(ctx)
			if _, err := q.releases.Give(ctx, r.Name, client.Weigh(w), "", patience, func(string) {}); err != nil {
				return rows, err
			}
			orders++
		}
		order := client.Undo()
		if last == "promote" {
			order = client.Promote()
		}
		if _, err := q.releases.Give(ctx, r.Name, order, "", patience, func(string) {}); err != nil {
			return rows, err
		}
		if err := q.over(ctx, r.Name); err != nil { // and the other pods are gone
			return rows, err
		}
		lasted := time.Since(began)
		all, err := q.stop(ctx)
		if err != nil {
			return rows, err
		}
		lost, why := failed(all)
		if lost > 0 {
			b.say("  a request failed: %s", why)
		}
		rows = append(rows, row{
			Name: fmt.Sprintf("release: requests lost by %d weights and %s, at %.0f requests/s", orders, last, float64(len(all))/lasted.Seconds()), Limit: 0.5,
			Ours: series{What: fmt.Sprintf("of %d requests on 32 connections, until the other pods are gone", len(all)), Unit: "requests", Values: []float64{float64(lost)}},
		})
	}
	return rows, nil
}

// overhead compares requests to a pod whose door has a release at a weight of 0 with
// requests to one without a door.
func overhead(ctx context.Context, b *bed) ([]row, error) {
	q, err := b.quay(ctx, "bench-overhead", 1)
	if err != nil {
		return nil, err
	}
	defer q.remove()
	d, err := b.client.AppsV1().Deployments(q.namespace).Get(ctx, shopName, meta.GetOptions{})
	if err != nil {
		return nil, err
	}
	const bare = "bare"
	if err := q.deploy(ctx, bare, d.Spec.Template.Spec.Containers[0].Image, 1, false); err != nil {
		return nil, err
	}
	r, _, err := q.version(ctx, 0, false)
	if err != nil {
		return nil, err
	}
	const microsecond = float64(time.Microsecond)
	var medians, tails, bares []float64
	for range b.samples {
		b.rest(ctx)
		var took [2][]float64
		values := url.Values{"a": {"http://" + bare + ":8080/"}, "b": {"http://" + shopName + ":8080/"}, "n": {"2000"}}
		if err := q.ask(ctx, "/compare", values, &took); err != nil {
			return nil, err
		}
		medians = append(medians, (median(took[1])-median(took[0]))/microsecond)
		tails = append(tails, (upper(took[1], 0.99)-upper(took[0], 0.99))/microsecond)
		bares = append(bares, median(took[0])/microsecond)
	}
	if err := q.undone(ctx, r.Name); err != nil {
		return nil, err
	}
	what := "what 2,000 requests at a door with a release at 0 % take more than 2,000 without a door, in turn, on a connection each"
	return []row{
		{Name: "release: a request without a door, median", Ours: series{What: "for comparison", Unit: "µs", Values: bares}},
		{Name: "release: what a door adds to a request, median", Limit: 150, Ours: series{What: what, Unit: "µs", Values: medians}},
		{Name: "release: what a door adds to a request, 99th percentile", Limit: 1000, Ours: series{What: what, Unit: "µs", Values: tails}},
	}, nil
}
