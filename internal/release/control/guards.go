package control

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/guard"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

// Metrics answers what guards want to know. It takes as long as it takes, within reason.
type Metrics interface {
	Ask(context.Context, guard.Guard, guard.About) (verdict.GuardAnswer, string)
}

// answer is that of a guard of a release.
type answer struct {
	of  types.UID
	at  time.Time
	say verdict.Guard
}

// asking is what a release's guards are asked, and how that ends. The zero value asks
// nothing.
type asking struct {
	what string // digest of the questions
	end  context.CancelFunc
}

func (a *asking) stop() {
	if a.end != nil {
		a.end()
	}
	*a = asking{}
}

// guarded refuses guards that nobody could ask.
func (c *Controller) guarded(r *v1alpha1.Release) error {
	if c.Metrics == nil && len(r.Spec.Plan.Judge.Guards) > 0 {
		return refuse("the plan has guards, and there is no Prometheus to ask: whoever runs the cluster names one with bight install --prometheus URL; otherwise leave out plan.judge.guards")
	}
	return nil
}

// ask has the guards of a release asked, each at its own pace and by a goroutine of its
// own, so that nothing else waits for an answer. It begins when the canary may have
// requests, and ends with the release.
func (d *desk) ask(ctx context.Context, co *course) {
	guards, err := spec.Guards(co.r.Spec.Plan.Judge)
	p := co.State.Phase
	if err != nil || d.c.Metrics == nil || len(guards) == 0 || !co.State.Opened || !co.judging() || p == release.Undoing {
		co.asking.stop()
		return
	}
	about := guard.About{Service: co.r.Spec.Service, Namespace: co.r.Namespace, Stable: co.routing.Stable, Canary: co.routing.Canary}
	what := digest([]any{co.r.Spec.Plan.Judge.Guards, about})
	if co.asking.what == what {
		return
	}
	co.asking.stop()
	ctx, co.asking.end = context.WithCancel(ctx)
	co.asking.what = what
	uid := co.r.UID
	for _, g := range guards {
		d.c.tasks.Go(func() {
			pace := time.NewTicker(g.Pause())
			defer pace.Stop()
			for {
				is, text := d.c.Metrics.Ask(ctx, g, about)
				if ctx.Err() != nil {
					return
				}
				d.answer(answer{uid, time.Now(), verdict.Guard{Name: g.Name, Answer: is, Value: text}})
				select {
				case <-pace.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
}

func (d *desk) answer(a answer) {
	d.mu.Lock()
	d.answers = append(d.answers, a)
	d.mu.Unlock()
	d.rouse()
}

// hear gives the judges what guards have said.
func (d *desk) hear() {
	d.mu.Lock()
	answers := d.answers
	d.answers = nil
	d.mu.Unlock()
	for _, a := range answers {
		if co := d.courses[a.of]; co != nil && co.bench != nil {
			co.bench.observe(verdict.Observation{At: a.at, Guard: &a.say})
		}
	}
}
