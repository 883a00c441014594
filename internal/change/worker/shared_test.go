//go:build unix

package worker

import (
	"bytes"
	"context"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/change/tests"
	"github.com/bightdev/bight/internal/change/work"
	"github.com/bightdev/bight/internal/image"
	"github.com/bightdev/bight/internal/session"
)

// desk is what the controller keeps of the results of one app, by name.
type desk map[string][]byte

func (d desk) answer(_ context.Context, _, _ string, names []string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, n := range names {
		if b, ok := d[n]; ok {
			out[n] = b
		}
	}
	return out, nil
}

// take keeps a result as the controller does: in the class of the order.
func (d desk) take(o work.Order, r work.Result) {
	class := "trusted/"
	if o.Untrusted {
		class = "untrusted/"
	}
	for name, b := range r.Keep {
		d[class+name] = b
	}
}

// crew is a repository with several workers, each on a machine of its own.
type crew struct {
	*bench
	desk desk
	reg  image.Registry
}

func newCrew(t *testing.T) *crew {
	files := shopFiles()
	files["cart/main_test.go"] = "package main\n\nimport \"testing\"\n\nfunc TestCart(t *testing.T) {}\n"
	c := &crew{bench: newBench(t, files), desk: desk{}}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	c.reg = image.Registry{Push: strings.TrimPrefix(server.URL, "http://"), Pull: "localhost:5000"}
	return c
}

// machine makes the next orders go to a worker of another machine, and returns what
// this machine has.
func (c *crew) machine() (cache string) {
	c.Helper()
	old := c.worker
	w := &Worker{Name: old.Name, Source: old.Source, Checkers: old.Checkers, Gates: old.Gates, Log: old.Log}
	cache = c.TempDir()
	maker, err := session.NewMaker(cache, By, w.Log)
	if err != nil {
		c.Fatal(err)
	}
	w.Dir, w.Cache, w.Maker, w.Registry, w.Results = c.TempDir(), filepath.Join(cache, "results"), maker, c.reg, c.desk.answer
	c.worker = w
	return cache
}

// does has an order of a change done and fails unless it passes.
func (c *crew) does(change, step, commit string, untrusted bool) work.Result {
	c.Helper()
	o := work.Order{Namespace: "shop", App: "shop", Change: change, Step: step, Commit: commit, Untrusted: untrusted}
	var log bytes.Buffer
	r := c.worker.Do(c.Context(), o, &log)
	if r.State != work.Passed {
		c.Fatalf("%s of %s: %s, %q\n%s", step, change, r.State, r.Message, &log)
	}
	c.Logf("%s of %s: %q (%s)\n%s", step, change, r.Message, r.Cached, &log)
	c.desk.take(o, r)
	return r
}

func TestAWorkerTakesWhatAnotherHasShown(t *testing.T) {
	c := newCrew(t)
	first := c.git("rev-parse", "HEAD")
	c.machine()
	for _, step := range []string{v1alpha1.BuildStep, v1alpha1.TestStep} {
		if r := c.does("shop-1", step, first, false); r.Cached != "" || len(r.Keep) == 0 {
			t.Errorf("%s: cached %q, keeps %d things", step, r.Cached, len(r.Keep))
		}
	}
	second := c.commit(map[string]string{"README.md": "Words.\n"})
	c.machine()
	var images [2]string
	for _, step := range []string{v1alpha1.BuildStep, v1alpha1.TestStep} {
		r := c.does("shop-2", step, second, false)
		if !strings.HasPrefix(r.Cached, "same inputs as") || !strings.Contains(r.Cached, "change shop-1") {
			t.Errorf("%s on another machine: %q, cached %q", step, r.Message, r.Cached)
		}
		if len(r.Keep) > 0 {
			t.Errorf("%s: what was taken over is handed on: %v", step, maps.Keys(r.Keep))
		}
		images[1] += r.Images["cart"]
	}
	if images[0] = c.does("shop-1", v1alpha1.BuildStep, first, false).Images["cart"]; images[0] != images[1] {
		t.Errorf("images %q", images)
	}
}

func TestAPoisonedResultIsNotTaken(t *testing.T) {
	c := newCrew(t)
	commit := c.git("rev-parse", "HEAD")
	c.machine()
	for _, step := range []string{v1alpha1.BuildStep, v1alpha1.TestStep} {
		c.does("shop-1", step, commit, false)
	}
	for name, b := range c.desk {
		c.desk[name] = bytes.Replace(b, []byte(`"name":"TestCart"`), []byte(`"name":"TestKart"`), 1)
		if strings.HasPrefix(name, "trusted/"+buildKind) {
			c.desk[name] = bytes.Replace(b, []byte(`"inputs":"`), []byte(`"inputs":"0`), 1)
		}
	}
	c.machine()
	for _, step := range []string{v1alpha1.BuildStep, v1alpha1.TestStep} {
		if r := c.does("shop-1", step, commit, false); r.Cached != "" || len(r.Keep) == 0 {
			t.Errorf("%s: %q, cached %q, keeps %d", step, r.Message, r.Cached, len(r.Keep))
		}
	}
}

func TestATrustedChangeDoesNotReadWhatAStrangersHasShown(t *testing.T) {
	c := newCrew(t)
	commit := c.git("rev-parse", "HEAD")
	c.machine()
	left := suite.Dir(t.TempDir())
	c.runTests(&suite.Runner{Trust: suite.Untrusted, From: "change shop-1", Cache: &suite.Cache{Store: left}})
	a, err := session.Plan(t.Context(), c.dir)
	if err != nil {
		t.Fatal(err)
	}
	units, err := tests.Of(a, c.dir).Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range units {
		b, err := left.Get(t.Context(), "untrusted/"+u.Key)
		if err != nil {
			t.Fatal(err)
		}
		c.desk["untrusted/"+testKind+"/"+u.Key] = b
	}
	if r := c.does("shop-2", v1alpha1.TestStep, commit, false); r.Cached != "" {
		t.Errorf("trusted: %q, cached %q", r.Message, r.Cached)
	}
	for name, b := range maps.Clone(c.desk) { // one that has its way with the controller's names still says whose it is
		if key, ok := strings.CutPrefix(name, "untrusted/"); ok {
			c.desk["trusted/"+key] = b
		}
	}
	c.machine()
	if r := c.does("shop-3", v1alpha1.TestStep, commit, false); r.Cached != "" {
		t.Errorf("under the name of a trusted one: %q, cached %q", r.Message, r.Cached)
	}
}

// runTests runs the tests of the repository as it lies there.
func (c *crew) runTests(r *suite.Runner) {
	c.Helper()
	a, err := session.Plan(c.Context(), c.dir)
	if err != nil {
		c.Fatal(err)
	}
	r.Source = tests.Of(a, c.dir)
	units, err := r.Source.Discover(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	if got, err := r.Run(c.Context(), units); err != nil || got.Status != suite.Passed {
		c.Fatalf("%v, %+v", err, got)
	}
}

func TestWhatTheInnerLoopHasDoneIsTakenHereAndNotHandedOn(t *testing.T) {
	c := newCrew(t)
	commit := c.git("rev-parse", "HEAD")
	cache := c.machine()
	up, err := session.NewMaker(cache, "bight up", c.worker.Log)
	if err != nil {
		t.Fatal(err)
	}
	a, err := session.Plan(t.Context(), c.dir)
	if err != nil {
		t.Fatal(err)
	}
	art, err := up.Build(t.Context(), a, a.Services[0], nil)
	if err != nil || art.Cached {
		t.Fatalf("%v, cached %v", err, art.Cached)
	}
	c.runTests(&suite.Runner{Trust: suite.Trusted, From: "what bight test tested", Cache: &suite.Cache{Store: tests.Results(c.worker.Cache)}})
	want := map[string]string{
		v1alpha1.BuildStep: "same inputs as what bight up built", v1alpha1.TestStep: "same inputs as what bight test tested",
	}
	got := map[string]string{}
	for step := range want {
		r := c.does("shop-1", step, commit, false)
		if got[step] = r.Cached; len(r.Keep) > 0 {
			t.Errorf("%s hands on what the laptop says: %v", step, r.Keep)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the timeline says (-want +got):\n%s", diff)
	}
}

func TestTestsThatTakeLongAreSharedOutWhereOthersAreIdle(t *testing.T) {
	c := newCrew(t)
	const passes = "import \"testing\"\n\nfunc TestIt(t *testing.T) {}\n"
	commit := c.commit(map[string]string{"a/a_test.go": "package a\n\n" + passes, "b/b_test.go": "package b\n\n" + passes})
	c.machine()
	seconds := map[string]float64{"example.com/shop/a": 30, "example.com/shop/b": 20, "example.com/shop/gone": 50}
	c.desk.take(work.Order{}, work.Result{Keep: suite.KeepDurations("", seconds)})
	do := func(workers, part int, units ...string) work.Result {
		o := work.Order{Namespace: "shop", App: "shop", Change: "shop-1", Step: v1alpha1.TestStep, Commit: commit, Workers: workers, Part: part, Units: units}
		var log bytes.Buffer
		r := c.worker.Do(t.Context(), o, &log)
		t.Logf("%d workers, part %d: %s %q\n%s", workers, part, r.State, r.Message, &log)
		return r
	}
	r := do(2, 0)
	want := map[string]float64{"example.com/shop/a": 30, "example.com/shop/b": 20, "example.com/shop/cart": 25}
	if diff := cmp.Diff(want, r.Rest); diff != "" || r.State != work.Split {
		t.Fatalf("%s, what is left (-want +got):\n%s", r.State, diff)
	}
	if r := do(2, 1, "example.com/shop/b"); r.State != work.Passed || r.Message != "1 test passed" {
		t.Errorf("a part: %s, %q", r.State, r.Message)
	}
	if r := do(2, 2, "example.com/shop/none"); r.State != work.Erred {
		t.Errorf("a part that is not here: %s, %q", r.State, r.Message)
	}
	if r := do(1, 0); r.State != work.Passed || r.Message != "3 tests passed, 1 of them known" {
		t.Errorf("with one worker: %s, %q", r.State, r.Message)
	}
}
