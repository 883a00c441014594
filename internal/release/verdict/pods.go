package verdict

import (
	"fmt"
	"slices"
	"time"
)

// pod is what is known of one pod.
type pod struct {
	Name   string        `json:"name"`
	Canary bool          `json:"canary,omitempty"`
	Served bool          `json:"served,omitempty"` // it was in service once
	Gone   bool          `json:"gone,omitempty"`
	Since  time.Duration `json:"sinceNs,omitempty"` // it is in service
	Events int           `json:"events,omitempty"`  // crashes, kills, failing probes
	Last   PodEvent      `json:"last,omitempty"`
	Paid   []float64     `json:"paid,omitempty"` // what the bets on errors got from it, in logarithms
	Bad    bool          `json:"bad,omitempty"`
	// PaidCopies are what the bets on copies got.
	PaidCopies []float64 `json:"paidCopies,omitempty"`
}

// maxPods is how many pods of each version are kept. Those that come later are
// taken as unknown.
const maxPods = 32

// find gives the pod of a name, and makes it if there is room.
func (s *core) find(name string, canary bool) *pod {
	is := func(p pod) bool { return p.Name == name && p.Canary == canary }
	if i := slices.IndexFunc(s.Pods, is); i >= 0 {
		return &s.Pods[i]
	}
	n := 0
	for _, p := range s.Pods {
		if p.Canary == canary {
			n++
		}
	}
	if n == maxPods {
		i := slices.IndexFunc(s.Pods, func(p pod) bool {
			return p.Canary == canary && p.Gone && p.Events == 0 && p.Paid == nil && p.PaidCopies == nil
		})
		if i < 0 {
			s.Lost++
			return nil
		}
		s.Pods = slices.Delete(s.Pods, i, i+1)
	}
	s.Pods = append(s.Pods, pod{Name: name, Canary: canary})
	return &s.Pods[len(s.Pods)-1]
}

func (j *Judge) pod(s *core, o Pod) {
	p := s.find(name(o.Name), o.Canary)
	if p == nil {
		return
	}
	switch o.Event {
	case PodReady:
		p.Served, p.Gone, p.Since = true, false, s.Now
	case PodGone:
		p.Gone = true
	case PodCrashed, PodOOM, PodFailing:
		p.Events = min(p.Events+1, 1000)
		p.Last = o.Event
	case PodNever:
		p.Events = min(p.Events+j.config.PodEvents, 1000)
		p.Last = o.Event
	default:
		s.Lost++
	}
}

// warming says that the pod had been in service for less than the warm-up when the
// request was sent to it.
func (s *core) warming(r *Request, c Config) bool {
	i := slices.IndexFunc(s.Pods, func(p pod) bool { return p.Canary && p.Served && p.Name == name(r.Pod) })
	return i >= 0 && s.Now-r.Elapsed-s.Pods[i].Since < c.WarmUp
}

func (s *core) badPod(name string) bool {
	return slices.ContainsFunc(s.Pods, func(p pod) bool { return p.Canary && p.Bad && p.Name == name })
}

// mark is an error of the canary that was bet on: of which pod, empty if that is not
// known, and how many requests to the canary had gone well by then.
type mark struct {
	Pod string `json:"pod,omitempty"`
	OK  int64  `json:"ok,omitempty"`
}

// maxMarks is how many of the last errors must be of one pod to call it a bad pod.
const maxMarks = 4

// blame notes which pods of the canary gave errors, and what the bets that betErrors has
// just made have paid for them.
func (s *core) blame(pods []PodErrors, failed int64) {
	s.blameFor(pods, failed, func(p *pod, n int64) {
		if len(p.Paid) == 0 {
			p.Paid = make([]float64, len(s.steps.of))
		}
		for i, st := range s.steps.of {
			p.Paid[i] += float64(float64(n) * st.canaryFail)
		}
	})
}

// blameFor has pay told of each pod that is kept, and of how many errors it gave.
func (s *core) blameFor(pods []PodErrors, failed int64, pay func(p *pod, n int64)) {
	for _, o := range pods[:min(len(pods), maxPods)] {
		n := min(sane(o.Errors), failed)
		if n == 0 {
			continue
		}
		failed -= n
		p := s.find(name(o.Pod), true)
		if p == nil {
			s.mark("", n)
			continue
		}
		s.mark(p.Name, n)
		pay(p, n)
	}
	s.mark("", failed)
}

func (s *core) mark(pod string, n int64) {
	for range min(n, maxMarks) {
		s.Marks = append(s.Marks, mark{pod, s.well()})
	}
	s.Marks = slices.Clone(s.Marks[max(0, len(s.Marks)-maxMarks):])
}

// podsConvict says why the events of the pods convict the canary, empty if they do
// not. This needs no statistics: a version whose pods do not run is bad. The rule:
//
//   - each crash, kill for memory and failing probe of a canary's pod counts one, a
//     pod that never got ready counts limit;
//   - where the canary has several pods, one of them counts at most limit-1, so that
//     it takes two to tell a bad version from a bad pod or node;
//   - the sum must reach limit;
//   - and of the canary's pods more than twice as large a share must be hit as of
//     stable's, or else the cause is likely one that both share.
//
// One of several pods that reaches limit alone is called bad.
func (s *core) podsConvict(limit int) string {
	canary, stable := s.hit(true), s.hit(false)
	if canary.hit == 0 {
		return ""
	}
	most := limit
	if canary.pods > 1 {
		most = max(limit-1, 1)
	}
	sum := 0
	for i := range s.Pods {
		p := &s.Pods[i]
		if !p.Canary {
			continue
		}
		sum += min(p.Events, most)
		p.Bad = p.Bad || canary.pods > 1 && p.Events >= limit
	}
	if sum < limit || canary.hit*stable.pods <= 2*stable.hit*canary.pods && stable.hit > 0 {
		return ""
	}
	return fmt.Sprintf("pods %s: %d of the canary's %d (%s), %d of stable's %d",
		canary.what(), canary.hit, canary.pods, canary.name, stable.hit, stable.pods)
}

// hits are how many pods of a version had events, and an example.
type hits struct {
	pods, hit int
	name      string
	last      PodEvent
}

func (h hits) what() string {
	switch h.last {
	case PodOOM:
		return "were killed for their memory"
	case PodFailing:
		return "fail their probes"
	case PodNever:
		return "do not get ready"
	}
	return "crash"
}

func (s *core) hit(canary bool) (h hits) {
	for _, p := range s.Pods {
		if p.Canary != canary || !p.Served && p.Events == 0 {
			continue
		}
		h.pods++
		if p.Events > 0 {
			h.hit++
			h.name, h.last = p.Name, p.Last
		}
	}
	return h
}

// onePod says that E is due to one pod: the canary has several, the last errors are
// all of that one, and meanwhile requests have gone well. The pod is called bad, and
// what its errors paid is given back, which can only make E smaller: from then on the
// others are judged by themselves. While nothing goes well there is no other pod to
// speak for the version, so one that is down as a whole is convicted at once.
func (s *core) onePod() bool {
	pods := 0
	for _, p := range s.Pods {
		if p.Canary && p.Served && !p.Bad {
			pods++
		}
	}
	if pods < 2 || len(s.Marks) < 2 || s.Marks[0].OK == s.well() {
		return false
	}
	top := s.Marks[0].Pod
	i := slices.IndexFunc(s.Pods, func(p pod) bool { return p.Canary && p.Name == top })
	if i < 0 || slices.ContainsFunc(s.Marks, func(m mark) bool { return m.Pod != top }) {
		return false
	}
	s.Pods[i].Bad = true
	s.Marks = nil
	for bet, paid := range s.Pods[i].Paid {
		s.Errors.move(bet, -max(paid, 0))
	}
	for bet, paid := range s.Pods[i].PaidCopies {
		if s.Copies != nil {
			s.Copies.Errors.move(bet, -max(paid, 0))
		}
	}
	return true
}

// well is how many requests to the canary, and copies, have gone well.
func (s *core) well() int64 {
	n := s.Canary.ok()
	if s.Copies != nil {
		n = sane(n + s.Copies.Canary.ok())
	}
	return n
}

// guard is the last answer of a guard.
type guard struct {
	Name   string      `json:"name"`
	Needed bool        `json:"needed,omitempty"`
	Answer GuardAnswer `json:"answer,omitempty"`
	Value  string      `json:"value,omitempty"`
	Fails  int         `json:"fails,omitempty"` // in a row; no data is no answer
}

// maxGuards is how many guards are kept.
const maxGuards = 32

func (j *Judge) guard(s *core, o Guard) {
	i := slices.IndexFunc(s.Guards, func(g guard) bool { return g.Name == o.Name })
	if i < 0 {
		if len(s.Guards) >= maxGuards {
			s.Lost++
			return
		}
		s.Guards = append(s.Guards, guard{Name: name(o.Name)})
		i = len(s.Guards) - 1
	}
	g := &s.Guards[i]
	switch o.Answer {
	case GuardPass:
		g.Fails = 0
	case GuardFail:
		g.Fails = min(g.Fails+1, 1000)
	case GuardNoData:
	default:
		s.Lost++
		return
	}
	g.Answer, g.Value = o.Answer, name(o.Value)
}

func (s *core) guardsConvict(limit int) string {
	for _, g := range s.Guards {
		if g.Fails >= limit {
			return fmt.Sprintf("guard %q failed %d times in a row, last with %s", g.Name, g.Fails, orNothing(g.Value))
		}
	}
	return ""
}

func because(text, value string) string {
	if value != "" {
		text += " (" + value + ")"
	}
	return text
}

func orNothing(value string) string {
	if value == "" {
		return "no value"
	}
	return value
}

// holds says what else keeps a canary from being Good, empty for nothing.
func (s *core) holds() string {
	for _, g := range s.Guards {
		switch {
		case g.Answer == GuardFail:
			return because(fmt.Sprintf("guard %q fails", g.Name), g.Value)
		case g.Needed && g.Answer != GuardPass:
			return because(fmt.Sprintf("guard %q has no data", g.Name), g.Value)
		}
	}
	for _, p := range s.Pods {
		switch {
		case p.Canary && !p.Gone && p.Bad:
			return fmt.Sprintf("pod %s is bad where the others are not: replace it", p.Name)
		case p.Canary && !p.Gone && p.Events > 0:
			return fmt.Sprintf("pod %s of the canary %s: look at it, or replace it", p.Name, hits{last: p.Last}.did())
		}
	}
	return ""
}

func (h hits) did() string {
	switch h.last {
	case PodOOM:
		return "was killed for its memory"
	case PodFailing:
		return "failed its probe"
	case PodNever:
		return "did not get ready"
	}
	return "crashed"
}
