package verdict

import (
	"math"
	"time"
)

// metric is a rate of the canary's requests that must be shown to be below a bound.
type metric struct {
	bettor
	name        string
	bound       float64
	quantile    int       // -1 for errors
	event, none []float64 // what each bet pays, in logarithms
}

// certificate is how far that is shown.
type certificate struct {
	Name   string  `json:"name,omitempty"` // of the metric
	Bound  float64 `json:"bound,omitempty"`
	Wealth wealth  `json:"wealth"`
	Bad    int64   `json:"bad,omitempty"`
	N      int64   `json:"n,omitempty"`
	Shown  bool    `json:"shown,omitempty"`
}

// rates are what is bet on in place of the bound, as parts of it.
var rates = []bet{{.001, .35}, {.1, .2}, {.2, .2}, {.35, .1}, {.5, .1}, {.7, .05}}

// metrics are the rates that a Good canary must have shown, each with probability
// at most beta of being shown wrongly. All of them are needed, and the chance that
// all are shown is at most that of the one which is not true: no correction.
func metrics(c Config) []metric {
	out := []metric{{name: "errors", bound: c.MaxErrors, quantile: -1}}
	if c.latency() {
		for k, name := range []string{"over p50", "over p90", "over p99", "over p99.9"} {
			if c.MaxSlow[k] < 1 {
				out = append(out, metric{name: name, bound: c.MaxSlow[k], quantile: k})
			}
		}
	}
	for i := range out {
		m := &out[i]
		for _, b := range rates {
			event, none := below(m.bound, m.bound*b.ratio)
			m.share = append(m.share, math.Log(b.share))
			m.event, m.none = append(m.event, event), append(m.none, none)
		}
	}
	return out
}

// of is how many requests of a tally count against the metric and for it. Errors are
// counted without regard to who made them, and no failed request counts as quick:
// both only make Good harder to reach.
func (m *metric) of(t Tally) (bad, well int64) {
	if m.quantile < 0 {
		return sane(t.Failed) + sane(t.Repeated), t.ok()
	}
	for _, n := range t.Closed[:m.quantile+1] {
		well += sane(n)
	}
	return sane(t.Slow[m.quantile]) + sane(t.SlowRepeated[m.quantile]), well
}

func (m *metric) fold(c *certificate, t Tally, goodAt float64) {
	bad, well := m.of(t)
	if bad == 0 && well == 0 {
		return
	}
	for i := range m.event {
		c.Wealth.move(i, float64(float64(bad)*m.event[i])+float64(float64(well)*m.none[i]))
	}
	c.Bad, c.N = sane(c.Bad+bad), sane(c.N+bad+well)
	c.Shown = c.Shown || c.Wealth.log() >= goodAt
}

// needs is how many more requests the metric takes if the rate stays what it seems
// to be, or no if it is not below the bound by enough. Until requests tell, the rate
// is taken as a fifth of the bound.
func (m *metric) needs(c *certificate, goodAt float64) (requests float64, ok bool) {
	if c.Shown {
		return 0, true
	}
	rate := (float64(c.Bad) + 0.05) / (float64(c.N) + 0.25/m.bound)
	best := math.Inf(1)
	for i, l := range c.Wealth.Logs {
		if growth := float64(rate*m.event[i]) + float64((1-rate)*m.none[i]); growth > 0 {
			best = min(best, max(goodAt-l, 0)/growth)
		}
	}
	return math.Ceil(best), best < 1e12
}

// need is what the slowest metric takes.
func (j *Judge) need(s *core) Need {
	out := Need{Known: true}
	for i := range j.metrics {
		n, ok := j.metrics[i].needs(&s.Good[i], j.goodAt)
		if !ok {
			return Need{}
		}
		out.Requests = max(out.Requests, int64(n))
	}
	rate := s.Traffic.perSecond(s.Now)
	seconds := float64(out.Requests) / rate
	if out.Requests > 0 && !(seconds < 1e9) {
		return Need{Requests: out.Requests}
	}
	if out.Requests > 0 {
		out.Time = time.Duration(seconds * float64(time.Second)).Round(100 * time.Millisecond)
	}
	return out
}
