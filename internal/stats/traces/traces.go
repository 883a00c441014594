// Package traces tells an OpenTelemetry collector of changes and releases that have ended:
// each is a trace, a change with a span for each of its steps, a release linked to its
// change.
//
// [OfChange] and [OfRelease] make the traces; the IDs in them come from the objects' UIDs,
// so what is sent twice is the same trace. The main type is [Sender], which sends them by
// OTLP over HTTP. A collector that is away costs a bounded number of traces and a line in
// the log now and then. A Sender is safe for concurrent use.
package traces

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/stats"
)

// maxEvents are the events that a span has at most: findings, and what has happened.
const maxEvents = 100

// maxText is how long a text in a span is at most.
const maxText = 1000

// trace makes the spans of one.
type trace struct {
	id    []byte
	spans []*tracepb.Span
}

// newTrace is that of an attempt at an object; there is one for what can't be tried again.
func newTrace(uid types.UID, attempt int32) *trace {
	name := "bight/" + string(uid)
	if attempt > 0 {
		name = fmt.Sprintf("%s#%d", name, attempt)
	}
	sum := sha256.Sum256([]byte(name))
	return &trace{id: sum[:16]}
}

// spanID is that of the span of a name, "" for the root.
func (t *trace) spanID(name string) []byte {
	sum := sha256.Sum256(append(t.id[:16:16], name...))
	return sum[:8]
}

// add adds the span of a name below the root; the root's is "".
func (t *trace) add(name, shown string, began, ended time.Time, attributes ...*commonpb.KeyValue) *tracepb.Span {
	if ended.Before(began) {
		ended = began
	}
	s := &tracepb.Span{
		TraceId: t.id, SpanId: t.spanID(name), Name: shown, Kind: tracepb.Span_SPAN_KIND_INTERNAL, Flags: 1,
		StartTimeUnixNano: uint64(began.UnixNano()), EndTimeUnixNano: uint64(ended.UnixNano()), Attributes: attributes,
	}
	if name != "" {
		s.ParentSpanId = t.spanID("")
	}
	t.spans = append(t.spans, s)
	return s
}

func text[K ~string](key K, value string) *commonpb.KeyValue {
	if len(value) > maxText {
		value = strings.ToValidUTF8(value[:maxText], "") + "…"
	}
	return &commonpb.KeyValue{Key: string(key), Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: strings.ToValidUTF8(value, "\uFFFD")}}}
}

func number[K ~string](key K, value int64) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: string(key), Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: value}}}
}

func boolean(key string, value bool) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: value}}}
}

func list(key string, values []string) *commonpb.KeyValue {
	all := &commonpb.ArrayValue{}
	for _, v := range values {
		all.Values = append(all.Values, text("", v).Value)
	}
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: all}}}
}

// given leaves out texts that say nothing.
func given(all ...*commonpb.KeyValue) []*commonpb.KeyValue {
	var out []*commonpb.KeyValue
	for _, a := range all {
		if s, is := a.Value.Value.(*commonpb.AnyValue_StringValue); !is || s.StringValue != "" {
			out = append(out, a)
		}
	}
	return out
}

func failed(why string) *tracepb.Status {
	return &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: text("", why).Value.GetStringValue()}
}

func event(s *tracepb.Span, at time.Time, name string, attributes ...*commonpb.KeyValue) {
	if len(s.Events) < maxEvents {
		s.Events = append(s.Events, &tracepb.Span_Event{TimeUnixNano: uint64(at.UnixNano()), Name: name, Attributes: attributes})
	} else {
		s.DroppedEventsCount++
	}
}

// OfChange is the trace of a change that has ended.
func OfChange(m *v1alpha1.Change, findings []stats.Finding) []*tracepb.Span {
	t := newTrace(m.UID, m.Status.Attempt)
	began := m.CreationTimestamp.Time
	if m.Spec.Order > 0 {
		began = time.Unix(0, m.Spec.Order)
	}
	if m.Status.Attempt > 0 {
		began = time.Time{}
	}
	for _, s := range m.Status.Steps {
		if s.Started != nil && (began.IsZero() || s.Started.Time.Before(began)) {
			began = s.Started.Time
		}
	}
	ended := stats.EndOf(m)
	if began.IsZero() {
		began = ended
	}
	root := t.add("", "change "+m.Spec.App, began, ended, given(
		text(semconv.CICDPipelineNameKey, m.Spec.App), text(semconv.CICDPipelineRunIDKey, m.Name), text(semconv.CICDPipelineResultKey, resultOf(m.Status.Phase)),
		text(semconv.K8SNamespaceNameKey, m.Namespace), text(semconv.VCSRefHeadRevisionKey, m.Spec.Commit),
		text(semconv.VCSRefHeadNameKey, strings.TrimPrefix(m.Spec.Ref, "refs/heads/")),
		text("bight.change.title", m.Spec.Title), text("bight.change.phase", strings.ToLower(m.Status.Phase)), text("bight.change.merged", m.Status.Merged),
		number("bight.change.attempt", int64(m.Status.Attempt)),
	)...)
	if m.Spec.Request != 0 {
		root.Attributes = append(root.Attributes, text(semconv.VCSChangeIDKey, fmt.Sprint(m.Spec.Request)))
	}
	if m.Status.Risk != nil {
		root.Attributes = append(root.Attributes, number("bight.change.risk", int64(*m.Status.Risk)))
	}
	if m.Status.Phase == v1alpha1.Refused || m.Status.Phase == v1alpha1.Failed {
		root.Status = failed(m.Status.Message)
	}
	if m.Status.Attempt > 0 {
		before := newTrace(m.UID, m.Status.Attempt-1)
		root.Links = append(root.Links, &tracepb.Span_Link{TraceId: before.id, SpanId: before.spanID("")})
	}
	for _, s := range m.Status.Steps {
		t.step(m, s, findings)
	}
	return t.spans
}

func (t *trace) step(m *v1alpha1.Change, s v1alpha1.Step, findings []stats.Finding) {
	if s.Ended == nil {
		return
	}
	began := s.Ended.Time
	if s.Started != nil {
		began = s.Started.Time
	}
	span := t.add("step/"+s.Name, s.Name, began, s.Ended.Time, given(
		text(semconv.CICDPipelineTaskNameKey, s.Name), text(semconv.CICDPipelineTaskRunIDKey, m.Name+"/"+s.Name), text(semconv.CICDPipelineTaskRunResultKey, result(s.State)),
		text("bight.step.state", strings.ToLower(s.State)), boolean("bight.step.cached", s.Cached != ""), text("bight.step.cached.why", s.Cached),
		text("bight.step.message", s.Message), text("bight.step.key", s.Key), text(semconv.CICDWorkerNameKey, s.Worker),
	)...)
	if environment, is := strings.CutPrefix(s.Name, v1alpha1.DeployStep+"/"); is {
		span.Attributes = append(span.Attributes, text(semconv.DeploymentEnvironmentNameKey, environment))
	}
	if len(s.Services) > 0 {
		span.Attributes = append(span.Attributes, list("bight.step.services", s.Services))
	}
	if s.State == v1alpha1.StepFailed || s.State == v1alpha1.StepErred {
		span.Status = failed(s.Message)
	}
	if s.Name != v1alpha1.ReviewStep {
		return
	}
	for _, f := range findings {
		event(span, s.Ended.Time, "finding", given(
			text("bight.finding.rule", f.Rule), text("bight.finding.tool", f.Tool), text("bight.finding.severity", f.Severity), text("bight.finding.message", f.Message),
			text(semconv.CodeFilePathKey, f.File), number(semconv.CodeLineNumberKey, int64(f.Line)),
		)...)
	}
}

// result is what the semantic conventions call the state of a step.
func result(state string) string {
	switch state {
	case v1alpha1.StepPassed:
		return "success"
	case v1alpha1.StepFailed:
		return "failure"
	case v1alpha1.StepErred:
		return "error"
	case v1alpha1.StepSkipped:
		return "skip"
	case v1alpha1.StepCancelled:
		return "cancellation"
	}
	return strings.ToLower(state)
}

// resultOf is what they call the phase of a change.
func resultOf(phase string) string {
	switch phase {
	case v1alpha1.Deployed:
		return "success"
	case v1alpha1.Refused:
		return "failure"
	case v1alpha1.Failed:
		return "error"
	}
	return "cancellation"
}

// OfRelease is the trace of a release that has ended as an event says. m is the change that
// made it, nil if none did or it is no more.
func OfRelease(r *v1alpha1.Release, e stats.Event, m *v1alpha1.Change) []*tracepb.Span {
	t := newTrace(r.UID, 0)
	root := t.add("", "release "+r.Spec.Deployment, e.Began, e.Ended, given(
		text(semconv.DeploymentNameKey, r.Name), text(semconv.DeploymentStatusKey, map[bool]string{true: "succeeded", false: "failed"}[e.End == stats.Promoted]),
		text(semconv.DeploymentEnvironmentNameKey, cmp.Or(e.Environment, e.Namespace)), text(semconv.K8SNamespaceNameKey, r.Namespace),
		text(semconv.K8SDeploymentNameKey, r.Spec.Deployment), text(semconv.ServiceVersionKey, r.Spec.Version),
		text("bight.release.end", e.End), text("bight.release.message", r.Status.Message), text("bight.release.verdict", e.Verdict),
		boolean("bight.release.convicted", r.Status.Convicted), number("bight.release.requests", e.Requests), number("bight.release.failed_requests", e.Errors),
	)...)
	if v := r.Status.Verdict; v != nil {
		root.Attributes = append(root.Attributes, given(text("bight.release.e", v.E), text("bight.release.abort_at", v.AbortAt))...)
	}
	if e.End != stats.Promoted && e.End != stats.Superseded {
		root.Status = failed(r.Status.Message)
	}
	if m != nil {
		change := newTrace(m.UID, attemptOf(r.Spec.Change))
		root.Links = append(root.Links, &tracepb.Span_Link{TraceId: change.id, SpanId: change.spanID(""), Attributes: []*commonpb.KeyValue{text("bight.change", r.Spec.Change)}})
	}
	for _, x := range r.Status.Events {
		event(root, x.Time.Time, x.Text)
	}
	stretch := func(name string, from, to time.Time) {
		if !from.IsZero() && to.After(from) {
			t.add("stretch/"+name, name, from, to)
		}
	}
	// Without a share it starts all the time; once it has one, until it has all or none.
	lasts := earliest(e.Full, e.Undoing, e.Ended)
	stretch("start", e.Began, earliest(e.Exposed, lasts))
	stretch("canary", e.Exposed, lasts)
	stretch("undo", e.Undoing, e.Ended)
	return t.spans
}

// earliest is the first of some times that are known.
func earliest(all ...time.Time) (first time.Time) {
	for _, t := range all {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// attemptOf is which attempt at its change has made a release.
func attemptOf(change string) int32 {
	var n int32
	if _, attempt, found := strings.Cut(change, "#"); found {
		_, _ = fmt.Sscanf(attempt, "%d", &n) // the first, where that is no number
	}
	return n
}
