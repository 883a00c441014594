package deploy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/app"
)

// Cause says what kind of thing went wrong with a rollout.
type Cause string

// Causes of a [Failure].
const (
	CauseImage         Cause = "image"         // the image cannot be pulled
	CauseContainer     Cause = "container"     // the container cannot be made or started
	CauseCrash         Cause = "crash"         // the process ends again and again
	CauseUnschedulable Cause = "unschedulable" // no node takes the pod
	CauseRefused       Cause = "refused"       // the API server refuses the pod: quota, policy
	CauseProbe         Cause = "probe"         // it runs but does not say that it is ready
	CauseStart         Cause = "start"         // a volume or the network is missing
	CauseGone          Cause = "gone"          // somebody deleted it
)

// Failure is why a service will not become ready.
type Failure struct {
	Service   string
	Pod       string // "" where there is none
	Container string
	Cause     Cause
	Message   string        // in the cluster's own words
	After     time.Duration // how long it was given, 0 where that is not the reason

	ExitCode int  // CauseCrash
	OOM      bool // CauseCrash: it wanted more memory than it may have

	// Log is the end of the process's output. Previous tells that the output is of
	// the container before the present one.
	Log      []string
	Previous bool
}

// Error says what, where, why and what to do next, and ends with the process's
// last lines where there are any.
func (f *Failure) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "service %s: ", f.Service)
	if f.Pod != "" {
		fmt.Fprintf(&b, "pod %s ", f.Pod)
	}
	what, next := f.words()
	b.WriteString(what)
	if next != "" {
		b.WriteString("; " + next)
	}
	if len(f.Log) > 0 {
		b.WriteString("\nits last output:")
		for _, l := range f.Log {
			b.WriteString("\n  " + l)
		}
	}
	return b.String()
}

// Brief says in one line, without the service's name, what went wrong and what of the
// process's output tells most.
func (f *Failure) Brief() string {
	what, _ := f.words()
	if f.Pod != "" {
		what = "pod " + f.Pod + " " + what
	}
	if line := telling(f.Log); line != "" && f.Cause == CauseCrash {
		what += ": " + line
	}
	return what
}

// telling is the line of a process's output that says most about its end: what Go says
// of a panic comes before the stacks, everything else at the end.
func telling(log []string) string {
	last := ""
	for _, line := range log {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return line
		}
		if line != "" {
			last = line
		}
	}
	return last
}

func (f *Failure) words() (what, next string) {
	given := ""
	if f.After > 0 {
		given = fmt.Sprintf(" for %d s", int(f.After.Round(time.Second).Seconds()))
	}
	switch f.Cause {
	case CauseImage:
		return "cannot get its image: " + f.Message, "check that the registry runs and that the cluster's nodes reach it"
	case CauseContainer:
		return "cannot start its container: " + f.Message, ""
	case CauseCrash:
		if f.OOM {
			return f.Message, "it used more memory than it may; raise the limit or use less"
		}
		if f.ExitCode == 0 {
			return f.Message, "a service has to keep running; if it is a job, tell Bight to ignore it in bight.yaml"
		}
		if len(f.Log) == 0 {
			return f.Message, "it wrote nothing; run it by hand to see why"
		}
		return f.Message, "its last output says why, bight logs " + f.Service + " shows all of it"
	case CauseUnschedulable:
		return "fits on no node" + given + ": " + f.Message, "free capacity, or take other environments down"
	case CauseRefused:
		return "the cluster refuses its pods" + given + ": " + f.Message, ""
	case CauseProbe:
		return "runs" + given + " but is not ready: " + f.Message, "check that it listens on that port, on all addresses, or correct ports and health in bight.yaml"
	case CauseStart:
		return "cannot start" + given + ": " + f.Message, ""
	default:
		return f.Message, "run bight up again"
	}
}

// RolloutError tells which services failed, and which were not ready when the
// wait ended.
type RolloutError struct {
	Failures []*Failure
	Waiting  []Verdict
	Err      error // why the wait ended early, or nil
}

func (e *RolloutError) Error() string {
	var parts []string
	for _, f := range e.Failures {
		parts = append(parts, f.Error())
	}
	if e.Err != nil {
		for _, v := range e.Waiting {
			parts = append(parts, fmt.Sprintf("service %s is not ready: %s", v.Service, v.Why))
		}
		parts = append(parts, "stopped waiting: "+e.Err.Error())
	}
	return strings.Join(parts, "\n")
}

// Unwrap gives the failures and what ended the wait.
func (e *RolloutError) Unwrap() []error {
	var errs []error
	for _, f := range e.Failures {
		errs = append(errs, f)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

// pullWords is kubelet's most telling word about an image: the event of the
// attempt says more than the state of waiting for the next.
func pullWords(image string, w *corev1.ContainerStateWaiting, events []*corev1.Event) string {
	for _, e := range slices.Backward(events) {
		if e.Reason == "Failed" && strings.HasPrefix(e.Message, "Failed to pull image") {
			return e.Message
		}
	}
	if w.Message == "" {
		return w.Reason + " " + image
	}
	return w.Message
}

// notReady tells what has not been answered yet by a process that runs.
func notReady(p *corev1.Pod, events []*corev1.Event) string {
	agent, ok := AgentIn(&p.Spec, p.Labels[labelName])
	if !ok || agent.Ready == "" {
		return probeWords(events)
	}
	// Kubelet asks the agent, and sees nothing but its answer.
	kind, at, _ := strings.Cut(agent.Ready, ":")
	switch kind {
	case app.HealthHTTP:
		return "GET :" + at + " has no good answer"
	case app.HealthGRPC:
		return "the gRPC health check at :" + at + " has not said that it serves"
	}
	return "nothing answers at :" + at
}

// probeWords is what the last probe complained about.
func probeWords(events []*corev1.Event) string {
	for _, e := range slices.Backward(events) {
		if e.Reason == "Unhealthy" {
			return strings.TrimSpace(e.Message)
		}
	}
	return "its readiness probe has not succeeded"
}

// exitWords tells how a process ended.
func exitWords(code int32, reason string) string {
	switch {
	case reason == "OOMKilled":
		return "was killed because it ran out of memory"
	case code > 128 && code < 160:
		return fmt.Sprintf("ends at once with exit code %d (signal %d)", code, code-128)
	default:
		return fmt.Sprintf("ends at once with exit code %d", code)
	}
}

// lines splits output into at most the last 20 lines.
func lines(s string) []string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return nil
	}
	all := strings.Split(s, "\n")
	return all[max(0, len(all)-20):]
}
