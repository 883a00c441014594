package nodeagent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/latency"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
	"github.com/bightdev/bight/internal/steer"
)

func trialOf(r *v1alpha1.Release, changed func()) *trial {
	t := newTrial(releaseSubject(r), "n", "boot", slog.New(slog.DiscardHandler), changed, r, newRecorder(releaseSubject(r), "n", slog.New(slog.DiscardHandler), nil))
	t.follow(r, t.effective(r), time.Now())
	return t
}

// outcome is one of a release's requests.
func outcome(id uint64, canary bool, status int) *steer.Outcome {
	o := &steer.Outcome{ID: id, Generation: 7, Of: "uid-r", Time: time.Now(), Version: "stable", By: "stable", Weight: 9500, Status: status, GRPC: -1, Tries: 1}
	if canary {
		o.Version, o.By, o.Weight, o.Carried, o.Pod = "canary", "canary", 500, true, netip.MustParseAddrPort("10.0.0.2:8081")
	}
	return o
}

// batch counts what may count and is what is to be sent then.
func (t *trial) batch(now time.Time) *spec.Batch {
	t.tick(now)
	return t.next()
}

// A version that fails is convicted by what one node has seen, at once, and every door of
// the node obeys that before anybody else knows.
func TestANodeConvictsAlone(t *testing.T) {
	r := releaseOf("r")
	told := 0
	tr := trialOf(r, func() { told++ })
	if w := tr.effective(r); w.Weight != 500 || w.Generation != 7 {
		t.Fatalf("in effect is %+v", w)
	}
	last := uint64(0)
	s := tr.open("a:8080", 8080, func() uint64 { return last }, &latency.Window{})
	for tr.convicted() == "" && last < 2000 {
		last++
		s.add(outcome(last, last%20 == 0, map[bool]int{true: 500, false: 200}[last%20 == 0]))
		if last%100 == 0 {
			tr.tick(time.Now())
		}
	}
	if tr.convicted() == "" || told != 1 {
		t.Fatalf("after %d requests: convicted %q, told %d times", last, tr.convicted(), told)
	}
	t.Logf("convicted after %d requests, %d of them to the canary: %s", last, last/20, tr.convicted())
	if failed := last / 20; failed > 10 {
		t.Errorf("it took %d failed requests", failed)
	}
	if w := tr.effective(r); w.Weight != 0 || !w.Shut || w.Generation != 8 {
		t.Errorf("in effect is %+v", w)
	}
	if r.Status.Doors != nil {
		t.Error("the object was changed")
	}
	b := tr.batch(time.Now())
	if b == nil || b.Convicted != tr.convicted() || b.Release != "r" || b.UID != "uid-r" || b.Node != "n" || b.Boot != "boot" {
		t.Errorf("the controller is told %+v", b)
	}
	n := tr.counters()
	if n.Decided != int64(last) || n.Carried != int64(last/20) || n.Convicted == "" {
		t.Errorf("counters are %+v", n)
	}

	// What it was told leads to the same verdict.
	packed, err := tr.record()
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var record verdict.Record
	if err := record.UnmarshalText(text); err != nil {
		t.Fatal(err)
	}
	if c, err := record.Replay(nil); err != nil || !c.Same() || c.Verdict.Why != tr.convicted() || record[0].Judge != "node n" {
		t.Errorf("replayed: %+v, %v", c, err)
	}

	// The next agent of this node knows from the status, and counts on.
	r.Status.Doors = []v1alpha1.NodeDoors{{Node: "other", Decided: 5}, n}
	again := trialOf(r, func() {})
	if packed, err := again.record(); packed != nil || err != nil {
		t.Errorf("it has a record of what it has not seen: %v", err)
	}
	if again.convicted() != tr.convicted() || again.counters().Decided != n.Decided {
		t.Errorf("the next agent knows %+v", again.counters())
	}
}

// A version that gets nothing but copies is convicted by them, and one that answers them
// well is told of to the controller as good.
func TestANodeJudgesByCopies(t *testing.T) {
	for name, tt := range map[string]struct {
		stable, canary int // the status of every third
		judges         bool
		convicted      bool
	}{
		"the version fails":                    {200, 500, true, true},
		"both do":                              {500, 500, true, false},
		"it is well":                           {200, 200, true, false},
		"it fails, but the plan has no copies": {200, 500, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := releaseOf("r", func(r *v1alpha1.Release) {
				r.Status.Route.Weight, r.Status.Route.Mirror = 0, 10000
				if tt.judges {
					r.Spec.Plan.Strategy = v1alpha1.Mirror
				}
			})
			tr := trialOf(r, func() {})
			last := uint64(0)
			s := tr.open("a:8080", 8080, func() uint64 { return last }, &latency.Window{})
			var told spec.Batch
			for last < 300 {
				last++
				o, c := outcome(last, false, 200), outcome(last, true, 200)
				if last%3 == 0 {
					o.Status, c.Status = tt.stable, tt.canary
				}
				o.Weight, o.Copied, c.Copy = 10000, true, true
				if last%2 == 0 { // it is not one pod alone
					c.Pod = netip.MustParseAddrPort("[fd00::2]:8081")
				}
				o.Time = time.Now().Add(-2 * time.Second) // they are old enough to count
				c.Time = o.Time
				s.add(c)
				s.add(o)
				if b := tr.batch(time.Now()); b != nil {
					told.Counts = verdict.Merge(told.Counts, b.Counts)
					tr.outbox.answered()
				}
				if tr.convicted() != "" {
					break
				}
			}
			why := tr.convicted()
			t.Logf("after %d copies: %q", last, why)
			if (why != "") != tt.convicted || tt.convicted && (last > 60 || !strings.Contains(why, "errors of copies")) {
				t.Errorf("after %d copies it is convicted: %q", last, why)
			}
			n := tr.counters()
			if n.Copied != int64(last) || n.Decided != int64(last) || n.Carried != 0 {
				t.Errorf("the counters are %+v", n)
			}
			copies := int64(0)
			for _, c := range told.Counts.Cells {
				if c.Copies {
					copies += c.Canary.Closed[0] + c.Canary.Failed + c.Canary.Repeated
				}
			}
			if copies != int64(last) {
				t.Errorf("the controller is told of %d of %d copies", copies, last)
			}
		})
	}
}

// A version that fails no more often than stable is left alone, whichever requests they
// are that fail, since nobody knows beforehand who gets them.
func TestAHealthyVersionIsNotConvicted(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, fails := range map[string]func(n uint64) bool{
		"now and then":           func(uint64) bool { return r.IntN(20) == 0 },
		"in step with the turns": func(n uint64) bool { return n%20 == 7 },
		"in bursts":              func(n uint64) bool { return n%400 < 30 },
		"all of them":            func(uint64) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			for range 50 {
				tr := trialOf(releaseOf("r"), func() {})
				turns := steer.NewBalance(9500, 500)
				last := uint64(0)
				s := tr.open("a:8080", 8080, func() uint64 { return last }, &latency.Window{})
				for last < 2000 && tr.convicted() == "" {
					last++
					s.add(outcome(last, turns.Next() == 1, map[bool]int{true: 500, false: 200}[fails(last)]))
					if last%100 == 0 {
						tr.tick(time.Now())
					}
				}
				if why := tr.convicted(); why != "" {
					t.Errorf("convicted after %d requests: %s", last, why)
				}
			}
		})
	}
}

// What can't be judged is shared all the same, and the reason is known.
func TestAReleaseThatCanNotBeJudged(t *testing.T) {
	r := releaseOf("r", func(r *v1alpha1.Release) { r.Spec.Plan.Judge.MaxErrors = nil })
	tr := trialOf(r, func() {})
	bad := releaseOf("r", func(r *v1alpha1.Release) { r.Spec.Plan.Judge.MaxErrors = percent("x") })
	tr.follow(bad, tr.effective(bad), time.Now())
	if tr.judge != nil || !strings.Contains(tr.problem, "maxErrors") {
		t.Errorf("the problem is %q", tr.problem)
	}
	s := tr.open("a:8080", 8080, func() uint64 { return 1 }, &latency.Window{})
	s.add(outcome(1, true, 500))
	if b := tr.batch(time.Now()); b != nil {
		t.Errorf("told is %+v", b)
	}
	if tr.follow(r, tr.effective(r), time.Now()); tr.judge == nil {
		t.Error("it is not judged again")
	}
}

// A change of what it is judged by loses nothing of what is known.
func TestAJudgeGoesOnWithAnotherConfig(t *testing.T) {
	r := releaseOf("r")
	tr := trialOf(r, func() {})
	last := uint64(0)
	s := tr.open("a:8080", 8080, func() uint64 { return last }, &latency.Window{})
	for range 3 {
		last++
		s.add(outcome(last, true, 500))
	}
	before := tr.judge.Verdict(tr.state).E
	other := releaseOf("r", func(r *v1alpha1.Release) { r.Spec.Plan.Judge.MaxErrors = percent("5%") })
	tr.follow(other, tr.effective(other), time.Now())
	if after := tr.judge.Verdict(tr.state).E; before <= 1 || after != before {
		t.Errorf("the evidence was %v and is %v", before, after)
	}
}

// desk is a controller that counts each batch once, and loses some and answers to some.
type desk struct {
	mu    sync.Mutex
	rand  *rand.Rand
	seqs  map[string]int64
	told  verdict.Counts
	wrong []string
	texts map[string]string // of the batches, by their numbers
	lost  int
}

func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b spec.Batch
	if err := json.NewDecoder(r.Body).Decode(&b); err != nil || r.URL.Path != spec.EvidencePath || r.Header.Get("Authorization") != "Bearer secret" {
		d.wrong = append(d.wrong, fmt.Sprint(err, r.URL, r.Header))
	}
	if d.rand.IntN(3) == 0 { // the request is lost
		d.lost++
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	key, seq := b.Node+"/"+b.Boot, strconv.FormatInt(b.Seq, 10)
	text, err := json.Marshal(b)
	if before, known := d.texts[key+seq]; err != nil || known && before != string(text) {
		d.wrong = append(d.wrong, "another batch has number "+seq)
	}
	d.texts[key+seq] = string(text)
	switch last := d.seqs[key]; {
	case b.Seq == last+1:
		d.seqs[key] = b.Seq
		d.told = verdict.Merge(d.told, b.Counts)
	case b.Seq != last:
		d.wrong = append(d.wrong, fmt.Sprintf("batch %d after %d", b.Seq, last))
	}
	if d.rand.IntN(3) == 0 { // the answer is
		d.lost++
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// courierTo brings batches to a server.
func courierTo(t *testing.T, s *httptest.Server) *courier {
	t.Helper()
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	c := newCourier(func(context.Context) (*core.Service, error) {
		return &core.Service{Spec: core.ServiceSpec{ClusterIP: host, Ports: []core.ServicePort{{Port: int32(n)}}}}, nil
	})
	c.token = func() (string, error) { return "secret", nil }
	t.Cleanup(c.client.CloseIdleConnections)
	return c
}

// However many batches and answers are lost, and agents begin anew, everything that was
// handed over counts once.
func TestWhatWasCountedCountsOnce(t *testing.T) {
	d := &desk{rand: rand.New(rand.NewPCG(5, 6)), seqs: map[string]int64{}, texts: map[string]string{}}
	s := httptest.NewServer(d)
	defer s.Close()
	c := courierTo(t, s)
	var sent verdict.Counts
	for boot := range 3 {
		o := &outbox{Batch: spec.Batch{Node: "n", Boot: strconv.Itoa(boot)}}
		for i := range 60 {
			counts := verdict.Counts{Cells: []verdict.Cell{{Weight: float64(1+i%3) / 100, Canary: verdict.Tally{Failed: int64(i % 2)}, Stable: verdict.Tally{Closed: [5]int64{int64(i)}}}}}
			sent = verdict.Merge(sent, counts)
			o.put(counts)
			if err := c.send(t.Context(), o.next()); err == nil {
				o.answered()
			}
		}
		for b := o.next(); b != nil; b = o.next() {
			if err := c.send(t.Context(), b); err == nil {
				o.answered()
			}
		}
	}
	want, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(d.told)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got) || d.wrong != nil || d.lost < 50 {
		t.Errorf("got %s, want %s; %v; %d were lost", got, want, d.wrong, d.lost)
	}
}

func TestAConvictionIsSentWithoutCounts(t *testing.T) {
	o := &outbox{}
	if b := o.next(); b != nil {
		t.Errorf("there is something to send: %+v", b)
	}
	o.Convicted = "errors"
	if b := o.next(); b == nil || b.Seq != 1 || b.Convicted != "errors" {
		t.Errorf("got %+v", b)
	}
	o.answered()
	if b := o.next(); b != nil {
		t.Errorf("it is sent again: %+v", b)
	}
}

// A batch that is not judged is not sent again, and the Service is asked for again when
// it can't be reached.
func TestTheControllersAnswers(t *testing.T) {
	status := http.StatusNotFound
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "so it is", status) }))
	defer s.Close()
	c := courierTo(t, s)
	find, asked := c.service, 0
	c.service = func(ctx context.Context) (*core.Service, error) { asked++; return find(ctx) }
	b := &spec.Batch{Namespace: "shop", Release: "r", Seq: 1}
	for _, step := range []struct {
		status, asked int
		want          string
	}{{404, 1, "the release is not judged"}, {204, 1, ""}, {403, 1, "403 Forbidden: so it is"}, {307, 2, "307 Temporary Redirect: so it is"}, {204, 3, ""}} {
		status = step.status
		err := c.send(t.Context(), b)
		if step.want == "" && err != nil || step.want != "" && (err == nil || !strings.HasSuffix(err.Error(), step.want)) || asked != step.asked {
			t.Errorf("%d: got %v, want %q; asked %d times, want %d", step.status, err, step.want, asked, step.asked)
		}
	}
	s.Close()
	if err := c.send(t.Context(), b); err == nil || !strings.HasPrefix(err.Error(), "bring what was counted of Release shop/r to the controller: ") {
		t.Errorf("got %v", err)
	}
}

// The trial goes on telling while the controller does not answer, and nobody waits.
func TestATrialTells(t *testing.T) {
	tr := trialOf(releaseOf("r"), func() {})
	ctx, end := context.WithCancel(t.Context())
	batches := make(chan *spec.Batch)
	answers := make(chan error)
	var done sync.WaitGroup
	defer done.Wait()
	defer end()
	done.Go(func() {
		tr.run(ctx, func(ctx context.Context, b *spec.Batch) error {
			select {
			case batches <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case err := <-answers:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	last := uint64(0)
	var mu sync.Mutex
	s := tr.open("a:8080", 8080, func() uint64 { mu.Lock(); defer mu.Unlock(); return last }, &latency.Window{})
	fail := func() {
		mu.Lock()
		last++
		n := last
		mu.Unlock()
		s.add(outcome(n, false, 500))
	}
	fail()
	b := <-batches
	fail() // while it is on its way
	answers <- errors.New("lost")
	if again := <-batches; again.Seq != b.Seq || len(again.Counts.Cells) != 1 || again.Counts.Cells[0].Stable.Failed != 1 {
		t.Errorf("sent again is %+v, was %+v", again, b)
	}
	answers <- nil
	if next := <-batches; next.Seq != 2 || next.Counts.Cells[0].Stable.Failed != 1 {
		t.Errorf("the next is %+v", next)
	}
	answers <- nil
}

// Doors report at any time, many at once.
func TestATrialOfManyDoors(t *testing.T) {
	tr := trialOf(releaseOf("r"), func() {})
	var all sync.WaitGroup
	for door := range 8 {
		var mu sync.Mutex
		last := uint64(0)
		s := tr.open(fmt.Sprint(door), 8080, func() uint64 { mu.Lock(); defer mu.Unlock(); return last }, &latency.Window{})
		all.Go(func() {
			for range 500 {
				mu.Lock()
				last++
				n := last
				mu.Unlock()
				s.add(outcome(n, n%20 == 0, 200))
			}
			s.close()
		})
	}
	for range 20 {
		tr.tick(time.Now())
	}
	all.Wait()
	tr.batch(time.Now())
	if n := tr.counters(); n.Decided != 4000 || n.Carried != 200 {
		t.Errorf("counted is %+v", n)
	}
	var told int64
	for _, c := range tr.outbox.out.Counts.Cells {
		told += c.Canary.Closed[0] + c.Stable.Closed[0]
	}
	for _, c := range tr.outbox.Counts.Cells {
		told += c.Canary.Closed[0] + c.Stable.Closed[0]
	}
	if told != 4000 || len(tr.sinks) != 0 {
		t.Errorf("%d requests are told, %d doors are left", told, len(tr.sinks))
	}
}

func BenchmarkOutcome(b *testing.B) {
	tr := trialOf(releaseOf("r"), func() {})
	for name, status := range map[string]int{"success": 200, "error": 500} {
		b.Run(name, func(b *testing.B) {
			last := uint64(0)
			s := tr.open(name, 8080, func() uint64 { return last }, &latency.Window{})
			defer s.close()
			for b.Loop() {
				last++
				s.add(outcome(last, false, status))
			}
		})
	}
}

func percent(s string) *intstr.IntOrString { return new(intstr.FromString(s)) }
