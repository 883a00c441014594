package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/stats"
	"github.com/bightdev/bight/internal/stats/journal"
	"github.com/bightdev/bight/internal/stats/meter"
	"github.com/bightdev/bight/internal/stats/traces"
)

// taker is a collector that only counts.
type taker struct {
	mu  sync.Mutex
	got []string
}

func (c *taker) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, spans[0].ScopeSpans[0].Spans[0].Name)
	return nil
}

// world is what several controllers, one after the other, have in common.
type world struct {
	*testing.T
	dir string
	to  taker
}

// lead has a new controller lead, until end.
func (w *world) lead() (l *Ledger, end func()) {
	w.Helper()
	ctx, stop := context.WithCancel(w.Context())
	l = &Ledger{
		Journal: &journal.Journal{Dir: w.dir}, Meter: meter.New("v1", nil), Log: slog.New(slog.DiscardHandler),
		Traces: &traces.Sender{To: &w.to, Log: slog.New(slog.DiscardHandler)},
		Place: func(_ context.Context, namespace string) stats.Place {
			if namespace == "shop-prod" {
				return stats.PlaceOf(app("shop"), "prod", namespace)
			}
			return stats.Place{Namespace: namespace}
		},
		ChangeOf: func(_ context.Context, namespace, name string) *v1alpha1.Change { return nil },
	}
	if err := l.Lead(ctx); err != nil {
		w.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() { l.Traces.Run(ctx) })
	return l, func() {
		w.eventually("all traces are sent", func() bool { n, _ := l.Traces.Load(); return n == 0 })
		stop()
		tasks.Wait()
		w.eventually("it leads no more", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.life == nil
		})
	}
}

func (w *world) eventually(what string, is func() bool) {
	w.Helper()
	for until := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(until) {
			w.Fatalf("not so after 20 s: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// counts are the counters of a controller, those that are 0 left out.
func (w *world) counts(l *Ledger) (lines []string) {
	w.Helper()
	r := httptest.NewRequest(http.MethodGet, meter.Path, nil)
	r.Header.Set("Authorization", "Bearer t")
	answer := httptest.NewRecorder()
	l.Meter.Handler(func(*http.Request) (int, error) { return http.StatusOK, nil }).ServeHTTP(answer, r)
	for line := range strings.Lines(answer.Body.String()) {
		name, _, _ := strings.Cut(line, "{")
		if strings.HasSuffix(name, "_total") && !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func app(name string) *v1alpha1.App {
	a := &v1alpha1.App{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: name}}
	a.Spec.Environments = []v1alpha1.Environment{{Name: "prod"}}
	return a
}

func micro(t time.Time) *metav1.MicroTime {
	m := metav1.NewMicroTime(t.Truncate(time.Microsecond))
	return &m
}

// deployed is a change that was deployed at a time.
func deployed(of, uid string, ended time.Time) *v1alpha1.Change {
	committed := metav1.NewTime(ended.Add(-time.Hour))
	m := &v1alpha1.Change{ObjectMeta: metav1.ObjectMeta{Namespace: of, Name: of + "-" + uid, UID: types.UID(uid), CreationTimestamp: metav1.NewTime(ended.Add(-time.Minute))}}
	m.Spec.App, m.Spec.Committed = of, &committed
	m.Status.Phase = v1alpha1.Deployed
	m.Status.Steps = []v1alpha1.Step{{
		Name: "deploy/prod", State: v1alpha1.StepPassed, Started: micro(ended.Add(-time.Second)), Ended: micro(ended),
		Evidence: map[string]string{"commit": "c"}, Services: []string{"cart"},
	}}
	return m
}

// promoted is a release that somebody has made in a namespace.
func promoted(namespace, uid string, ended time.Time) *v1alpha1.Release {
	r := &v1alpha1.Release{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web-" + uid, UID: types.UID(uid)}}
	r.Spec.Deployment = "web"
	r.Status = v1alpha1.ReleaseStatus{Phase: string(release.Promoted), Started: micro(ended.Add(-time.Minute)), Full: micro(ended), Ended: micro(ended)}
	return r
}

func none() []stats.Finding { return nil }

func TestNothingCountsTwice(t *testing.T) {
	w := &world{T: t, dir: t.TempDir()}
	before := time.Now().Add(-24 * time.Hour) // this version came after that
	first, end := w.lead()
	now := time.Now()
	for range 3 { // each is seen whenever anything of it changes
		first.Change(app("shop"), deployed("shop", "old", before), none)
		first.Change(app("shop"), deployed("shop", "a", now), none)
		first.Release(promoted("legacy", "r", now))
	}
	want := []string{
		`bight_changes_total{app="shop",namespace="shop",phase="deployed"} 1`,
		`bight_deployments_total{app="shop",end="passed",environment="prod",namespace="shop"} 1`,
		`bight_releases_total{end="promoted",namespace="legacy",service="web"} 1`,
		`bight_steps_total{cached="false",state="passed",step="deploy"} 1`,
	}
	got := w.counts(first)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	end()

	// The next one counts what is new. What ended just before it began it tells of again, since
	// nobody knows whether that was told.
	second, end := w.lead()
	fresh := time.Now().Add(time.Second)
	for range 3 {
		second.Change(app("shop"), deployed("shop", "old", before), none)
		second.Change(app("shop"), deployed("shop", "a", now), none)
		second.Release(promoted("legacy", "r", now))
		second.Change(app("shop"), deployed("shop", "b", fresh), none)
	}
	got = w.counts(second)
	slices.Sort(got)
	if d := cmp.Diff(slices.DeleteFunc(want, func(s string) bool { return strings.Contains(s, "release") }), got); d != "" {
		t.Errorf("the second (-want +got):\n%s", d)
	}
	end()
	if d := cmp.Diff([]string{"change shop", "release web", "change shop", "release web", "change shop"}, w.to.got); d != "" {
		t.Errorf("traces (-want +got):\n%s", d)
	}
}

// ask asks as somebody who may list a resource in some namespaces: "changes shop".
func ask(t *testing.T, l *Ledger, question string, rights ...string) (int, []string) {
	t.Helper()
	asked := map[string]bool{}
	answer := httptest.NewRecorder()
	l.Answer(answer, httptest.NewRequest(http.MethodGet, stats.Path+"?"+question, nil), func(resource, namespace string) error {
		what := strings.TrimSpace(resource + " " + namespace)
		if asked[what] {
			t.Errorf("%s is asked for twice", what)
		}
		asked[what] = true
		switch {
		case slices.Contains(rights, "away"):
			return errors.New("the API server is away")
		case slices.Contains(rights, what):
			return nil
		}
		return stats.ErrForbidden
	})
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Code != http.StatusOK {
		return answer.Code, []string{strings.TrimSpace(string(b))}
	}
	var report stats.Report
	if err := json.Unmarshal(b, &report); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	var rows []string
	for _, r := range report.Rows {
		rows = append(rows, strings.TrimSpace(fmt.Sprintf("%s %s %d", r.Namespace, r.Service, r.Now.Deployments)))
	}
	return answer.Code, rows
}

func TestWhoSeesWhat(t *testing.T) {
	w := &world{T: t, dir: t.TempDir()}
	l, end := w.lead()
	defer end()
	now := time.Now()
	l.Change(app("shop"), deployed("shop", "s", now), none)
	l.Change(app("bank"), deployed("bank", "b", now), none)
	l.Release(promoted("legacy", "l", now))
	l.Release(promoted("shop-prod", "p", now)) // by hand, in an environment
	shop := []string{"shop-prod  2", "shop-prod cart 1", "shop-prod web 1"}
	for _, c := range []struct {
		name, question string
		rights         []string
		status         int
		want           []string
	}{
		{"all of all", "", []string{"changes", "releases"}, 200, slices.Concat([]string{"legacy  1", "legacy web 1"}, []string{"bank-prod  1", "bank-prod cart 1"}, shop)},
		{"all, as one of shop", "", []string{"changes shop"}, 200, shop},
		{"all, as one of legacy", "", []string{"releases legacy"}, 200, []string{"legacy  1", "legacy web 1"}},
		{"all, as nobody", "", nil, 200, nil},
		{"shop", "namespace=shop", []string{"changes shop"}, 200, shop},
		{"the environment's namespace, by the App's right", "namespace=shop-prod", []string{"changes shop", "releases shop-prod"}, 200, shop},
		{"the environment's namespace, without it", "namespace=shop-prod", []string{"releases shop-prod"}, 200, []string{"shop-prod  1", "shop-prod web 1"}},
		{"another's", "namespace=bank", []string{"changes shop"}, 403, []string{"to see how changes and releases have gone takes the right to list changes.bight.dev or releases.bight.dev in namespace bank, which role view has"}},
		{"what is not there", "namespace=nowhere", []string{"changes nowhere"}, 200, nil},
		{"nobody knows", "namespace=shop", []string{"away"}, 503, []string{"ask what you may see: the API server is away\nthe API server is away"}},
		{"for ever", "since=100000h", []string{"changes"}, 400, []string{`since is "100000h": give a time from a minute to a year, as in 720h`}},
	} {
		status, got := ask(t, l, c.question, c.rights...)
		if d := cmp.Diff(c.want, got); d != "" || status != c.status {
			t.Errorf("%s: status %d, want %d (-want +got):\n%s", c.name, status, c.status, d)
		}
	}
}

func TestOneWhoIsNotLeadingTakesNothingIn(t *testing.T) {
	w := &world{T: t, dir: t.TempDir()}
	l, end := w.lead()
	end()
	l.Change(app("shop"), deployed("shop", "s", time.Now()), none)
	l.Release(promoted("legacy", "l", time.Now()))
	if got := w.counts(l); len(got) > 0 {
		t.Errorf("it counts %v", got)
	}
	if status, said := ask(t, l, "", "changes"); status != http.StatusServiceUnavailable {
		t.Errorf("it answers %d: %v", status, said)
	}
}

func TestWithoutARecordThereIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := &Ledger{Journal: &journal.Journal{Dir: file}, Meter: meter.New("v1", nil), Log: slog.New(slog.DiscardHandler)}
	if err := l.Lead(t.Context()); err == nil {
		t.Error("a file is opened as a journal")
	}
	l.Change(app("shop"), deployed("shop", "s", time.Now()), none)
}

// Whose rights the API server is slow to tell keeps nobody else waiting.
func TestASlowQuestionKeepsNobodyWaiting(t *testing.T) {
	w := &world{T: t, dir: t.TempDir()}
	l, end := w.lead()
	defer end()
	l.Release(promoted("legacy", "l", time.Now()))
	answer := func(may func(string, string) error) int {
		r := httptest.NewRecorder()
		l.Answer(r, httptest.NewRequest(http.MethodGet, stats.Path, nil), may)
		return r.Code
	}
	asked, let, slow := make(chan struct{}, 100), make(chan struct{}), make(chan int, 1)
	go func() {
		slow <- answer(func(string, string) error {
			asked <- struct{}{}
			<-let
			return nil
		})
	}()
	<-asked
	quick := make(chan int, 1)
	go func() { quick <- answer(func(string, string) error { return nil }) }()
	select {
	case code := <-quick:
		if code != http.StatusOK {
			t.Errorf("status %d", code)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits for somebody else's rights")
	}
	close(let)
	if code := <-slow; code != http.StatusOK {
		t.Errorf("the slow one: status %d", code)
	}
}
