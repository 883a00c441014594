package stats

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// noon is the end of the window, which has ten days.
var noon = time.Date(2026, 5, 21, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func ago(d time.Duration) time.Time { return noon.Add(-d) }

func tenDays() Query { return Query{From: ago(10 * day), To: noon} }

func prod() Place {
	return Place{Tenant: "shop", App: "shop", Environment: "prod", Production: true, Namespace: "shop-prod"}
}

// deployed is a deployment that took ten minutes, of a commit of an hour before its end.
func deployed(name string, ended time.Time, end string, images ...string) Event {
	e := Event{
		Kind: Deploy, ID: "d/" + name, Name: name, Place: prod(), Change: "shop/" + name + "#0", End: end,
		Began: ended.Add(-10 * time.Minute), Ended: ended, Committed: ended.Add(-time.Hour),
	}
	for i := 0; i+1 < len(images); i += 2 {
		e.Services = append(e.Services, images[i])
		if images[i+1] != "" {
			if e.Images == nil {
				e.Images = map[string]string{}
			}
			e.Images[images[i]] = images[i+1]
		}
	}
	return e
}

// released is a release of a change, which began five minutes before it ended and had
// requests a minute later.
func released(name, service string, ended time.Time, end string, change func(*Event)) Event {
	e := Event{
		Kind: Release, ID: "r/" + name, Name: service + "-" + name, Place: prod(), Change: "shop/" + name + "#0", Services: []string{service}, End: end,
		Began: ended.Add(-5 * time.Minute), Ended: ended, Exposed: ended.Add(-4 * time.Minute),
	}
	if change != nil {
		change(&e)
	}
	return e
}

// only is the row of a service, "" for the environment's.
func only(t *testing.T, r Report, service string) Row {
	t.Helper()
	i := slices.IndexFunc(r.Rows, func(r Row) bool { return r.Service == service })
	if i < 0 {
		t.Fatalf("no row of %q in %+v", service, r.Rows)
	}
	return r.Rows[i]
}

func minutes(n float64) *Times { return &Times{Count: 1, Median: Seconds(n * 60)} }

func TestFiguresOfAQuietTime(t *testing.T) {
	r := Compute(tenDays(), ago(30*day), nil)
	if len(r.Rows) != 0 {
		t.Errorf("rows of nothing: %+v", r.Rows)
	}
	// One deployment before the window: now nothing is known, and not that nothing takes no time.
	r = Compute(tenDays(), ago(30*day), []Event{deployed("a", ago(15*day), Passed, "cart", "1")})
	row := only(t, r, "")
	if d := cmp.Diff(Figures{}, row.Now); d != "" {
		t.Errorf("now (-want +got):\n%s", d)
	}
	rate := 0.1
	want := Figures{Lead: minutes(60), Deployments: 1, PerDay: &rate, Failed: &Share{0, 1}, Rework: &Share{0, 1}}
	if d := cmp.Diff(want, row.Before); d != "" {
		t.Errorf("before (-want +got):\n%s", d)
	}
}

func TestADeploymentThatFailsAndIsPutBack(t *testing.T) {
	broken := deployed("b", ago(4*day), Failed, "cart", "2")
	broken.Back = true
	row := only(t, Compute(tenDays(), ago(30*day), []Event{
		deployed("a", ago(5*day), Passed, "cart", "1"), broken,
		deployed("stock", ago(3*day), Passed, "stock", "1"), // is of another service, and no rework
		deployed("c", ago(2*day), Passed, "cart", "3"),      // puts it right
		deployed("d", ago(1*day), Passed, "cart", "4"),
	}), "")
	rate := 0.5
	want := Figures{
		Lead: &Times{Count: 4, Median: 3600}, Deployments: 5, PerDay: &rate,
		Failed: &Share{1, 5}, Rework: &Share{1, 5}, Recovery: minutes(10),
	}
	if d := cmp.Diff(want, row.Now); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff([]int{0, 0, 0, 0, 0, 1, 1, 1, 1, 1}, row.Trend); d != "" {
		t.Errorf("trend (-want +got):\n%s", d)
	}
}

func TestADeploymentThatFailsForGood(t *testing.T) {
	events := []Event{deployed("a", ago(5*day), Failed, "cart", "2")}
	now := only(t, Compute(tenDays(), ago(30*day), events), "").Now
	if now.Open != 1 || now.Recovery != nil {
		t.Errorf("nothing has recovered it: %+v", now)
	}
	// It is over when the next one of its service serves, 3 days later.
	events = append(events, deployed("other", ago(4*day), Passed, "stock", "1"), deployed("b", ago(2*day), Passed, "cart", "3"))
	now = only(t, Compute(tenDays(), ago(30*day), events), "").Now
	want := &Times{Count: 1, Median: Seconds((3*day + 10*time.Minute).Seconds())}
	if d := cmp.Diff(want, now.Recovery); d != "" || now.Open != 0 || *now.Rework != (Share{1, 3}) {
		t.Errorf("rework %v, open %d, recovery (-want +got):\n%s", now.Rework, now.Open, d)
	}
}

func TestWhatIsTakenBackHasFailed(t *testing.T) {
	events := []Event{
		deployed("a", ago(9*day), Passed, "cart", "1", "stock", "1"),
		deployed("b", ago(5*day), Passed, "cart", "2"),
		deployed("back", ago(4*day), Passed, "cart", "1"),
		deployed("again", ago(3*day), Passed, "cart", "2"), // lands what was taken back; the one before it was no failure
		deployed("config", ago(2*day), Passed, "cart", "2"),
	}
	now := only(t, Compute(tenDays(), ago(30*day), events), "cart").Now
	if *now.Failed != (Share{1, 5}) || *now.Rework != (Share{1, 5}) {
		t.Errorf("%v failed, %v are rework", now.Failed, now.Rework)
	}
	want := &Times{Count: 1, Median: Seconds((day + 10*time.Minute).Seconds())}
	if d := cmp.Diff(want, now.Recovery); d != "" {
		t.Errorf("recovery (-want +got):\n%s", d)
	}
	// A change that is taken back had reached users all the same.
	if now.Lead.Count != 5 {
		t.Errorf("%d lead times", now.Lead.Count)
	}
}

func TestWhatACanaryCatchesIsNoFailedDeployment(t *testing.T) {
	full := func(e *Event) {
		e.Full, e.Verdict, e.Judged = e.Ended.Add(-time.Minute), "good", e.Exposed.Add(90*time.Second)
	}
	caught := func(e *Event) {
		e.Verdict, e.Judged, e.Errors, e.Requests = "bad", e.Exposed.Add(2*time.Second), 3, 40
		e.Undoing = e.Ended.Add(-50 * time.Millisecond)
	}
	undone := func(e *Event) { e.Undoing = e.Ended.Add(-150 * time.Millisecond) }
	fallen := func(e *Event) { full(e); undone(e) }
	events := []Event{
		deployed("good", ago(9*day), Passed, "cart", "1"), released("good", "cart", ago(9*day), Promoted, full),
		deployed("bad", ago(8*day), Failed, "cart", ""), released("bad", "cart", ago(8*day), Caught, caught),
		deployed("fell", ago(7*day), Failed, "cart", ""), released("fell", "cart", ago(7*day), Fallen, fallen),
		deployed("slow", ago(6*day), Failed, "cart", ""), released("slow", "cart", ago(6*day), Stillborn, nil),
		released("stopped", "cart", ago(5*day), Stopped, undone), // its change went along with the next
		deployed("next", ago(4*day), Passed, "cart", "2"), released("next", "cart", ago(4*day), Promoted, full),
		released("gone", "cart", ago(3*day), Superseded, nil),
	}
	along := deployed("stopped", ago(4*day), Along)
	along.With = "next"
	events = append(events, along)
	row := only(t, Compute(tenDays(), ago(30*day), events), "cart")
	rate := 0.4
	p90 := &Times{Count: 3, Median: 59 * 60} // until it had all requests, a minute before its end
	want := Figures{
		Lead: p90, Deployments: 4, PerDay: &rate, Failed: &Share{2, 4}, Rework: &Share{1, 4},
		Recovery: &Times{Count: 2, Median: 7.5 * 60}, // 10 min with the change's step, 5 min of the release alone
		Releases: &Releases{
			Promoted: 2, Caught: 1, Stopped: 1, Fallen: 1, Stillborn: 1, Superseded: 1, Errors: 3,
			Promotion: &Times{Count: 2, Median: 240}, Verdict: &Times{Count: 4, Median: 90}, Undo: &Times{Count: 3, Median: 0.15},
		},
	}
	if d := cmp.Diff(want, row.Now); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestReleasesByHandAreDeployments(t *testing.T) {
	byHand := func(name string, ended time.Time, end string) Event {
		e := released(name, "web", ended, end, nil)
		e.Change, e.Place = "", Place{Namespace: "legacy"}
		if end == Promoted {
			e.Full = ended
		}
		return e
	}
	r := Compute(tenDays(), ago(30*day), []Event{byHand("1", ago(5*day), Promoted), byHand("2", ago(4*day), Caught)})
	row := only(t, r, "web")
	if row.Namespace != "legacy" || row.Now.Deployments != 1 || *row.Now.Failed != (Share{0, 1}) || row.Now.Releases.Caught != 1 || row.Now.Lead != nil {
		t.Errorf("%+v", row)
	}
}

func TestTheQueryChooses(t *testing.T) {
	stage := deployed("s", ago(day), Passed, "cart", "1")
	stage.Environment, stage.Production, stage.Namespace = "stage", false, "shop-stage"
	other := deployed("o", ago(day), Passed, "cart", "1")
	other.Tenant, other.App, other.Namespace = "bank", "bank", "bank-prod"
	events := []Event{deployed("p", ago(day), Passed, "cart", "1", "stock", "1"), stage, other}
	rows := func(change func(*Query)) (all []string) {
		q := tenDays()
		change(&q)
		for _, r := range Compute(q, time.Time{}, events).Rows {
			all = append(all, r.Namespace+" "+r.Service)
		}
		return all
	}
	for _, c := range []struct {
		name   string
		change func(*Query)
		want   []string
	}{
		{"production of all", func(*Query) {}, []string{"bank-prod ", "bank-prod cart", "shop-prod ", "shop-prod cart", "shop-prod stock"}},
		{"an environment by name", func(q *Query) { q.Environment = "stage" }, []string{"shop-stage ", "shop-stage cart"}},
		{"the App's namespace", func(q *Query) { q.Namespace = "bank" }, []string{"bank-prod ", "bank-prod cart"}},
		{"the environment's namespace", func(q *Query) { q.Namespace = "shop-prod" }, []string{"shop-prod ", "shop-prod cart", "shop-prod stock"}},
		{"a service", func(q *Query) { q.Service = "stock" }, []string{"shop-prod stock"}},
		{"an App", func(q *Query) { q.App = "shop" }, []string{"shop-prod ", "shop-prod cart", "shop-prod stock"}},
	} {
		if d := cmp.Diff(c.want, rows(c.change)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

func TestFrequencyIsOfTheTimeThatIsKnown(t *testing.T) {
	var events []Event
	for i := range 8 {
		events = append(events, deployed(fmt.Sprint(i), ago(time.Duration(i)*6*time.Hour), Passed, "cart", fmt.Sprint(i)))
	}
	for _, c := range []struct {
		known time.Time
		want  float64 // 0: not known
	}{{ago(30 * day), 0.8}, {ago(2 * day), 4}, {ago(2 * time.Hour), 0}} {
		got := only(t, Compute(tenDays(), c.known, events), "").Now.PerDay
		if (got == nil) != (c.want == 0) || got != nil && *got != c.want {
			t.Errorf("known since %s: %v, want %v", c.known, got, c.want)
		}
	}
}

func TestTimes(t *testing.T) {
	for n, want := range map[int][2]float64{1: {1, 0}, 2: {1.5, 0}, 9: {5, 0}, 10: {5.5, 9}, 11: {6, 10}, 20: {10.5, 18}, 100: {50.5, 90}} {
		var all []time.Duration
		for i := range n {
			all = append(all, time.Duration(i+1)*time.Second)
		}
		rand.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
		got := times(all)
		p90 := 0.0
		if got.P90 != nil {
			p90 = float64(*got.P90)
		}
		if float64(got.Median) != want[0] || p90 != want[1] {
			t.Errorf("1 to %d: median %v, 90th percentile %v, want %v", n, got.Median, p90, want)
		}
	}
}

// TestOrderAndRepetitionDoNotMatter holds for every event that is seen twice or late.
func TestOrderAndRepetitionDoNotMatter(t *testing.T) {
	var events []Event
	for i := range 40 {
		end := []string{Passed, Passed, Failed}[i%3]
		events = append(events, deployed(fmt.Sprint(i), ago(time.Duration(i)*11*time.Hour), end, "cart", fmt.Sprint(i%4)))
	}
	want := Compute(tenDays(), ago(40*day), events)
	for range 20 {
		mixed := append(slices.Clone(events), events[rand.IntN(len(events))])
		rand.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		if d := cmp.Diff(want, Compute(tenDays(), ago(40*day), mixed)); d != "" {
			t.Fatalf("(-in order +mixed):\n%s", d)
		}
	}
}
