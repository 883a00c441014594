package control

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/guard"
	"github.com/bightdev/bight/internal/release/verdict"
)

// metrics answers as it is told; of a query that it does not know it never hears.
type metrics struct {
	mu      sync.Mutex
	answers map[string]verdict.GuardAnswer
	asked   map[string]int
	about   guard.About
}

func (m *metrics) Ask(ctx context.Context, g guard.Guard, about guard.About) (verdict.GuardAnswer, string) {
	m.mu.Lock()
	m.asked[g.Query]++
	m.about = about
	is, known := m.answers[g.Query]
	m.mu.Unlock()
	if !known {
		<-ctx.Done()
	}
	return is, "7"
}

func (m *metrics) count(query string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked[query]
}

func (m *metrics) of() guard.About {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.about
}

func guardOf(name string) v1alpha1.ReleaseGuard {
	return v1alpha1.ReleaseGuard{Name: name, Query: name, Max: new(1.0)}
}

// guardedBy is a desk with a release that has guards.
func guardedBy(t *testing.T, m *metrics, guards ...string) (*desk, *course) {
	t.Helper()
	c := &Controller{Metrics: m, Log: slog.New(slog.DiscardHandler)}
	d := newDesk(c, types.NamespacedName{Namespace: "shop", Name: "cart"})
	co := underWay(t)
	co.r.Spec.Service = "cart"
	for _, g := range guards {
		co.r.Spec.Plan.Judge.Guards = append(co.r.Spec.Plan.Judge.Guards, guardOf(g))
	}
	co.routing.Canary = "two"
	if err := co.sit(); err != nil {
		t.Fatal(err)
	}
	d.courses[co.r.UID] = co
	return d, co
}

func (co *course) verdictNow() verdict.Verdict { return co.bench.judge.Verdict(co.bench.state) }

// A guard that fails three times in a row convicts, while another is never answered.
func TestAGuardThatFailsConvicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &metrics{answers: map[string]verdict.GuardAnswer{"queue": verdict.GuardFail}, asked: map[string]int{}}
		d, co := guardedBy(t, m, "slow", "queue")
		ctx, end := context.WithCancel(t.Context())
		defer d.c.tasks.Wait()
		defer end()
		for i := range 3 {
			d.ask(ctx, co)
			synctest.Wait()
			d.hear()
			if is := co.verdictNow().Is; (is == verdict.Bad) != (i == 2) {
				t.Errorf("after %d answers it is %s", i+1, is)
			}
			<-time.After(15 * time.Second)
		}
		if v := co.verdictNow(); v.Why != `guard "queue" failed 3 times in a row, last with 7` {
			t.Errorf("why: %s", v.Why)
		}
		if want := (guard.About{Service: "cart", Namespace: "shop", Stable: "one", Canary: "two"}); m.of() != want {
			t.Errorf("asked about %+v", m.of())
		}
		if n := m.count("slow"); n != 1 {
			t.Errorf("one that is not answered is asked %d times", n)
		}
	})
}

// Guards are asked at their pace as long as the release runs, and by what the plan says now.
func TestGuardsAreAskedAsLongAsItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &metrics{answers: map[string]verdict.GuardAnswer{"queue": verdict.GuardPass, "other": verdict.GuardNoData}, asked: map[string]int{}}
		d, co := guardedBy(t, m, "queue")
		ctx, end := context.WithCancel(t.Context())
		defer d.c.tasks.Wait()
		defer end()
		co.State.Opened = false
		d.ask(ctx, co)
		if synctest.Wait(); m.count("queue") != 0 {
			t.Error("asked before the canary has requests")
		}
		co.State.Opened = true
		for range 50 { // of looks at the cluster
			d.ask(ctx, co)
		}
		synctest.Wait()
		if <-time.After(31 * time.Second); m.count("queue") != 3 {
			t.Errorf("asked %d times in half a minute", m.count("queue"))
		}
		co.r.Spec.Plan.Judge.Guards = []v1alpha1.ReleaseGuard{guardOf("other")}
		if err := co.sit(); err != nil {
			t.Fatal(err)
		}
		d.ask(ctx, co)
		synctest.Wait()
		d.hear()
		if <-time.After(65 * time.Second); m.count("queue") != 3 || m.count("other") != 5 {
			t.Errorf("asked %d and %d times", m.count("queue"), m.count("other"))
		}
		if g := co.bench.config.Guards; len(g) != 1 || g[0] != "other" {
			t.Errorf("judged by %v", g)
		}
		co.State.Phase = release.Undone
		d.ask(ctx, co)
		if <-time.After(time.Minute); m.count("other") != 5 {
			t.Errorf("asked of what is over")
		}
	})
}

// Without a Prometheus a release with guards does not begin.
func TestGuardsThatNobodyCanAsk(t *testing.T) {
	d, co := guardedBy(t, nil, "queue")
	d.c.Metrics = nil
	err := d.c.guarded(co.r)
	if no, final := errors.AsType[refusal](err); !final || !strings.Contains(no.why, "bight install --prometheus URL") {
		t.Errorf("got %v", err)
	}
	co.r.Spec.Plan.Judge.Guards = nil
	if err := d.c.guarded(co.r); err != nil {
		t.Errorf("without guards: %v", err)
	}
}
