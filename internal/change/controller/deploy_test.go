package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	kubetesting "k8s.io/client-go/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/deploy"
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

// cluster is an environment, prod, of an app with one service, on an API server that
// keeps nothing of what is applied.
type cluster struct {
	*Controller
	*history
	app     *v1alpha1.App
	applied []string                // in which mood the service was to be
	answer  func(mood string) error // to its Deployment
}

const prodBranch = "refs/heads/bight/prod"

func newCluster(t *testing.T) *cluster {
	t.Helper()
	k := &cluster{history: newHistory(t), app: &v1alpha1.App{Spec: v1alpha1.AppSpec{Environments: []v1alpha1.Environment{{Name: "prod"}}}}}
	k.app.Namespace, k.app.Name = "shop", "shop"
	ns, served := &corev1.Namespace{}, &v1alpha1.Change{Spec: v1alpha1.ChangeSpec{App: "shop"}}
	ns.Name, ns.Labels = "shop-prod", map[string]string{v1alpha1.AppLabel: "shop", v1alpha1.AppNamespaceLabel: "shop"}
	served.Namespace, served.Name, served.Labels = "shop", "served", map[string]string{v1alpha1.AppLabel: "shop"}
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	server := fake.NewClientBuilder().WithScheme(scheme).WithObjects(ns, served).WithStatusSubresource(served).Build()
	typed := kubefake.NewClientset(ns.DeepCopy())
	typed.PrependReactor("create", "selfsubjectrulesreviews", func(kubetesting.Action) (bool, runtime.Object, error) {
		r, all := &authorizationv1.SelfSubjectRulesReview{}, []string{"*"}
		r.Status.ResourceRules = []authorizationv1.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}}
		return true, r, nil
	})
	objects := dynamicfake.NewSimpleDynamicClient(clientgoscheme.Scheme)
	objects.PrependReactor("patch", "*", k.patched)
	k.Controller = &Controller{client: server, live: server, files: &files{dir: t.TempDir()}, Log: slog.New(slog.DiscardHandler)}
	k.envs.typed, k.envs.dynamic, k.envs.client, k.envs.live, k.envs.log = typed, objects, server, server, k.Log
	return k
}

// patched is called with one request at a time.
func (k *cluster) patched(action kubetesting.Action) (bool, runtime.Object, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(action.(kubetesting.PatchAction).GetPatch()); err != nil {
		return true, nil, err
	}
	switch u.GetKind() {
	case "ConfigMap":
		if mood, ok, _ := unstructured.NestedString(u.Object, "data", "MOOD"); ok {
			k.applied = append(k.applied, mood)
		}
	case "Deployment":
		if err := k.answer(k.applied[len(k.applied)-1]); err != nil {
			return true, nil, err
		}
	}
	return true, u, nil
}

// inMood is what a build has left of the app, and the files of its desired state.
func (k *cluster) inMood(mood string) (artifacts, map[string][]byte) {
	k.t.Helper()
	cart := &app.Service{Name: "cart", Build: app.Build{Kind: "go", Package: "./cart"}, Env: []app.EnvVar{{Name: "MOOD", Value: mood, Set: true}}}
	a := artifacts{app: &app.App{Name: "shop", Services: []*app.Service{cart}}, images: map[string]string{"cart": "registry.example/cart@sha256:" + strings.Repeat("ab", 32)}}
	objs, err := a.render("shop-prod", 0, false)
	if err != nil {
		k.t.Fatal(err)
	}
	files, err := deploy.Desired("shop-prod", objs)
	if err != nil {
		k.t.Fatal(err)
	}
	return a, files
}

// serves has the environment serve a mood.
func (k *cluster) serves(mood string) {
	k.t.Helper()
	_, files := k.inMood(mood)
	_, commit, err := k.envs.record(k.t.Context(), k.Repository, prodBranch, files, &v1alpha1.Change{})
	if err != nil {
		k.t.Fatal(err)
	}
	_, err = k.update(k.t.Context(), client.ObjectKey{Namespace: "shop", Name: "served"}, func(m *v1alpha1.Change) error {
		at := metav1.NewMicroTime(time.Unix(1_700_000_000, 0))
		m.Status.Merged, m.Status.MergedAt = "c0ffee", &at
		m.Status.Steps = []v1alpha1.Step{{Name: "deploy/prod", State: v1alpha1.StepPassed, Evidence: map[string]string{"commit": commit}}}
		return nil
	})
	if err != nil {
		k.t.Fatal(err)
	}
}

// bringMood deploys a mood.
func (k *cluster) bringMood(ctx context.Context, mood string) v1alpha1.Step {
	k.t.Helper()
	a, _ := k.inMood(mood)
	b, err := json.Marshal(a.app)
	if err != nil {
		k.t.Fatal(err)
	}
	file, err := k.files.put("shop", "new", AppFile, b)
	if err != nil {
		k.t.Fatal(err)
	}
	m := &v1alpha1.Change{}
	m.Namespace, m.Name, m.Status.Merged = "shop", "new", "decade"
	run := v1alpha1.Run{Images: a.images, Steps: []v1alpha1.Step{{Name: v1alpha1.BuildStep, State: v1alpha1.StepPassed, Evidence: map[string]string{AppFile: file}}}}
	return k.deploy(ctx, k.app, k.Repository, k.app.Spec.Environments[0], m, run)
}

// branch is the mood that the environment's branch names, "" if there is none.
func (k *cluster) branch() string {
	k.t.Helper()
	commit, err := k.Resolve(k.t.Context(), prodBranch)
	if err != nil {
		return ""
	}
	has, err := k.Files(k.t.Context(), commit, maxDesired)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, mood := range []string{"old", "new"} {
		if _, files := k.inMood(mood); deploy.Same(has, files) {
			return mood
		}
	}
	return "neither"
}

// What is half there since the API server does not take the rest is no state that an environment is healed to.
func TestWhatCanNotBeAppliedIsPutBack(t *testing.T) {
	deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
	denied := apierrors.NewForbidden(deployments, "cart", errors.New(`admission webhook "moods" denied the request: no such mood`))
	unfit := apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, "cart", nil)
	noHook := apierrors.NewInternalError(errors.New(`failed calling webhook "moods"`))
	away := apierrors.NewServiceUnavailable("the API server is away")
	leaving := apierrors.NewForbidden(deployments, "cart", errors.New("unable to create new content in namespace shop-prod because it is being terminated"))
	leaving.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	for _, test := range []struct {
		name    string
		old     []error // the answers to what was there before, then nil
		new     []error
		first   bool // nothing was deployed before
		state   string
		says    []string
		back    bool
		branch  string
		applied string
	}{
		{"refused", nil, []error{denied}, false, v1alpha1.StepFailed, []string{"no such mood", "what was there before is back"}, true, "old", "new old"},
		{"invalid", nil, []error{unfit}, false, v1alpha1.StepFailed, []string{"is invalid", "what was there before is back"}, true, "old", "new old"},
		{"for want of something else", nil, []error{noHook}, false, v1alpha1.StepErred, []string{"failed calling webhook", "what was there before is back"}, false, "old", "new old"},
		{"the namespace is leaving", nil, []error{leaving}, false, v1alpha1.StepErred, []string{"being terminated"}, false, "old", "new old"},
		{"the API server is away for a moment", nil, []error{away, denied}, false, v1alpha1.StepFailed, []string{"no such mood"}, true, "old", "new new old"},
		{"and is away again", []error{away}, []error{denied}, false, v1alpha1.StepFailed, []string{"no such mood", "is back"}, true, "old", "new old old"},
		{"what was before is refused, too", []error{denied}, []error{denied}, false, v1alpha1.StepFailed, []string{"could not be put back"}, false, "old", "new old"},
		{"the first", nil, []error{denied}, true, v1alpha1.StepFailed, []string{"no such mood"}, false, "", "new"},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newCluster(t)
			if !test.first {
				k.serves("old")
			}
			p := place{client.ObjectKeyFromObject(k.app), "shop-prod"}
			k.envs.under = map[place]*rollout{p: {}} // this one
			k.envs.start(t.Context())
			answers := map[string][]error{"old": test.old, "new": test.new}
			k.answer = func(mood string) (err error) {
				if all := answers[mood]; len(all) > 0 {
					err, answers[mood] = all[0], all[1:]
				}
				return err
			}
			s := k.bringMood(t.Context(), "new")
			if s.State != test.state || slices.ContainsFunc(test.says, func(text string) bool { return !strings.Contains(s.Message, text) }) || (s.Evidence["back"] != "") != test.back {
				t.Errorf("the step is %+v", s)
			}
			if heals := k.envs.then[p] != nil; heals != (len(answers["old"]) == 0 && strings.Contains(s.Message, "could not be put back")) {
				t.Errorf("it is to be healed: %t", heals)
			}
			if got := k.branch(); got != test.branch {
				t.Errorf("the branch names %q, want %q", got, test.branch)
			}
			if got := strings.Join(k.applied, " "); got != test.applied {
				t.Errorf("applied: %s, want %s", got, test.applied)
			}
		})
	}
}

// Who takes over from a controller that ended while it deployed finds out by itself what the end of it is.
func TestWhatWasBegunIsLeftToWhoGoesOn(t *testing.T) {
	k := newCluster(t)
	k.serves("old")
	ctx, cancel := context.WithCancel(t.Context())
	k.answer = func(string) error {
		cancel()
		return fmt.Errorf("apply: %w", context.Canceled)
	}
	k.bringMood(ctx, "new")
	if got := k.branch(); got != "new" {
		t.Fatalf("the branch names %q", got)
	}
	k.answer = func(mood string) error {
		if mood == "new" {
			return apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, "cart", nil)
		}
		return nil
	}
	for range 2 { // and when it is tried again
		if s := k.bringMood(t.Context(), "new"); s.State != v1alpha1.StepFailed || s.Evidence["back"] == "" {
			t.Errorf("the step is %+v", s)
		}
		if got := k.branch(); got != "old" {
			t.Errorf("the branch names %q", got)
		}
	}
	if got, want := strings.Join(k.applied, " "), "new new old new old"; got != want {
		t.Errorf("applied: %s, want %s", got, want)
	}
}
