package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

// parcels takes what recorders send, after it has failed some times.
type parcels struct {
	mu    sync.Mutex
	fails int
	got   []*spec.Pairs
}

func (p *parcels) send(_ context.Context, s *spec.Pairs) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails--; p.fails >= 0 {
		return errors.New("nobody is there")
	}
	p.got = append(p.got, s)
	return nil
}

func recorderOf(p *parcels, e v1alpha1.ReleaseEvidence) *recorder {
	r := newRecorder(releaseSubject(releaseOf("r")), "n", slog.New(slog.DiscardHandler), p.send)
	r.follow(e, 100*time.Millisecond, 30*time.Second)
	return r
}

func paired(o *steer.Outcome, again func(context.Context) (*steer.PairAnswer, error)) *steer.Outcome {
	o.Pair = &steer.Pair{
		Method: "GET", Target: fmt.Sprint("/", o.ID, "?token=x"), Header: http.Header{"Cookie": {"secret"}}, Again: again,
		Answer: &steer.PairAnswer{Status: o.Status, Body: steer.Kept{Bytes: []byte("oops")}},
	}
	return o
}

func noRecord() ([]byte, error) { return nil, nil }

func told(pairs []evidence.Pair) (out []string) {
	for _, p := range pairs {
		s := fmt.Sprintf("%s %s %s %s %s", p.ID, p.Class, p.Version, p.Request.Target, p.Why)
		for _, a := range p.Stable {
			s += fmt.Sprintf(" (%d %s)", a.Status, a.Body.Bytes)
		}
		out = append(out, s)
	}
	return out
}

func TestEvidenceIsBroughtToTheController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &parcels{fails: 3}
		r := recorderOf(p, v1alpha1.ReleaseEvidence{})
		stable := func(context.Context) (*steer.PairAnswer, error) {
			return &steer.PairAnswer{Status: 200, Body: steer.Kept{Bytes: []byte(`{"email":"a@b"}`)}, Header: http.Header{"Content-Type": {"application/json"}}}, nil
		}
		r.add(paired(outcome(1, true, 500), stable), "a/1", 8080)
		r.add(paired(outcome(2, false, 200), stable), "a/2", 8080)
		slow := outcome(3, true, 200)
		slow.Latency = 150 * time.Millisecond
		r.add(paired(slow, nil), "a/3", 8080)
		fell := outcome(4, true, 200)
		fell.Fallback = true
		r.add(paired(fell, nil), "a/4", 8080)
		hung := outcome(5, true, 0)
		hung.Running, hung.Latency = true, 31*time.Second
		r.add(paired(hung, nil), "a/5", 8080)
		late := outcome(5, true, 200)
		late.Told = 31 * time.Second
		r.add(paired(late, nil), "a/5", 8080)
		r.add(outcome(6, true, 500), "a/6", 8080) // nothing was kept of it
		var running sync.WaitGroup
		r.freeze(t.Context(), &running, noRecord)
		r.freeze(t.Context(), &running, noRecord)
		r.add(paired(outcome(7, true, 500), nil), "a/7", 8080)
		running.Wait()
		if len(p.got) != 1 {
			t.Fatalf("it was brought %d times", len(p.got))
		}
		want := []string{
			`a/1 failed canary /1?token=%5Bhidden%5D status 500 (200 {"email":"[hidden]"}) (200 {"email":"[hidden]"})`,
			"a/2 sample stable /2?token=%5Bhidden%5D ",
			"a/3 slow canary /3?token=%5Bhidden%5D 150ms until it answered",
			"a/4 failed canary /4?token=%5Bhidden%5D no pod of the version has answered (200 oops)",
			"a/5 failed canary /5?token=%5Bhidden%5D no answer for 31s",
		}
		if diff := cmp.Diff(want, told(p.got[0].Pairs)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if h := p.got[0].Pairs[0].Request.Header["Cookie"]; h[0] != evidence.Hidden {
			t.Errorf("the cookie is %q", h)
		}
	})
}

func TestAStormKeepsTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in one second
		p := &parcels{}
		r := recorderOf(p, v1alpha1.ReleaseEvidence{NoAgain: true})
		asked := 0
		at := time.Now().Truncate(time.Second)
		for i := range uint64(10_000) {
			o := outcome(i, i%2 == 0, 500)
			o.Time = at
			r.add(paired(o, func(context.Context) (*steer.PairAnswer, error) { asked++; return nil, errors.New("no") }), fmt.Sprint(i), 8080)
		}
		var running sync.WaitGroup
		r.freeze(t.Context(), &running, noRecord)
		running.Wait()
		if n := len(p.got[0].Pairs); n != 80 || asked > 0 { // 40 of each version
			t.Errorf("%d are kept, stable was asked %d times", n, asked)
		}
		if n := p.got[0].Pairs[79].ID; n != "99" {
			t.Errorf("the last that is kept is %s", n)
		}
	})
}

// Copies are evidence a second after they have failed: of those that are said to be, the
// requests are there still, in whatever storm.
func TestCopiesThatAreEvidenceAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &parcels{}
		r := recorderOf(p, v1alpha1.ReleaseEvidence{NoAgain: true})
		var moved []verdict.Moved
		for i := range uint64(3000) { // 1000 a second
			o := outcome(i, true, 500)
			o.Copy, o.Time = true, time.Now()
			id := fmt.Sprint("a/", i, "/copy")
			r.add(paired(o, nil), id, 8080)
			if i < 2000 { // the others are not old enough
				moved = append(moved, verdict.Moved{ID: id})
			}
			time.Sleep(time.Millisecond)
		}
		r.settle()
		moved = r.having(moved)
		var running sync.WaitGroup
		r.freeze(t.Context(), &running, noRecord)
		running.Wait()
		kept := map[string]bool{}
		for _, p := range p.got[0].Pairs {
			kept[p.ID] = true
		}
		for _, m := range moved {
			if !kept[m.ID] {
				t.Errorf("%s is said to be evidence, and not kept", m.ID)
			}
		}
		if len(moved) != 20 || len(kept) > 40 {
			t.Errorf("%d are evidence, %d are kept", len(moved), len(kept))
		}
		r.follow(v1alpha1.ReleaseEvidence{Off: true}, 0, 0)
		if got := r.having([]verdict.Moved{{ID: "x"}}); len(got) != 1 {
			t.Errorf("where nothing is kept this is left: %v", got)
		}
	})
}

func TestNothingIsRecordedWhereThatIsOff(t *testing.T) {
	r := releaseOf("r")
	r.Spec.Plan.Evidence.Off = true
	if rec := recording(r, 0); rec != nil {
		t.Errorf("kept is %+v", rec)
	}
	r.Spec.Plan.Evidence = v1alpha1.ReleaseEvidence{NoBodies: true}
	if rec := recording(r, 0); rec == nil || rec.Body != 0 {
		t.Errorf("kept is %+v", rec)
	}
}

// What was handed over is brought, whoever is at it when the version is shut out.
func TestNothingIsLostBetweenTwo(t *testing.T) {
	for range 200 {
		p := &parcels{}
		r := recorderOf(p, v1alpha1.ReleaseEvidence{NoAgain: true})
		for i := range uint64(4) {
			r.add(paired(outcome(i, true, 500), nil), fmt.Sprint(i), 8080)
		}
		var running sync.WaitGroup
		running.Go(r.settle)
		r.freeze(t.Context(), &running, noRecord)
		running.Wait()
		if len(p.got) != 1 || len(p.got[0].Pairs) != 4 {
			t.Fatalf("brought is %+v", p.got)
		}
	}
}

// What has convicted a release here is brought, too, though no request was kept.
func TestTheRecordOfAConvictionIsBrought(t *testing.T) {
	for _, off := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := &parcels{}
			r := recorderOf(p, v1alpha1.ReleaseEvidence{Off: off})
			var running sync.WaitGroup
			r.freeze(t.Context(), &running, func() ([]byte, error) { return []byte("packed"), nil })
			running.Wait()
			if brought := len(p.got) == 1 && string(p.got[0].Record) == "packed"; brought == off {
				t.Errorf("with evidence off: %v, brought is %+v", off, p.got)
			}
		})
	}
}
