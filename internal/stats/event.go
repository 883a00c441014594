// Package stats says how fast and how safely changes reach users: the metrics of DORA,
// and what canaries have caught.
//
// What is known are [Event]s, one for each change, deployment and release that has ended;
// [OfChange] and [OfRelease] read them from the objects of the API. [Compute] makes a
// [Report] of them. docs/stats.md defines every figure. All of this is pure; the
// packages below keep events, count them and send them on.
package stats

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/release"
)

// Path is where the controller serves a [Report].
const Path = "/v1/stats"

// ErrForbidden tells that somebody may not read what was asked for.
var ErrForbidden = errors.New("RBAC does not grant that")

// Kind says what has ended.
type Kind string

// Kinds of Event.
const (
	Change  Kind = "change"
	Deploy  Kind = "deploy" // the step of a change that brings it to an environment
	Release Kind = "release"
)

// Ends of deployments and releases. Those of changes are their phases.
const (
	// Passed is a deployment that serves.
	Passed = "passed"
	// Failed is one that does not, or did not.
	Failed = "failed"
	// Along is a change that an environment has since it has a later one.
	Along = "along"
	// Same is a change that altered nothing of an environment.
	Same = "same"

	// Promoted is a release with all requests.
	Promoted = "promoted"
	// Caught is one that the evidence was against before it had all requests.
	Caught = "caught"
	// Fallen is one that had all requests, and was undone.
	Fallen = "fallen"
	// Stopped is one that somebody has undone before it had all requests.
	Stopped = "stopped"
	// Stillborn is one that was undone for want of a pod that is ready, or of a verdict.
	Stillborn = "stillborn"
	// Superseded is one whose place something newer has taken, or that went with another one of
	// its change before it had all requests.
	Superseded = "superseded"
)

// Place is where something was brought to.
type Place struct {
	// Tenant is the namespace of the App, "" where there is none.
	Tenant string `json:"tenant,omitempty"`
	App    string `json:"app,omitempty"`
	// Environment is its name in the App, and Production says that it is the App's last.
	Environment string `json:"environment,omitempty"`
	Production  bool   `json:"production,omitempty"`
	// Namespace is the environment's.
	Namespace string `json:"namespace,omitempty"`
}

// PlaceOf is an environment of an App.
func PlaceOf(a *v1alpha1.App, environment, namespace string) Place {
	p := Place{Tenant: a.Namespace, App: a.Name, Environment: environment, Namespace: namespace}
	if n := len(a.Spec.Environments); n > 0 {
		p.Production = a.Spec.Environments[n-1].Name == environment
	}
	return p
}

// Event is what has ended, and how. It has nothing of who did it.
type Event struct {
	Kind Kind `json:"kind"`
	// ID is the same for the same, however often it is seen.
	ID    string    `json:"id"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	Place
	// Name is that of the Change or the Release.
	Name string `json:"name"`
	End  string `json:"end"`

	// Change, of a deployment and of a release that one has made, is which change's which
	// attempt it is: NAMESPACE/NAME#ATTEMPT.
	Change string `json:"change,omitempty"`
	// Services are those that were altered, and Images what they are since, shortened.
	Services []string          `json:"services,omitempty"`
	Images   map[string]string `json:"images,omitempty"`

	// Committed, of a deployment, is when its commit was made; With is the change that it
	// went along with; Back says that what was before was put back.
	Committed time.Time `json:"committed,omitzero"`
	With      string    `json:"with,omitempty"`
	Back      bool      `json:"back,omitempty"`

	// Steps, of a change, are those that workers did, and Known those of them that had been
	// done before with the same inputs.
	Steps int `json:"steps,omitempty"`
	Known int `json:"known,omitempty"`

	// Of a release: when it had requests, and all of them; when it began to lose them, and
	// what the verdict was since when.
	Exposed  time.Time `json:"exposed,omitzero"`
	Full     time.Time `json:"full,omitzero"`
	Undoing  time.Time `json:"undoing,omitzero"`
	Verdict  string    `json:"verdict,omitempty"`
	Judged   time.Time `json:"judged,omitzero"`
	Requests int64     `json:"requests,omitempty"`
	Errors   int64     `json:"errors,omitempty"`
}

// Took is how long it took.
func (e Event) Took() time.Duration { return e.Ended.Sub(e.Began) }

// Finding is what a review has found.
type Finding struct {
	Rule, Tool, Severity, Message string
	File                          string
	Line                          int
}

// Attempt is how a change's attempt is called in Event.Change and in a Release's
// spec.change.
func Attempt(m *v1alpha1.Change) string {
	return fmt.Sprintf("%s/%s#%d", m.Namespace, m.Name, m.Status.Attempt)
}

// OfChange returns what has ended of a change: deployments, and itself. a is its App, nil
// for one that is no more.
func OfChange(a *v1alpha1.App, m *v1alpha1.Change) []Event {
	var all []Event
	for _, s := range m.Status.Steps {
		if e, ok := ofDeploy(a, m, s); ok {
			all = append(all, e)
		}
	}
	if !change.Ended(m) {
		return all
	}
	e := Event{
		Kind: Change, ID: fmt.Sprintf("c/%s/%d", m.UID, m.Status.Attempt), Name: m.Name, End: strings.ToLower(m.Status.Phase),
		Place: Place{Tenant: m.Namespace, App: m.Spec.App}, Began: m.CreationTimestamp.Time, Ended: EndOf(m),
	}
	for _, s := range m.Status.Steps {
		ofWorker := s.Name == v1alpha1.ReviewStep || s.Name == v1alpha1.BuildStep || s.Name == v1alpha1.TestStep
		if ofWorker && (s.State == v1alpha1.StepPassed || s.State == v1alpha1.StepFailed) {
			e.Steps++
			if s.Cached != "" {
				e.Known++
			}
		}
	}
	return append(all, e)
}

// EndOf is when a change ended: when its condition says so, or else with its last step.
func EndOf(m *v1alpha1.Change) time.Time {
	end := m.CreationTimestamp.Time
	for _, s := range m.Status.Steps {
		if s.Ended != nil && s.Ended.After(end) {
			end = s.Ended.Time
		}
	}
	for _, c := range m.Status.Conditions {
		if c.Type == v1alpha1.Succeeded && c.LastTransitionTime.After(end) {
			end = c.LastTransitionTime.Time
		}
	}
	return end
}

// ofDeploy is a step that has brought a change to an environment, or tried to.
func ofDeploy(a *v1alpha1.App, m *v1alpha1.Change, s v1alpha1.Step) (Event, bool) {
	environment, is := strings.CutPrefix(s.Name, v1alpha1.DeployStep+"/")
	if !is || s.Started == nil || s.Ended == nil {
		return Event{}, false
	}
	p := Place{Tenant: m.Namespace, App: m.Spec.App, Environment: environment, Namespace: m.Spec.App + "-" + environment}
	if a != nil {
		p = PlaceOf(a, environment, p.Namespace)
		for _, e := range a.Spec.Environments {
			if e.Name == environment {
				p.Namespace = change.Namespace(a.Name, e)
			}
		}
	}
	e := Event{
		Kind: Deploy, ID: fmt.Sprintf("d/%s/%s/%d", m.UID, environment, s.Ended.UnixMicro()), Name: m.Name, Place: p,
		Change: Attempt(m), Began: s.Started.Time, Ended: s.Ended.Time, Services: s.Services,
	}
	if m.Spec.Committed != nil {
		e.Committed = m.Spec.Committed.Time
	}
	switch {
	case s.State == v1alpha1.StepPassed && s.Evidence["with"] != "":
		e.End, e.With = Along, s.Evidence["with"]
	case s.State == v1alpha1.StepPassed && s.Cached != "":
		e.End = Same
	case s.State == v1alpha1.StepPassed:
		e.End = Passed
	case s.State == v1alpha1.StepFailed && s.Evidence["commit"] != "":
		e.End, e.Back = Failed, s.Evidence["back"] != ""
	default:
		return Event{}, false // nothing was deployed, or nobody knows
	}
	for _, service := range s.Services {
		if image := m.Status.Images[service]; image != "" {
			if e.Images == nil {
				e.Images = map[string]string{}
			}
			e.Images[service] = short(image)
		}
	}
	return e, true
}

// short is a digest that is long enough to tell images apart.
func short(image string) string {
	_, digest, found := strings.Cut(image, "@sha256:")
	if !found {
		return image
	}
	return digest[:min(12, len(digest))]
}

// OfRelease returns how a release has ended, false for one of which something is left. p is
// the environment that it is in.
func OfRelease(p Place, r *v1alpha1.Release) (Event, bool) {
	s := r.Status
	if s.Ended == nil || s.Route != nil || !release.Phase(s.Phase).Ended() {
		return Event{}, false
	}
	e := Event{
		Kind: Release, ID: "r/" + string(r.UID), Name: r.Name, Place: p, Change: r.Spec.Change, Services: []string{r.Spec.Deployment},
		Began: r.CreationTimestamp.Time, Ended: s.Ended.Time, Exposed: at(s.Exposed), Full: at(s.Full), Undoing: at(s.Undoing),
	}
	if s.Started != nil {
		e.Began = s.Started.Time
	}
	if v := s.Verdict; v != nil {
		e.Verdict, e.Judged, e.Requests, e.Errors = v.Is, at(v.Since), v.Requests, v.Errors
	}
	switch {
	case s.Phase == string(release.Promoted):
		e.End = Promoted
	case s.Phase == string(release.Superseded):
		e.End = Superseded
	case !e.Full.IsZero():
		e.End = Fallen
	case s.Convicted:
		e.End = Caught
	case r.Annotations[v1alpha1.WithAnnotation] != "":
		e.End = Superseded
	case r.Spec.Orders.Undo, deletedUnderWay(r):
		e.End = Stopped
	default:
		e.End = Stillborn
	}
	if image := s.Canary.Image; image != "" && (e.End == Promoted || e.End == Fallen) {
		e.Images = map[string]string{r.Spec.Deployment: short(image)}
	}
	return e, true
}

// deletedUnderWay says whether somebody has deleted a Release before it had ended, which undoes it.
func deletedUnderWay(r *v1alpha1.Release) bool {
	return r.DeletionTimestamp != nil && r.DeletionTimestamp.Time.Before(r.Status.Ended.Time)
}

func at(t *metav1.MicroTime) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}

// touches says that an event is about one of some services. One that names none is about
// all.
func touches(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
