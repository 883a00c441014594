package traces

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/stats"
)

var noon = time.Date(2026, 5, 21, 12, 0, 0, 0, time.UTC)

func micro(t time.Time) *metav1.MicroTime { m := metav1.NewMicroTime(t); return &m }

func after(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }

// collector takes traces as any other does.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*tracepb.Span
	of    []string // services that they are of
	came  chan struct{}
}

func newCollector(t *testing.T) *collector {
	c := &collector{came: make(chan struct{}, 100)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var request collectorpb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(b, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" || r.Header.Get("Api-Key") != "k" {
			t.Errorf("%s %s with %v: %v", r.Method, r.URL, r.Header, err)
		}
		c.mu.Lock()
		for _, of := range request.ResourceSpans {
			c.of = append(c.of, valueOf(of.Resource.Attributes, "service.name"))
			for _, scope := range of.ScopeSpans {
				c.spans = append(c.spans, scope.Spans...)
			}
		}
		c.mu.Unlock()
		c.came <- struct{}{}
	}))
	t.Cleanup(c.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k")
	return c
}

func valueOf(all []*commonpb.KeyValue, key string) string {
	for _, a := range all {
		if a.Key != key {
			continue
		}
		switch v := a.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			return v.StringValue
		case *commonpb.AnyValue_IntValue:
			return fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_BoolValue:
			return fmt.Sprint(v.BoolValue)
		case *commonpb.AnyValue_ArrayValue:
			return fmt.Sprint(len(v.ArrayValue.Values))
		}
	}
	return ""
}

// told is a span as a line.
func told(all []*tracepb.Span, s *tracepb.Span) string {
	parent := "-"
	for _, p := range all {
		if bytes.Equal(p.SpanId, s.ParentSpanId) && bytes.Equal(p.TraceId, s.TraceId) {
			parent = p.Name
		}
	}
	line := fmt.Sprintf("%s < %s, %d to %d s", s.Name, parent, (int64(s.StartTimeUnixNano)-noon.UnixNano())/1e9, (int64(s.EndTimeUnixNano)-noon.UnixNano())/1e9)
	for _, key := range []string{
		"cicd.pipeline.result", "cicd.pipeline.task.run.result", "bight.step.cached", "bight.step.cached.why", "deployment.environment.name", "bight.step.services",
		"deployment.status", "bight.release.failed_requests",
	} {
		if v := valueOf(s.Attributes, key); v != "" {
			line += ", " + key[strings.LastIndexByte(key, '.')+1:] + "=" + v
		}
	}
	if s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
		line += ", error: " + s.Status.Message
	}
	for _, e := range s.Events {
		line += "; " + e.Name + " " + valueOf(e.Attributes, "bight.finding.rule")
	}
	return line
}

func refused() *v1alpha1.Change {
	m := &v1alpha1.Change{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop-1", UID: "u-1", CreationTimestamp: metav1.NewTime(noon)}}
	m.Spec = v1alpha1.ChangeSpec{App: "shop", Commit: "c0ffee", Ref: "refs/heads/main", Title: "third", Order: noon.Add(-time.Second).UnixNano()}
	m.Status.Phase, m.Status.Message = v1alpha1.Refused, "deploy/prod: release cart-2 of cart was undone"
	m.Status.Steps = []v1alpha1.Step{
		{Name: "review", State: v1alpha1.StepPassed, Started: micro(after(1)), Ended: micro(after(3)), Worker: "ada"},
		{Name: "build", State: v1alpha1.StepPassed, Started: micro(after(1)), Ended: micro(after(2)), Cached: "same inputs as shop-0"},
		{Name: "preview", State: v1alpha1.StepSkipped},
		{Name: "deploy/prod", State: v1alpha1.StepFailed, Started: micro(after(4)), Ended: micro(after(9)), Message: "undone", Services: []string{"cart"}},
	}
	return m
}

func caught() (*v1alpha1.Release, stats.Event) {
	r := &v1alpha1.Release{ObjectMeta: metav1.ObjectMeta{Namespace: "shop-prod", Name: "cart-2", UID: "u-2"}}
	r.Spec = v1alpha1.ReleaseSpec{Deployment: "cart", Change: "shop/shop-1#0", Version: "third"}
	r.Status = v1alpha1.ReleaseStatus{
		Phase: "Undone", Message: "E = 8690", Convicted: true, Started: micro(after(5)), Exposed: micro(after(6)), Undoing: micro(after(8)), Ended: micro(after(9)),
		Verdict: &v1alpha1.VerdictStatus{Is: "bad", Since: micro(after(8)), Errors: 3, Requests: 9},
		Events:  []v1alpha1.ReleaseEvent{{Time: *micro(after(6)), Text: "5 % of the requests"}},
	}
	e, _ := stats.OfRelease(stats.Place{Tenant: "shop", App: "shop", Environment: "prod", Namespace: "shop-prod"}, r)
	return r, e
}

func TestWhatACollectorGets(t *testing.T) {
	c := newCollector(t)
	if !Wanted() {
		t.Error("no collector is wanted, though the environment names one")
	}
	s := &Sender{To: Collector(), Version: "v1", Log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	tasks.Go(func() { s.Run(ctx) })
	defer tasks.Wait()
	defer stop()
	finding := stats.Finding{Rule: "SA4006", Tool: "staticcheck", Severity: "warning", Message: "never used", File: "main.go", Line: 7}
	s.Send(OfChange(refused(), []stats.Finding{finding}))
	r, e := caught()
	s.Send(OfRelease(r, e, refused()))
	for range 2 {
		select {
		case <-c.came:
		case <-time.After(20 * time.Second):
			t.Fatal("the collector gets nothing")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var got []string
	for _, span := range c.spans {
		got = append(got, told(c.spans, span))
	}
	want := []string{
		"change shop < -, -1 to 9 s, result=failure, error: deploy/prod: release cart-2 of cart was undone",
		"review < change shop, 1 to 3 s, result=success, cached=false; finding SA4006",
		"build < change shop, 1 to 2 s, result=success, cached=true, why=same inputs as shop-0",
		"deploy/prod < change shop, 4 to 9 s, result=failure, cached=false, name=prod, services=1, error: undone",
		"release cart < -, 5 to 9 s, name=prod, status=failed, failed_requests=3, error: E = 8690; 5 % of the requests ",
		"start < release cart, 5 to 6 s", "canary < release cart, 6 to 8 s", "undo < release cart, 8 to 9 s",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"bight-controller", "bight-controller"}, c.of); d != "" {
		t.Errorf("of services %v", c.of)
	}
	ids := map[string]bool{}
	for _, span := range c.spans {
		if len(span.TraceId) != 16 || len(span.SpanId) != 8 || ids[string(span.SpanId)] {
			t.Errorf("%s has the ids %x and %x", span.Name, span.TraceId, span.SpanId)
		}
		ids[string(span.SpanId)] = true
	}
	links := c.spans[4].Links
	if len(links) != 1 || !bytes.Equal(links[0].TraceId, c.spans[0].TraceId) || !bytes.Equal(links[0].SpanId, c.spans[0].SpanId) {
		t.Errorf("the release is linked to %v, and its change is %x", links, c.spans[0].TraceId)
	}
}

func TestATraceThatIsSentTwiceIsTheSame(t *testing.T) {
	a, b := OfChange(refused(), nil), OfChange(refused(), nil)
	for i := range a {
		if !proto.Equal(a[i], b[i]) {
			t.Errorf("%s differs", a[i].Name)
		}
	}
	again := refused()
	again.Status.Attempt = 1
	c := OfChange(again, nil)
	if bytes.Equal(a[0].TraceId, c[0].TraceId) || len(c[0].Links) != 1 || !bytes.Equal(c[0].Links[0].TraceId, a[0].TraceId) {
		t.Errorf("the second attempt is trace %x with links %v, the first %x", c[0].TraceId, c[0].Links, a[0].TraceId)
	}
	if at := time.Unix(0, int64(c[0].StartTimeUnixNano)); !at.Equal(after(1)) {
		t.Errorf("the second attempt begins at %v", at)
	}
}

func TestASpanIsBounded(t *testing.T) {
	m := refused()
	m.Status.Steps[0].Message = strings.Repeat("é", 10_000) + "\xff"
	spans := OfChange(m, slices.Repeat([]stats.Finding{{Rule: "r", Message: strings.Repeat("x", 100_000)}}, 1000))
	b, err := proto.Marshal(&tracepb.ScopeSpans{Spans: spans})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(spans[1].Events); n != maxEvents || spans[1].DroppedEventsCount != 900 || len(b) > 200_000 {
		t.Errorf("%d events, %d dropped, %d bytes", n, spans[1].DroppedEventsCount, len(b))
	}
}

// away is a collector that takes nothing until it is back.
type away struct {
	mu    sync.Mutex
	back  bool
	tries int
	got   []string
}

func (a *away) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tries++
	if !a.back {
		return errors.New("connection refused")
	}
	a.got = append(a.got, hex.EncodeToString(spans[0].ScopeSpans[0].Spans[0].TraceId[:1]))
	return nil
}

func TestACollectorThatIsAwayCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a := &away{}
		s := &Sender{To: a, Log: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, stop := context.WithCancel(t.Context())
		var tasks sync.WaitGroup
		tasks.Go(func() { s.Run(ctx) })
		for i := range maxWaiting + 50 {
			s.Send([]*tracepb.Span{{TraceId: []byte{byte(i)}}})
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		waiting, lost := s.Load()
		if waiting+int(lost) < maxWaiting+49 || waiting > maxWaiting || lost < 49 || lost > 60 {
			t.Errorf("%d wait, %d are lost", waiting, lost)
		}
		if n := strings.Count(log.String(), "\n"); n < 1 || n > 3 || a.tries > 40 {
			t.Errorf("%d lines in the log after %d tries in half an hour:\n%s", n, a.tries, log.String())
		}
		a.mu.Lock()
		a.back = true
		a.mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if waiting, _ := s.Load(); waiting != 0 || len(a.got) < maxWaiting-10 {
			t.Errorf("it is back, and has got %d; %d wait", len(a.got), waiting)
		}
		// What can't be sent for an hour is given up.
		a.back = false
		s.Send([]*tracepb.Span{{TraceId: []byte{1}}})
		_, before := s.Load()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if waiting, lost := s.Load(); waiting != 0 || lost != before+1 {
			t.Errorf("after hours %d wait, %d are lost", waiting, lost-before)
		}
		stop()
		tasks.Wait()
	})
}

func TestNobodyWaitsForACollector(t *testing.T) {
	var none *Sender
	none.Send(nil)
	if waiting, lost := none.Load(); waiting != 0 || lost != 0 {
		t.Error("without a collector traces wait")
	}
}
