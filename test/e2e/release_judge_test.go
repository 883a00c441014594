//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"time"
)

// judged is a plan that stays at a fifth, whose pods settle soon.
const judged = "steps: [{weight: 20, hold: true}]\nkeep: 1s\njudge: {settle: 2s}\n"

// testReleaseSlow has a version that is right but ten times as slow, beside one that is as
// quick as the one before.
func testReleaseSlow(b *bay) {
	if out, err := b.kubectl("set", "env", "-n", b.namespace, "deployment/till", "WHO=steady", "SLOW=5ms"); err != nil {
		b.Fatal(out, err)
	}
	b.eventually("all pods answer", func() error {
		if by := b.shares(20); by["steady"] != 20 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	b.unreleased()
	b.load("/start?url="+strings.TrimSuffix(till, "/"), nil)

	b.release("quick", judged, "Held")
	b.eventually("the quick one is judged by five hundred requests", func() error {
		r := b.current()
		if r.Status.Phase != "Held" {
			b.Fatalf("it is %s: %s", r.Status.Phase, r.Status.Message)
		}
		if v := r.Status.Verdict; v == nil || v.Requests < 500 {
			return fmt.Errorf("the verdict is %+v", v)
		}
		return nil
	})
	r := b.current()
	b.Logf("quick: %s (%s); %d of %d requests slow; %s", r.Status.Verdict.Is, r.Status.Verdict.Why, r.Status.Verdict.Slow, r.Status.Verdict.Requests, r.Status.Verdict.Latency)
	if r.Status.Verdict.Is == "bad" || len(r.Status.Route.Quantiles) != 4 || !strings.HasPrefix(r.Status.Verdict.Latency, "stable has answered half in ") {
		b.Errorf("the verdict is %+v, quantiles %v", r.Status.Verdict, r.Status.Route.Quantiles)
	}
	if said := b.order("status", tillNamed); !strings.Contains(said, "stable has answered half in ") {
		b.Errorf("status says\n%s", said)
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unreleased()

	began := time.Now()
	b.release("slow", judged, "Undone", "SLOW=50ms")
	r = b.current()
	var got counts
	b.load("/stop", &got)
	b.Logf("slow: %s", r.Status.Message)
	for _, e := range r.Status.Events {
		b.Logf("%6.1f s  %s", e.Time.Sub(r.Status.Started.Time).Seconds(), e.Text)
	}
	b.Logf("undone %s after it was begun; %d of %d requests were its own; %d failed", time.Since(began).Round(time.Millisecond), got.By["slow"], got.Requests, got.Failed)
	if !r.Status.Convicted || !strings.Contains(r.Status.Message, "slow request") || got.Failed > 0 {
		b.Errorf("convicted: %v, %s; failed: %v", r.Status.Convicted, r.Status.Message, got.Errors)
	}
	b.unreleased()
}

// testReleaseGuards has a Prometheus asked.
func testReleaseGuards(b *bay) {
	if said, errs, code := b.bight("install", "--prometheus", "http://cart."+b.namespace+":8080"); code != 0 {
		b.Fatalf("install: exit code %d\n%s%s", code, said, errs)
	}
	// Latency is for another part: on a busy machine it is what takes longest to be good.
	guarded := "steps: [{weight: 20, proven: true}]\nkeep: 1s\njudge: {latency: \"off\", guards: [{name: queue, query: 'vector(%s)', max: 1.5, every: 1s}]}\n"
	plan := b.plan(fmt.Sprintf(guarded, "7"))
	b.eventually("guards are let in", func() error { // the API server forgets a policy when it hears of that
		_, errs, code := b.bight("release", "start", tillNamed, "-n", b.namespace, "--env", "WHO=full", "--plan", plan, "--detach")
		if code != 0 {
			return fmt.Errorf("exit code %d\n%s", code, errs)
		}
		return nil
	})
	r := b.reaches("Undone")
	b.Log(r.Status.Message)
	if !r.Status.Convicted || !strings.Contains(r.Status.Message, `guard "queue" failed 3 times in a row, last with 7, over 1.5`) {
		b.Errorf("convicted: %v, %s", r.Status.Convicted, r.Status.Message)
	}
	b.unreleased()
	b.load("/start?url="+strings.TrimSuffix(till, "/"), nil)
	b.release("empty", fmt.Sprintf(guarded, "0.5"), "Promoted")
	b.unreleased()
	var got counts
	b.load("/stop", &got)
	if got.Failed > 0 {
		b.Errorf("%d failed: %v", got.Failed, got.Errors)
	}
	for _, e := range b.current().Status.Events {
		if strings.HasPrefix(e.Text, "verdict: good") {
			b.Log(e.Text)
		}
	}
}
