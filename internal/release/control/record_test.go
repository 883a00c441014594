package control

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

// recorded is a desk that keeps the record of a release.
func recorded(t *testing.T) (*desk, *course) {
	t.Helper()
	co := underWay(t)
	co.State.Started = time.Now()
	d := &desk{c: &Controller{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, log: slog.New(slog.DiscardHandler)}
	if err := co.sit(); err != nil {
		t.Fatal(err)
	}
	return d, co
}

// hears has a node tell of requests to the canary that have failed, and of others.
func (co *course) hears(seq int64, failed int64) {
	co.bench.take(spec.Batch{Node: "a", Boot: "x", Seq: seq, Counts: verdict.Counts{Cells: []verdict.Cell{{
		Weight: 0.05, Canary: verdict.Tally{Failed: failed}, Stable: verdict.Tally{Closed: [5]int64{100}},
	}}}}, time.Now())
}

func replayed(t *testing.T, d *desk, co *course) verdict.Course {
	t.Helper()
	d.c.tasks.Wait()
	var text bytes.Buffer
	if err := d.c.shelf().record(co.r.Namespace, co.r.Name, co.r.UID, &text); err != nil {
		t.Fatal(err)
	}
	var r verdict.Record
	if err := r.UnmarshalText(text.Bytes()); err != nil {
		t.Fatal(err)
	}
	c, err := r.Replay(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// writes has written down what a release's status keeps, and what its judge was told.
func (co *course) writes(t *testing.T, d *desk) {
	t.Helper()
	v := co.judge()
	co.bench.dirty = true
	raw, err := co.bench.keep()
	if err != nil {
		t.Fatal(err)
	}
	co.r.Status.Evidence = &runtime.RawExtension{Raw: raw}
	co.noted = time.Time{}
	d.record(co, v.Is)
}

func TestARecordSurvivesARestart(t *testing.T) {
	d, co := recorded(t)
	for i := range int64(5) {
		co.hears(i+1, 0)
	}
	co.writes(t, d)
	co.hears(6, 1)
	co.bench.tape.Say(co.bench.judge.Verdict(co.bench.state))
	co.noted = time.Time{}
	d.record(co, "") // it reaches the volume, and the status does not
	d.c.tasks.Wait()
	// Another process goes on from the status. Of the first a file is left that was cut.
	files, err := filepath.Glob(filepath.Join(d.c.Dir, "*", "*", "*", recordFiles+"*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var half bytes.Buffer
	if err := pack(&half, []byte("{\"at\":\"2026-01-01T00:00:00Z\"}\n")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], append(text, half.Bytes()[:half.Len()-5]...), 0o600); err != nil {
		t.Fatal(err)
	}
	scene, state := co.scene, co.State
	next, err := newCourse(co.r)
	if err != nil {
		t.Fatal(err)
	}
	next.scene, next.State = scene, state
	if err := next.sit(); err != nil {
		t.Fatal(err)
	}
	for i := range int64(8) {
		next.hears(6+i, 1)
	}
	next.writes(t, d)
	c := replayed(t, d, next)
	want := next.bench.judge.Verdict(next.bench.state)
	if want.Is != verdict.Bad || !c.Same() || c.Lost > 0 || c.Verdict.Why != want.Why || c.Compared < 3 {
		t.Errorf("replayed it is %+v, and was %+v: %v", c.Verdict, want, c.Differs)
	}
}

func TestARecordIsBounded(t *testing.T) {
	dir := t.TempDir()
	s := &shelf{dir: dir}
	file := ""
	for i := range maxRecordFiles + 5 {
		name := ""
		if i > 2 {
			name = file
		}
		var err error
		if _, file, err = s.note("shop", "cart-2", "u", name, fmt.Appendf(nil, "{\"i\":%d}\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	var text strings.Builder
	if err := s.record("shop", "cart-2", "u", &text); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(text.String()), "\n"); len(lines) != maxRecordFiles+5 || lines[3] != `{"i":3}` {
		t.Errorf("kept is %s", text.String())
	}
	// Those that are too large together go, the oldest first.
	if err := os.Truncate(filepath.Join(dir, "shop", "cart-2", "u", file), maxRecords); err != nil {
		t.Fatal(err)
	}
	_, next, err := s.note("shop", "cart-2", "u", "", []byte("{}\n"))
	left, _ := filepath.Glob(filepath.Join(dir, "shop", "cart-2", "u", "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != next || next != "record-000004.jsonl.gz" {
		t.Errorf("left is %v, %v", left, err)
	}
	for range maxRecordFiles + 5 {
		if _, _, err := s.note("shop", "cart-2", "u", "", []byte("{}\n")); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ = filepath.Glob(filepath.Join(dir, "shop", "cart-2", "u", "*")); len(left) != maxRecordFiles {
		t.Errorf("%d files are left", len(left))
	}
	// It is no evidence of requests.
	if _, err := s.bundle("shop", "cart-2", "u"); !errors.Is(err, evidence.ErrNone) {
		t.Errorf("a record is taken for a bundle: %v", err)
	}
}

func TestARecordThatIsTooLargeGoesOnInAnotherFile(t *testing.T) {
	d, co := recorded(t)
	co.hears(1, 0)
	co.writes(t, d)
	d.c.tasks.Wait()
	co.scribe.size = maxRecord
	co.hears(2, 0)
	co.writes(t, d)
	co.scribe.broken = errors.New("the disk is full")
	for i := range int64(5) {
		co.hears(3+i, 1)
	}
	co.writes(t, d) // to the third
	d.c.tasks.Wait()
	files, _ := filepath.Glob(filepath.Join(d.c.Dir, "*", "*", "*", recordFiles+"*"))
	if c := replayed(t, d, co); len(files) < 2 || !c.Same() || c.Verdict.Is != verdict.Bad {
		t.Errorf("%d files, %+v, %v", len(files), c.Verdict, c.Differs)
	}
}

func TestNothingIsKeptWhereThePlanSaysSo(t *testing.T) {
	d, co := recorded(t)
	co.r.Spec.Plan.Evidence.Off = true
	co.hears(1, 1)
	co.writes(t, d)
	d.c.tasks.Wait()
	if left, _ := filepath.Glob(filepath.Join(d.c.Dir, "*")); len(left) > 0 {
		t.Errorf("kept is %v", left)
	}
}

func TestARecordIsGiven(t *testing.T) {
	c, _ := serving(t)
	c.Dir = t.TempDir()
	get := func(name string) (int, string) {
		w := httptest.NewRecorder()
		q := httptest.NewRequest(http.MethodGet, spec.RecordPath+"/shop/"+name, nil)
		q.SetPathValue("namespace", "shop")
		q.SetPathValue("name", name)
		c.GiveRecord(w, q)
		if w.Code != http.StatusOK {
			return w.Code, w.Body.String()
		}
		z, err := gzip.NewReader(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		return w.Code, string(text)
	}
	if code, _ := get("cart-1"); code != http.StatusNotFound {
		t.Errorf("of one that has none: %d", code)
	}
	if _, _, err := c.shelf().note("shop", "cart-1", "over", "", []byte("one\n")); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	if err := pack(&packed, []byte("two\n")); err != nil {
		t.Fatal(err)
	}
	p := spec.Pairs{Namespace: "shop", Release: "cart-1", UID: "over", Node: "n", Record: packed.Bytes()}
	body, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	w, q := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, spec.PairsPath, bytes.NewReader(body))
	q.Header.Set("Authorization", "Bearer "+agentToken)
	if c.TakePairs(w, q); w.Code != http.StatusNoContent {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	if code, text := get("cart-1"); code != 200 || text != "one\ntwo\n" {
		t.Errorf("%d %q", code, text)
	}
	if p.Record = make([]byte, maxNodeRecord+1); c.shelf().keepNode(&p) == nil {
		t.Error("a record that is too large is kept")
	}
}

func TestEvidenceIsBoundedInAll(t *testing.T) {
	now := time.Now()
	all := []string{"shop/oldest", "shop/older", "bank/old", "shop/new"}
	for _, tt := range []struct {
		name       string
		young      time.Duration
		each, most int64
		want       string
	}{
		{"there is room", -time.Minute, 5000, 5000, "[shop/oldest shop/older bank/old shop/new]"},
		{"all is too much", -time.Minute, 5000, 3500, "[shop/older bank/old shop/new]"},
		{"nothing has room", -time.Minute, 5000, 10, "[]"},
		{"what is young stays", -9 * time.Minute, 10, 10, "[bank/old shop/new]"},
		{"a namespace has too much", -time.Minute, 2500, 5000, "[shop/older bank/old shop/new]"},
		{"a namespace has far too much", -time.Minute, 1500, 3500, "[bank/old shop/new]"},
		{"each has too much", -time.Minute, 10, 5000, "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &shelf{dir: t.TempDir()}
			for i, name := range all {
				namespace, release, _ := strings.Cut(name, "/")
				if err := s.put(t.Context(), namespace, release, "u", factsFile, strings.Repeat("x", 1000)); err != nil {
					t.Fatal(err)
				}
				at := now.Add(time.Duration(i-10) * time.Minute)
				for _, path := range []string{filepath.Join(s.dir, name, "u", factsFile), filepath.Join(s.dir, name, "u")} {
					if err := os.Chtimes(path, at, at); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := s.sweep(now.Add(-time.Hour), now.Add(tt.young), tt.each, tt.most); err != nil {
				t.Fatal(err)
			}
			left := []string{}
			for _, name := range all {
				namespace, release, _ := strings.Cut(name, "/")
				if s.has(namespace, release, "u", factsFile) {
					left = append(left, name)
				}
			}
			if got := fmt.Sprint(left); got != tt.want {
				t.Errorf("%s is left, want %s", got, tt.want)
			}
		})
	}
}
