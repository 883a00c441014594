package cli

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/stats"
	"github.com/bightdev/bight/internal/ui/term"
)

// noData stands where nothing is known.
const noData = "no data"

// Fewer values than these have no trend: a rate of few, a median of few.
const enoughOf, enoughTimes = 10, 3

// figuresTable is all about one environment, or one service.
func figuresTable(r stats.Row, span string) *term.Table {
	now, before := r.Now, r.Before
	t := &term.Table{Head: []string{placeText(r), "LAST " + strings.ToUpper(span), "BEFORE", "TREND", ""}}
	add := func(cells ...string) { t.Rows = append(t.Rows, cells) }
	add("change lead time", timesText(now.Lead), timesText(before.Lead), timesTrend(now.Lead, before.Lead), timesDetail(now.Lead, "change"))
	add("deployment frequency", frequencyText(now, now), frequencyText(before, now), frequencyTrend(now, before), deploymentsDetail(r))
	add("change fail rate", shareText(now.Failed), shareText(before.Failed), shareTrend(now.Failed, before.Failed, false), rateDetail(now.Failed, "deployment"))
	recovery := timesDetail(now.Recovery, "deployment")
	if now.Open > 0 {
		recovery = strings.TrimPrefix(recovery+fmt.Sprintf("; %d not recovered yet", now.Open), "; ")
	}
	add("failed deployment recovery time", timesText(now.Recovery), timesText(before.Recovery), timesTrend(now.Recovery, before.Recovery), recovery)
	add("deployment rework rate", shareText(now.Rework), shareText(before.Rework), shareTrend(now.Rework, before.Rework, false), rateDetail(now.Rework, "deployment"))
	if now.Releases != nil || before.Releases != nil {
		releaseRows(add, now.Releases, before.Releases)
	}
	if len(now.Changes)+len(before.Changes) > 0 {
		add("changes deployed", changesText(now.Changes), changesText(before.Changes), "", changesDetail(now.Changes))
		add("steps known by their inputs", shareText(now.Known), shareText(before.Known), shareTrend(now.Known, before.Known, true), rateDetail(now.Known, "step"))
	}
	return t
}

// releaseRows are how releases have ended.
func releaseRows(add func(...string), now, before *stats.Releases) {
	count := func(r *stats.Releases, n func(*stats.Releases) int) string {
		if r == nil {
			return noData
		}
		return fmt.Sprintf("%d of %d", n(r), releasesEnded(r))
	}
	row := func(name string, n func(*stats.Releases) int, detail string) {
		if (now == nil || n(now) == 0) && (before == nil || n(before) == 0) && name != "caught by canary" {
			return
		}
		add(name, count(now, n), count(before, n), "", detail)
	}
	var some stats.Releases
	if now != nil {
		some = *now
	}
	row("releases promoted", func(r *stats.Releases) int { return r.Promoted }, medianText("from the start to all requests ", some.Promotion))
	caught := ""
	if some.Caught > 0 {
		caught = fmt.Sprintf("cost %s; %s", plural(some.Errors, "failed request"), strings.TrimPrefix(medianText("", some.Undo)+" to undo", " "))
	}
	row("caught by canary", func(r *stats.Releases) int { return r.Caught }, caught)
	row("undone by people", func(r *stats.Releases) int { return r.Stopped }, "")
	row("undone after promotion", func(r *stats.Releases) int { return r.Fallen }, "")
	row("never ready, or no verdict", func(r *stats.Releases) int { return r.Stillborn }, "")
	var verdicts [2]*stats.Times
	for i, r := range []*stats.Releases{now, before} {
		if r != nil {
			verdicts[i] = r.Verdict
		}
	}
	add("time to verdict", timesText(verdicts[0]), timesText(verdicts[1]), timesTrend(verdicts[0], verdicts[1]), timesDetail(verdicts[0], "release"))
}

// releasesEnded is how many releases there were; one that was overtaken says nothing.
func releasesEnded(r *stats.Releases) int {
	return r.Promoted + r.Caught + r.Stopped + r.Fallen + r.Stillborn
}

// rowsTable has one line for each.
func rowsTable(what string, rows []stats.Row, name func(stats.Row) string) *term.Table {
	t := &term.Table{Head: []string{what, "LEAD TIME", "DEPLOYED", "FAILED", "RECOVERY", "REWORK", "PROMOTED", "CAUGHT", "DEPLOYMENTS"}, Services: true}
	mark := func(text, trend string) string {
		if text == noData || trend == "" {
			return text
		}
		return text + " " + map[string]string{"✓": "▼", "✗": "▲"}[string([]rune(trend)[:1])]
	}
	for _, r := range rows {
		promoted, caught := noData, noData
		if x := r.Now.Releases; x != nil {
			promoted, caught = fmt.Sprintf("%d of %d", x.Promoted, releasesEnded(x)), fmt.Sprint(x.Caught)
		}
		t.Rows = append(t.Rows, []string{
			name(r), mark(timesText(r.Now.Lead), timesTrend(r.Now.Lead, r.Before.Lead)), frequencyText(r.Now, r.Now), shareText(r.Now.Failed),
			timesText(r.Now.Recovery), shareText(r.Now.Rework), promoted, caught, spark(r.Trend),
		})
	}
	return t
}

// placeText names an environment.
func placeText(r stats.Row) string {
	name := r.Namespace
	if r.App != "" {
		name = strings.TrimPrefix(r.Tenant+"/"+r.App, r.App+"/") + " " + cmp.Or(r.Environment, r.Namespace)
	}
	return strings.TrimSuffix(name+" "+r.Service, " ")
}

// spanText is a time as in "30 days".
func spanText(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0:
		return term.Count(int(d/(24*time.Hour)), "day")
	case d%time.Hour == 0:
		return term.Count(int(d/time.Hour), "hour")
	}
	return term.Duration(d)
}

// long is a duration that may be of days.
func long(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%.1f days", d.Hours()/24)
	}
	return term.Duration(d)
}

func timesText(t *stats.Times) string {
	if t == nil {
		return noData
	}
	return long(t.Median.Duration())
}

// medianText is a median behind what it is of, "" for none.
func medianText(what string, t *stats.Times) string {
	if t == nil {
		return ""
	}
	return what + timesText(t)
}

func timesDetail(t *stats.Times, what string) string {
	switch {
	case t == nil:
		return ""
	case t.P90 == nil && t.Count == 1:
		return "of 1 " + what
	case t.P90 == nil:
		return "median of " + term.Count(t.Count, what)
	}
	return "median of " + term.Count(t.Count, what) + ", 9 of 10 within " + long(t.P90.Duration())
}

// timesTrend says how a time compares with the one before: the shorter the better.
func timesTrend(now, before *stats.Times) string {
	if now == nil || before == nil || now.Count < enoughTimes || before.Count < enoughTimes || before.Median <= 0 {
		return ""
	}
	return trend(float64(now.Median/before.Median)-1, "longer", "shorter", false)
}

// trend says by how much something is more or less than before.
func trend(by float64, more, less string, good bool) string {
	percent := math.Round(by * 100)
	text := fmt.Sprintf("%.0f %% %s", math.Abs(percent), map[bool]string{true: more, false: less}[percent > 0])
	switch {
	case math.Abs(percent) < 5:
		return "as before"
	case percent > 900:
		text = fmt.Sprintf("%.0f times as much", by+1)
	}
	return map[bool]string{true: "✓ ", false: "✗ "}[(percent > 0) == good] + text
}

// frequencyText is how often there were deployments, in the unit that suits another.
func frequencyText(f, as stats.Figures) string {
	if as.PerDay == nil {
		as = f
	}
	switch {
	case f.Deployments == 0:
		return noData
	case f.PerDay == nil:
		return fmt.Sprintf("%d in all", f.Deployments)
	case *as.PerDay >= 1:
		return fmt.Sprintf("%.1f a day", *f.PerDay)
	case *as.PerDay*7 >= 1:
		return fmt.Sprintf("%.1f a week", *f.PerDay*7)
	}
	return fmt.Sprintf("%.1f a month", *f.PerDay*30)
}

func frequencyTrend(now, before stats.Figures) string {
	if now.PerDay == nil || before.PerDay == nil || now.Deployments < enoughTimes || before.Deployments < enoughTimes {
		return ""
	}
	return trend(*now.PerDay / *before.PerDay - 1, "more", "less", true)
}

func deploymentsDetail(r stats.Row) string {
	if r.Now.Deployments == 0 {
		return ""
	}
	return term.Count(r.Now.Deployments, "deployment") + "  " + spark(r.Trend)
}

// shareText is a rate, or of few just how many.
func shareText(s *stats.Share) string {
	switch {
	case s == nil:
		return noData
	case s.Of < enoughOf:
		return fmt.Sprintf("%d of %d", s.Count, s.Of)
	}
	return percentText(s.Rate())
}

func percentText(rate float64) string {
	if p := rate * 100; p > 0 && p < 9.95 {
		return fmt.Sprintf("%.1f %%", p)
	}
	return fmt.Sprintf("%.0f %%", rate*100)
}

// rateDetail says of how many a rate is.
func rateDetail(s *stats.Share, what string) string {
	if s == nil || s.Of < enoughOf {
		return ""
	}
	return fmt.Sprintf("%d of %s", s.Count, term.Count(s.Of, what))
}

// shareTrend says by how many points a rate differs from that before.
func shareTrend(now, before *stats.Share, good bool) string {
	if now == nil || before == nil || now.Of < enoughOf || before.Of < enoughOf {
		return ""
	}
	points := (now.Rate() - before.Rate()) * 100
	if math.Abs(points) < 1 {
		return "as before"
	}
	return map[bool]string{true: "✓ ", false: "✗ "}[(points > 0) == good] +
		fmt.Sprintf("%.0f points %s", math.Abs(points), map[bool]string{true: "more", false: "less"}[points > 0])
}

// changesText is how many of the changes were deployed.
func changesText(ends map[string]int) string {
	all := 0
	for _, n := range ends {
		all += n
	}
	if all == 0 {
		return noData
	}
	return fmt.Sprintf("%d of %d", ends["deployed"], all)
}

// changesDetail is how the others have ended.
func changesDetail(ends map[string]int) string {
	var parts []string
	for _, end := range slices.Sorted(maps.Keys(ends)) {
		if end != "deployed" {
			parts = append(parts, fmt.Sprintf("%d %s", ends[end], end))
		}
	}
	return strings.Join(parts, ", ")
}

// spark draws numbers.
func spark(all []int) string {
	top := slices.Max(append([]int{1}, all...))
	bars := []rune("·▁▂▃▄▅▆▇█")
	var b strings.Builder
	for _, n := range all {
		i := 0
		if n > 0 {
			i = 1 + (n*(len(bars)-2))/top
		}
		b.WriteRune(bars[min(i, len(bars)-1)])
	}
	return b.String()
}
