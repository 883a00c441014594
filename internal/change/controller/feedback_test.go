package controller

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/host"
)

func TestStatusesOfAChange(t *testing.T) {
	step := func(name, state, message string) v1alpha1.Step {
		return v1alpha1.Step{Name: name, State: state, Message: message}
	}
	for _, test := range []struct {
		name  string
		phase string
		says  string
		steps []v1alpha1.Step
		want  map[string]host.State
	}{
		{"under way", v1alpha1.Running, "", []v1alpha1.Step{step("review", v1alpha1.StepPassed, ""), step("build", v1alpha1.StepRunning, ""), step("test", v1alpha1.StepWaiting, "")},
			map[string]host.State{"bight/review": host.Success, "bight/build": host.Running, "bight/test": host.Pending, "bight/merge": host.Pending}},
		{"deployed", v1alpha1.Deployed, "", []v1alpha1.Step{step("test", v1alpha1.StepSkipped, "there are no tests"), step("merge", v1alpha1.StepPassed, ""), step("deploy/prod", v1alpha1.StepPassed, "")},
			map[string]host.State{"bight/test": host.Success, "bight/merge": host.Success, "bight/deploy/prod": host.Success}},
		{"refused", v1alpha1.Refused, "test: TestWord", []v1alpha1.Step{step("review", v1alpha1.StepPassed, ""), step("test", v1alpha1.StepFailed, "TestWord")},
			map[string]host.State{"bight/review": host.Success, "bight/test": host.Failure, "bight/merge": host.Failure}},
		{"a conflict has no step", v1alpha1.Refused, "conflicts in main.go", []v1alpha1.Step{step("review", v1alpha1.StepPassed, "")},
			map[string]host.State{"bight/review": host.Success, "bight/merge": host.Failure}},
		{"given up", v1alpha1.Cancelled, "branch fix was deleted", []v1alpha1.Step{step("test", v1alpha1.StepCancelled, "the change was cancelled")},
			map[string]host.State{"bight/test": host.Broken, "bight/merge": host.Broken}},
		{"its run was ended first", v1alpha1.Refused, "review: a secret", []v1alpha1.Step{step("review", v1alpha1.StepFailed, "a secret"), step("test", v1alpha1.StepCancelled, "nothing can be learnt from it any more")},
			map[string]host.State{"bight/review": host.Failure, "bight/test": host.Broken, "bight/merge": host.Failure}},
		{"to be tested on another base", v1alpha1.Running, "", []v1alpha1.Step{step("test", v1alpha1.StepCancelled, "together with shop-2: the branch has moved away from its base")},
			map[string]host.State{"bight/test": host.Pending, "bight/merge": host.Pending}},
		{"not taken by the host", v1alpha1.Failed, "merge: protected", []v1alpha1.Step{step("merge", v1alpha1.StepErred, "protected")},
			map[string]host.State{"bight/merge": host.Broken}},
		{"not seen yet", "", "", nil, map[string]host.State{}},
	} {
		m := &v1alpha1.Change{Status: v1alpha1.ChangeStatus{Phase: test.phase, Message: test.says, Steps: test.steps}}
		got := map[string]host.State{}
		for _, s := range statuses(m) {
			got[s.Context] = s.State
			if s.Description == "" || strings.Contains(s.Description, "\n") {
				t.Errorf("%s: %s is described as %q", test.name, s.Context, s.Description)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestWhatStrangersWriteIsPlain(t *testing.T) {
	m := &v1alpha1.Change{Status: v1alpha1.ChangeStatus{Phase: v1alpha1.Refused, Message: "see <script> | @everyone"}}
	m.Name = "shop-1"
	r := remarks(m, []finding{
		{Severity: "error", Message: "```\n![x](https://evil) @all", Tool: "vet", Rule: "R1", File: "a.go", Line: 3},
		{Severity: "note", Message: "of the whole", Tool: "vet", Rule: "R2"},
	})
	if len(r.Remarks) != 1 || r.Remarks[0].Fingerprint == "" || r.Remarks[0].Path != "a.go" {
		t.Fatalf("remarks %+v", r.Remarks)
	}
	for _, text := range []string{r.Remarks[0].Body, r.Summary} {
		for _, bad := range []string{"<script", "@all", "@everyone", "![x]", "```"} {
			if strings.Contains(text, bad) {
				t.Errorf("%q is in %q", bad, text)
			}
		}
	}
	if !strings.Contains(r.Summary, "of the whole") {
		t.Errorf("a finding of no line is not told: %s", r.Summary)
	}
}

// board is a host that notes the statuses that it is told.
type board struct {
	mu     sync.Mutex
	status int // that it answers with
	got    []string
}

func (b *board) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.status != 0 {
		w.WriteHeader(b.status)
		return
	}
	var fields struct{ Context, State string }
	_ = json.NewDecoder(r.Body).Decode(&fields)
	b.got = append(b.got, fields.Context+" "+fields.State)
	w.WriteHeader(http.StatusCreated)
}

// answer sets what is answered from now on, and returns what was told until now.
func (b *board) answer(status int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	got := b.got
	b.status, b.got = status, nil
	return got
}

func TestAHostIsToldWhatItDoesNotKnow(t *testing.T) {
	b := &board{}
	server := httptest.NewServer(b)
	defer server.Close()
	dir := t.TempDir()
	open := func() *follower {
		return &follower{c: &Controller{files: &files{dir: dir}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}}
	}
	to := &host.Gitea{Connection: host.Connection{URL: server.URL, Repository: "acme/shop"}}
	m := &v1alpha1.Change{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop-1", UID: "1"}, Spec: v1alpha1.ChangeSpec{Commit: strings.Repeat("1", 40)}}
	m.Status = v1alpha1.ChangeStatus{Phase: v1alpha1.Running, Steps: []v1alpha1.Step{{Name: "review", State: v1alpha1.StepRunning}}}
	f := open()
	tell := func() []string {
		t.Helper()
		if err := f.tellOf(t.Context(), to, m, false); err != nil {
			t.Fatal(err)
		}
		return b.answer(0)
	}
	if diff := cmp.Diff([]string{"bight/review pending", "bight/merge pending"}, tell()); diff != "" {
		t.Errorf("at first (-want +got):\n%s", diff)
	}
	if got := tell(); got != nil {
		t.Errorf("told again: %q", got)
	}
	f = open() // another controller
	m.Status.Steps[0].State = v1alpha1.StepPassed
	if diff := cmp.Diff([]string{"bight/review success"}, tell()); diff != "" {
		t.Errorf("by another controller (-want +got):\n%s", diff)
	}

	m.Status.Phase, m.Status.Message = v1alpha1.Refused, "it conflicts"
	b.answer(http.StatusForbidden)
	if err := f.tellOf(t.Context(), to, m, false); err == nil {
		t.Error("a refusal is no error")
	}
	b.answer(0)
	if diff := cmp.Diff([]string{"bight/merge failure"}, tell()); diff != "" {
		t.Errorf("after a refusal (-want +got):\n%s", diff)
	}

	m.Status.Message = "it conflicts elsewhere"
	b.answer(http.StatusUnprocessableEntity) // the commit is gone, say
	tell()
	if got := tell(); got != nil {
		t.Errorf("what the host never takes is told again: %q", got)
	}

	m.UID = "2" // made anew, of the same commit
	if diff := cmp.Diff([]string{"bight/review success", "bight/merge failure"}, tell()); diff != "" {
		t.Errorf("made anew (-want +got):\n%s", diff)
	}
}

func TestATimelineHasNoTimesThatMove(t *testing.T) {
	begun := metav1.NewMicroTime(time.Now())
	m := &v1alpha1.Change{Status: v1alpha1.ChangeStatus{Phase: v1alpha1.Running, Steps: []v1alpha1.Step{{Name: "test", State: v1alpha1.StepRunning, Started: &begun}}}}
	if a, b := digest(remarks(m, nil)), digest(remarks(m, nil)); a != b {
		t.Error("the same change is told differently")
	}
}
