// Package release decides how one version of a service takes over its traffic in one
// environment: which share of the requests it gets, how many pods that takes, when it
// has all of them, and when it is undone.
//
// [Next] is the whole decision: a pure function from a [Plan], a [State] and what is
// seen of the [World] to the next State and the [Action]s that follow. It may be
// asked again at any time; the same question has the same answer, and an action that
// was carried out already does no harm. What the evidence supports is decided by
// package verdict; where a request goes, by package steer.
//
// The order of the rules is the promise of this package. Undoing comes first: it
// waits for no pod, no clock and no step. Then what people have ordered for this
// moment, then the plan.
package release

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/release/verdict"
)

// Weight is a share of requests, in hundredths of a percent.
type Weight int32

// All is every request.
const All Weight = 10_000

// ParseWeight reads a share in percent: "5", "0.25", "12.5%".
func ParseWeight(s string) (Weight, error) {
	text := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(s), "%"))
	whole, part, _ := strings.Cut(text, ".")
	n, err := strconv.ParseUint(whole+(part + "00")[:2], 10, 31)
	if err != nil || len(part) > 2 || whole == "" || Weight(n) > All {
		return 0, fmt.Errorf("%q is no share of requests: give percent from 0 to 100, with at most two decimals", s)
	}
	return Weight(n), nil
}

// String gives percent: "12.5 %".
func (w Weight) String() string {
	return strconv.FormatFloat(float64(w)/100, 'f', -1, 64) + " %"
}

// Plan says how a release goes if nobody interferes. It may be changed while the
// release is under way: what is behind stays behind.
type Plan struct {
	Steps []Step `json:"steps"`
	// ByOrder says that nothing but Orders.Promote promotes: at the last step the release waits.
	ByOrder bool `json:"byOrder,omitempty"`
	// Ready is how long the first pods may take until they are ready: 10 minutes.
	Ready time.Duration `json:"readyNs,omitempty"`
	// Keep is how long the pods of the version that has no more requests are kept, so
	// that it can have them back at once: 30 seconds.
	Keep time.Duration `json:"keepNs,omitempty"`
	// Doubt is what happens when the time for a verdict is over and there is none.
	Doubt Doubt `json:"doubt,omitempty"`
	// AtOnce moves all requests in one step when the canary is promoted, and not before all
	// of its pods are ready.
	AtOnce bool `json:"atOnce,omitempty"`
	// Undo ends the release after its last step, as if somebody had undone it.
	Undo bool `json:"undo,omitempty"`
}

// Step is one stretch of a plan. It is over when all of what it asks for is true.
type Step struct {
	Weight Weight `json:"weight"`           // of requests that the canary answers
	Mirror Weight `json:"mirror,omitempty"` // of requests that it gets a copy of
	// For is how long the step lasts at least, from when every door obeys it.
	For time.Duration `json:"forNs,omitempty"`
	// Hold waits until somebody says that it may go on.
	Hold bool `json:"hold,omitempty"`
	// Proven waits until the evidence shows that the canary is good.
	Proven bool `json:"proven,omitempty"`
	// Pods is how many pods the canary has at least, and Part the same as a part of those
	// that stable is to have; 0 is as many as its share of the requests takes. A step with
	// either begins when they are ready.
	Pods int32  `json:"pods,omitempty"`
	Part Weight `json:"part,omitempty"`
}

// Least is how many pods a step asks for if stable is to have so many.
func (s Step) Least(all int32) int32 { return max(s.Pods, part(all, s.Part)) }

// part is a part of so many pods, rounded up.
func part(all int32, w Weight) int32 {
	return int32((int64(all)*int64(w) + int64(All) - 1) / int64(All))
}

// Doubt is what happens without a verdict when its time is over. To go on is not
// among the values: no evidence is never good.
type Doubt string

// Values of Doubt.
const (
	HoldInDoubt Doubt = ""     // stay as it is, until somebody decides
	UndoInDoubt Doubt = "undo" // put back what was before
)

// Check says what of a plan makes no sense.
func (p Plan) Check() error {
	if len(p.Steps) == 0 {
		return fmt.Errorf("the plan has no steps: give one at least, as in weight: 100 %%")
	}
	for i, s := range p.Steps {
		switch {
		case s.Weight < 0 || s.Weight > All:
			return fmt.Errorf("steps[%d].weight is %s: give 0 to 100 %%", i, s.Weight)
		case s.Mirror < 0 || s.Mirror > All:
			return fmt.Errorf("steps[%d].mirror is %s: give 0 to 100 %%", i, s.Mirror)
		case s.Weight == All && s.Mirror > 0:
			return fmt.Errorf("steps[%d] mirrors requests that the canary has already: leave out mirror, or lower weight", i)
		case s.For < 0:
			return fmt.Errorf("steps[%d] lasts for %s: give a time of 0 or more", i, s.For)
		case s.Pods < 0:
			return fmt.Errorf("steps[%d].pods is %d: give 0 or more", i, s.Pods)
		case s.Part < 0 || s.Part > All:
			return fmt.Errorf("steps[%d].pods is %s: give 0 to 100 %%", i, s.Part)
		}
	}
	if p.Ready < 0 || p.Keep < 0 {
		return fmt.Errorf("the plan has times of %s and %s: give 0, for the default, or more", p.Ready, p.Keep)
	}
	return nil
}

// Patience is how long the first pods may take until they are ready.
func (p Plan) Patience() time.Duration { return orDefault(p.Ready, 10*time.Minute) }

// keep is how long pods usually are kept that have no more requests.
const keep = 30 * time.Second

// Kept is how long the pods are kept of the version that has no more requests.
func (p Plan) Kept() time.Duration { return orDefault(p.Keep, keep) }

// Left is how long the pods of a version are kept that is undone. Where all requests move
// in one step, Keep is the time to go back; nobody goes back to what is undone, and the
// next version does not wait longer than its pods need to answer what they were asked.
func (p Plan) Left() time.Duration {
	if p.AtOnce {
		return min(p.Kept(), keep)
	}
	return p.Kept()
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// Phase is where a release is.
type Phase string

// Phases. The last three are ends; a promoted release may still be undone as long as
// the old pods are there.
const (
	Starting    Phase = "Starting"    // the canary's first pods are not ready
	Progressing Phase = "Progressing" // by the plan
	Held        Phase = "Held"        // until somebody decides
	Promoting   Phase = "Promoting"   // all requests are the canary's, its pods become as many as stable's
	Undoing     Phase = "Undoing"     // no request is the canary's, which not every door has confirmed
	Promoted    Phase = "Promoted"
	Undone      Phase = "Undone"
	Superseded  Phase = "Superseded" // something newer has taken its place, which Next is not asked about
)

// Ended reports whether a release is over.
func (p Phase) Ended() bool { return p == Promoted || p == Undone || p == Superseded }

// State is what is known of a release. The zero State is one that has not begun.
type State struct {
	Phase   Phase     `json:"phase"`
	Message string    `json:"message"` // one line, for people
	Started time.Time `json:"started"`
	Step    int       `json:"step"` // index of Plan.Steps
	// StepSince is when every door obeyed the step; zero until then.
	StepSince time.Time `json:"stepSince,omitzero"`
	// Route is what the doors are to do, Pods how many pods the canary is to have.
	Route Route `json:"route"`
	Pods  int32 `json:"pods"`
	// Go is the last Orders.Go that was obeyed.
	Go int64 `json:"go,omitempty"`
	// Convicted says that the evidence was against the version: it is not to come back.
	Convicted bool      `json:"convicted,omitempty"`
	Ended     time.Time `json:"ended,omitzero"`
	// Cleaned says that the pods of the version without requests are gone.
	Cleaned bool `json:"cleaned,omitempty"`
	// Opened says that the canary may get requests: by a weight, copies or routes.
	Opened bool `json:"opened,omitempty"`
	// Waited is how long people have had the release wait, on purpose, until WaitSince,
	// since when they have it wait again.
	Waited    time.Duration `json:"waitedNs,omitempty"`
	WaitSince time.Time     `json:"waitSince,omitzero"`
	// Remade is since when stable's pods are made anew, before anything can be undone; zero
	// if they are not.
	Remade time.Time `json:"remade,omitzero"`
}

// Moved is the state with all its times moved: as another machine's clock has them.
func (s State) Moved(by time.Duration) State {
	for _, t := range []*time.Time{&s.Started, &s.StepSince, &s.Ended, &s.WaitSince, &s.Remade} {
		if !t.IsZero() {
			*t = t.Add(by)
		}
	}
	return s
}

// Deadline is when the time for a verdict is over: some time after the beginning, not
// counting that in which people have the release wait.
func (s State) Deadline(after time.Duration, now time.Time) time.Time {
	at := s.Started.Add(after + s.Waited)
	if !s.WaitSince.IsZero() {
		at = at.Add(max(now.Sub(s.WaitSince), 0))
	}
	return at
}

// Route is how requests are shared. Each that differs has a higher generation.
type Route struct {
	Generation int64  `json:"generation"`
	Weight     Weight `json:"weight"`
	Mirror     Weight `json:"mirror,omitempty"`
	// Shut keeps everything away from the canary, whatever chooses it.
	Shut bool `json:"shut,omitempty"`
}

// Orders are what people want at the moment. They hold until they are changed.
type Orders struct {
	// Weight, if not nil, is the canary's share whatever the plan says. The plan goes
	// on, from where it gives more than that, when Weight is nil again.
	Weight *Weight `json:"weight,omitempty"`
	Paused bool    `json:"paused,omitempty"`
	// Go ends a Hold, or a doubt, each time that it is raised; of a version that is promoted, the
	// time for which the pods of before it are kept.
	Go int64 `json:"go,omitempty"`
	// Promote gives the canary everything, without waiting for evidence.
	Promote bool   `json:"promote,omitempty"`
	Undo    bool   `json:"undo,omitempty"`
	Why     string `json:"why,omitempty"` // of Undo and Promote
}

// Pods of one version.
type Pods struct {
	Want  int32 `json:"want"` // of stable: how many its owner, or a scaler, wants
	Ready int32 `json:"ready"`
	All   int32 `json:"all"` // that exist
}

// Baseline is what is known of stable's requests before the canary gets any.
type Baseline struct {
	// Want is how many have to be measured, 0 if nobody needs them; Have how many are, in
	// the time Over.
	Want, Have int64
	Over       time.Duration
}

// soon is how long the canary's first request waits until enough of stable's are measured.
const soon = 10 * time.Second

// comes says that what is missing comes soon, at the rate at which the rest has come. So
// nobody waits for longer than that, and without requests nobody waits at all.
func (b Baseline) comes() bool {
	return b.Have < b.Want && b.Have > 0 && float64(b.Have)*soon.Seconds() >= float64(b.Want)*b.Over.Seconds()
}

// World is what is seen.
type World struct {
	Now            time.Time
	Orders         Orders
	Verdict        verdict.Kind
	Why            string // of the verdict
	Stable, Canary Pods
	// Gone says that stable's ReplicaSet was deleted, and that it can be made anew.
	Gone bool
	// Baseline is what is known of stable.
	Baseline Baseline
	// Hindrance is what keeps the canary's pods from being there or ready, "" if nothing
	// is known of that.
	Hindrance string
	// Unreached is how many requests were to be the canary's, if stable has answered every one
	// since no door has reached a pod of it; 0 if one has.
	Unreached int64
	// Obeyed is the lowest generation of the route that a door obeys, if every pod has
	// one. A pod that has just appeared obeys nothing.
	Obeyed int64
}

// Kind says what an action does.
type Kind string

// Kinds of Action.
const (
	Steer   Kind = "steer"   // have the doors obey Route
	Scale   Kind = "scale"   // make the canary's pods Pods many
	Finish  Kind = "finish"  // the canary is what the service is now: replace stable's pods
	Revert  Kind = "revert"  // what was before is what the service is to be; remove the canary's pods
	Remake  Kind = "remake"  // make stable's pods anew
	Convict Kind = "convict" // refuse the version from now on
	Later   Kind = "later"   // ask again at At
)

// Action is one thing to do, in the order in which they are given.
type Action struct {
	Kind  Kind
	Route Route
	Pods  int32
	At    time.Time
	Why   string
}
