package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/client"
	"github.com/bightdev/bight/internal/release/config"
	"github.com/bightdev/bight/internal/ui/term"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func micro(t time.Time) *metav1.MicroTime { m := metav1.NewMicroTime(t); return &m }

// shownRelease has something to be said in every line.
func shownRelease(change func(*v1alpha1.Release)) *v1alpha1.Release {
	weight := intstr.FromInt32(25)
	mirror := intstr.FromInt32(10)
	r := &v1alpha1.Release{
		ObjectMeta: metav1.ObjectMeta{Name: "cart-1a2b3c4d5e", Namespace: "shop", CreationTimestamp: metav1.NewTime(noon.Add(-3 * time.Minute))},
		Spec: v1alpha1.ReleaseSpec{
			Deployment: "cart", Service: "carts", Version: "cart:v2", Change: "shop/shop-f689586966df",
			Plan: v1alpha1.ReleasePlan{
				Steps: []v1alpha1.ReleaseStep{
					{Weight: intstr.FromInt32(5), Mirror: &mirror, For: &metav1.Duration{Duration: time.Minute}, Proven: true, Hold: true}, {Weight: intstr.FromInt32(50)},
				},
				Routes: []v1alpha1.ReleaseRoute{{Name: "staff", Path: "/admin", To: v1alpha1.Stable}},
			},
			Orders: v1alpha1.ReleaseOrders{
				Weight: &weight, By: "ada", Why: "try it",
				Routes: []v1alpha1.ReleaseRoute{{Headers: []v1alpha1.HeaderMatch{{Name: "x-dev", Prefix: true}}, To: v1alpha1.Canary}},
			},
		},
		Status: v1alpha1.ReleaseStatus{
			Phase: string(release.Held), Message: "25 % of the requests, by hand", Step: 1, Steps: 2, Weight: "25 %",
			Started: micro(noon.Add(-125 * time.Second)),
			Route:   &v1alpha1.Routing{Generation: 4, Weight: 2500, Mirror: 1000, Affinity: &v1alpha1.Affinity{Cookie: "version"}},
			Stable:  v1alpha1.VersionStatus{Hash: "aaa", Image: "registry/cart:v1", Want: 3, Ready: 3, Pods: 3},
			Canary:  v1alpha1.VersionStatus{Hash: "bbb", Image: "registry/cart:v2", Want: 1, Ready: 1, Pods: 1},
			Verdict: &v1alpha1.VerdictStatus{Is: "collecting", Why: "60 of 510 requests", Requests: 60, Errors: 1, Slow: 2, Latency: "stable has answered half in 1.2ms", E: "1.2", AbortAt: "2000", BadPods: []string{"cart-x"}},
			Doors: []v1alpha1.NodeDoors{
				{Node: "n1", Generation: 4, Pods: []string{"cart-a", "cart-b"}, Decided: 200, Carried: 50, Fallback: 2, Lost: 1},
				{Node: "n2", Generation: 3, Pods: []string{"cart-c"}, Decided: 40, Carried: 10, Old: 3, Unread: 4},
			},
		},
	}
	if change != nil {
		change(r)
	}
	return r
}

func ended(p release.Phase, message string) func(*v1alpha1.Release) {
	return func(r *v1alpha1.Release) {
		r.Status.Phase, r.Status.Message, r.Status.Route = string(p), message, nil
		r.Status.Ended = micro(noon.Add(-time.Minute))
		r.Status.Doors = nil
	}
}

func lines(t *term.Table) []string {
	out := []string{strings.Join(t.Head, "|")}
	for _, r := range t.Rows {
		out = append(out, strings.Join(r, "|"))
	}
	return out
}

func TestReleaseTable(t *testing.T) {
	want := []string{
		"RELEASE|cart-1a2b3c4d5e",
		"version|cart:v2 of deployment cart, requests of service carts, change shop/shop-f689586966df",
		"phase|! held for 2 min 5 s: 25 % of the requests, by hand",
		"step|1 of 2: 5 %, copies of 10 %, for 1 min 0 s, until the evidence shows that it is good and somebody lets it go on",
		"requests|25 % go to the version, and copies of 10 %; who has had it keeps it, by cookie version",
		"route|requests with x-dev=* go to canary (by hand)",
		"route|staff: requests with /admin go to stable",
		"orders|ada has ordered: 25 % of the requests, requests with x-dev=* to canary (try it)",
		"verdict|collecting: 60 of 510 requests; 1 error of 60 requests judged, 2 slower than 99 % of stable's; stable has answered half in 1.2ms; bad where the others are not: cart-x",
		"stable|3 of 3 pods ready, cart:v1 (pod-template-hash aaa)",
		"canary|1 of 1 pod ready, cart:v2 (pod-template-hash bbb)",
		"doors|2 of 3 pods obey; 240 requests, 60 of them to the version; 2 requests for the version answered by stable, as no pod of the version did; 1 request that nobody could answer; 3 connections from before the release; 4 connections that can't be read",
		"! behind|pod cart-c on node n2 has no door yet",
	}
	if diff := cmp.Diff(want, lines(releaseTable(shownRelease(nil), []string{"pod cart-c on node n2 has no door yet"}, noon))); diff != "" {
		t.Errorf("one under way (-want +got):\n%s", diff)
	}
	copied := shownRelease(func(r *v1alpha1.Release) {
		r.Status.Verdict.Copies = &v1alpha1.Counted{Requests: 200, Errors: 3, Rated: 190, Above: 19, Slow: 19}
		r.Status.Doors[0].Copied, r.Status.Doors[1].Copied = 150, 60
	})
	text := strings.Join(lines(releaseTable(copied, nil, noon)), "\n")
	for _, want := range []string{
		"\ncopies|200 copies, 3 of them errors (1.50 %), 10.00 % slower than half of stable's before, 10.00 % than 99 % of them\n",
		"1 request that nobody could answer; 210 copies for the version; 3 connections",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("with copies it does not say %q:\n%s", want, text)
		}
	}
	undone := shownRelease(func(r *v1alpha1.Release) {
		ended(release.Undone, "E = 1430,\n abort at 1000")(r)
		r.Spec.Change, r.Spec.Plan.Routes, r.Spec.Orders = "", nil, v1alpha1.ReleaseOrders{By: "ada"}
		r.Status.Verdict, r.Status.Canary = nil, v1alpha1.VersionStatus{}
	})
	want = []string{
		"RELEASE|cart-1a2b3c4d5e",
		"version|cart:v2 of deployment cart, requests of service carts",
		"phase|✗ undone after 1 min 5 s: E = 1430, abort at 1000",
		"stable|3 of 3 pods ready, cart:v1 (pod-template-hash aaa)",
	}
	if diff := cmp.Diff(want, lines(releaseTable(undone, nil, noon))); diff != "" {
		t.Errorf("one that was undone (-want +got):\n%s", diff)
	}
	again := shownRelease(func(r *v1alpha1.Release) {
		r.Status.Attempts = []v1alpha1.ReleaseAttempt{
			{Number: 1, Phase: "Undone", Message: "by bob", By: "bob", Verdict: "collecting", Why: "60 of 510 requests"},
			{Number: 2, Phase: "Undone", Message: "E = 9000", By: "ada", Began: micro(noon.Add(-time.Hour)), Ended: micro(noon.Add(-50 * time.Minute)), Verdict: "bad", Why: "E = 9000"},
		}
	})
	if diff := cmp.Diff([]string{
		"attempt 2|✗ undone at " + clock(*micro(noon.Add(-50 * time.Minute)), noon) + ", after 10 min 0 s, by ada: E = 9000",
		"attempt 1|✗ undone, by bob: by bob; collecting: 60 of 510 requests",
	}, lines(releaseTable(again, nil, noon))[3:5]); diff != "" {
		t.Errorf("one that was begun anew (-want +got):\n%s", diff)
	}
	convicted := shownRelease(func(r *v1alpha1.Release) { r.Status.Doors[1].Convicted = "9 of 9 failed" })
	got := lines(releaseTable(convicted, nil, noon))
	for _, line := range []string{"requests|none go to the version, by routes neither; the controller does not know that yet", "✗ convicted|9 of 9 failed (node n2)"} {
		if !slices.Contains(got, line) {
			t.Errorf("%q is not told:\n%s", line, strings.Join(got, "\n"))
		}
	}
}

func TestReleaseLists(t *testing.T) {
	all := []v1alpha1.Release{
		*shownRelease(nil),
		*shownRelease(ended(release.Promoted, "it has all requests")),
		{ObjectMeta: metav1.ObjectMeta{Name: "new-1", CreationTimestamp: metav1.NewTime(noon)}, Spec: v1alpha1.ReleaseSpec{Deployment: "new", Version: "new:1", Change: "shop/x"}},
	}
	want := []string{
		"DEPLOYMENT|VERSION|PHASE|STEP|REQUESTS|PODS|DOORS|VERDICT|MESSAGE",
		"cart|cart:v2|! held|1 of 2|25 %|3+1|2/3|collecting|25 % of the requests, by hand",
		"cart|cart:v2|✓ promoted||25 %|3+1||collecting|it has all requests",
		"new|new:1|new||0 %|0+0|||",
	}
	if diff := cmp.Diff(want, lines(currentTable(all, "shop"))); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	all[0].Status.Attempts = []v1alpha1.ReleaseAttempt{
		{Number: 2, Phase: "Undone", Message: "undone", By: "bob", Began: micro(noon.Add(-time.Hour)), Ended: micro(noon.Add(-50 * time.Minute)), Verdict: "collecting"},
		{Number: 3, Phase: "Undone", Message: "E = 9000", By: "ada", Began: micro(noon.Add(-5 * time.Minute)), Ended: micro(noon.Add(-4 * time.Minute)), Verdict: "bad"},
	}
	all[1].CreationTimestamp = metav1.NewTime(noon.Add(-10 * time.Minute))
	want = []string{
		"RELEASE|VERSION|PHASE|BY|TOOK|AGE|VERDICT|MESSAGE",
		"new-1|new:1|new|change shop/x||0 ms||",
		"cart-1a2b3c4d5e|cart:v2|! held|ada|2 min 5 s|3 min 0 s|collecting|25 % of the requests, by hand",
		"cart-1a2b3c4d5e #3|cart:v2|✗ undone|ada|1 min 0 s|5 min 0 s|bad|E = 9000",
		"cart-1a2b3c4d5e|cart:v2|✓ promoted|ada|1 min 5 s|10 min 0 s|collecting|it has all requests",
		"cart-1a2b3c4d5e #2|cart:v2|✗ undone|bob|10 min 0 s|1 h 0 min|collecting|undone",
	}
	if diff := cmp.Diff(want, lines(historyTable(all, "shop", noon))); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

// The oldest events are dropped while they are followed; none is told twice.
func TestEventsAreToldOnce(t *testing.T) {
	event := func(second int, text string) v1alpha1.ReleaseEvent {
		return v1alpha1.ReleaseEvent{Time: *micro(noon.Add(time.Duration(second) * time.Second)), Text: text}
	}
	a, b, c, d := event(1, "a"), event(1, "b"), event(2, "c"), event(3, "d")
	var log eventLog
	for i, tt := range []struct {
		events []v1alpha1.ReleaseEvent
		want   string
	}{
		{nil, ""},
		{[]v1alpha1.ReleaseEvent{a}, "a"},
		{[]v1alpha1.ReleaseEvent{a}, ""},
		{[]v1alpha1.ReleaseEvent{a, b}, "b"},
		{[]v1alpha1.ReleaseEvent{c, d}, "cd"}, // b was dropped
		{[]v1alpha1.ReleaseEvent{d}, ""},
		{[]v1alpha1.ReleaseEvent{a}, ""}, // an old answer of a lagging server
	} {
		got := ""
		for _, e := range log.fresh(tt.events) {
			got += e.Text
		}
		if got != tt.want {
			t.Errorf("%d: told %q, want %q", i, got, tt.want)
		}
	}
}

func TestEventTable(t *testing.T) {
	r := &v1alpha1.Release{}
	for i := range lastEvents + 2 {
		r.Status.Events = append(r.Status.Events, v1alpha1.ReleaseEvent{Time: *micro(noon.Add(time.Duration(i-15) * time.Hour)), Text: "5 %\nof it"})
	}
	got := lines(eventTable(r, noon))
	if want := []string{"TIME|EVENT", "2026-01-01 23:00:00|5 % of it", "00:00:00|5 % of it"}; len(got) != 1+lastEvents || cmp.Diff(want, got[:3]) != "" {
		t.Errorf("events %q, want %q and others", got, want)
	}
}

func TestAnswerText(t *testing.T) {
	a := &client.Answer{Weight: "25 %", Pods: 3, Of: 3, Took: 84 * time.Millisecond, Phase: "Held", Message: "paused at 25 %"}
	for where, want := range map[bool]string{false: "25 % at 3 of 3 pods, 84 ms", true: "25 % at 3 of 3 pods, 84 ms (held: paused at 25 %)"} {
		if got := answerText(a, where); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	r := &v1alpha1.Release{}
	r.Spec.Orders.Routes = []v1alpha1.ReleaseRoute{{Headers: []v1alpha1.HeaderMatch{{Name: "x-tester", Value: "yes"}}, To: v1alpha1.Canary}}
	r.Status.Route = &v1alpha1.Routing{}
	none := &client.Answer{Release: r, Weight: "0 %", Pods: 3, Of: 3, Took: 84 * time.Millisecond}
	if got, want := answerText(none, false), "0 % at 3 of 3 pods, 84 ms; requests with x-tester=yes go to canary"; got != want {
		t.Errorf("with a route by hand: %s, want %s", got, want)
	}
	if r.Status.Route.Shut = true; strings.Contains(answerText(none, false), "x-tester") {
		t.Errorf("of what is undone: %s", answerText(none, false))
	}
	a = &client.Answer{Weight: "0 %", Took: 12 * time.Millisecond}
	if got, want := answerText(a, true), "0 %, 12 ms"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := answerText(&client.Answer{Weight: "0 %", Took: 12 * time.Millisecond, Phase: "Undone", Message: "by bob"}, false), "0 %, 12 ms (undone: by bob)"; got != want {
		t.Errorf("of what was undone before: %s, want %s", got, want)
	}
	a.Doorless = []string{"pod cart-two-b of the version, on node m, has no door: it has no agent"}
	if got, want := answerText(a, false), "0 %, 12 ms; pod cart-two-b of the version, on node m, has no door: it has no agent, and it answers what a gateway still leads there"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	a.Doorless, a.Next = nil, "cart-3"
	if got, want := answerText(a, false), "0 %, 12 ms; release cart-3, which has waited, begins now: bight release undo cart-3 ends it, too"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestWaitsFor(t *testing.T) {
	if got, want := waitsFor(shownRelease(nil)), "held: 25 % of the requests, by hand (2 of 3 pods obey)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := waitsFor(&v1alpha1.Release{}); !strings.Contains(got, "waiting for the controller") {
		t.Error(got)
	}
}

func TestStatusNamesTheStrategyAndTellsOfBothSides(t *testing.T) {
	r := shownRelease(func(r *v1alpha1.Release) {
		r.Spec.Plan = v1alpha1.ReleasePlan{Strategy: v1alpha1.BlueGreen, Then: v1alpha1.ThenPromote}
		r.Status.Steps = 1
		r.Status.Verdict.Stable = &v1alpha1.Counted{Requests: 2000, Errors: 10}
		r.Status.Verdict.Canary = &v1alpha1.Counted{Requests: 400, Errors: 1, Rated: 200, Above: 100, Slow: 3}
	})
	rows := map[string]string{}
	for _, row := range releaseTable(r, nil, noon).Rows {
		rows[row[0]] += row[1]
	}
	for name, want := range map[string]string{
		"strategy": "blue-green, then promoted; preview at service carts-preview",
		"step":     "1 of 1: 0 %, 100 % of the pods, for 30 s",
		"stable":   "; 2000 requests, 10 of them errors (0.50 %)",
		"canary":   "; 400 requests, 1 of them errors (0.25 %), 50.00 % slower than half of stable's before, 1.50 % than 99 % of them",
		"route":    "preview: requests with x-preview=true go to canary",
	} {
		if !strings.Contains(rows[name], want) {
			t.Errorf("%s is %q, want %q", name, rows[name], want)
		}
	}
	for _, row := range releaseTable(shownRelease(nil), nil, noon).Rows {
		if row[0] == "strategy" {
			t.Errorf("a canary has %q", row)
		}
	}
}

func TestReadConfig(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"app.yaml": "a: 1\n", "logo": "\xff\x00", "sub dir/x": "x"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "app.yaml")
	for text, want := range map[string]map[string]string{
		"settings=" + file:            {"app.yaml": "a: 1\n"},
		"settings=other.yaml=" + file: {"other.yaml": "a: 1\n"},
		"settings=" + dir:             {"app.yaml": "a: 1\n"},
	} {
		c, err := readConfig(config.ConfigMap, "--config", text)
		if err != nil || c.Name != "settings" || cmp.Diff(want, c.Text) != "" || (len(c.Binary) == 1) != strings.HasSuffix(text, dir) {
			t.Errorf("%s is %+v, %v", text, c, err)
		}
	}
	if c, err := readConfig(config.Secret, "--secret", "keys="+file); err != nil || len(c.Text) > 0 || string(c.Binary["app.yaml"]) != "a: 1\n" {
		t.Errorf("a Secret is %+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"settings":                     "write NAME=FILE",
		"Settings=" + file:             "write NAME=FILE",
		"settings=":                    "write NAME=FILE",
		"settings=" + dir + "/none":    "there is no file",
		"settings=key=" + dir:          "leave out key=",
		"settings=not a key=" + file:   "can't be a key",
		"settings=" + dir + "/sub dir": "",
	} {
		_, err := readConfig(config.ConfigMap, "--config", text)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("of %s is said %v, want %q", text, err, want)
		}
	}
}

func TestBlameNamesConfigurationThatDiffers(t *testing.T) {
	got := otherConfig([]string{"spec.volumes[a].configMap.name: a -> b", "ConfigMap settings: BROKEN: +yes", "Secret keys: token: another", "spec.containers[cart].env[MODE].value: a -> b"})
	if want := "\nits configuration differs from stable's:\nConfigMap settings: BROKEN: +yes\nSecret keys: token: another\nvariable MODE: a -> b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := otherConfig([]string{"spec.containers[cart].image: a -> b"}); got != "" {
		t.Errorf("of an image, %q", got)
	}
}
