package stats

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

func micro(t time.Time) *metav1.MicroTime { m := metav1.NewMicroTime(t); return &m }

func app() *v1alpha1.App {
	a := &v1alpha1.App{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}}
	a.Spec.Environments = []v1alpha1.Environment{{Name: "stage"}, {Name: "prod", Namespace: "live"}}
	return a
}

// shipped is a change that was reviewed, and brought to stage and prod.
func shipped() *v1alpha1.Change {
	m := &v1alpha1.Change{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop-1", UID: "u", CreationTimestamp: metav1.NewTime(noon)}}
	committed := metav1.NewTime(noon.Add(-time.Minute))
	m.Spec.App, m.Spec.Committed = "shop", &committed
	m.Status.Phase, m.Status.Attempt = v1alpha1.Deployed, 1
	m.Status.Images = map[string]string{"cart": "registry.example.com/cart@sha256:0123456789abcdef", "stock": "registry.example.com/stock@sha256:fedc"}
	step := func(name string, minute int, s v1alpha1.Step) v1alpha1.Step {
		s.Name = name
		if s.State == "" {
			s.State = v1alpha1.StepPassed
		}
		s.Started, s.Ended = micro(noon.Add(time.Duration(minute)*time.Minute)), micro(noon.Add(time.Duration(minute+1)*time.Minute))
		return s
	}
	m.Status.Steps = []v1alpha1.Step{
		step("review", 0, v1alpha1.Step{}), step("build", 1, v1alpha1.Step{Cached: "same inputs"}), step("preview", 2, v1alpha1.Step{State: v1alpha1.StepSkipped}),
		step("deploy/stage", 3, v1alpha1.Step{Evidence: map[string]string{"commit": "c"}, Cached: "the environment is so already"}),
		step("deploy/prod", 4, v1alpha1.Step{Evidence: map[string]string{"commit": "c"}, Services: []string{"cart"}}),
	}
	return m
}

func TestEventsOfAChange(t *testing.T) {
	at := func(minute int) time.Time { return noon.Add(time.Duration(minute) * time.Minute) }
	stage := Place{Tenant: "shop", App: "shop", Environment: "stage", Namespace: "shop-stage"}
	live := Place{Tenant: "shop", App: "shop", Environment: "prod", Namespace: "live", Production: true}
	want := []Event{
		{Kind: Deploy, ID: "d/u/stage/1779365040000000", Name: "shop-1", Place: stage, End: Same, Change: "shop/shop-1#1", Began: at(3), Ended: at(4), Committed: at(-1)},
		{
			Kind: Deploy, ID: "d/u/prod/1779365100000000", Name: "shop-1", Place: live, End: Passed, Change: "shop/shop-1#1", Began: at(4), Ended: at(5), Committed: at(-1),
			Services: []string{"cart"}, Images: map[string]string{"cart": "0123456789ab"},
		},
		{Kind: Change, ID: "c/u/1", Name: "shop-1", Place: Place{Tenant: "shop", App: "shop"}, End: "deployed", Began: at(0), Ended: at(5), Steps: 2, Known: 1},
	}
	if d := cmp.Diff(want, OfChange(app(), shipped())); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestHowADeploymentEnds(t *testing.T) {
	for name, c := range map[string]struct {
		step v1alpha1.Step
		end  string // "" for none
		back bool
	}{
		"put back":                {v1alpha1.Step{State: v1alpha1.StepFailed, Evidence: map[string]string{"commit": "c", "back": "b"}}, Failed, true},
		"failed for good":         {v1alpha1.Step{State: v1alpha1.StepFailed, Evidence: map[string]string{"commit": "c"}}, Failed, false},
		"refused before it began": {v1alpha1.Step{State: v1alpha1.StepFailed}, "", false},
		"not known":               {v1alpha1.Step{State: v1alpha1.StepErred}, "", false},
		"running":                 {v1alpha1.Step{State: v1alpha1.StepRunning}, "", false},
		"went along":              {v1alpha1.Step{State: v1alpha1.StepPassed, Evidence: map[string]string{"with": "shop-2"}}, Along, false},
	} {
		m := shipped()
		c.step.Name, c.step.Started, c.step.Ended = "deploy/prod", micro(noon), micro(noon)
		m.Status.Phase, m.Status.Steps = v1alpha1.Running, []v1alpha1.Step{c.step}
		all := OfChange(nil, m)
		switch {
		case c.end == "" && len(all) > 0:
			t.Errorf("%s: %+v", name, all)
		case c.end != "" && (len(all) != 1 || all[0].End != c.end || all[0].Back != c.back || all[0].With != c.step.Evidence["with"]):
			t.Errorf("%s: %+v, want %s", name, all, c.end)
		}
	}
}

func TestHowAReleaseEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.Release)
		want   string // "" for none
	}{
		{"under way", func(r *v1alpha1.Release) { r.Status.Phase, r.Status.Ended = string(release.Progressing), nil }, ""},
		{"with pods to be ended", func(r *v1alpha1.Release) { r.Status.Route = &v1alpha1.Routing{} }, ""},
		{"promoted", func(r *v1alpha1.Release) { r.Status.Phase = string(release.Promoted) }, Promoted},
		{"caught", func(r *v1alpha1.Release) { r.Status.Convicted = true }, Caught},
		{"caught after it had everything", func(r *v1alpha1.Release) { r.Status.Convicted, r.Status.Full = true, micro(noon) }, Fallen},
		{"stopped", func(r *v1alpha1.Release) { r.Spec.Orders.Undo = true }, Stopped},
		{"deleted under way", func(r *v1alpha1.Release) { r.DeletionTimestamp = &metav1.Time{Time: noon.Add(-time.Second)} }, Stopped},
		{"deleted later", func(r *v1alpha1.Release) { r.DeletionTimestamp = &metav1.Time{Time: noon.Add(time.Minute)} }, Stillborn},
		{"undone with another", func(r *v1alpha1.Release) {
			r.Spec.Orders.Undo, r.Annotations = true, map[string]string{v1alpha1.WithAnnotation: "its change failed"}
		}, Superseded},
		{"caught before another took it along", func(r *v1alpha1.Release) {
			r.Status.Convicted, r.Annotations = true, map[string]string{v1alpha1.WithAnnotation: "its change failed"}
		}, Caught},
		{"taken back", func(r *v1alpha1.Release) { r.Spec.Orders.Undo, r.Status.Full = true, micro(noon) }, Fallen},
		{"never ready", func(*v1alpha1.Release) {}, Stillborn},
		{"overtaken", func(r *v1alpha1.Release) { r.Status.Phase = string(release.Superseded) }, Superseded},
	} {
		r := &v1alpha1.Release{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "cart-1", UID: "u"}}
		r.Spec.Deployment = "cart"
		r.Status = v1alpha1.ReleaseStatus{
			Phase: string(release.Undone), Started: micro(noon.Add(-time.Minute)), Ended: micro(noon),
			Verdict: &v1alpha1.VerdictStatus{Is: "bad", Since: micro(noon), Requests: 40, Errors: 3},
		}
		c.change(r)
		e, ok := OfRelease(Place{Namespace: "live"}, r)
		if e.End != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, want %q", c.name, e.End, c.want)
		}
		if ok && (e.ID != "r/u" || e.Took() != time.Minute || e.Errors != 3 || !e.Judged.Equal(noon)) {
			t.Errorf("%s: %+v", c.name, e)
		}
	}
}
