package controller

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
)

// What a view that was made some time ago has under way may have ended since.
func TestWhatHasEndedDoesNotBeginAgain(t *testing.T) {
	app := &v1alpha1.App{Spec: v1alpha1.AppSpec{Environments: []v1alpha1.Environment{{Name: "prod"}}}}
	app.Namespace, app.Name = "shop", "shop"
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		step   string
		begins func(*Controller, *subject, change.Action)
	}{
		{"deploy/prod", (*Controller).startDeploy},
		{v1alpha1.PreviewStep, (*Controller).startPreview},
		{v1alpha1.TestStep, func(c *Controller, s *subject, a change.Action) { c.startApart(s, a) }},
	} {
		for what, end := range map[string]func(*v1alpha1.Change, *v1alpha1.Step){
			"passed":              func(_ *v1alpha1.Change, s *v1alpha1.Step) { s.State, s.Message = v1alpha1.StepPassed, "it serves" },
			"failed":              func(_ *v1alpha1.Change, s *v1alpha1.Step) { s.State, s.Message = v1alpha1.StepFailed, "it does not" },
			"was to be done anew": func(m *v1alpha1.Change, s *v1alpha1.Step) { m.Status.Attempt, s.State = 1, v1alpha1.StepWaiting },
			"was cancelled":       func(_ *v1alpha1.Change, s *v1alpha1.Step) { s.State = v1alpha1.StepCancelled },
		} {
			at := func() (*v1alpha1.Change, *v1alpha1.Step) {
				m := &v1alpha1.Change{Spec: v1alpha1.ChangeSpec{App: "shop"}}
				m.Namespace, m.Name, m.Labels = "shop", "shop-1", map[string]string{v1alpha1.AppLabel: "shop"}
				m.Status.Merged, m.Status.MergedBy = "c0ffee", "shop-1"
				m.Status.Runs = []v1alpha1.Run{{Commit: "c0ffee", State: v1alpha1.RunRunning, Attempt: 1}}
				steps := &m.Status.Runs[0].Steps
				if test.step == "deploy/prod" {
					steps = &m.Status.Steps
				}
				*steps = []v1alpha1.Step{{Name: test.step, State: v1alpha1.StepRunning}}
				return m, &(*steps)[0]
			}
			now, step := at()
			end(now, step)
			server := fake.NewClientBuilder().WithScheme(scheme).WithObjects(now).WithStatusSubresource(now).Build()
			c := &Controller{client: server, live: server, files: &files{dir: t.TempDir()}, Log: slog.New(slog.DiscardHandler)}
			c.envs.start(t.Context())
			was, _ := at()
			s := &subject{app: app, view: change.View{App: app, Changes: []*v1alpha1.Change{was}}}
			test.begins(c, s, change.Action{Change: was.Name, Step: test.step, Environment: "prod"})
			c.envs.tasks.Wait()
			got := &v1alpha1.Change{}
			if err := server.Get(t.Context(), client.ObjectKeyFromObject(now), got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(now.Status, got.Status); diff != "" {
				t.Errorf("%s, which %s meanwhile (-want +got):\n%s", test.step, what, diff)
			}
		}
	}
}
