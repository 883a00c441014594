package spec

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

func TestStrategiesArePlans(t *testing.T) {
	gold := v1alpha1.ReleaseRoute{Cookies: []v1alpha1.HeaderMatch{{Name: "plan", Value: "gold"}}, To: v1alpha1.Canary}
	minute := &metav1.Duration{Duration: time.Minute}
	for _, tt := range []struct {
		name string
		plan v1alpha1.ReleasePlan
		want release.Plan
	}{
		{"none", v1alpha1.ReleasePlan{}, release.Plan{Steps: Usual()}},
		{"a canary", v1alpha1.ReleasePlan{Strategy: v1alpha1.CanaryStrategy}, release.Plan{Steps: Usual()}},
		{"blue-green waits for a word", v1alpha1.ReleasePlan{Strategy: v1alpha1.BlueGreen},
			release.Plan{Steps: []release.Step{{Part: release.All, Hold: true}}, Keep: 10 * time.Minute, AtOnce: true}},
		{"blue-green that goes on by itself", v1alpha1.ReleasePlan{Strategy: v1alpha1.BlueGreen, Then: v1alpha1.ThenPromote, Keep: minute},
			release.Plan{Steps: []release.Step{{Part: release.All, For: 30 * time.Second}}, Keep: time.Minute, AtOnce: true}},
		{"blue-green with steps of its own", v1alpha1.ReleasePlan{Strategy: v1alpha1.BlueGreen, Steps: []v1alpha1.ReleaseStep{{Weight: intstr.FromInt32(1), Pods: ptr.To(intstr.FromString("50%"))}}},
			release.Plan{Steps: []release.Step{{Weight: 100, Part: 5000, Hold: true}}, Keep: 10 * time.Minute, AtOnce: true}},
		{"ab", v1alpha1.ReleasePlan{Strategy: v1alpha1.ABTest, For: minute},
			release.Plan{Steps: []release.Step{{Weight: 5000, For: time.Minute, Hold: true}}, ByOrder: true}},
		{"ab by routes", v1alpha1.ReleasePlan{Strategy: v1alpha1.ABTest, Routes: []v1alpha1.ReleaseRoute{gold}},
			release.Plan{Steps: []release.Step{{Part: 5000, Hold: true}}, ByOrder: true}},
		{"mirror", v1alpha1.ReleasePlan{Strategy: v1alpha1.Mirror, Then: v1alpha1.ThenUndo},
			release.Plan{Steps: []release.Step{{Mirror: 1000, For: 5 * time.Minute}}, Undo: true}},
		{"mirror, until somebody decides", v1alpha1.ReleasePlan{Strategy: v1alpha1.Mirror},
			release.Plan{Steps: []release.Step{{Mirror: 1000, For: 5 * time.Minute, Hold: true}}}},
		{"mirror, as long as it takes", v1alpha1.ReleasePlan{Strategy: v1alpha1.Mirror, Then: v1alpha1.ThenPromote},
			release.Plan{Steps: []release.Step{{Mirror: 1000, Proven: true}}}},
		{"mirror, for so long at least", v1alpha1.ReleasePlan{Strategy: v1alpha1.Mirror, Then: v1alpha1.ThenPromote, For: &metav1.Duration{Duration: time.Hour}},
			release.Plan{Steps: []release.Step{{Mirror: 1000, For: time.Hour, Proven: true}}}},
		{"a canary that waits in the end", v1alpha1.ReleasePlan{Then: v1alpha1.ThenHold, Steps: []v1alpha1.ReleaseStep{{Weight: intstr.FromInt32(5)}, {Weight: intstr.FromInt32(50)}}},
			release.Plan{Steps: []release.Step{{Weight: 500}, {Weight: 5000, Hold: true}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			was := *tt.plan.DeepCopy()
			got, err := Plan(tt.plan)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			once := Expand(tt.plan)
			if diff := cmp.Diff(once, Expand(once)); diff != "" {
				t.Errorf("what is expanded twice is another plan:\n%s", diff)
			}
			if again, err := Plan(once); err != nil || cmp.Diff(got, again) != "" {
				t.Errorf("what is expanded means another thing: %+v, %v", again, err)
			}
			if diff := cmp.Diff(was, tt.plan); diff != "" {
				t.Errorf("the plan itself has changed:\n%s", diff)
			}
		})
	}
}

func TestABlueGreenHasAPreviewAndIsJudgedOn(t *testing.T) {
	p := Expand(v1alpha1.ReleasePlan{Strategy: v1alpha1.BlueGreen})
	if !Previewed(p) || !p.Judge.Kept || len(p.Routes) != 1 || p.Routes[0].Headers[0].Name != PreviewHeader {
		t.Errorf("%+v", p)
	}
	own := Expand(v1alpha1.ReleasePlan{Strategy: v1alpha1.BlueGreen, Routes: []v1alpha1.ReleaseRoute{{Path: "/next", To: v1alpha1.Canary}}})
	if len(own.Routes) != 1 || own.Routes[0].Path != "/next" {
		t.Errorf("the routes of the plan are %+v", own.Routes)
	}
	if c, err := Judge(p.Judge, nil, 1, false); err != nil || !c.Alone {
		t.Errorf("the judge is %+v, %v", c, err)
	}
}

func TestAnABTestKeepsClientsWithTheirVersion(t *testing.T) {
	if a := Expand(v1alpha1.ReleasePlan{Strategy: v1alpha1.ABTest}).Affinity; a == nil || a.Cookie != VersionCookie || !a.Give {
		t.Errorf("%+v", a)
	}
	header := &v1alpha1.Affinity{Header: "x-client"}
	if a := Expand(v1alpha1.ReleasePlan{Strategy: v1alpha1.ABTest, Affinity: header}).Affinity; a.Cookie != "" || a.Header != "x-client" {
		t.Errorf("%+v", a)
	}
	routes := []v1alpha1.ReleaseRoute{{Path: "/next", To: v1alpha1.Canary}}
	if a := Expand(v1alpha1.ReleasePlan{Strategy: v1alpha1.ABTest, Routes: routes}).Affinity; a != nil {
		t.Errorf("with routes alone, %+v", a)
	}
}

func TestWhatDoesNotGoWithAStrategy(t *testing.T) {
	share := ptr.To(intstr.FromInt32(20))
	for want, p := range map[string]v1alpha1.ReleasePlan{
		"plan.strategy":            {Strategy: "Rainbow"},
		"plan.then is":             {Then: "wait"},
		"plan.share is for":        {Share: share},
		"moves all requests":       {Strategy: v1alpha1.BlueGreen, Share: share},
		"plan.for is for":          {For: &metav1.Duration{Duration: time.Minute}},
		"promotes nothing":         {Strategy: v1alpha1.ABTest, Then: v1alpha1.ThenPromote},
		"without copies":           {Strategy: v1alpha1.Mirror, Share: ptr.To(intstr.FromInt32(0))},
		"plan.share: ":             {Strategy: v1alpha1.Mirror, Share: ptr.To(intstr.FromString("some"))},
		"plan.steps[0].pods is":    {Steps: []v1alpha1.ReleaseStep{{Pods: ptr.To(intstr.FromString("all"))}}},
		"plan.steps[0].pods: ":     {Steps: []v1alpha1.ReleaseStep{{Pods: ptr.To(intstr.FromString("120%"))}}},
		"give a time of 0 or more": {Strategy: v1alpha1.Mirror, For: &metav1.Duration{Duration: -time.Minute}},
	} {
		if _, err := Plan(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("of %+v is said %v, want %q", p, err, want)
		}
	}
}

func TestWordsOfStrategies(t *testing.T) {
	for _, s := range Strategies {
		name, err := StrategyOf(s.Word)
		if err != nil || name != s.Name || Word(v1alpha1.ReleasePlan{Strategy: name}) != s.Word {
			t.Errorf("%s is %s, %v", s.Word, name, err)
		}
	}
	if _, err := StrategyOf("rainbow"); err == nil || !strings.Contains(err.Error(), "canary, blue-green, ab, mirror") {
		t.Error(err)
	}
	if Word(v1alpha1.ReleasePlan{}) != "canary" {
		t.Error("a plan without a word is no canary")
	}
}

func TestStepsAreWrittenAsTheyAreRead(t *testing.T) {
	steps := []release.Step{
		{Weight: 25, Proven: true, For: time.Minute, Pods: 2},
		{Mirror: 1000, Part: 5000, Hold: true},
	}
	got, err := Plan(v1alpha1.ReleasePlan{Steps: Written(steps)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(steps, got.Steps); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRiskMakesNoStepsForAStrategy(t *testing.T) {
	risk := ptr.To[int32](90)
	if p := ByRisk(v1alpha1.ReleasePlan{Strategy: v1alpha1.BlueGreen}, risk); len(p.Steps) > 0 {
		t.Errorf("%+v", p)
	}
	if p := ByRisk(v1alpha1.ReleasePlan{Strategy: v1alpha1.CanaryStrategy}, risk); len(p.Steps) == 0 {
		t.Error("a canary has none")
	}
}
