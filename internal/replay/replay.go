// Package replay asks a program what the users of a version have asked, and says whether
// it does better than that version did.
//
// [Player.Play] sends the requests of an [evidence.Bundle], one after the other, and gives
// a [Result] for each. What passes is decided by [Judge], which is pure: an answer passes
// if it is what stable has answered, as far as that is known, or else if it is no error.
// Bodies that differ are told and fail only where that is asked for, since a new version
// may say something new.
package replay

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/verdict"
)

// State is what became of a request.
type State string

// States.
const (
	Passed  State = "passed"
	Failed  State = "failed"
	Skipped State = "skipped" // it was not sent
	Unclear State = "unclear" // it failed, and what the program asked could not be answered
)

// Result is what became of one request.
type Result struct {
	Pair    *evidence.Pair   `json:"-"`
	ID      string           `json:"id"`
	Name    string           `json:"name"`
	State   State            `json:"state"`
	Why     string           `json:"why,omitempty"`
	Answer  *evidence.Answer `json:"answer,omitempty"`
	Elapsed time.Duration    `json:"elapsedNs,omitempty"`
	// Differs is what differs from the answer that was expected, though it passed or not.
	Differs []string `json:"differs,omitempty"`
	// Lacks are the calls of the program for the request that nobody could answer.
	Lacks []string `json:"lacks,omitempty"`
}

// Calls knows what the program asks of others while requests are sent to it.
type Calls interface {
	// Begin says which request is sent.
	Begin(p *evidence.Pair)
	// End says that it was answered. lacks are the calls since then that had no answer,
	// hidden those in whose answers values were hidden.
	End() (lacks, hidden []string)
}

// Player sends requests to a program.
type Player struct {
	// Dial connects to the program, where a request went to this port of a pod.
	Dial func(ctx context.Context, port int) (net.Conn, error)
	// Header is sent with each request, in place of what was hidden or not.
	Header http.Header
	// All sends requests, too, that could change something.
	All bool
	// Strict fails answers whose bodies differ.
	Strict bool
	// Errors fails only what is an error, whatever stable has answered: the program has
	// other data.
	Errors bool
	// Patience is how long an answer may take: 30 s.
	Patience time.Duration
	// Calls, where it is not nil, knows what could not be answered.
	Calls Calls
}

// Of are the pairs of a bundle that say something about the version's code: what
// convicted it first, then the other errors, then what went well.
func Of(b *evidence.Bundle) []*evidence.Pair {
	var all []*evidence.Pair
	for i := range b.Pairs {
		if p := &b.Pairs[i]; p.Version == "canary" || p.Class == evidence.Sample {
			all = append(all, p)
		}
	}
	return all
}

// Play sends the requests, tells of each when it is known, and returns all results. It
// ends early with ctx.
func (p *Player) Play(ctx context.Context, pairs []*evidence.Pair, tell func(Result)) []Result {
	var all []Result
	to := p.clients()
	defer to.close()
	for _, pair := range pairs {
		r := p.one(ctx, to, pair)
		if ctx.Err() != nil {
			return all
		}
		r.Pair, r.ID, r.Name = pair, pair.ID, pair.Name()
		all = append(all, r)
		if tell != nil {
			tell(r)
		}
	}
	return all
}

func (p *Player) one(ctx context.Context, to clients, pair *evidence.Pair) Result {
	if why := p.refuses(pair); why != "" {
		return Result{State: Skipped, Why: why}
	}
	if p.Calls != nil {
		p.Calls.Begin(pair)
	}
	a, elapsed, err := p.send(ctx, to, pair)
	var lacks, hidden []string
	if p.Calls != nil {
		lacks, hidden = p.Calls.End()
	}
	of := *pair
	if p.Errors {
		of.Stable, of.Class = nil, evidence.Failed
		if err == nil && (a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden) && len(pair.Request.Hidden) > 0 {
			return Result{State: Skipped, Why: "it lacks what was hidden, and is not let in", Answer: a, Elapsed: elapsed}
		}
	}
	r := Judge(&of, a, elapsed, err, p.Strict)
	r.Answer, r.Elapsed = a, elapsed
	return weigh(r, lacks, hidden)
}

// weigh says what a result is worth if some of the program's calls had no answer, or not
// the whole one. What passes all the same passes.
func weigh(r Result, lacks, hidden []string) Result {
	r.Lacks = lacks
	switch {
	case r.State != Failed:
	case len(lacks) > 0:
		r.State, r.Why = Unclear, r.Why+", but "+strings.Join(lacks, "; ")
	case len(hidden) > 0:
		r.Why += "; values were hidden in what it was answered to " + strings.Join(hidden, ", ")
	}
	return r
}

// refuses says why a request is not sent.
func (p *Player) refuses(pair *evidence.Pair) string {
	q := &pair.Request
	switch {
	case q.Body.Cut:
		return "its body was too large to be kept whole, or not to be kept"
	case !p.All && !Safe(q.Method):
		return "it could change something"
	case pair.Answer != nil && pair.Answer.Status == http.StatusSwitchingProtocols:
		return "it is no request, but the beginning of another protocol"
	}
	return ""
}

// Safe says whether a method is one that changes nothing.
func Safe(method string) bool {
	return slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, method)
}

// Judge says what an answer is worth. err says that there is none.
func Judge(pair *evidence.Pair, a *evidence.Answer, elapsed time.Duration, err error, strict bool) Result {
	if err != nil {
		return Result{State: Failed, Why: err.Error()}
	}
	expected, by := expectation(pair)
	if why := status(a, expected, by); why != "" {
		return Result{State: Failed, Why: why, Differs: differences(pair, a, expected)}
	}
	r := Result{State: Passed, Differs: differences(pair, a, expected)}
	switch {
	case strict && len(r.Differs) > 0:
		r.State, r.Why = Failed, "the answer differs from "+by
	case pair.Class == evidence.Slow && elapsed > pair.Elapsed/2:
		r.State, r.Why = Failed, fmt.Sprintf("it takes %s; the version took %s, and was too slow: less than half of that passes", short(elapsed), short(pair.Elapsed))
	}
	return r
}

// expectation is the answer that a request should have, nil if that is not known, and
// whose it is.
func expectation(pair *evidence.Pair) (*evidence.Answer, string) {
	switch {
	case len(pair.Stable) > 1 && pair.Stable[0].Status != pair.Stable[1].Status:
		return nil, "" // stable does not know itself
	case len(pair.Stable) > 0:
		return &pair.Stable[0], "stable's"
	case pair.Class != evidence.Failed && pair.Answer != nil:
		return pair.Answer, "what it was"
	}
	return nil, ""
}

// status says why the status of an answer does not pass.
func status(a, expected *evidence.Answer, by string) string {
	code, isCall := a.GRPC()
	if expected != nil {
		want, wasCall := expected.GRPC()
		switch {
		case a.Status != expected.Status:
			return fmt.Sprintf("status %d, %s is %d", a.Status, by, expected.Status)
		case isCall != wasCall || code != want:
			return fmt.Sprintf("gRPC status %s, %s is %s", orNone(code), by, orNone(want))
		}
		return ""
	}
	v := verdict.Answer{Status: a.Status}
	if isCall {
		n, err := strconv.Atoi(code)
		if err != nil {
			n = -1
		}
		v.GRPC = &n
	}
	if verdict.Classify(v) == verdict.Failed {
		if isCall {
			return "gRPC status " + code
		}
		return fmt.Sprintf("status %d", a.Status)
	}
	return ""
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func short(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// Count is how many results there are of each state.
func Count(all []Result) map[State]int {
	n := map[State]int{}
	for _, r := range all {
		n[r.State]++
	}
	return n
}
