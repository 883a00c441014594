package change

import (
	"strings"
	"testing"

	"github.com/bightdev/bight/api/v1alpha1"
)

func TestTheTestsOfStrangersAreRunWhenPolicySaysSo(t *testing.T) {
	for _, c := range []struct {
		name     string
		policy   string
		approved bool
		broken   bool
		runs     int
		phase    string
		says     string
	}{
		{"by default they wait", "", false, false, 0, v1alpha1.Held, "bight change approve c000"},
		{"approved", v1alpha1.StrangersApprove, true, false, 1, v1alpha1.Held, "its tests passed, apart"},
		{"approved and broken", "", true, true, 1, v1alpha1.Refused, "test: "},
		{"without being asked", v1alpha1.StrangersTest, false, false, 1, v1alpha1.Held, "its tests passed, apart"},
		{"never", v1alpha1.StrangersReview, true, false, 0, v1alpha1.Held, "has nothing of it run"},
	} {
		m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 2)
		preview := true // which a stranger's change gets none of
		m.view.App.Spec.Policy.Preview, m.view.App.Spec.Policy.Strangers = &preview, c.policy
		s := m.change("c000")
		s.Spec.Untrusted, s.Spec.Approved, s.Spec.Merge = true, c.approved, false
		m.change("c001").Spec.Cancel = true
		m.broken["c000"] = c.broken
		m.settle(all)
		phase, message := s.Status.Phase, s.Status.Message
		if phase == "" {
			phase, _, message = Describe(m.view, s)
		}
		if phase != c.phase || !strings.Contains(message, c.says) || m.runs != c.runs || s.Status.Merged != "" {
			t.Errorf("%s: %s: %s; %d runs, merged %q", c.name, phase, message, m.runs, s.Status.Merged)
		}
	}
}

func TestAStrangersChangeIsNeverMerged(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 2)
	s := m.change("c000")
	s.Spec.Untrusted, s.Spec.Approved, s.Spec.Merge = true, true, true
	m.settle(all)
	if s.Status.Merged != "" || m.change("c001").Status.Phase != v1alpha1.Deployed {
		t.Errorf("merged as %q; the other one is %q", s.Status.Merged, m.change("c001").Status.Phase)
	}
}

func TestARunEndsWhenItMayBeRunNoMore(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 1)
	s := m.change("c000")
	s.Spec.Untrusted, s.Spec.Approved, s.Spec.Merge = true, true, false
	s.Status.Steps = []v1alpha1.Step{{Name: v1alpha1.ReviewStep, State: v1alpha1.StepPassed}}
	s.Status.Runs = []v1alpha1.Run{{Base: m.view.Tree, Changes: []string{"c000"}, Heads: []string{s.Spec.Commit}, State: v1alpha1.RunRunning, Attempt: 1}}
	m.view.App.Spec.Policy.Strangers = v1alpha1.StrangersReview
	got := Decide(m.view)
	if len(got) != 1 || got[0].Kind != Abandon {
		t.Errorf("actions %+v", got)
	}
}
