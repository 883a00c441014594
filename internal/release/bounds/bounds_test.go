package bounds

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
)

func policy(name string, rules ...string) v1alpha1.ReleasePolicy {
	p := v1alpha1.ReleasePolicy{}
	p.Name = name
	for i := 0; i < len(rules); i += 3 {
		p.Spec.Rules = append(p.Spec.Rules, v1alpha1.ReleaseRule{Name: rules[i], Expression: rules[i+1], Message: rules[i+2]})
	}
	return p
}

func ordered(by string, change ...func(*v1alpha1.ReleaseOrders)) *v1alpha1.Release {
	r := &v1alpha1.Release{}
	r.Generation, r.Spec.Deployment = 7, "cart"
	r.Spec.Orders.By = by
	r.Status.Route = &v1alpha1.Routing{Weight: 500}
	r.Status.Verdict = &v1alpha1.VerdictStatus{Is: "collecting", Requests: 40, Errors: 1}
	for _, c := range change {
		c(&r.Spec.Orders)
	}
	return r
}

func weight(n int32) func(*v1alpha1.ReleaseOrders) {
	return func(o *v1alpha1.ReleaseOrders) { o.Weight = ptr.To(intstr.FromInt32(n)) }
}

func planned(r *v1alpha1.Release, first int32) *v1alpha1.Release {
	r.Spec.Plan.Steps = []v1alpha1.ReleaseStep{{Weight: intstr.FromInt32(first)}, {Weight: intstr.FromInt32(100)}}
	return r
}

func in(groups ...string) func(*v1alpha1.ReleaseOrders) {
	return func(o *v1alpha1.ReleaseOrders) { o.Groups = groups }
}

func TestWhoMayOrderWhat(t *testing.T) {
	b := Compile([]v1alpha1.ReleasePolicy{
		policy("share", "small", "order.weight <= 25.0 || 'leads' in user.groups", "more than 25 % is for leads",
			"proven", "!order.promote || release.verdict == 'good' || asked != '' && asked != user.name", ""),
		policy("hours", "day", "order.weight <= release.weight || now.getHours() >= 8 && now.getHours() < 18", "by day only"),
	})
	day, night := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC), time.Date(2026, 1, 5, 3, 0, 0, 0, time.UTC)
	promote := func(o *v1alpha1.ReleaseOrders) { o.Promote = true }
	tests := []struct {
		name string
		r    *v1alpha1.Release
		at   time.Time
		want string
	}{
		{"a little", ordered("ada", weight(25)), day, ""},
		{"much", ordered("ada", weight(26)), day, "share/small: more than 25 % is for leads"},
		{"much, by a lead", ordered("ada", weight(50), in("devs", "leads")), day, ""},
		{"by night", ordered("ada", weight(10)), night, "hours/day: by day only"},
		{"less, by night", ordered("ada", weight(1)), night, ""},
		{"to promote, unproven", ordered("ada", promote, in("leads")), day, "share/proven: rule proven does not allow it"},
		{"to promote, asked by another", ordered("ada", promote, in("leads"), func(o *v1alpha1.ReleaseOrders) { o.Asked = "bob" }), day, ""},
		{"by a path, which is all", ordered("ada", func(o *v1alpha1.ReleaseOrders) { o.Routes = []v1alpha1.ReleaseRoute{{Path: "/", To: "canary"}} }), day, "share/small: more than 25 % is for leads"},
		{"by a header", ordered("ada", func(o *v1alpha1.ReleaseOrders) {
			o.Routes = []v1alpha1.ReleaseRoute{{Headers: []v1alpha1.HeaderMatch{{Name: "a", Value: "b"}}, To: "canary"}}
		}), day, ""},
		{"by a plan", planned(ordered("ada"), 50), day, "share/small: more than 25 % is for leads"},
		{"by a small plan", planned(ordered("ada"), 5), day, ""},
		{"to pause, by night", ordered("ada", func(o *v1alpha1.ReleaseOrders) { o.Paused = true }), night, ""},
		{"to undo, by night", ordered("ada", promote, func(o *v1alpha1.ReleaseOrders) { o.Undo = true }), night, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if x := b.Judge(Order{Release: tt.r, Now: tt.at}); x != nil {
				got = x.Policy + "/" + x.Rule + ": " + x.Why
				if x.Generation != 7 {
					t.Errorf("it is about generation %d", x.Generation)
				}
			}
			if got != tt.want {
				t.Errorf("refused is %q, want %q", got, tt.want)
			}
		})
	}
	if x := (*Bounds)(nil).Judge(Order{Release: ordered("ada", weight(99))}); x != nil {
		t.Errorf("without policies, refused is %+v", x)
	}
}

// Who ends a hold orders what comes after it.
func TestWhatComesNextIsOrdered(t *testing.T) {
	b := Compile([]v1alpha1.ReleasePolicy{policy("share", "small", "order.weight <= 25.0", "")})
	for name, tt := range map[string]struct {
		step int32
		then string
		goes bool
		want bool // refused
	}{
		"at the small step":            {1, "", false, false},
		"on to the next, small still":  {1, "", true, false},
		"on to the great one":          {2, "", true, true},
		"past the last, which is all":  {3, "", true, true},
		"past the last, to be undone":  {3, v1alpha1.ThenUndo, true, false},
		"at the great one, on and off": {3, "", false, true},
	} {
		r := ordered("ada")
		r.Spec.Plan.Then = tt.then
		for _, percent := range []int32{5, 20, 50} {
			r.Spec.Plan.Steps = append(r.Spec.Plan.Steps, v1alpha1.ReleaseStep{Weight: intstr.FromInt32(percent)})
		}
		r.Status.Step = tt.step
		if x := b.Judge(Order{Release: r, Now: time.Now(), Goes: tt.goes}); (x != nil) != tt.want {
			t.Errorf("%s: refused is %+v", name, x)
		}
	}
}

func TestAMistakeLetsNobodyThrough(t *testing.T) {
	for text, want := range map[string]string{
		"order.weight <":  "the rule can't be read: Syntax error",
		"nobody.knows":    "the rule can't be read: undeclared reference",
		"'yes'":           "it is string, and must be bool",
		"order.wait == 5": "the rule can't be judged: no such key: wait",
		"order.weight":    "the rule is double, and must be bool",
		"[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, [1,2,3,4,5,6,7,8,9].all(f, [1,2,3,4,5,6,7,8,9].all(g, a+b+c+d+e+f+g > 0)))))))": "the rule can't be judged",
	} {
		b := Compile([]v1alpha1.ReleasePolicy{policy("p", "r", text, "")})
		x := b.Judge(Order{Release: ordered("ada", weight(1)), Now: time.Now()})
		if x == nil || !strings.Contains(x.Why, want) {
			t.Errorf("%s: refused is %+v, want %q", text, x, want)
		}
		if x := b.Judge(Order{Release: ordered("ada", func(o *v1alpha1.ReleaseOrders) { o.Undo = true })}); x != nil {
			t.Errorf("%s: undo is refused: %+v", text, x)
		}
	}
	b := Compile([]v1alpha1.ReleasePolicy{policy("p", "bad", "(", "", "good", "true", ""), policy("q", "good", "true", "")})
	if got := b.Wrong("p"); !strings.HasPrefix(got, "rule bad: ") || b.Wrong("q") != "" {
		t.Errorf("wrong is %q and %q", got, b.Wrong("q"))
	}
}
