package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

// A controller that was killed has answered for batches, and what it made of them is written down
// every few seconds: the next one lacks neither those that came since then, nor the halves that
// still waited for what others have seen.
func TestAControllerThatIsKilledLosesNoBatch(t *testing.T) {
	co, dir, asked := routed(t), t.TempDir(), 0
	r := co.r
	process := func() (*Controller, *desk) {
		c := &Controller{Agents: "agents", typed: reviewer(&asked), Log: slog.New(slog.DiscardHandler)}
		c.unsaved.dir, c.seen = dir, true
		key := types.NamespacedName{Namespace: r.Namespace, Name: r.Spec.Deployment}
		d := newDesk(c, key)
		d.put(r)
		c.desks = map[types.NamespacedName]*desk{key: d}
		return c, d
	}
	send := func(c *Controller, node string, seq int64) {
		t.Helper()
		text, err := json.Marshal(spec.Batch{
			Namespace: r.Namespace, Release: r.Name, UID: r.UID, Node: node, Boot: "x", Seq: seq,
			Counts: verdict.Counts{Cells: []verdict.Cell{{Weight: 0.05, Canary: verdict.Tally{Failed: 1}, Stable: verdict.Tally{Failed: 19}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		q := httptest.NewRequest(http.MethodPost, spec.EvidencePath, bytes.NewReader(text))
		q.Header.Set("Authorization", "Bearer "+agentToken)
		w := httptest.NewRecorder()
		if c.ServeHTTP(w, q); w.Code != http.StatusNoContent {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	}
	count := func(d *desk, co *course) {
		all, batches := d.take()
		for _, b := range d.recovered(all, batches) {
			co.bench.takeApart(b, time.Now())
		}
		d.courses[r.UID] = co
	}

	c, d := process()
	if err := co.sit(); err != nil {
		t.Fatal(err)
	}
	send(c, "a", 1)
	count(d, co)
	co.saves(t)
	c.unsaved.saved(r.UID, co.bench.kept.Seqs, c.tasks.Go, func(err error) { t.Error(err) })
	c.tasks.Wait()
	send(c, "a", 2)
	count(d, co)
	send(c, "b", 1) // which it has not even looked at

	r = r.DeepCopy() // as it is read
	r.Status.Evidence = co.written.Evidence
	c, d = process()
	send(c, "a", 3) // before anybody looks
	send(c, "a", 3)
	next := routed(t)
	next.r = r
	if err := next.sit(); err != nil {
		t.Fatal(err)
	}
	count(d, next)
	next.bench.catchUp(time.Now().Add(time.Minute))
	if got := next.bench.state; got.Canary.Failed != 4 || got.Stable.Failed != 76 {
		t.Errorf("of 4 batches, it knows of %d errors of the canary and %d of stable", got.Canary.Failed, got.Stable.Failed)
	}
	if diff := cmp.Diff(map[string]int64{"a/x": 3, "b/x": 1}, next.bench.kept.Seqs); diff != "" {
		t.Errorf("it has counted (-want +got):\n%s", diff)
	}
	next.saves(t)
	c.unsaved.saved(r.UID, next.bench.kept.Seqs, c.tasks.Go, func(err error) { t.Error(err) })
	c.tasks.Wait()
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("all is written down, and there is %v", left)
	}
}

func TestUnsavedBatches(t *testing.T) {
	u := &unsaved{dir: filepath.Join(t.TempDir(), "heard")}
	batch := func(node string, seq int64) spec.Batch { return spec.Batch{UID: "r", Node: node, Boot: "x", Seq: seq} }
	for _, b := range []spec.Batch{batch("a", 1), batch("b", 7), batch("a", 2), {UID: "other", Node: "a", Seq: 1}} {
		if err := u.add(b); err != nil {
			t.Fatal(err)
		}
	}
	of := func(uid types.UID) (all []string) {
		batches, err := u.of(uid)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			all = append(all, fmt.Sprint(b.Node, b.Seq))
		}
		return all
	}
	// The process was killed as it wrote a line.
	name, err := u.file("r")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"uid":"r","node":"b","se`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := u.add(batch("c", 1)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a1", "b7", "a2", "c1"}, of("r")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := u.forget("r", map[string]int64{"a/x": 1, "b/y": 9, "c/x": 1}); err != nil {
		t.Fatal(err)
	}
	if err := u.add(batch("a", 3)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b7", "a2", "a3"}, of("r")); diff != "" {
		t.Errorf("after some were written down (-want +got):\n%s", diff)
	}
	if err := u.forget("nobody's", nil); err != nil || len(of("nobody's")) > 0 || len(of("other")) != 1 {
		t.Errorf("%v, %v", err, of("other"))
	}
	// It is bounded, and what is there stays.
	large := batch("a", 4)
	large.Convicted = string(bytes.Repeat([]byte("x"), maxUnsaved))
	if err := u.add(large); err == nil || len(of("r")) != 3 {
		t.Errorf("error %v, and it has %v", err, of("r"))
	}
	for _, uid := range []types.UID{"", "../r", "a/b"} {
		if err := u.add(spec.Batch{UID: uid}); err == nil {
			t.Errorf("a release of UID %q has a file", uid)
		}
	}
	if err := u.sweep(time.Now().Add(-time.Hour)); err != nil || len(of("r")) != 3 {
		t.Errorf("%v, %v", err, of("r"))
	}
	if err := u.sweep(time.Now().Add(time.Hour)); err != nil || len(of("r")) != 0 {
		t.Errorf("%v, %v", err, of("r"))
	}
	none := &unsaved{}
	if err := none.add(batch("a", 1)); err != nil {
		t.Error(err)
	}
}
