package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/client"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/ui/term"
)

// lastEvents is how many events bight release status shows.
const lastEvents = 8

func currentTable(all []v1alpha1.Release, namespace string) *term.Table {
	t := &term.Table{
		Head:  []string{"DEPLOYMENT", "VERSION", "PHASE", "STEP", "REQUESTS", "PODS", "DOORS", "VERDICT", "MESSAGE"},
		Empty: "no release in namespace " + namespace,
	}
	for _, r := range all {
		obey, of := client.Covered(&r)
		doors := ""
		if spec.Effective(&r) != nil {
			doors = fmt.Sprintf("%d/%d", obey, of)
		}
		verdict := ""
		if v := r.Status.Verdict; v != nil {
			verdict = v.Is
		}
		t.Rows = append(t.Rows, []string{
			r.Spec.Deployment, r.Spec.Version, phaseText(&r), stepText(&r), share(&r),
			fmt.Sprintf("%d+%d", r.Status.Stable.Ready, r.Status.Canary.Ready), doors, verdict, joined(r.Status.Message),
		})
	}
	return t
}

// historyTable has all releases, and the attempts before them of which the objects are no more, the newest first.
func historyTable(all []v1alpha1.Release, namespace string, now time.Time) *term.Table {
	t := &term.Table{
		Head:  []string{"RELEASE", "VERSION", "PHASE", "BY", "TOOK", "AGE", "VERDICT", "MESSAGE"},
		Empty: "no release in namespace " + namespace,
	}
	type line struct {
		began time.Time
		row   []string
	}
	var lines []line
	add := func(at time.Time, row ...string) { lines = append(lines, line{at, row}) }
	for _, r := range all {
		verdict := ""
		if v := r.Status.Verdict; v != nil {
			verdict = v.Is
		}
		at := r.CreationTimestamp.Time
		add(at, r.Name, r.Spec.Version, phaseText(&r), by(&r), took(&r, now), term.Duration(now.Sub(at)), verdict, joined(r.Status.Message))
		for _, a := range r.Status.Attempts {
			at, phase, took := timeOf(a.Began, at), "removed", ""
			if a.Ended != nil {
				phase, took = phaseWord(a.Phase), term.Duration(a.Ended.Sub(at))
			}
			add(at, attemptName(r.Name, a), r.Spec.Version, phase, a.By, took, term.Duration(now.Sub(at)), a.Verdict, joined(a.Message))
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return b.began.Compare(a.began) })
	for _, l := range lines {
		t.Rows = append(t.Rows, l.row)
	}
	return t
}

// attemptName is what an attempt before a release is called.
func attemptName(name string, a v1alpha1.ReleaseAttempt) string {
	return name + " #" + strconv.Itoa(int(a.Number))
}

// attemptText says how an attempt went.
func attemptText(a v1alpha1.ReleaseAttempt, now time.Time) string {
	text := phaseWord(a.Phase)
	if a.Began != nil && a.Ended != nil {
		text += fmt.Sprintf(" at %s, after %s", clock(*a.Ended, now), term.Duration(a.Ended.Sub(a.Began.Time)))
	}
	if a.By != "" {
		text += ", by " + a.By
	}
	if text += ": " + joined(a.Message); a.Why != "" && !strings.Contains(a.Message, a.Why) {
		text += "; " + a.Verdict + ": " + joined(a.Why)
	}
	return text
}

func timeOf(t *metav1.MicroTime, otherwise time.Time) time.Time {
	if t == nil {
		return otherwise
	}
	return t.Time
}

// by is who has given the last order or, without any, what has made the release.
func by(r *v1alpha1.Release) string {
	if r.Spec.Orders.By == "" && r.Spec.Change != "" {
		return "change " + r.Spec.Change
	}
	return r.Spec.Orders.By
}

func took(r *v1alpha1.Release, now time.Time) string {
	if r.Status.Started == nil {
		return ""
	}
	end := now
	if r.Status.Ended != nil {
		end = r.Status.Ended.Time
	}
	return term.Duration(end.Sub(r.Status.Started.Time))
}

func phaseText(r *v1alpha1.Release) string { return phaseWord(r.Status.Phase) }

func phaseWord(phase string) string {
	text := strings.ToLower(cmp.Or(phase, "new"))
	switch release.Phase(phase) {
	case release.Promoted:
		return "✓ " + text
	case release.Undone, release.Undoing:
		return "✗ " + text
	case release.Held:
		return "! " + text
	}
	return text
}

func stepText(r *v1alpha1.Release) string {
	if r.Status.Step == 0 || release.Phase(r.Status.Phase).Ended() {
		return ""
	}
	return fmt.Sprintf("%d of %d", r.Status.Step, r.Status.Steps)
}

// share is which requests are the version's.
func share(r *v1alpha1.Release) string {
	e := spec.Effective(r)
	switch {
	case e == nil:
		return cmp.Or(r.Status.Weight, "0 %")
	case e.Shut:
		return "none"
	}
	if e.Alone {
		return "all"
	}
	return release.Weight(e.Weight).String()
}

// joined makes one line of a text.
func joined(s string) string { return strings.Join(strings.Fields(s), " ") }

// releaseTable is all about one release. behind are the pods that do not obey it.
func releaseTable(r *v1alpha1.Release, behind []string, now time.Time) *term.Table {
	t := &term.Table{Head: []string{"RELEASE", r.Name}}
	add := func(what, text string) {
		if text != "" {
			t.Rows = append(t.Rows, []string{what, text})
		}
	}
	of := "of deployment " + r.Spec.Deployment + ", requests of service " + r.Spec.Service
	if r.Spec.Change != "" {
		of += ", change " + r.Spec.Change
	}
	add("version", strings.TrimSpace(r.Spec.Version+" "+of))
	phase := phaseText(r)
	if since := took(r, now); since != "" {
		phase += map[bool]string{true: " after ", false: " for "}[release.Phase(r.Status.Phase).Ended()] + since
	}
	add("strategy", strategyText(r))
	add("phase", strings.TrimSuffix(phase+": "+joined(r.Status.Message), ": "))
	for _, a := range slices.Backward(r.Status.Attempts) {
		add(fmt.Sprintf("attempt %d", a.Number), attemptText(a, now))
	}
	add("step", stepDetail(r))
	add("requests", shareDetail(r))
	for _, x := range routes(r) {
		add("route", x)
	}
	if x := r.Status.Refused; x != nil {
		add("orders", orders(x.Orders))
		add("! refused", fmt.Sprintf("%s: policy %s, rule %s: %s", orders(r.Spec.Orders), x.Policy, x.Rule, joined(x.Why)))
	} else {
		add("orders", orders(r.Spec.Orders))
	}
	add("asked", askText(r))
	add("verdict", verdictText(r.Status.Verdict))
	v := cmp.Or(r.Status.Verdict, &v1alpha1.VerdictStatus{})
	add("stable", podsText(r.Status.Stable)+countedText(v.Stable))
	add("canary", podsText(r.Status.Canary)+countedText(v.Canary))
	if v.Copies != nil {
		add("copies", strings.TrimPrefix(strings.Replace(countedText(v.Copies), "requests", "copies", 1), "; "))
	}
	for _, s := range r.Status.Gateways {
		add("gateways", gatewaysText(r, s))
	}
	add("doors", doorsText(r))
	for _, line := range behind {
		add("! behind", line)
	}
	if why := spec.Convicted(r); why != "" {
		add("✗ convicted", why)
	}
	return t
}

// strategyText names the strategy, unless it is what every release is.
func strategyText(r *v1alpha1.Release) string {
	word := spec.Word(r.Spec.Plan)
	if word == "canary" {
		return ""
	}
	plan := spec.Expand(r.Spec.Plan)
	text := word + ", then " + map[string]string{v1alpha1.ThenHold: "somebody decides", v1alpha1.ThenUndo: "undone", v1alpha1.ThenPromote: "promoted"}[plan.Then]
	if spec.Previewed(plan) {
		text += "; preview at service " + spec.PreviewService(r.Spec.Service)
	}
	return text
}

// countedText says what became of a version's requests, as the end of what is told of it.
func countedText(c *v1alpha1.Counted) string {
	if c == nil || c.Requests == 0 {
		return ""
	}
	percent := func(n, of int64) string {
		return strconv.FormatFloat(100*float64(n)/float64(max(of, 1)), 'f', 2, 64) + " %"
	}
	text := fmt.Sprintf("; %d requests, %d of them errors (%s)", c.Requests, c.Errors, percent(c.Errors, c.Requests))
	if c.Rated > 0 && c.Above+c.Slow > 0 {
		text += fmt.Sprintf(", %s slower than half of stable's before, %s than 99 %% of them", percent(c.Above, c.Rated), percent(c.Slow, c.Rated))
	}
	return text
}

// stepDetail says where in the plan it is, and what the step asks for.
func stepDetail(r *v1alpha1.Release) string {
	text := stepText(r)
	plan, err := spec.Plan(r.Spec.Plan)
	if i := int(r.Status.Step) - 1; text != "" && err == nil && i < len(plan.Steps) {
		text += ": " + describe(plan.Steps[i])
	}
	return text
}

// describe says what a step gives, and what it asks for before the next.
func describe(s release.Step) string {
	text := s.Weight.String()
	if s.Mirror > 0 {
		text += ", copies of " + s.Mirror.String()
	}
	if s.Part > 0 {
		text += ", " + s.Part.String() + " of the pods"
	}
	var until []string
	if s.Proven {
		until = append(until, "the evidence shows that it is good")
	}
	if s.Hold {
		until = append(until, "somebody lets it go on")
	}
	if s.For > 0 {
		text += ", for " + term.Duration(s.For)
	}
	if len(until) > 0 {
		text += ", until " + strings.Join(until, " and ")
	}
	return text
}

func shareDetail(r *v1alpha1.Release) string {
	e := spec.Effective(r)
	if e == nil {
		return ""
	}
	if e.Shut {
		text := "none go to the version, by routes neither"
		if !r.Status.Route.Shut {
			text += "; the controller does not know that yet"
		}
		return text
	}
	text := release.Weight(e.Weight).String() + " go to the version"
	if e.Alone {
		text = "all go to the version, of which it is to have " + release.Weight(e.Weight).String() + ": no pod of the version before exists"
	}
	if e.Mirror > 0 {
		text += ", and copies of " + release.Weight(e.Mirror).String()
	}
	switch a := e.Affinity; {
	case a == nil:
	case a.Cookie != "":
		text += "; who has had it keeps it, by cookie " + a.Cookie
	default:
		text += "; who has had it keeps it, by header " + a.Header
	}
	return text
}

// routes are those of the orders and of the plan, as they count.
func routes(r *v1alpha1.Release) []string {
	var all []string
	for _, x := range r.Spec.Orders.Routes {
		all = append(all, routeText(x)+" (by hand)")
	}
	for _, x := range spec.Expand(r.Spec.Plan).Routes {
		all = append(all, routeText(x))
	}
	return all
}

func routeText(x v1alpha1.ReleaseRoute) string {
	text := spec.Route(x) + " go to " + x.To
	if x.Name != "" {
		text = x.Name + ": " + text
	}
	return text
}

// orders are what people want beyond the plan.
func orders(o v1alpha1.ReleaseOrders) string {
	by := o.By
	asked := o.Asked
	if o.By, o.Groups, o.Asked, o.At = "", nil, "", nil; equality.Semantic.DeepEqual(o, v1alpha1.ReleaseOrders{}) {
		return ""
	}
	if asked != "" {
		return cmp.Or(by, "somebody") + " has approved what " + asked + " asked for: " + spec.Tell(o)
	}
	return cmp.Or(by, "somebody") + " has ordered: " + spec.Tell(o)
}

func verdictText(v *v1alpha1.VerdictStatus) string {
	if v == nil {
		return ""
	}
	text := v.Is
	if v.Why != "" {
		text += ": " + joined(release.Plain(v.Why))
	}
	if v.Requests > 0 {
		text += fmt.Sprintf("; %s of %s judged", plural(v.Errors, "error"), plural(v.Requests, "request"))
	}
	if v.Slow > 0 {
		text += fmt.Sprintf(", %d slower than 99 %% of stable's", v.Slow)
	}
	if v.Latency != "" {
		text += "; " + v.Latency
	}
	if len(v.BadPods) > 0 {
		text += "; bad where the others are not: " + strings.Join(v.BadPods, ", ")
	}
	return text
}

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.FormatInt(n, 10) + " " + what + "s"
}

func podsText(v v1alpha1.VersionStatus) string {
	if v.Hash == "" && v.Pods == 0 && v.Want == 0 {
		return ""
	}
	text := fmt.Sprintf("%d of %s ready", v.Ready, term.Count(int(max(v.Want, v.Pods)), "pod"))
	if v.Image != "" {
		text += ", " + client.Short(v.Image)
	}
	if v.Hash != "" {
		text += " (pod-template-hash " + v.Hash + ")"
	}
	return text
}

// doorsText sums up what the nodes say.
func doorsText(r *v1alpha1.Release) string {
	if r.Status.Route == nil && len(r.Status.Doors) == 0 {
		return ""
	}
	var sum v1alpha1.NodeDoors
	for _, d := range r.Status.Doors {
		sum.Decided += d.Decided
		sum.Carried += d.Carried
		sum.Fallback += d.Fallback
		sum.Lost += d.Lost
		sum.Copied += d.Copied
		sum.Old += d.Old
		sum.Unread += d.Unread
	}
	var parts []string
	if spec.Effective(r) != nil && !client.ByRoutes(r) {
		obey, of := client.Covered(r)
		parts = append(parts, fmt.Sprintf("%d of %s obey", obey, term.Count(of, "pod")))
	}
	parts = append(parts, fmt.Sprintf("%s, %d of them to the version", plural(sum.Decided, "request"), sum.Carried))
	add := func(n int64, what, rest string) {
		if n > 0 {
			parts = append(parts, plural(n, what)+rest)
		}
	}
	add(sum.Fallback, "request", " for the version answered by stable, as no pod of the version did")
	add(sum.Lost, "request", " that nobody could answer")
	if sum.Copied > 0 {
		parts = append(parts, fmt.Sprintf("%d copies for the version", sum.Copied))
	}
	add(sum.Old, "connection", " from before the release")
	add(sum.Unread, "connection", " that can't be read")
	return strings.Join(parts, "; ")
}

// gatewaysText is who has a route as the release wants it.
func gatewaysText(r *v1alpha1.Release, s v1alpha1.RouteStatus) string {
	e := spec.Effective(r)
	if e == nil {
		return ""
	}
	obey := 0
	var names []string
	for _, p := range s.Parents {
		if p.Obeys && s.Problem == "" && s.Generation >= e.Generation {
			obey++
		}
		names = append(names, strings.TrimSuffix(p.Gateway+" ("+p.Controller+")", " ()"))
	}
	text := fmt.Sprintf("%s %s: %d of %s obey", s.Kind, s.Name, obey, term.Count(len(s.Parents), "gateway"))
	if len(names) > 0 {
		text += ": " + strings.Join(names, ", ")
	}
	return text
}

// eventTable are the last events.
func eventTable(r *v1alpha1.Release, now time.Time) *term.Table {
	t := &term.Table{Head: []string{"TIME", "EVENT"}}
	events := r.Status.Events
	for _, e := range events[max(0, len(events)-lastEvents):] {
		t.Rows = append(t.Rows, []string{clock(e.Time, now), joined(e.Text)})
	}
	return t
}

// clock is the time of day, and the day where that is another.
func clock(at metav1.MicroTime, now time.Time) string {
	local := at.In(now.Location())
	if local.Format(time.DateOnly) != now.Format(time.DateOnly) {
		return local.Format(time.DateTime)
	}
	return local.Format(time.TimeOnly)
}

// eventLog finds what is new among a release's events, of which the oldest are dropped
// in time.
type eventLog struct{ last *v1alpha1.ReleaseEvent }

func (l *eventLog) fresh(events []v1alpha1.ReleaseEvent) []v1alpha1.ReleaseEvent {
	if len(events) == 0 {
		return nil
	}
	from := 0
	if l.last != nil {
		same := func(e v1alpha1.ReleaseEvent) bool { return e.Time.Equal(&l.last.Time) && e.Text == l.last.Text }
		later := func(e v1alpha1.ReleaseEvent) bool { return e.Time.After(l.last.Time.Time) }
		if i := slices.IndexFunc(events, same); i >= 0 {
			from = i + 1
		} else if i := slices.IndexFunc(events, later); i >= 0 {
			from = i
		} else {
			from = len(events)
		}
	}
	last := events[len(events)-1]
	l.last = &last
	return events[from:]
}
