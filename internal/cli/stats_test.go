package cli

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/bightdev/bight/internal/change/ship"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/stats"
)

// history is two months of a shop: better in the second one.
func history() []stats.Event {
	prod := stats.Place{Tenant: "shop", App: "shop", Environment: "prod", Production: true, Namespace: "shop-prod"}
	var all []stats.Event
	for i := range 90 {
		now := i >= 30 // twenty days of one a day and a half, then thirty of two a day
		ended, lead := noon.Add(-60*24*time.Hour).Add(time.Duration(i)*24*time.Hour), 40*time.Minute
		if now {
			ended, lead = noon.Add(-30*24*time.Hour).Add(time.Duration(i-29)*12*time.Hour), 15*time.Minute+time.Duration(i)*time.Second
		}
		name := fmt.Sprintf("shop-%02d", i)
		key := "shop/" + name + "#0"
		d := stats.Event{
			Kind: stats.Deploy, ID: "d/" + name, Name: name, Place: prod, Change: key, End: stats.Passed, Began: ended.Add(-10 * time.Minute), Ended: ended,
			Committed: ended.Add(-lead), Services: []string{[]string{"cart", "stock"}[i%2]},
		}
		r := stats.Event{
			Kind: stats.Release, ID: "r/" + name, Name: d.Services[0] + "-" + name, Place: prod, Change: key, End: stats.Promoted, Services: d.Services,
			Began: ended.Add(-9 * time.Minute), Exposed: ended.Add(-8 * time.Minute), Full: ended, Ended: ended, Verdict: "good", Judged: ended.Add(-5 * time.Minute),
		}
		change := stats.Event{Kind: stats.Change, ID: "c/" + name, Name: name, Place: stats.Place{Tenant: "shop", App: "shop"}, End: "deployed", Ended: ended, Steps: 3, Known: i % 2}
		switch {
		case i%15 == 4:
			d.End, d.Back, change.End = stats.Failed, true, "refused"
			r.End, r.Verdict, r.Judged, r.Errors, r.Full = stats.Caught, "bad", ended.Add(-479*time.Second), 3, time.Time{}
			r.Undoing = ended.Add(-80 * time.Millisecond)
		case i == 8 || i == 18 || i == 50:
			r.End, r.Undoing = stats.Fallen, ended.Add(-time.Second)
			d.End, d.Back, change.End = stats.Failed, true, "refused"
		}
		all = append(all, d, r, change)
	}
	return all
}

func TestStatsOfOneEnvironment(t *testing.T) {
	q := stats.Query{From: noon.Add(-30 * 24 * time.Hour), To: noon}
	r := stats.Compute(q, noon.Add(-90*24*time.Hour), history())
	want := []string{
		"shop prod|LAST 30 DAYS|BEFORE|TREND|",
		"change lead time|16 min 0 s|40 min 0 s|✓ 60 % shorter|median of 55 changes, 9 of 10 within 16 min 24 s",
		"deployment frequency|1.9 a day|0.9 a day|✓ 107 % more|56 deployments  ▅▇▇▆▇▆▇▇▆█",
		"change fail rate|1.8 %|7.4 %|✓ 6 points less|1 of 56 deployments",
		"failed deployment recovery time|10 min 0 s|10 min 0 s||of 1 deployment",
		"deployment rework rate|1.8 %|7.4 %|✓ 6 points less|1 of 56 deployments",
		"releases promoted|55 of 60|25 of 29||from the start to all requests 9 min 0 s",
		"caught by canary|4 of 60|2 of 29||cost 12 failed requests; 80 ms to undo",
		"undone after promotion|1 of 60|2 of 29||",
		"time to verdict|3 min 0 s|3 min 0 s|as before|median of 60 releases, 9 of 10 within 3 min 0 s",
		"changes deployed|55 of 60|25 of 29||5 refused",
		"steps known by their inputs|17 %|17 %|as before|30 of 180 steps",
	}
	if d := cmp.Diff(want, lines(figuresTable(r.Rows[0], "30 days"))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	want = []string{
		"SERVICE|LEAD TIME|DEPLOYED|FAILED|RECOVERY|REWORK|PROMOTED|CAUGHT|DEPLOYMENTS",
		"cart|16 min 0 s ▼|6.5 a week|3.6 %|10 min 0 s|3.6 %|27 of 30|2|▅████▅████",
	}
	if d := cmp.Diff(want, lines(rowsTable("SERVICE", r.Rows[1:2], func(r stats.Row) string { return r.Service }))); d != "" {
		t.Errorf("services (-want +got):\n%s", d)
	}
}

func TestStatsOfAlmostNothing(t *testing.T) {
	r := stats.Row{Place: stats.Place{Namespace: "legacy"}, Service: "web", Now: stats.Figures{Deployments: 2, Failed: &stats.Share{Count: 1, Of: 2}, Open: 1}}
	want := []string{
		"legacy web|LAST 12 HOURS|BEFORE|TREND|",
		"change lead time|no data|no data||",
		"deployment frequency|2 in all|no data||2 deployments  ",
		"change fail rate|1 of 2|no data||",
		"failed deployment recovery time|no data|no data||1 not recovered yet",
		"deployment rework rate|no data|no data||",
	}
	if d := cmp.Diff(want, lines(figuresTable(r, "12 hours"))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestTrends(t *testing.T) {
	times := func(seconds float64) *stats.Times { return &stats.Times{Count: 3, Median: stats.Seconds(seconds)} }
	for _, c := range []struct {
		now, before float64
		want        string
	}{{60, 100, "✓ 40 % shorter"}, {100, 60, "✗ 67 % longer"}, {100, 98, "as before"}, {5000, 60, "✗ 83 times as much"}, {1, 0, ""}} {
		if got := timesTrend(times(c.now), times(c.before)); got != c.want {
			t.Errorf("%v s after %v s: %q, want %q", c.now, c.before, got, c.want)
		}
	}
	if got := timesTrend(&stats.Times{Count: 2, Median: 1}, times(9)); got != "" {
		t.Errorf("two have the trend %q", got)
	}
	if got := shareTrend(&stats.Share{Count: 5, Of: 9}, &stats.Share{Count: 1, Of: 100}, false); got != "" {
		t.Errorf("of nine there is the trend %q", got)
	}
	if got := shareTrend(&stats.Share{Count: 50, Of: 100}, &stats.Share{Count: 10, Of: 100}, true); got != "✓ 40 points more" {
		t.Errorf("what is good has the trend %q", got)
	}
}

func TestSince(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "1.5d": 36 * time.Hour, "8w": 1344 * time.Hour, "12h": 12 * time.Hour, "90m": 90 * time.Minute, "365d": 8760 * time.Hour,
		"": 0, "d": 0, "-3d": 0, "0d": 0, "366d": 0, "30": 0, "30x": 0, "10s": 0, "3dd": 0, "1e9w": 0,
	} {
		got, err := parseSince(s)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("%q: %s, %v; want %s", s, got, err, want)
		}
	}
}

func TestStatsOfAllNamespacesAreNotOfTheAppHere(t *testing.T) {
	s := &ship.Shipper{Cluster: &kube.Cluster{Namespace: "mine"}, Namespace: "never-shipped"}
	if fromAnywhere(s); s.Namespace != "mine" || s.Client.Namespace != "mine" {
		t.Errorf("asked from %s, with tickets of %s", s.Namespace, s.Client.Namespace)
	}
}

func TestStatsOfAnAppThatWasNeverShipped(t *testing.T) {
	none := apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "try")
	err := ofNoNamespace(fmt.Errorf("make a ticket in namespace try: %w", &kube.Error{Kind: kube.NotFound, Err: none}), "try", true)
	if got, want := err.Error(), "there is no namespace try, which is what the app here would have: nothing of it was shipped; -n NAMESPACE asks about another, -A about all"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := ofNoNamespace(none, "try", false).Error(); got != "there is no namespace try" {
		t.Errorf("of one that was named is said %q", got)
	}
	other := apierrors.NewNotFound(schema.GroupResource{Resource: "tickets"}, "ship-1")
	if got := ofNoNamespace(other, "try", true); got != error(other) {
		t.Errorf("another error becomes %q", got)
	}
}
