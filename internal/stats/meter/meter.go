// Package meter counts for Prometheus what becomes of changes and releases.
//
// The main type is [Meter]. What is told to it counts; that each thing is told once, its
// caller sees to. Names of tenants are in series that only those get to see who may. A
// Meter is safe for concurrent use.
package meter

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/stats"
)

// Path is where the figures are served.
const Path = "/metrics"

// Load is what the controller is at.
type Load struct {
	// Waiting and Leased are steps for workers, and Workers how many there are.
	Waiting, Leased, Workers int
	// Traces are those that wait to be sent, and Lost those that were not.
	Traces int
	Lost   int64
}

// Meter counts. Make one with New.
type Meter struct {
	open    *prometheus.Registry // of the process and the whole
	tenants *prometheus.Registry // with names of namespaces, apps and services

	leader    prometheus.Gauge
	changes   *prometheus.HistogramVec
	steps     *prometheus.CounterVec
	stepTook  *prometheus.HistogramVec
	verdicts  *prometheus.HistogramVec
	undo      prometheus.Histogram
	promotion prometheus.Histogram
	observed  prometheus.Histogram

	ended       *prometheus.CounterVec
	deployments *prometheus.CounterVec
	lead        *prometheus.HistogramVec
	releases    *prometheus.CounterVec
	caught      *prometheus.CounterVec
}

// Buckets in seconds.
var (
	moments = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	steps   = []float64{.1, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
	hours   = []float64{10, 30, 60, 300, 900, 1800, 3600, 4 * 3600, 12 * 3600, 86400, 3 * 86400, 7 * 86400, 30 * 86400}
)

// New makes a Meter. load is asked whenever somebody asks; nil is never.
func New(version string, load func() Load) *Meter {
	m := &Meter{open: prometheus.NewRegistry(), tenants: prometheus.NewRegistry()}
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}
	}
	counter := func(name, help string) prometheus.CounterOpts { return prometheus.CounterOpts{Name: name, Help: help} }

	m.leader = prometheus.NewGauge(prometheus.GaugeOpts{Name: "bight_leader", Help: "1 for the controller that acts, 0 for those that would take over."})
	m.changes = prometheus.NewHistogramVec(histogram("bight_change_duration_seconds", "From when a change came until it ended, by its phase.", hours), []string{"phase"})
	m.steps = prometheus.NewCounterVec(counter("bight_steps_total", "Steps of changes that have ended, by name, state and whether the result was known by the inputs."), []string{"step", "state", "cached"})
	m.stepTook = prometheus.NewHistogramVec(histogram("bight_step_duration_seconds", "How long steps took whose result was not known.", steps), []string{"step", "state"})
	m.verdicts = prometheus.NewHistogramVec(histogram("bight_release_verdict_seconds", "From a release's first requests until its verdict.", steps), []string{"verdict"})
	m.undo = prometheus.NewHistogram(histogram("bight_release_undo_seconds", "From the verdict or the order to undo a release until every pod obeyed.", moments))
	m.promotion = prometheus.NewHistogram(histogram("bight_release_promotion_seconds", "From a release's beginning until it had all requests.", steps))
	m.observed = prometheus.NewHistogram(histogram("bight_release_weight_observed_seconds", "From a new share of a release's requests until every pod obeyed it.", moments))
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "bight_build_info", Help: "1, with the version.", ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	m.open.MustRegister(m.leader, m.changes, m.steps, m.stepTook, m.verdicts, m.undo, m.promotion, m.observed, info)

	app := []string{"namespace", "app"}
	m.ended = prometheus.NewCounterVec(counter("bight_changes_total", "Changes that have ended, by their phase."), append(app, "phase"))
	m.deployments = prometheus.NewCounterVec(counter("bight_deployments_total", "Steps that brought a change to an environment, by how that ended."), append(app, "environment", "end"))
	m.lead = prometheus.NewHistogramVec(histogram("bight_change_lead_time_seconds", "From a commit until it was in an environment.", hours), append(app, "environment"))
	place := []string{"namespace", "service"}
	m.releases = prometheus.NewCounterVec(counter("bight_releases_total", "Releases that have ended, by how."), append(place, "end"))
	m.caught = prometheus.NewCounterVec(counter("bight_release_failed_requests_total", "Failed requests to versions that a canary has caught."), place)
	m.tenants.MustRegister(m.ended, m.deployments, m.lead, m.releases, m.caught)

	if load != nil {
		m.open.MustRegister(loads{load})
	}
	return m
}

// loads are asked for when somebody asks.
type loads struct{ load func() Load }

var (
	stepsLoad   = prometheus.NewDesc("bight_worker_steps", "Steps for workers: waiting for one, or leased to one.", []string{"state"}, nil)
	workersLoad = prometheus.NewDesc("bight_workers", "Workers that are connected.", nil, nil)
	tracesLoad  = prometheus.NewDesc("bight_traces_waiting", "Traces that wait to be sent.", nil, nil)
	tracesLost  = prometheus.NewDesc("bight_traces_lost_total", "Traces that could not be sent.", nil, nil)
)

func (l loads) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stepsLoad, workersLoad, tracesLoad, tracesLost} {
		c <- d
	}
}

func (l loads) Collect(c chan<- prometheus.Metric) {
	n := l.load()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	gauge(stepsLoad, n.Waiting, "waiting")
	gauge(stepsLoad, n.Leased, "leased")
	gauge(workersLoad, n.Workers)
	gauge(tracesLoad, n.Traces)
	c <- prometheus.MustNewConstMetric(tracesLost, prometheus.CounterValue, float64(n.Lost))
}

// Lead says whether this process acts.
func (m *Meter) Lead(yes bool) {
	m.leader.Set(map[bool]float64{true: 1}[yes])
}

// Observed counts how long a new share took until every pod obeyed it.
func (m *Meter) Observed(took time.Duration) { m.observed.Observe(took.Seconds()) }

// Count counts what has ended.
func (m *Meter) Count(e stats.Event) {
	switch e.Kind {
	case stats.Change:
		m.ended.WithLabelValues(e.Tenant, e.App, e.End).Inc()
		m.changes.WithLabelValues(e.End).Observe(e.Took().Seconds())
	case stats.Deploy:
		m.deployments.WithLabelValues(e.Tenant, e.App, e.Environment, e.End).Inc()
		if !e.Committed.IsZero() && (e.End == stats.Passed || e.End == stats.Along) {
			m.lead.WithLabelValues(e.Tenant, e.App, e.Environment).Observe(e.Ended.Sub(e.Committed).Seconds())
		}
	case stats.Release:
		m.release(e)
	}
}

func (m *Meter) release(e stats.Event) {
	for _, service := range e.Services {
		m.releases.WithLabelValues(e.Namespace, service, e.End).Inc()
		if e.End == stats.Caught {
			m.caught.WithLabelValues(e.Namespace, service).Add(float64(e.Errors))
		}
	}
	if !e.Exposed.IsZero() && e.Judged.After(e.Exposed) && (e.Verdict == "good" || e.Verdict == "bad") {
		m.verdicts.WithLabelValues(e.Verdict).Observe(e.Judged.Sub(e.Exposed).Seconds())
	}
	if !e.Undoing.IsZero() && e.End != stats.Superseded {
		m.undo.Observe(max(0, e.Ended.Sub(e.Undoing).Seconds()))
	}
	if e.End == stats.Promoted && !e.Full.IsZero() {
		m.promotion.Observe(e.Full.Sub(e.Began).Seconds())
	}
}

// Steps counts the steps of a change that has ended.
func (m *Meter) Steps(c *v1alpha1.Change) {
	for _, s := range c.Status.Steps {
		name, _, _ := strings.Cut(s.Name, "/") // the environment is a tenant's
		state := strings.ToLower(s.State)
		m.steps.WithLabelValues(name, state, strconv.FormatBool(s.Cached != "")).Inc()
		if s.Cached == "" && s.Started != nil && s.Ended != nil && s.State != v1alpha1.StepSkipped && s.State != v1alpha1.StepCancelled {
			m.stepTook.WithLabelValues(name, state).Observe(s.Ended.Sub(s.Started.Time).Seconds())
		}
	}
}

// Handler serves the figures at [Path], with those in more. may says whether who asks may
// see the names of tenants, and if not, which status says so; it is asked of those who
// show a credential.
func (m *Meter) Handler(may func(*http.Request) (int, error), more ...prometheus.Gatherer) http.Handler {
	everybody := prometheus.Gatherers(append(more, m.open))
	options := promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4}
	few, all := promhttp.HandlerFor(everybody, options), promhttp.HandlerFor(append(everybody, m.tenants), options)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			few.ServeHTTP(w, r)
			return
		}
		if status, err := may(r); err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		all.ServeHTTP(w, r)
	})
	return mux
}
