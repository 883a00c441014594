package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/host"
)

// feedback is what the host is to be told of an app's changes. The newest counts.
type feedback struct {
	kicked chan struct{}

	mu      sync.Mutex
	changes []*v1alpha1.Change
	told    map[client.ObjectKey]told
	good    bool
	wrong   *sourceError
}

// told is what the host was told of a change, by digests. It is kept among the
// change's files, so that a controller does not tell everything again.
type told struct {
	UID      string            `json:"uid"`
	Statuses map[string]string `json:"statuses,omitempty"` // by context
	Comments string            `json:"comments,omitempty"`
}

// toldFile is its name there.
const toldFile = "told.json"

// reported is the condition that says whether the host takes statuses and comments.
const reported = "Reported"

// condition is how it is, if anything was told yet.
func (b *feedback) condition() (metav1.Condition, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.wrong != nil:
		return metav1.Condition{Type: reported, Status: metav1.ConditionFalse, Reason: b.wrong.Reason, Message: b.wrong.Text}, true
	case b.good:
		return metav1.Condition{Type: reported, Status: metav1.ConditionTrue, Reason: "Told", Message: "the host shows how changes are"}, true
	}
	return metav1.Condition{}, false
}

// inform has the host told how an app's changes are.
func (c *Controller) inform(s *subject) {
	f := c.sources.of(client.ObjectKeyFromObject(s.app))
	if f == nil || s.app.Spec.Source == nil || s.app.Spec.Source.Host == "" || s.app.Spec.Source.Host == "none" {
		return
	}
	var all []*v1alpha1.Change
	for _, m := range s.view.Changes {
		all = append(all, m.DeepCopy())
	}
	b := &f.feedback
	b.mu.Lock()
	b.changes = all
	b.mu.Unlock()
	select {
	case b.kicked <- struct{}{}:
	default:
	}
}

// tell tells the host until ctx ends. It is in the way of nothing: a host that takes
// nothing is tried again, less and less often.
func (f *follower) tell(ctx context.Context) {
	retry := firstRetry
	kicked, again := f.feedback.kicked, (<-chan time.Time)(nil)
	for {
		select {
		case <-ctx.Done():
			return
		case <-kicked:
		case <-again:
		}
		kicked, again = f.feedback.kicked, nil
		if err := f.tellAll(ctx); err == nil {
			retry = firstRetry
			continue
		}
		kicked, again = nil, time.After(retry)
		retry = min(2*retry, lastRetry)
	}
}

// tellAll tells what the host does not know yet of all changes, and notes how that
// went.
func (f *follower) tellAll(ctx context.Context) error {
	a := &v1alpha1.App{}
	if err := f.c.client.Get(ctx, f.key, a); err != nil || a.Spec.Source == nil {
		return client.IgnoreNotFound(err)
	}
	b := &f.feedback
	b.mu.Lock()
	all := b.changes
	b.mu.Unlock()
	conn, err := f.c.connection(ctx, a)
	if err == nil && conn.host == nil {
		return nil
	}
	newest := map[int64]*v1alpha1.Change{}
	for _, m := range all {
		if n := m.Spec.Request; n != 0 && (newest[n] == nil || newest[n].Spec.Order < m.Spec.Order) {
			newest[n] = m
		}
	}
	for _, m := range all {
		if err == nil {
			err = f.tellOf(ctx, conn.host, m, newest[m.Spec.Request] == m)
		}
	}
	var wrong *sourceError
	if err != nil {
		wrong = conn.diagnose(&hostError{err})
	}
	b.mu.Lock()
	changed := b.good != (err == nil) || err != nil && (b.wrong == nil || *b.wrong != *wrong)
	b.good, b.wrong = err == nil, wrong
	for key := range b.told {
		if !slices.ContainsFunc(all, func(m *v1alpha1.Change) bool { return client.ObjectKeyFromObject(m) == key }) {
			delete(b.told, key)
		}
	}
	b.mu.Unlock()
	if changed {
		f.c.wakeApp(f.key.Namespace, f.key.Name)
	}
	return err
}

// tellOf tells what the host does not know yet of one change. What the host will never
// take is not tried again.
func (f *follower) tellOf(ctx context.Context, to host.Host, m *v1alpha1.Change, comment bool) error {
	key := client.ObjectKeyFromObject(m)
	was := f.known(m)
	now := told{UID: was.UID, Statuses: maps.Clone(was.Statuses), Comments: was.Comments}
	if now.Statuses == nil {
		now.Statuses = map[string]string{}
	}
	var failed error
	for _, s := range statuses(m) {
		if d := digest(s); failed == nil && now.Statuses[s.Context] != d {
			failed = f.final(m, s.Context, to.SetStatus(ctx, m.Spec.Commit, s))
			if failed == nil {
				now.Statuses[s.Context] = d
			}
		}
	}
	if comment && failed == nil {
		review := remarks(m, f.c.findings(m))
		if d := digest(review); now.Comments != d {
			failed = f.final(m, "comments", host.Comment(ctx, to, int(m.Spec.Request), review))
			if failed == nil {
				now.Comments = d
			}
		}
	}
	if maps.Equal(now.Statuses, was.Statuses) && now.Comments == was.Comments {
		return failed
	}
	f.feedback.mu.Lock()
	f.feedback.told[key] = now
	f.feedback.mu.Unlock()
	_, err := f.c.files.put(m.Namespace, m.Name, toldFile, raw(now))
	return errors.Join(failed, err)
}

// final returns an error that another attempt may not have.
func (f *follower) final(m *v1alpha1.Change, what string, err error) error {
	if answer, ok := errors.AsType[*host.APIError](err); ok {
		switch answer.Status {
		case http.StatusBadRequest, http.StatusNotFound, http.StatusGone, http.StatusConflict, http.StatusUnprocessableEntity:
			f.c.Log.Info("the host does not take what a change says", "change", m.Name, "what", what, "err", err)
			return nil
		}
	}
	return err
}

// known is what the host was told of a change.
func (f *follower) known(m *v1alpha1.Change) told {
	b := &f.feedback
	b.mu.Lock()
	defer b.mu.Unlock()
	key := client.ObjectKeyFromObject(m)
	if b.told == nil {
		b.told = map[client.ObjectKey]told{}
	}
	t, ok := b.told[key]
	if !ok {
		if kept, err := f.c.files.get(m.Namespace + "/" + m.Name + "/" + toldFile); err == nil {
			_ = json.Unmarshal(kept, &t) // a damaged one is as none
		}
	}
	if t.UID != string(m.UID) {
		t = told{UID: string(m.UID)}
	}
	b.told[key] = t
	return t
}

func digest(v any) string {
	sum := sha256.Sum256(raw(v))
	return hex.EncodeToString(sum[:16])
}

// statusContext begins the names of statuses at hosts.
const statusContext = "bight/"

// statuses is what a host shows beside a change's commit: each step, and always how
// the merge is, which may end without any step.
func statuses(m *v1alpha1.Change) []host.Status {
	var all []host.Status
	merge := false
	for _, s := range m.Status.Steps {
		merge = merge || s.Name == v1alpha1.MergeStep
		all = append(all, host.Status{Context: statusContext + s.Name, State: hostState(m, s), Description: describeStep(s)})
	}
	if merge || m.Status.Phase == "" {
		return all
	}
	s := host.Status{Context: statusContext + v1alpha1.MergeStep, State: host.Pending, Description: "waits for the steps before it"}
	switch m.Status.Phase {
	case v1alpha1.Refused:
		s.State, s.Description = host.Failure, strings.ToLower(m.Status.Phase)+": "+oneLine(m.Status.Message)
	case v1alpha1.Failed, v1alpha1.Cancelled, v1alpha1.Superseded:
		s.State, s.Description = host.Broken, strings.ToLower(m.Status.Phase)+": "+oneLine(m.Status.Message)
	case v1alpha1.Held:
		s.Description = oneLine(m.Status.Message)
	}
	return append(all, s)
}

// hostState is a step's state as hosts know it.
func hostState(m *v1alpha1.Change, s v1alpha1.Step) host.State {
	switch s.State {
	case v1alpha1.StepRunning:
		return host.Running
	case v1alpha1.StepPassed, v1alpha1.StepSkipped:
		return host.Success
	case v1alpha1.StepCancelled:
		if change.Ended(m) {
			return host.Broken
		} // else another run will show what this one has not
	case v1alpha1.StepFailed:
		return host.Failure
	case v1alpha1.StepErred:
		return host.Broken
	}
	return host.Pending
}

// describeStep is a step's result in a line.
func describeStep(s v1alpha1.Step) string {
	text := oneLine(s.Message)
	if s.Cached != "" {
		text = strings.TrimSuffix("cached: "+text, ": ")
	}
	if text == "" {
		text = strings.ToLower(s.State)
	}
	return text
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// finding is what of a review's findings a host is told.
type finding struct {
	Rule        string `json:"rule"`
	Tool        string `json:"tool"`
	Severity    string `json:"severity"`
	Message     string `json:"message"`
	URL         string `json:"url"`
	File        string `json:"file"`
	Line        int    `json:"line"`
	Fingerprint string `json:"fingerprint"`
}

// findings are those of a change's review.
func (c *Controller) findings(m *v1alpha1.Change) []finding {
	s := change.StepOf(m.Status.Steps, v1alpha1.ReviewStep)
	if s == nil || s.Evidence[reviewFile] == "" {
		return nil
	}
	b, err := c.files.get(s.Evidence[reviewFile])
	var report struct {
		Findings []finding `json:"findings"`
	}
	if err == nil {
		err = json.Unmarshal(b, &report)
	}
	if err != nil {
		c.Log.Warn("the findings of a change are not told", "change", m.Name, "err", err)
	}
	return report.Findings
}

// reviewFile is the name of the report among the files that a review leaves.
const reviewFile = "review.json"

// maxRemarks is how many comments a request gets: more nobody reads.
const maxRemarks = 50

// remarks is what stands on a request: a comment for each finding on a line, and one
// with the timeline.
func remarks(m *v1alpha1.Change, found []finding) host.Review {
	r := host.Review{Commit: m.Spec.Commit}
	var rest []finding
	for _, f := range found {
		if f.File == "" || f.Line <= 0 || len(r.Remarks) == maxRemarks {
			rest = append(rest, f)
			continue
		}
		print := f.Fingerprint
		if print == "" {
			print = strings.Join([]string{f.Tool, f.Rule, f.File, f.Message}, " ")
		}
		r.Remarks = append(r.Remarks, host.Remark{Fingerprint: print, Path: f.File, Line: f.Line, Body: remarkText(f)})
	}
	r.Summary = timeline(m, rest)
	return r
}

func remarkText(f finding) string {
	text := fmt.Sprintf("**%s**: %s (%s %s)", plain(f.Severity), plain(f.Message), plain(f.Tool), plain(f.Rule))
	if strings.HasPrefix(f.URL, "https://") && !strings.ContainsAny(f.URL, " ()<>\n") {
		text += " [explained](" + f.URL + ")"
	}
	return text
}

// timeline is a change's timeline in Markdown, with the findings that stand nowhere
// else.
func timeline(m *v1alpha1.Change, rest []finding) string {
	var b strings.Builder
	phase := strings.ToLower(m.Status.Phase)
	if phase == "" {
		phase = strings.ToLower(v1alpha1.Pending)
	}
	fmt.Fprintf(&b, "**Bight**: change `%s` is %s", m.Name, phase)
	if m.Status.Message != "" {
		b.WriteString(": " + plain(m.Status.Message))
	}
	if m.Status.Risk != nil {
		fmt.Fprintf(&b, " (risk %d of 100)", *m.Status.Risk)
	}
	b.WriteString("\n")
	if len(m.Status.Steps) > 0 {
		b.WriteString("\n| step | | took | |\n|---|---|---|---|\n")
	}
	for _, s := range m.Status.Steps {
		took := ""
		if s.Started != nil && s.Ended != nil {
			took = s.Ended.Sub(s.Started.Time).Round(time.Millisecond).String()
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", plain(s.Name), strings.ToLower(s.State), took, plain(describeStep(s)))
	}
	for i, f := range rest {
		if i == maxRemarks {
			fmt.Fprintf(&b, "\n- and %d more findings", len(rest)-i)
			break
		}
		where := ""
		if f.File != "" {
			where = plain(f.File) + ": "
		}
		b.WriteString("\n- " + where + remarkText(f))
	}
	return b.String()
}

// plain is text that Markdown shows as it is and that calls nobody: a part of it is
// what strangers have written.
func plain(s string) string {
	return plainly.Replace(oneLine(s))
}

var plainly = strings.NewReplacer("\\", `\\`, "`", "\\`", "*", `\*`, "[", `\[`, "]", `\]`, "|", `\|`, "<", "&lt;", ">", "&gt;", "@", "@\u200b", "#", "#\u200b")
