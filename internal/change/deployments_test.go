package change

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/api/v1alpha1"
)

func TestOnlyTheNewestIsDeployedAndThoseBeforeGoAlong(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 3)
	m.settle(all)
	if d := cmp.Diff([]string{"prod c002"}, m.deploys); d != "" {
		t.Errorf("deployments (-want +got):\n%s", d)
	}
	if got := StepOf(m.change("c000").Status.Steps, "deploy/prod").Message; got != "went along with c002" {
		t.Errorf("the first change's step says %q", got)
	}
}

func TestNothingPassesAnEnvironmentThatWaitsForAPerson(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "stage"}, {Name: "prod", Promotion: v1alpha1.Manual}, {Name: "eu"}}, 1)
	m.settle(all)
	c := m.change("c000")
	if phase, _, message := Describe(m.view, c); phase != v1alpha1.Held || !strings.Contains(message, "bight change promote c000 prod") {
		t.Errorf("phase %q, message %q", phase, message)
	}
	c.Spec.Promote = []string{"prod"}
	m.settle(all)
	if d := cmp.Diff([]string{"stage c000", "prod c000", "eu c000"}, m.deploys); d != "" {
		t.Errorf("deployments (-want +got):\n%s", d)
	}
	if c.Status.Phase != v1alpha1.Deployed {
		t.Errorf("phase %q", c.Status.Phase)
	}
}

// TestWhatIsLetInHasThoseBeforeItAlong lets the newer of two changes into an environment
// that takes a person's word: the older one is there, too, and waits for nothing.
func TestWhatIsLetInHasThoseBeforeItAlong(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "stage"}, {Name: "prod", Promotion: v1alpha1.Manual}}, 1)
	m.settle(all)
	newer := m.push("c001")
	m.settle(all)
	newer.Spec.Promote = []string{"prod"}
	m.settle(all)
	want := map[string]string{"c000": v1alpha1.Deployed, "c001": v1alpha1.Deployed}
	if d := cmp.Diff(want, phases(m)); d != "" {
		t.Errorf("phases (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"stage c000", "stage c001", "prod c001"}, m.deploys); d != "" {
		t.Errorf("deployments (-want +got):\n%s", d)
	}
	if got := StepOf(m.change("c000").Status.Steps, "deploy/prod"); got == nil || got.Message != "went along with c001" {
		t.Errorf("the older change's step is %+v", got)
	}
}

func TestAChangeThatDoesNotServeIsRefusedAndTheNextGoesOn(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "stage"}, {Name: "prod"}}, 1)
	m.bad["c000"] = true
	m.settle(all)
	c := m.change("c000")
	if c.Status.Phase != v1alpha1.Refused || c.Status.Message != "deploy/stage: it does not serve" {
		t.Errorf("phase %q, message %q", c.Status.Phase, c.Status.Message)
	}
	m.push("c001")
	m.settle(all)
	if got := m.change("c001").Status.Phase; got != v1alpha1.Deployed {
		t.Errorf("the next one is %q", got)
	}
}

// batch has three changes merged together, of which the newest is to be deployed now.
func batch(t *testing.T) *model {
	m := newModel(t, []v1alpha1.Environment{{Name: "prod"}}, 3)
	for range 100 {
		for _, a := range Decide(m.view) {
			if a.Kind == Deploy {
				return m
			}
			m.do(a)
		}
	}
	t.Fatal("nothing is deployed")
	return nil
}

// TestWhatWasMergedTogetherFailsTogether has changes deployed that are one artifact.
func TestWhatWasMergedTogetherFailsTogether(t *testing.T) {
	m := batch(t)
	m.bad["c002"] = true
	m.settle(all)
	if d := cmp.Diff([]string{"prod c002"}, m.tried); d != "" {
		t.Errorf("deployments (-want +got):\n%s", d)
	}
	for name, want := range map[string]string{
		"c000": "together with c002: deploy/prod: it does not serve",
		"c001": "together with c002: deploy/prod: it does not serve",
		"c002": "deploy/prod: it does not serve",
	} {
		if st := m.change(name).Status; st.Phase != v1alpha1.Refused || st.Message != want {
			t.Errorf("%s is %q, %q", name, st.Phase, st.Message)
		}
	}

	// The one that was deployed is retried when what it wants is there.
	m.bad["c002"] = false
	for _, name := range []string{"c002", "c000"} {
		m.change(name).Spec.Attempt = 1
	}
	m.settle(all)
	want := map[string]string{"c000": v1alpha1.Deployed, "c001": v1alpha1.Refused, "c002": v1alpha1.Deployed}
	if d := cmp.Diff(want, phases(m)); d != "" {
		t.Errorf("phases after a retry (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"prod c002", "prod c002"}, m.tried); d != "" {
		t.Errorf("deployments (-want +got):\n%s", d)
	}
}

// TestAnyOfThoseThatFailedTogetherIsRetried has one retried that is not the newest.
func TestAnyOfThoseThatFailedTogetherIsRetried(t *testing.T) {
	m := batch(t)
	m.bad["c002"] = true
	m.settle(all)
	m.bad["c002"] = false // what it wants is there
	m.change("c001").Spec.Attempt = 1
	m.settle(all)
	want := map[string]string{"c000": v1alpha1.Refused, "c001": v1alpha1.Deployed, "c002": v1alpha1.Refused}
	if d := cmp.Diff(want, phases(m)); d != "" {
		t.Errorf("phases (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"prod c002", "prod c001"}, m.tried); d != "" {
		t.Errorf("deployments (-want +got):\n%s", d)
	}
}

// TestWhatFailedTogetherGoesAlongWithWhatIsNewer has a change merged before anybody has
// looked at what came of those that were merged together.
func TestWhatFailedTogetherGoesAlongWithWhatIsNewer(t *testing.T) {
	for _, bad := range []bool{false, true} {
		m := batch(t)
		m.bad["c002"], m.bad["c003"] = true, bad
		m.do(Action{Kind: Deploy, Change: "c002", Environment: "prod", Step: "deploy/prod"})
		newer := m.push("c003")
		newer.Status.Runs = []v1alpha1.Run{{Base: m.view.Tree, Changes: []string{"c003"}, Heads: []string{newer.Spec.Commit}, State: v1alpha1.RunPassed}}
		m.merge(Action{Kind: Merge, Change: "c003", Changes: []string{"c003"}})
		m.settle(all)
		phase := v1alpha1.Deployed
		if bad {
			phase = v1alpha1.Refused
		}
		want := map[string]string{"c000": phase, "c001": phase, "c002": v1alpha1.Refused, "c003": phase}
		if d := cmp.Diff(want, phases(m)); d != "" {
			t.Errorf("the newer one is bad: %t; phases (-want +got):\n%s", bad, d)
		}
		if d := cmp.Diff([]string{"prod c002", "prod c003"}, m.tried); d != "" {
			t.Errorf("deployments (-want +got):\n%s", d)
		}
	}
}

// TestWhatWasRefusedIsDeployedNowhereElse has a change refused by the first environment,
// and the next one by the second.
func TestWhatWasRefusedIsDeployedNowhereElse(t *testing.T) {
	m := newModel(t, []v1alpha1.Environment{{Name: "stage"}, {Name: "prod"}}, 1)
	m.bad["stage c000"], m.bad["prod c001"] = true, true
	m.settle(all)
	m.push("c001")
	m.settle(all)
	if d := cmp.Diff([]string{"stage c000", "stage c001", "prod c001"}, m.tried); d != "" {
		t.Errorf("deployments (-want +got):\n%s", d)
	}
	// An environment that is new is another matter.
	m.push("c002")
	m.settle(all)
	m.view.App.Spec.Environments = append(m.view.App.Spec.Environments, v1alpha1.Environment{Name: "eu"})
	m.settle(all)
	if d := cmp.Diff([]string{"stage c002", "prod c002", "eu c002"}, m.tried[3:]); d != "" {
		t.Errorf("deployments (-want +got):\n%s", d)
	}
}
