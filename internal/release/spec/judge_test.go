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
	"github.com/bightdev/bight/internal/release/latency"
)

func lasts(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

var frozen = []metav1.Duration{*lasts(time.Millisecond), *lasts(2 * time.Millisecond), *lasts(30 * time.Millisecond), *lasts(time.Second)}

func TestLatencyIsJudgedWhenStableIsKnown(t *testing.T) {
	slow := intstr.FromInt32(10)
	for _, tt := range []struct {
		name   string
		judge  v1alpha1.ReleaseJudge
		frozen []metav1.Duration
		judged bool
	}{
		{"stable is not known", v1alpha1.ReleaseJudge{}, nil, false},
		{"stable is", v1alpha1.ReleaseJudge{}, frozen, true},
		{"said again", v1alpha1.ReleaseJudge{Latency: "on"}, frozen, true},
		{"nobody minds", v1alpha1.ReleaseJudge{Latency: "off"}, frozen, false},
		{"of a later version maybe", v1alpha1.ReleaseJudge{}, frozen[:2], false},
	} {
		for _, local := range []bool{true, false} {
			c, err := Judge(tt.judge, tt.frozen, 4, local)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Slow(false) != nil; got != tt.judged {
				t.Errorf("%s: %+v", tt.name, c)
			}
		}
	}
	c, err := Judge(v1alpha1.ReleaseJudge{MaxSlow: &slow, Slack: lasts(0), Settle: lasts(time.Minute)}, frozen, 4, true)
	if err != nil || c.Slack != 0 || c.Settle != time.Minute || c.MaxSlow != [4]float64{0.75, 1, 0.1, 1} || c.Surge != 20 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = Judge(v1alpha1.ReleaseJudge{}, frozen, 4, true); err != nil || c.Slack != 2*time.Millisecond || c.Settle != 10*time.Second {
		t.Errorf("%+v, %v", c, err)
	}
	for want, j := range map[string]v1alpha1.ReleaseJudge{
		`plan.judge.latency is "false": write "on" or "off", with the quotes`: {Latency: "false"},
		"plan.judge.maxSlow: ":                         {MaxSlow: new(intstr.FromString("many"))},
		"plan.judge.maxSlow is 0: ":                    {MaxSlow: new(intstr.FromInt32(0))},
		"plan.judge.slack is -1ns: ":                   {Slack: lasts(-1)},
		"plan.judge.settle is 2h0m0s: ":                {Settle: lasts(2 * time.Hour)},
		"plan.judge.guards[0] has no max and no min: ": {Guards: []v1alpha1.ReleaseGuard{{Name: "queue", Query: "up"}}},
	} {
		if _, err := Judge(j, frozen, 4, false); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestOnlyTheControllerHasGuards(t *testing.T) {
	j := v1alpha1.ReleaseJudge{Guards: []v1alpha1.ReleaseGuard{{Name: "queue", Query: "up", Max: new(1.0)}}}
	central, err := Judge(j, nil, 4, false)
	if err != nil {
		t.Fatal(err)
	}
	local, err := Judge(j, nil, 4, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(central.Guards) != 1 || central.Guards[0] != "queue" || local.Guards != nil {
		t.Errorf("%v and %v", central.Guards, local.Guards)
	}
}

func TestFreeze(t *testing.T) {
	var h latency.Histogram
	for i := range Enough - 1 {
		h.Add(time.Duration(i+1) * time.Millisecond)
	}
	if got := Freeze(h); got != nil {
		t.Errorf("of %d requests they are %v", h.N(), got)
	}
	h.Add(100 * time.Millisecond)
	got := Freeze(h)
	for k, want := range []time.Duration{51 * time.Millisecond, 91 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond} {
		if got[k].Duration < want || got[k].Duration > want+want/16 {
			t.Errorf("%v, want %s as number %d", got, want, k)
		}
	}
	if _, err := Judge(v1alpha1.ReleaseJudge{}, got, 4, false); err != nil {
		t.Error(err)
	}
}

func TestLatencyInWords(t *testing.T) {
	got := []string{
		Latency(v1alpha1.ReleaseJudge{}, []metav1.Duration{*lasts(1_234_567), *lasts(2_345_678), *lasts(31_415_926), *lasts(1_234_567_890)}, 517),
		Latency(v1alpha1.ReleaseJudge{}, nil, 37),
		Latency(v1alpha1.ReleaseJudge{Latency: "off"}, frozen, 517),
	}
	want := []string{
		"stable has answered half in 1.23ms, 90 % in 2.35ms, 99 % in 31.4ms, 99.9 % in 1.23s",
		"latency is not judged: 37 of stable's requests were measured before the version got its first, and it takes 100",
		"latency is not judged, as the plan says",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A version is judged by copies if its plan has any, and doors share its requests.
func TestWhoIsJudgedByCopies(t *testing.T) {
	step := func(s v1alpha1.ReleaseStep) v1alpha1.ReleasePlan {
		return v1alpha1.ReleasePlan{Steps: []v1alpha1.ReleaseStep{{Weight: intstr.FromInt32(5)}, s}}
	}
	for name, tt := range map[string]struct {
		plan          v1alpha1.ReleasePlan
		byRoutes      bool
		copies, local bool
	}{
		"the usual plan":           {},
		"a step with copies":       {plan: step(v1alpha1.ReleaseStep{Mirror: ptr.To(intstr.FromInt32(10))}), copies: true},
		"steps without":            {plan: step(v1alpha1.ReleaseStep{Weight: intstr.FromInt32(50)})},
		"the strategy":             {plan: v1alpha1.ReleasePlan{Strategy: v1alpha1.Mirror}, copies: true, local: true},
		"routes of Gateway API":    {plan: v1alpha1.ReleasePlan{Strategy: v1alpha1.Mirror}, byRoutes: true},
		"and what agents see then": {plan: v1alpha1.ReleasePlan{Strategy: v1alpha1.Mirror}, byRoutes: true, local: true},
	} {
		r := &v1alpha1.Release{Spec: v1alpha1.ReleaseSpec{Plan: tt.plan}}
		c, err := JudgeOf(r, &v1alpha1.Routing{ByRoutes: tt.byRoutes, Judges: 2}, tt.local)
		if err != nil || c.Copies != tt.copies || c.Abstains != (tt.local && tt.byRoutes) || c.Tells != tt.local {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}
