package stats

import (
	"slices"
	"time"
)

// Query says what a report is about.
type Query struct {
	// From and To are the window; the one before it is as long.
	From, To time.Time
	// Environment is that of an App, "" for each App's last one. Namespace is an App's or an
	// environment's. "" is all, of each.
	Environment, Namespace, App, Service string
}

// Before is the time from which on events are looked at.
func (q Query) Before() time.Time { return q.From.Add(-q.To.Sub(q.From)) }

// About says that a query is about an environment.
func (q Query) About(p Place) bool {
	return (q.Namespace == "" || q.Namespace == p.Tenant || q.Namespace == p.Namespace) && (q.App == "" || q.App == p.App)
}

// shown says that a query shows an environment: without a name, each App's last one, and
// those that are of no App.
func (q Query) shown(p Place) bool {
	if q.Environment != "" {
		return q.Environment == p.Environment
	}
	return p.Production || p.Environment == ""
}

// Report is the answer to a [Query].
type Report struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Known is when the record begins: of the time before, nothing is known.
	Known time.Time `json:"known,omitzero"`
	// Rows are environments, each followed by its services.
	Rows []Row `json:"rows"`
}

// Row is one environment, or one service there.
type Row struct {
	Place
	Service string `json:"service,omitempty"`
	// Now is of the window, Before of the one before it.
	Now    Figures `json:"now"`
	Before Figures `json:"before"`
	// Trend is how many deployments each tenth of the window had.
	Trend []int `json:"trend"`
}

// Figures are what one window shows. What is nil, nothing is known about.
type Figures struct {
	// Lead is the change lead time: from the commit until it is in the environment.
	Lead *Times `json:"changeLeadTime,omitempty"`
	// Deployments are those that reached the environment, failed ones included, and PerDay
	// is the deployment frequency.
	Deployments int      `json:"deployments"`
	PerDay      *float64 `json:"deploymentsPerDay,omitempty"`
	// Failed and Rework are the change fail rate and the deployment rework rate.
	Failed *Share `json:"changeFailRate,omitempty"`
	Rework *Share `json:"deploymentReworkRate,omitempty"`
	// Recovery is the failed deployment recovery time; Open are failed deployments that
	// nothing has recovered yet.
	Recovery *Times `json:"failedDeploymentRecoveryTime,omitempty"`
	Open     int    `json:"notRecovered,omitempty"`

	Releases *Releases `json:"releases,omitempty"`
	// Changes are those of the App that have ended, by how; nil for a service.
	Changes map[string]int `json:"changes,omitempty"`
	// Known are the steps whose result was known by their inputs, of all.
	Known *Share `json:"stepsKnown,omitempty"`
}

// Releases are how releases have ended.
type Releases struct {
	Promoted   int `json:"promoted"`
	Caught     int `json:"caughtByCanary"`
	Stopped    int `json:"undoneByPeople"`
	Fallen     int `json:"undoneAfterPromotion"`
	Stillborn  int `json:"neverReady"`
	Superseded int `json:"superseded"`
	// Errors are the failed requests that those which were caught have cost, all together.
	Errors int64 `json:"failedRequests"`
	// Promotion is from the beginning until all requests; Verdict from the first request
	// until good or bad; Undo from the verdict or the order until every pod has obeyed.
	Promotion *Times `json:"timeToPromotion,omitempty"`
	Verdict   *Times `json:"timeToVerdict,omitempty"`
	Undo      *Times `json:"timeToUndo,omitempty"`
}

// Times are some durations.
type Times struct {
	Count int `json:"count"`
	// Median is the middle one, or the mean of the two in the middle.
	Median Seconds `json:"medianSeconds"`
	// P90 is the least that nine of ten do not exceed, if there are ten at least.
	P90 *Seconds `json:"p90Seconds,omitempty"`
}

// Seconds is a duration that is a number of seconds in JSON.
type Seconds float64

// Duration is that as Go has it.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// Share is so many of so many.
type Share struct {
	Count int `json:"count"`
	Of    int `json:"of"`
}

// Rate is a share as a number between 0 and 1.
func (s Share) Rate() float64 { return float64(s.Count) / float64(s.Of) }

// enough is how many values it takes for a 90th percentile.
const enough = 10

// times sums durations up, nil if there are none.
func times(all []time.Duration) *Times {
	n := len(all)
	if n == 0 {
		return nil
	}
	slices.Sort(all)
	median := (all[(n-1)/2] + all[n/2]) / 2
	t := &Times{Count: n, Median: Seconds(median.Seconds())}
	if n >= enough {
		p90 := Seconds(all[(n*9+9)/10-1].Seconds())
		t.P90 = &p90
	}
	return t
}

// share is nil where there is nothing to have a share of.
func share(count, of int) *Share {
	if of == 0 {
		return nil
	}
	return &Share{count, of}
}
