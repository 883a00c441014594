package traces

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// Limits of what waits to be sent.
const (
	maxWaiting = 256
	maxWait    = time.Hour
)

// Pauses after an attempt that has failed, and between lines about that in the log.
const (
	firstPause = time.Second
	lastPause  = time.Minute
	quiet      = 10 * time.Minute
)

// Uploader sends spans, as [otlptracehttp.NewClient] does.
type Uploader interface {
	UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error
}

// Wanted says whether the environment names a collector.
func Wanted() bool {
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// Collector is the one that the environment names, as OpenTelemetry specifies:
// OTEL_EXPORTER_OTLP_ENDPOINT, _HEADERS, _CERTIFICATE and so on.
func Collector() Uploader {
	return otlptracehttp.NewClient(otlptracehttp.WithRetry(otlptracehttp.RetryConfig{})) // a Sender has its own
}

// Sender sends traces in the background. Its fields are set before Run.
type Sender struct {
	To      Uploader
	Version string
	Log     *slog.Logger

	mu      sync.Mutex
	waiting []parcel
	news    chan struct{} // has room for one
	lost    int64
}

// parcel is a trace that waits.
type parcel struct {
	spans []*tracepb.Span
	since time.Time
}

// Send has a trace sent. It does not wait; where too many do, the oldest is lost.
func (s *Sender) Send(spans []*tracepb.Span) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.put(parcel{spans, time.Now()})
	news := s.bell()
	s.mu.Unlock()
	select {
	case news <- struct{}{}:
	default:
	}
}

// bell is made by whoever comes first. The lock is held.
func (s *Sender) bell() chan struct{} {
	if s.news == nil {
		s.news = make(chan struct{}, 1)
	}
	return s.news
}

func (s *Sender) put(p parcel) {
	if len(s.waiting) >= maxWaiting {
		s.waiting = s.waiting[1:]
		s.lost++
	}
	s.waiting = append(s.waiting, p)
}

// Load is how many traces wait, and how many were lost.
func (s *Sender) Load() (waiting int, lost int64) {
	if s == nil {
		return 0, 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting), s.lost
}

// Run sends until ctx ends.
func (s *Sender) Run(ctx context.Context) {
	s.mu.Lock()
	news := s.bell()
	s.mu.Unlock()
	var told time.Time
	pause := firstPause
	for {
		p, some := s.next()
		if !some {
			select {
			case <-ctx.Done():
				return
			case <-news:
			}
			continue
		}
		err := s.upload(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			pause = firstPause
			continue
		}
		s.again(p)
		if time.Since(told) > quiet {
			waiting, lost := s.Load()
			s.Log.Warn("the collector does not take traces; they wait for an hour, and are sent if it does by then", "err", err, "waiting", waiting, "lost", lost)
			told = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

func (s *Sender) next() (parcel, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		return parcel{}, false
	}
	p := s.waiting[0]
	s.waiting = s.waiting[1:]
	return p, true
}

// again puts a trace behind the others: it may be the one that is not taken.
func (s *Sender) again(p parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(p.since) > maxWait {
		s.lost++
		return
	}
	s.put(p)
}

func (s *Sender) upload(ctx context.Context, p parcel) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return s.To.UploadTraces(ctx, []*tracepb.ResourceSpans{{
		Resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{text(semconv.ServiceNameKey, "bight-controller"), text(semconv.ServiceVersionKey, s.Version)}},
		ScopeSpans: []*tracepb.ScopeSpans{{
			Scope: &commonpb.InstrumentationScope{Name: "github.com/bightdev/bight", Version: s.Version}, Spans: p.spans,
		}},
		SchemaUrl: semconv.SchemaURL,
	}})
}
