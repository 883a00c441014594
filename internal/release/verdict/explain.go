package verdict

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// String is the answer in a few words.
func (a Answer) String() string {
	switch {
	case a.Running:
		return "in flight"
	case a.Cancelled:
		return "cancelled by the client"
	case a.Broken:
		return "connection broken"
	case a.GRPC != nil && a.Status < 500:
		return "gRPC status " + strconv.Itoa(*a.GRPC)
	}
	return "HTTP " + strconv.Itoa(a.Status)
}

// Verdict is the verdict on a state. After a conviction it does not change.
func (j *Judge) Verdict(s State) Verdict {
	c := &s.core
	v := Verdict{Is: c.Is, E: rounded(j.logE(c)), AbortAt: rounded(j.abortAt), Moved: newest(c.Moved)}
	till := c.Now
	if c.Is == Bad || c.Is == Good {
		till = c.At
	}
	if c.First >= 0 {
		v.After = till - c.First
	}
	for i, m := range j.metrics {
		g := c.Good[i]
		v.Metrics = append(v.Metrics, Metric{m.name, m.bound, g.Bad, g.N, rounded(g.Wealth.log()), g.Shown})
	}
	for _, p := range c.Pods {
		if p.Canary && p.Bad {
			v.BadPods = append(v.BadPods, p.Name)
		}
	}
	if c.Is == Collecting || c.Is == Inconclusive {
		v.Need = j.need(c)
	}
	v.Why = j.why(c, v)
	return v
}

// rounded is exp(l) to three digits, within what a float64 and JSON hold.
func rounded(l float64) float64 {
	f, err := strconv.ParseFloat(strconv.FormatFloat(math.Exp(min(max(l, -690), 690)), 'g', 3, 64), 64)
	if err != nil {
		return 0 // a number that was just printed is one
	}
	return f
}

func (j *Judge) why(s *core, v Verdict) string {
	switch s.Is {
	case Bad:
		if s.Cause != "" {
			return s.Cause
		}
		if s.Copies.most(s) {
			return fmt.Sprintf("E = %s, abort at %s, after %s", Number(v.E), Number(v.AbortAt), s.Copies.tell(s.At-max(s.FirstBad, s.First)))
		}
		if s.Late.most(s) {
			return fmt.Sprintf("E = %s, abort at %s: %s", Number(v.E), Number(v.AbortAt), s.Late)
		}
		if s.Alone.most(s) {
			return fmt.Sprintf("E = %s, abort at %s: %s", Number(v.E), Number(v.AbortAt), s.Alone)
		}
		return fmt.Sprintf("E = %s, abort at %s, after %s in %s; stable had %s", Number(v.E), Number(v.AbortAt), j.bad(s, s.Canary, s.Block.Canary), seconds(s.At-max(s.FirstBad, s.First)), j.bad(s, s.Stable, s.Block.Stable))
	case Good:
		return fmt.Sprintf("%s in %s in %s; E = %s, abort at %s", j.within(v), s.took(), seconds(v.After), Number(v.E), Number(v.AbortAt))
	case Inconclusive:
		return fmt.Sprintf("no verdict in %s: %s", seconds(s.Deadline), j.missing(s, v))
	}
	return fmt.Sprintf("E = %s, abort at %s; %s", Number(v.E), Number(v.AbortAt), j.missing(s, v))
}

// within is what a Good canary has shown: "errors under 1 %, over p99 under 5 %".
func (j *Judge) within(v Verdict) string {
	var parts []string
	for _, m := range v.Metrics {
		parts = append(parts, fmt.Sprintf("%s under %s %%", m.Name, Number(m.Bound*100)))
	}
	return strings.Join(parts, ", ")
}

// missing is what keeps a canary from being Good.
func (j *Judge) missing(s *core, v Verdict) string {
	hold := s.holds()
	switch {
	case s.First < 0 && hold != "":
		return "no requests to the canary yet; " + hold
	case s.First < 0:
		return "no requests to the canary yet"
	case j.shown(s) && hold != "":
		return hold
	case j.shown(s):
		return "good but for that"
	case !v.Need.Known && v.Need.Requests == 0:
		return j.tooMany(s) + ", too many for good"
	case !v.Need.Known:
		return fmt.Sprintf("good needs about %d more %s, and there are none now", v.Need.Requests, s.kind())
	}
	return fmt.Sprintf("good needs about %d more %s, %s at %s a second", v.Need.Requests, s.kind(), seconds(v.Need.Time), Number(s.Traffic.perSecond(s.Now)))
}

// tooMany is what is over the first bound that the canary can't keep: "100 errors in 100 requests
// to the canary", "6 of 9 requests to the canary over stable's p99". The latter have not all ended.
func (j *Judge) tooMany(s *core) string {
	for i := range j.metrics {
		m, c := &j.metrics[i], &s.Good[i]
		if _, ok := m.needs(c, j.goodAt); !ok && m.quantile >= 0 {
			return fmt.Sprintf("%d of %d %s over stable's %s", c.Bad, c.N, s.kind(), strings.TrimPrefix(m.name, "over "))
		} else if !ok {
			break
		}
	}
	all, copied := s.Canary, int64(0)
	if c := s.Copies; c != nil {
		copied = total(c.Canary)
		all.add(c.Canary)
		all.Failed = sane(all.Failed + c.Canary.Repeated)
	}
	return fmt.Sprintf("%s in %s", j.bad(s, all, s.Block.Canary), told(total(s.Canary), copied))
}

// took is what was judged until the verdict.
func (s *core) took() string {
	if s.Copies == nil {
		return told(s.Took, 0)
	}
	return told(s.Took, s.Copies.Took)
}

// told is a number of requests, and of copies of requests: "518 requests to the canary".
func told(requests, copies int64) string {
	switch {
	case copies == 0:
		return fmt.Sprintf("%d requests to the canary", requests)
	case requests == 0:
		return fmt.Sprintf("%d copies of requests", copies)
	}
	return fmt.Sprintf("%d requests to the canary and %d copies", requests, copies)
}

// kind is what the canary gets.
func (s *core) kind() string {
	if c := s.Copies; c != nil && total(c.Canary) > 0 && total(s.Canary) == 0 {
		return "copies of requests"
	}
	return "requests to the canary"
}

// tell is what pairs tell against the canary: "14 errors of copies in 0.7 s, whose requests
// had none; 0 the other way round". Slow is over the quantile that tells most.
func (c *copies) tell(in time.Duration) string {
	n, others, most := c.Canary.Failed, c.Stable.Failed, c.Errors.log()
	what := "error"
	for k := range c.Slow {
		if e := c.Slow[k].log(); e > most {
			n, others, most, what = c.Canary.Slow[firstTail+k], c.Stable.Slow[firstTail+k], e, "slow answer"
		}
	}
	return fmt.Sprintf("%s of copies in %s, whose requests had none; %d the other way round", count(n, what), seconds(in), others)
}

func total(t Tally) int64 { return t.ok() + t.Failed + t.Repeated }

// bad is what counts against a version: "4 errors and 12 slow requests". Slow is
// over the 99 % quantile, or over the one that convicts most, if latency does.
func (j *Judge) bad(s *core, t Tally, cohort Arm) string {
	errors := t.Failed + cohort.Failed
	slow, most := t.Slow[2], s.Errors.log()
	for k := range s.Slow {
		if e := s.Slow[k].log(); e > most {
			slow, most = t.Slow[k], e
		}
	}
	switch {
	case slow == 0:
		return count(errors, "error")
	case errors == 0:
		return count(slow, "slow request")
	}
	return count(errors, "error") + " and " + count(slow, "slow request")
}

func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.FormatInt(n, 10) + " " + what + "s"
}

// Number is a number to three digits, in full below ten million.
func Number(f float64) string {
	if f >= 1000 && f < 1e7 {
		scale := math.Pow(10, math.Floor(math.Log10(f))-2)
		return strconv.FormatFloat(math.Round(f/scale)*scale, 'f', 0, 64)
	}
	return strconv.FormatFloat(f, 'g', 3, 64)
}

// seconds is a time to a tenth of a second, above a minute to a second.
func seconds(d time.Duration) string {
	if d < time.Minute {
		return strconv.FormatFloat(math.Round(d.Seconds()*10)/10, 'f', -1, 64) + " s"
	}
	text := d.Round(time.Second).String()
	if whole, ok := strings.CutSuffix(text, "m0s"); ok {
		return whole + "m"
	}
	return text
}
