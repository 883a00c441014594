//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http/cookiejar"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/release/evidence"
)

// present is who answers when no release is under way.
func (b *bay) present() string {
	b.Helper()
	a, err := b.ask(b.client(false, false), till)
	if err != nil {
		b.Fatal(err)
	}
	return a.who
}

// only fails the test unless all requests are answered by one version.
func (b *bay) only(who, what string, headers ...string) {
	b.Helper()
	if by := b.shares(40, headers...); by[who] != 40 {
		b.Errorf("%s, %v; want all from %s", what, by, who)
	}
}

// testBlueGreen shows a version to who looks for it, moves all requests at once, and back.
func testBlueGreen(b *bay) {
	was := b.present()
	b.pour()
	plan := b.planNamed("blue-green", "keep: 1m\njudge: {settle: 1s}\n")
	args := []string{"start", tillNamed, "--env", "WHO=blue", "--strategy", "blue-green", "--plan", plan}
	if said := b.order(append(args, "--dry-run")...); !strings.Contains(said, "strategy: BlueGreen") || !strings.Contains(said, "pods: 100%") || !strings.Contains(said, "x-preview") {
		b.Errorf("what it comes to is\n%s", said)
	}
	b.unreleased() // by the rehearsal
	b.order(append(args, "--detach")...)
	r := b.reaches("Held")
	if r.Status.Canary.Ready != 3 {
		b.Errorf("%d pods are ready", r.Status.Canary.Ready)
	}
	b.only(was, "before the switch")
	b.only("blue", "with the header of the preview", "X-Preview", "true")
	preview := strings.Replace(till, "//"+tillNamed+":", "//"+tillNamed+"-preview:", 1)
	b.eventually("the Service of the preview leads to the version", func() error {
		a, err := b.ask(b.client(false, false), preview)
		if err == nil && a.who != "blue" {
			err = fmt.Errorf("%+v", a)
		}
		return err
	})
	if said := b.order("status", tillNamed); !strings.Contains(said, "blue-green, then somebody decides; preview at service till-preview") {
		b.Errorf("status says\n%s", said)
	}
	b.order("resume", tillNamed, "--timeout", "1m")
	b.reaches("Promoted")
	b.only("blue", "after the switch")
	if r := b.current(); r.Status.Stable.Ready != 3 {
		b.Errorf("%d pods of before are ready", r.Status.Stable.Ready)
	}
	began := time.Now()
	said := b.order("undo", tillNamed)
	b.Logf("back in %s: %s", time.Since(began).Round(time.Millisecond), strings.TrimSpace(said))
	b.allAnswer(was)
	b.patchPlan("keep: 1s")
	b.reaches("Undone")
	b.unreleased()
	if _, err := client.CoreV1().Services(b.namespace).Get(context(), tillNamed+"-preview", meta.GetOptions{}); !apierrors.IsNotFound(err) {
		b.Errorf("the preview's Service is left: %v", err)
	}
	b.unharmed("there and back")
}

// patchPlan changes how long pods are kept.
func (b *bay) patchPlan(keep string) {
	b.Helper()
	value := strings.TrimPrefix(keep, "keep: ")
	patch := fmt.Sprintf(`{"spec":{"plan":{"keep":%q},"orders":{"by":"bight-admin"}}}`, value)
	if out, err := b.kubectl("patch", "release.bight.dev", b.current().Name, "-n", b.namespace, "--type", "merge", "-p", patch); err != nil {
		b.Fatal(out, err)
	}
}

// testBlueGreenBreaks has a version that is well as long as few ask it, and goes back by
// the evidence after it has all requests.
func testBlueGreenBreaks(b *bay) {
	was := b.present()
	b.pour()
	b.release("green", "strategy: BlueGreen\nthen: promote\nfor: 2s\nkeep: 1m\njudge: {settle: 1s}\n", "Promoted", "WEARS=150")
	r := b.reaches("Undone")
	b.Logf("%s", r.Status.Message)
	if !r.Status.Convicted || !strings.Contains(r.Status.Message, "since it has all of them") {
		b.Errorf("convicted: %v: %s", r.Status.Convicted, r.Status.Message)
	}
	b.allAnswer(was)
	b.patchPlan("keep: 1s")
	var got counts
	b.load("/stop", &got)
	b.Logf("%d requests, answered by %v; %d failed until it was undone", got.Requests, got.By, got.Failed)
	if got.Failed == 0 || got.By["green"] == 0 {
		b.Errorf("%+v", got)
	}
	b.unreleased()
}

// testBlueGreenSlow has a version that answers rightly, and far too slowly, which nobody has seen
// before it has all requests.
func testBlueGreenSlow(b *bay) {
	was := b.present()
	b.pour()
	b.release("snail", "strategy: BlueGreen\nthen: promote\nfor: 2s\nkeep: 5m\njudge: {settle: 1s}\n", "Promoted", "SLOW=500ms")
	began := time.Now()
	r := b.reaches("Undone")
	b.Logf("after %s: %s", time.Since(began).Round(time.Second), r.Status.Message)
	if !r.Status.Convicted || !strings.Contains(r.Status.Message, "took longer than 99 % of stable's did, since it has all requests") {
		b.Errorf("convicted: %v: %s", r.Status.Convicted, r.Status.Message)
	}
	b.allAnswer(was)
	b.patchPlan("keep: 1s")
	b.unharmed("a version is far too slow")
	b.unreleased()
}

// testBlueGreenKept starts a release while the pods of before another are kept, and has these go.
func testBlueGreenKept(b *bay) {
	b.pour()
	b.release("lasting", "strategy: BlueGreen\nthen: promote\nfor: 1s\nkeep: 20m\n", "Promoted")
	_, errs, code := b.bight("release", "start", tillNamed, "-n", b.namespace, "--env", "WHO=hasty")
	if code != 2 || !strings.Contains(errs, "is promoted, and can be undone until ") || !strings.Contains(errs, "bight release resume till") {
		b.Errorf("start: exit code %d\n%s", code, errs)
	}
	b.Log(strings.TrimSpace(errs))
	b.Log(strings.TrimSpace(b.order("resume", tillNamed)))
	b.unreleased()
	if r := b.current(); r.Status.Phase != "Promoted" {
		b.Errorf("it is %s: %s", r.Status.Phase, r.Status.Message)
	}
	b.only("lasting", "nothing is kept any more")
	b.unharmed("nothing is kept any more")
}

// testABTest has clients keep their version until somebody decides.
func testABTest(b *bay) {
	was := b.present()
	b.pour()
	b.release("new", "strategy: ABTest\nfor: 2s\nkeep: 1s\njudge: {settle: 1s}\n", "Held")
	by := map[string]int{}
	for range 20 {
		c := b.client(false, false)
		c.Jar, _ = cookiejar.New(nil) // which fails for no options
		first := ""
		for range 4 {
			a, err := b.ask(c, till)
			if err != nil {
				b.Fatal(err)
			}
			if first == "" {
				first = a.who
				by[first]++
			}
			if a.who != first {
				b.Errorf("a client of %s is answered by %s", first, a.who)
			}
		}
	}
	if by[was] < 3 || by["new"] < 3 || by[was]+by["new"] != 20 {
		b.Errorf("the clients are shared as %v", by)
	}
	b.eventually("both sides are told of", func() error {
		said := b.order("status", tillNamed)
		if strings.Count(said, " requests, 0 of them errors") != 2 || !strings.Contains(said, "ab, then somebody decides") {
			return fmt.Errorf("status says\n%s", said)
		}
		return nil
	})
	if r := b.current(); r.Status.Phase != "Held" || r.Status.Weight != "50 %" {
		b.Errorf("it is %s at %s", r.Status.Phase, r.Status.Weight)
	}
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unreleased()
	b.unharmed("an A/B test")
}

// testMirrorStrategy gives a version copies of all requests, of which it answers none.
func testMirrorStrategy(b *bay) {
	b.pour()
	b.release("shadow", "strategy: Mirror\nshare: 100\nfor: 2s\nkeep: 1s\n", "Held")
	n := 0
	b.eventually("it has had a hundred copies", func() error {
		n = 0
		for _, p := range b.tillPods() {
			if all, err := counters(b.client(false, false), "http://"+p.Status.PodIP+":8080"); err == nil && strings.Contains(fmt.Sprint(p.Spec.Containers[0].Env), "shadow") {
				n += all["requests"]
			}
		}
		if n < 100 {
			return fmt.Errorf("it has had %d", n)
		}
		return nil
	})
	b.order("undo", tillNamed)
	b.reaches("Undone")
	b.unreleased()
	var got counts
	b.load("/stop", &got)
	b.Logf("%d requests, answered by %v; %d copies; %d failed", got.Requests, got.By, n, got.Failed)
	if got.Failed > 0 || got.By["shadow"] > 0 {
		b.Errorf("%+v", got)
	}
}

// testMirrorConvicts has a version fail whatever is copied to it: it is convicted by that
// alone, and nobody who asks notices.
func testMirrorConvicts(b *bay) {
	was := b.present()
	b.pour()
	name := b.release("ghost", "strategy: Mirror\nshare: 50\nkeep: 1s\n", "Undone", "BROKEN=yes")
	r := b.current()
	var got counts
	b.load("/stop", &got)
	v := r.Status.Verdict
	b.Logf("%s", r.Status.Message)
	b.Logf("%d requests, answered by %v; %d failed; copies %+v", got.Requests, got.By, got.Failed, v.Copies)
	if !r.Status.Convicted || v.Is != "bad" || !strings.Contains(r.Status.Message, "errors of copies") || v.Copies == nil || v.Copies.Errors == 0 || v.Canary != nil {
		b.Errorf("convicted: %v, verdict %+v: %s", r.Status.Convicted, v, r.Status.Message)
	}
	if got.Failed > 0 || got.Requests == 0 || got.By["ghost"] > 0 {
		b.Errorf("%+v", got)
	}
	b.unreleased()
	b.only(was, "afterwards")
	if said := b.order("verdict", name); !strings.Contains(said, "COPIES") || !strings.Contains(said, "byte for byte") {
		b.Errorf("how it came about is said to be\n%s", said)
	}
	b.eventually("what convicted it is with the controller", func() error {
		said, errs, code := b.bight("replay", name, "-n", b.namespace, "-o", "json")
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, errs)
		}
		var kept evidence.Bundle
		if err := json.Unmarshal([]byte(said), &kept); err != nil {
			return err
		}
		found := 0
		for _, p := range kept.Pairs {
			if slices.Contains(kept.Moved, p.ID) && p.Answer != nil && p.Answer.Status == 500 && len(p.Stable) == 2 && p.Stable[0].Status == 200 {
				found++
			}
		}
		if found == 0 {
			return fmt.Errorf("none of %d requests is one of those that moved E, %v", len(kept.Pairs), kept.Moved)
		}
		b.Logf("%d requests were kept, %d of them have moved E", len(kept.Pairs), found)
		return nil
	})
}

// testMirrorProves promotes a version by itself, as soon as the copies show that it is good.
// On a busy machine they don't show that it is quick.
func testMirrorProves(b *bay) {
	b.pour()
	defer func() {
		if b.Failed() {
			r := b.current()
			b.Logf("%+v\n%s", r.Status.Verdict, b.order("verdict", r.Name))
		}
	}()
	b.release("sound", "strategy: Mirror\nshare: 50\nthen: promote\nkeep: 1s\njudge: {latency: \"off\"}\n", "Promoted")
	r := b.current()
	b.Logf("%+v; copies %+v; %s", r.Status.Verdict.Why, r.Status.Verdict.Copies, r.Status.Verdict.Latency)
	if v := r.Status.Verdict; v.Is != "good" || !strings.Contains(v.Why, "copies of requests") || v.Copies == nil || v.Copies.Errors > 0 {
		b.Errorf("%+v", v)
	}
	if said := b.order("status", tillNamed); !strings.Contains(said, " copies, 0 of them errors") {
		b.Errorf("status says\n%s", said)
	}
	b.unreleased()
	b.unharmed("promoted by copies")
	b.only("sound", "afterwards")
}
