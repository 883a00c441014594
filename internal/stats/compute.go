package stats

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// tenths are the parts of a trend.
const tenths = 10

// Compute makes a report of events, which begin at q.Before or earlier and come in any
// order. known is when the record begins.
func Compute(q Query, known time.Time, events []Event) Report {
	seen := map[string]bool{}
	events = slices.DeleteFunc(slices.Clone(events), func(e Event) bool {
		twice := seen[e.ID]
		seen[e.ID] = true
		return twice || !q.About(e.Place) || e.Ended.After(q.To)
	})
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Or(a.Ended.Compare(b.Ended), cmp.Compare(a.ID, b.ID)) })
	c := &computation{Query: q, known: known, parts: map[spot]*part{}, ended: map[[2]string][]Event{}}
	for _, e := range events {
		if e.Kind == Change {
			of := [2]string{e.Tenant, e.App}
			c.ended[of] = append(c.ended[of], e)
		} else {
			p := c.part(e.Place)
			p.events = append(p.events, e)
		}
	}
	for _, d := range deployments(events) {
		p := c.part(d.Place)
		p.deployments = append(p.deployments, d)
	}
	r := Report{From: q.From, To: q.To, Known: known, Rows: []Row{}}
	for _, at := range c.rows() {
		r.Rows = append(r.Rows, c.row(at))
	}
	return r
}

type computation struct {
	Query
	known time.Time
	parts map[spot]*part        // by environment
	ended map[[2]string][]Event // changes, by App
}

// part is what has ended in one environment.
type part struct {
	place       Place
	events      []Event
	deployments []*deployment
}

func (c *computation) part(p Place) *part {
	at := spot{p.Tenant, p.App, p.Environment, p.Namespace, ""}
	if c.parts[at] == nil {
		c.parts[at] = &part{place: p}
	}
	return c.parts[at]
}

// of is the part that a row is about.
func (c *computation) of(at spot) *part {
	at.service = ""
	return c.parts[at]
}

// spot is what a row is about.
type spot struct{ tenant, app, environment, namespace, service string }

func (c *computation) rows() []spot {
	all := map[spot]bool{}
	for at, p := range c.parts {
		for _, e := range p.events {
			if e.Ended.Before(c.Before()) || !c.shown(e.Place) {
				continue
			}
			if c.Service == "" {
				all[at] = true
			}
			for _, service := range e.Services {
				if c.Service == "" || c.Service == service {
					all[spot{at.tenant, at.app, at.environment, at.namespace, service}] = true
				}
			}
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b spot) int {
		return cmp.Or(strings.Compare(a.tenant, b.tenant), strings.Compare(a.app, b.app), strings.Compare(a.namespace, b.namespace),
			strings.Compare(a.environment, b.environment), strings.Compare(a.service, b.service))
	})
}

// has says that services are those of the row.
func (s spot) has(services []string) bool {
	return s.service == "" || slices.Contains(services, s.service)
}

func (c *computation) row(at spot) Row {
	r := Row{
		Place:   Place{Tenant: at.tenant, App: at.app, Environment: at.environment, Namespace: at.namespace},
		Service: at.service, Now: c.figures(at, c.From, c.To), Before: c.figures(at, c.Query.Before(), c.From), Trend: make([]int, tenths),
	}
	for _, d := range c.landed(at, c.From, c.To) {
		r.Trend[min(int(d.ended.Sub(c.From)*tenths/max(c.To.Sub(c.From), 1)), tenths-1)]++
	}
	r.Production = c.of(at).place.Production
	return r
}

// landed are the deployments of a row that have reached users, and ended in a window.
func (c *computation) landed(at spot, from, to time.Time) []*deployment {
	var all []*deployment
	for _, d := range c.of(at).deployments {
		if d.end != Caught && at.has(d.services) && within(d.ended, from, to) {
			all = append(all, d)
		}
	}
	return all
}

func within(t, from, to time.Time) bool { return t.After(from) && !t.After(to) }

func (c *computation) figures(at spot, from, to time.Time) Figures {
	var f Figures
	var recovery []time.Duration
	failed, rework := 0, 0
	for _, d := range c.landed(at, from, to) {
		f.Deployments++
		if d.repairs {
			rework++
		}
		if d.end != Failed {
			continue
		}
		failed++
		if d.recovered.IsZero() {
			f.Open++
		} else {
			recovery = append(recovery, d.recovered.Sub(d.began))
		}
	}
	f.Failed, f.Rework, f.Recovery = share(failed, f.Deployments), share(rework, f.Deployments), times(recovery)
	f.PerDay = c.perDay(f.Deployments, from, to)
	f.Lead = times(c.lead(at, from, to))
	f.Releases = c.releases(at, from, to)
	if at.service == "" && at.app != "" {
		f.Changes, f.Known = c.changes(at, from, to)
	}
	return f
}

// perDay is how many deployments a day had of which something is known, nil if there was
// none, or not a day.
func (c *computation) perDay(n int, from, to time.Time) *float64 {
	days := to.Sub(later(from, c.known)).Hours() / 24
	if n == 0 || days < 1 {
		return nil
	}
	rate := float64(n) / days
	return &rate
}

// lead are the times from commits until they were in the environment. What went along with
// another change got there with it.
func (c *computation) lead(at spot, from, to time.Time) []time.Duration {
	carriers := map[string]*deployment{} // by change
	for _, d := range c.of(at).deployments {
		if d.deploy != nil && d.deploy.End == Passed {
			carriers[d.deploy.Name] = d
		}
	}
	var all []time.Duration
	for _, e := range c.of(at).events {
		if e.Kind != Deploy || e.Committed.IsZero() || e.End != Passed && e.End != Along {
			continue
		}
		carrier := e.Name
		if e.End == Along {
			carrier = e.With
		}
		if d := carriers[carrier]; d != nil && at.has(d.services) && within(d.ended, from, to) {
			all = append(all, d.ended.Sub(e.Committed))
		}
	}
	return all
}

func (c *computation) releases(at spot, from, to time.Time) *Releases {
	r := &Releases{}
	var promotion, verdict, undo []time.Duration
	between := func(all []time.Duration, a, b time.Time) []time.Duration {
		if a.IsZero() || b.Before(a) {
			return all
		}
		return append(all, b.Sub(a))
	}
	any := false
	for _, e := range c.of(at).events {
		if e.Kind != Release || !at.has(e.Services) || !within(e.Ended, from, to) {
			continue
		}
		any = true
		switch e.End {
		case Promoted:
			r.Promoted++
			promotion = between(promotion, e.Began, e.Full)
		case Caught:
			r.Caught++
			r.Errors += e.Errors
		case Stopped:
			r.Stopped++
		case Fallen:
			r.Fallen++
		case Stillborn:
			r.Stillborn++
		case Superseded:
			r.Superseded++
		}
		if e.Verdict == "good" || e.Verdict == "bad" {
			verdict = between(verdict, e.Exposed, e.Judged)
		}
		if !e.Undoing.IsZero() && e.End != Superseded {
			undo = between(undo, e.Undoing, e.Ended)
		}
	}
	r.Promotion, r.Verdict, r.Undo = times(promotion), times(verdict), times(undo)
	if !any {
		return nil
	}
	return r
}

// changes are how those of the App have ended.
func (c *computation) changes(at spot, from, to time.Time) (map[string]int, *Share) {
	var ends map[string]int
	known, steps := 0, 0
	for _, e := range c.ended[[2]string{at.tenant, at.app}] {
		if !within(e.Ended, from, to) {
			continue
		}
		if ends == nil {
			ends = map[string]int{}
		}
		ends[e.End]++
		known, steps = known+e.Known, steps+e.Steps
	}
	return ends, share(known, steps)
}
