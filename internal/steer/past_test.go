package steer

import (
	"errors"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// An agent that starts anew, and a pod that comes in the place of another, have counted
// nothing yet.
func TestWhatWasCountedBeforeIsKept(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	anna := newPerson(t, p, "anna")
	anna.join(t, anna.rule(Intercept, Match{}), to(serve(t, named("anna"))))
	past := int64(0)
	for _, n := range []int{3, 2, 0, 1} {
		for range n {
			_, body := dial(t, p.addr).get(t, "/x")
			want(t, "request", body, "anna GET /x 0")
		}
		eventually(t, "what it has done and what it did", func() bool {
			all := p.host.List()
			return len(all) == 1 && all[0].Counters.Requests == int64(n) && all[0].Past == Counters{Requests: past}
		})
		p.host.End(func(*stream.Session) bool { return true }, errors.New("the agent is started anew"))
		past += int64(n)
		eventually(t, "the rule is joined again", func() bool {
			all := p.host.List()
			return len(all) == 1 && all[0].State == Active && all[0].Past.Requests == past
		})
	}
}

// The clock of the first pod goes on in one that comes later.
func TestARuleIsAsOldInAPodThatComesLater(t *testing.T) {
	p := newPod(t, serve(t, named("app")))
	anna := newPerson(t, p, "anna")
	r := anna.rule(Intercept, Match{})
	anna.first = map[ruleKey]time.Time{{r.Service, r.ID}: time.Now().Add(-time.Hour)}
	anna.join(t, r, to(serve(t, named("anna"))))
	eventually(t, "it is an hour old", func() bool {
		all := p.host.List()
		return len(all) == 1 && time.Since(all[0].Since).Truncate(time.Minute) == time.Hour
	})
}
