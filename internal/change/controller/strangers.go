package controller

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/apart"
	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/work"
)

// strangerRuns are the runs of tests that strangers have made which are under way, by
// what they are a target of. It is safe for concurrent use.
type strangerRuns struct {
	mu  sync.Mutex
	all map[string]strangerRun
}

type strangerRun struct {
	app  client.ObjectKey
	stop context.CancelCauseFunc
}

func (r *strangerRuns) enter(target string, run strangerRun) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[string]strangerRun{}
	}
	r.all[target] = run
}

func (r *strangerRuns) leave(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, target)
}

var errUnwanted = errors.New("nobody wants it any more")

// only ends the runs of an app that are not wanted.
func (r *strangerRuns) only(app client.ObjectKey, wanted map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for target, run := range r.all {
		if run.app == app && !wanted[target] {
			run.stop(errUnwanted)
		}
	}
}

// testLimits are what an App lets tests use.
func testLimits(p v1alpha1.Policy) work.Limits {
	bytes := func(text string) int64 {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return 0 // none was given; what is no quantity the API server refuses
		}
		return q.Value()
	}
	return work.Limits{Seconds: p.Tests.Seconds, Processes: p.Tests.Processes, Memory: bytes(p.Tests.Memory), Disk: bytes(p.Tests.Disk)}
}

// startApart runs the tests of what a stranger has made, in the background, and returns
// what that is a target of. It is the controller who does that: it may make namespaces
// and what runs in them anyway, and a worker need not.
func (c *Controller) startApart(s *subject, a change.Action) string {
	m := s.change(a.Change)
	run := *m.Status.Runs[a.Run].DeepCopy()
	key, appCopy, attempt := client.ObjectKeyFromObject(m), s.app.DeepCopy(), m.Status.Attempt
	target := "tests of " + previewOf(m, run) + fmt.Sprintf("/%d", run.Attempt)
	c.envs.begin(place{client.ObjectKeyFromObject(s.app), target}, target, func(ctx context.Context) {
		ctx, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		c.strangers.enter(target, strangerRun{client.ObjectKeyFromObject(s.app), stop})
		defer c.strangers.leave(target)
		log := logPath(key.Namespace, key.Name, v1alpha1.TestStep+"-"+short(run.Commit), attempt, run.Attempt)
		began := v1alpha1.Step{Name: v1alpha1.TestStep, State: v1alpha1.StepRunning, Commit: run.Commit, Started: ptrNow(), Log: log, Message: "in pods, apart from everything"}
		if !c.runStep(ctx, key, run, attempt, appCopy, began, nil) {
			return
		}
		done := c.testApart(ctx, appCopy, key, run, log)
		if ctx.Err() != nil {
			return // it is not wanted, or another controller begins it anew
		}
		done.Name, done.Commit, done.Started, done.Ended, done.Log = began.Name, began.Commit, began.Started, ptrNow(), log
		c.runStep(ctx, key, run, attempt, appCopy, done, nil)
		c.files.stir(log)
	})
	return target
}

// testApart runs the tests and says what they showed.
func (c *Controller) testApart(ctx context.Context, a *v1alpha1.App, key client.ObjectKey, run v1alpha1.Run, log string) v1alpha1.Step {
	programs, err := c.programs(run)
	if err != nil {
		return erred(err)
	}
	if len(programs.Programs) == 0 {
		return v1alpha1.Step{State: v1alpha1.StepSkipped, Message: "there are no tests"}
	}
	whole := time.Duration(max(a.Spec.Policy.StepMinutes, 1)) * time.Minute
	limited, cancel := context.WithTimeout(ctx, whole)
	defer cancel()
	namespace, remove, err := c.testNamespace(limited, a, whole)
	if err != nil {
		return erred(err)
	}
	defer remove()
	l := testLimits(a.Spec.Policy)
	runner := &apart.Runner{
		Client: c.envs.typed, Namespace: namespace, Output: &stepLog{c, log}, Log: c.Log,
		Limits: apart.Limits{Time: time.Duration(l.Seconds) * time.Second, Processes: int(l.Processes), Memory: l.Memory, Disk: l.Disk},
	}
	got, err := runner.Run(limited, programs)
	switch {
	case limited.Err() != nil && ctx.Err() == nil:
		return refused("the tests took longer than the %s that a step may", whole)
	case err != nil:
		return erred(err)
	}
	return c.shown(key, run, got)
}

// shown makes a step of what tests showed, and keeps the results.
func (c *Controller) shown(key client.ObjectKey, run v1alpha1.Run, got *suite.Result) v1alpha1.Step {
	s := v1alpha1.Step{State: v1alpha1.StepPassed, Message: got.Text(), Evidence: map[string]string{}, Worker: apart.Isolation}
	if got.Status != suite.Passed {
		s.State = v1alpha1.StepFailed
	}
	var junit bytes.Buffer
	err := suite.WriteJUnit(&junit, got)
	for name, b := range map[string][]byte{"junit.xml": junit.Bytes(), "tests.json": raw(got)} {
		p, putErr := c.files.put(key.Namespace, key.Name, short(run.Commit)+"-"+name, b)
		if err = errors.Join(err, putErr); err != nil {
			return erred(fmt.Errorf("keep %s: %w", name, err))
		}
		s.Evidence[name] = p
	}
	return s
}

// programs reads what a worker has compiled.
func (c *Controller) programs(run v1alpha1.Run) (apart.Suite, error) {
	var s apart.Suite
	step := change.StepOf(run.Steps, v1alpha1.BuildStep)
	if step == nil || step.State == v1alpha1.StepSkipped {
		return s, nil
	}
	b, err := c.files.get(step.Evidence[apart.File])
	if err != nil {
		return s, fmt.Errorf("find the compiled tests (is the worker %s older than the controller?): %w", step.Worker, err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read what was compiled: %w", err)
	}
	return s, nil
}

// testNamespace makes a namespace for tests, which is deleted by remove. If this process
// does not come to that, it goes as previews go.
func (c *Controller) testNamespace(ctx context.Context, a *v1alpha1.App, whole time.Duration) (name string, remove func(), err error) {
	ns := &corev1.Namespace{}
	sum := sha256.Sum256([]byte(a.Namespace))
	ns.Name = app.Label(fmt.Sprintf("%s-tests-%s-%s", a.Name[:min(len(a.Name), 30)], hex.EncodeToString(sum[:3]), strings.ToLower(rand.Text()[:8])))
	ns.Labels = apart.Labels()
	ns.Labels[v1alpha1.AppLabel], ns.Labels[v1alpha1.AppNamespaceLabel], ns.Labels[v1alpha1.EnvironmentLabel] = a.Name, a.Namespace, previewName
	ns.Annotations = map[string]string{untilAnnotation: time.Now().Add(whole + 2*time.Minute).UTC().Format(time.RFC3339)}
	if err := c.client.Create(ctx, ns); err != nil {
		return "", nil, fmt.Errorf("make a namespace for the tests: %w", err)
	}
	return ns.Name, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := c.client.Delete(ctx, ns); client.IgnoreNotFound(err) != nil {
			c.Log.Info("a namespace of tests goes when its time is over", "namespace", ns.Name, "err", err)
		}
	}, nil
}

// stepLog appends to the log of a step.
type stepLog struct {
	c    *Controller
	name string
}

var _ io.Writer = (*stepLog)(nil)

// Write never fails: a log that is not kept is no reason to end a step.
func (l *stepLog) Write(b []byte) (int, error) {
	if err := l.c.files.append(l.name, b); err != nil {
		l.c.Log.Warn("a log is not kept", "log", l.name, "err", err)
	}
	return len(b), nil
}
