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

func TestPlan(t *testing.T) {
	percent := func(s string) intstr.IntOrString { return intstr.Parse(s) }
	tests := []struct {
		name string
		plan v1alpha1.ReleasePlan
		want []release.Step
		err  string
	}{
		{"the usual", v1alpha1.ReleasePlan{}, Usual(), ""},
		{"numbers and texts", v1alpha1.ReleasePlan{Steps: []v1alpha1.ReleaseStep{
			{Weight: percent("5"), Mirror: ptr.To(percent("10%")), Pods: ptr.To(intstr.FromInt32(2))},
			{Weight: percent("0.25"), Hold: true, Proven: true, For: &metav1.Duration{Duration: time.Minute}},
		}}, []release.Step{{Weight: 500, Mirror: 1000, Pods: 2}, {Weight: 25, Hold: true, Proven: true, For: time.Minute}}, ""},
		{"more than all", v1alpha1.ReleasePlan{Steps: []v1alpha1.ReleaseStep{{Weight: percent("5")}, {Weight: percent("101")}}}, nil, "plan.steps[1].weight"},
		{"no number", v1alpha1.ReleasePlan{Steps: []v1alpha1.ReleaseStep{{Weight: percent("some")}}}, nil, `plan.steps[0].weight: "some"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Plan(tt.plan)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("the error is %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got.Steps); err == nil && diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheGreaterTheRiskTheSmallerTheFirstStep(t *testing.T) {
	var last release.Weight
	for _, risk := range []int32{100, 60, 20, 0} {
		p, err := Plan(ByRisk(v1alpha1.ReleasePlan{}, &risk))
		if err != nil {
			t.Fatal(err)
		}
		proven := false
		for _, s := range p.Steps {
			proven = proven || s.Proven
		}
		if p.Steps[0].Weight < last || !proven {
			t.Errorf("risk %d: %+v", risk, p.Steps)
		}
		last = p.Steps[0].Weight
	}
	own := v1alpha1.ReleasePlan{Steps: []v1alpha1.ReleaseStep{{Weight: intstr.FromInt32(50)}}}
	if got := ByRisk(own, ptr.To[int32](100)); len(got.Steps) != 1 {
		t.Errorf("a plan's own steps are %+v", got.Steps)
	}
}

func TestEffective(t *testing.T) {
	routed := func(change func(*v1alpha1.Release)) *v1alpha1.Release {
		r := &v1alpha1.Release{}
		r.Status.Phase = string(release.Progressing)
		r.Status.Route = &v1alpha1.Routing{Generation: 7, Weight: 500, Mirror: 100, Held: 500}
		change(r)
		return r
	}
	shut := &v1alpha1.Routing{Generation: 8, Shut: true}
	tests := []struct {
		name   string
		change func(*v1alpha1.Release)
		want   *v1alpha1.Routing
	}{
		{"what the controller says", func(*v1alpha1.Release) {}, &v1alpha1.Routing{Generation: 7, Weight: 500, Mirror: 100, Held: 500}},
		{"before it says anything", func(r *v1alpha1.Release) { r.Status.Route = nil }, nil},
		{"undone by somebody, which it has not heard of", func(r *v1alpha1.Release) { r.Spec.Orders.Undo = true }, shut},
		{"convicted by a node agent", func(r *v1alpha1.Release) {
			r.Status.Doors = []v1alpha1.NodeDoors{{Node: "a"}, {Node: "b", Convicted: "E = 9000"}}
		}, shut},
		{"undone, and heard of", func(r *v1alpha1.Release) {
			r.Spec.Orders.Undo = true
			r.Status.Route = shut.DeepCopy()
		}, shut},
		{"promoted, and undone", func(r *v1alpha1.Release) {
			r.Spec.Orders.Undo, r.Status.Phase = true, string(release.Promoted)
		}, shut},
		{"promoted, and convicted by a node agent too late", func(r *v1alpha1.Release) {
			r.Status.Phase = string(release.Promoted)
			r.Status.Doors = []v1alpha1.NodeDoors{{Node: "a", Convicted: "E = 9000"}}
		}, &v1alpha1.Routing{Generation: 7, Weight: 500, Mirror: 100, Held: 500}},
		{"promoted, and undone too late", func(r *v1alpha1.Release) {
			r.Spec.Orders.Undo, r.Status.Phase, r.Status.Route.Retire = true, string(release.Promoted), true
			r.Status.Route.Weight = 10000
		}, &v1alpha1.Routing{Generation: 7, Weight: 10000, Mirror: 100, Held: 500, Retire: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Effective(routed(tt.change))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestJudgesShareTheirError(t *testing.T) {
	central, err := Judge(v1alpha1.ReleaseJudge{}, nil, 4, false)
	if err != nil {
		t.Fatal(err)
	}
	local, err := Judge(v1alpha1.ReleaseJudge{}, nil, 4, true)
	if err != nil {
		t.Fatal(err)
	}
	if sum := central.Alpha + 4*local.Alpha; sum < 0.000999 || sum > 0.001001 || !local.Tells || central.Tells {
		t.Errorf("in all %g; of the controller's %+v, of an agent's %+v", sum, central, local)
	}
	if _, err := Judge(v1alpha1.ReleaseJudge{MaxErrors: ptr.To(intstr.FromString("many"))}, nil, 1, false); err == nil || !strings.Contains(err.Error(), "plan.judge.maxErrors") {
		t.Errorf("the error is %v", err)
	}
}

func TestTell(t *testing.T) {
	weight := ptr.To(intstr.FromInt32(25))
	tests := []struct {
		orders v1alpha1.ReleaseOrders
		want   string
	}{
		{v1alpha1.ReleaseOrders{Go: 2}, "go on by the plan"},
		{v1alpha1.ReleaseOrders{Weight: weight, Paused: true}, "25 % of the requests, pause"},
		{v1alpha1.ReleaseOrders{Weight: weight, Undo: true, Why: "it is slow"}, "undo (it is slow)"},
		{v1alpha1.ReleaseOrders{Routes: []v1alpha1.ReleaseRoute{{
			Headers: []v1alpha1.HeaderMatch{{Name: "x-team", Value: "a", Prefix: true}}, Path: "/api", To: "canary",
		}}}, "requests with x-team=a* and /api to canary"},
		{v1alpha1.ReleaseOrders{Routes: []v1alpha1.ReleaseRoute{{Methods: []string{"GET", "HEAD"}, To: "stable"}, {
			Query: []v1alpha1.HeaderMatch{{Name: "look", Value: "new"}}, Path: "/api", Exact: true, To: "canary",
		}}}, "GET or HEAD requests to stable, requests with parameter look=new and exactly /api to canary"},
	}
	for _, tt := range tests {
		if got := Tell(tt.orders); got != tt.want {
			t.Errorf("Tell = %q, want %q", got, tt.want)
		}
	}
}

// What was begun in the second in which another came to nothing is the newest, however it
// is called: or else nobody could give it an order, not even to undo it.
func TestTheNewestOfASecond(t *testing.T) {
	made := func(name string, second int64, phase release.Phase, ended int64) *v1alpha1.Release {
		r := &v1alpha1.Release{}
		r.Name, r.CreationTimestamp, r.Status.Phase = name, metav1.Unix(second, 0), string(phase)
		if ended > 0 {
			at := metav1.NewMicroTime(time.UnixMicro(ended))
			r.Status.Ended = &at
		}
		return r
	}
	for _, tt := range []struct {
		name       string
		old, newer *v1alpha1.Release
	}{
		{"made later", made("b", 1, "", 0), made("a", 2, release.Undone, 5)},
		{"the other has ended", made("b", 1, release.Undone, 5), made("a", 1, release.Held, 0)},
		{"the other has ended, and it has not begun", made("b", 1, release.Undone, 5), made("a", 1, "", 0)},
		{"both have ended", made("b", 1, release.Undone, 5), made("a", 1, release.Promoted, 6)},
		{"both run", made("a", 1, release.Starting, 0), made("b", 1, release.Progressing, 0)},
	} {
		if Compare(tt.old, tt.newer) >= 0 || Compare(tt.newer, tt.old) <= 0 {
			t.Errorf("%s: it is not the newest", tt.name)
		}
	}
}

func TestUnreached(t *testing.T) {
	for name, c := range map[string]struct {
		doors []v1alpha1.NodeDoors
		want  int64
	}{
		"nothing has been asked":   {nil, 0},
		"stable has answered all":  {[]v1alpha1.NodeDoors{{Decided: 50, Carried: 9, Fallback: 9}, {Decided: 5, Carried: 2, Fallback: 2}}, 11},
		"the version has answered": {[]v1alpha1.NodeDoors{{Decided: 50, Carried: 9, Fallback: 9}, {Decided: 5, Carried: 2, Fallback: 1}}, 0},
	} {
		r := &v1alpha1.Release{}
		if r.Status.Doors = c.doors; Unreached(r) != c.want {
			t.Errorf("%s: %d, want %d", name, Unreached(r), c.want)
		}
	}
}
