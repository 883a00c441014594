package nodeagent

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/steer"
)

// byGateways has routes of Gateway API share the requests of a release.
func byGateways(r *v1alpha1.Release) {
	r.Spec.Traffic.Routes = []v1alpha1.TrafficRoute{{Kind: v1alpha1.HTTPRoute, Name: "web"}}
	r.Status.Route.ByRoutes, r.Status.Route.Before = true, []string{"10.0.0.7", "10.0.0.6"}
	r.Status.Route.Routes = []v1alpha1.ReleaseRoute{
		{Headers: []v1alpha1.HeaderMatch{{Name: "x-staff", Value: "y"}}, To: "canary"},
		{Query: []v1alpha1.HeaderMatch{{Name: "look", Value: "new"}}, Methods: []string{"GET"}, Path: "/a", Exact: true, To: "canary"},
		{Cookies: []v1alpha1.HeaderMatch{{Name: "plan", Value: "gold"}}, To: "canary"},
	}
}

// Where gateways share the requests, doors keep what comes to them, and tell of it.
func TestDoorsCountWhatGatewaysShare(t *testing.T) {
	shut := func(r *v1alpha1.Release) { r.Spec.Orders.Undo = true }
	bare := func(r *v1alpha1.Release) { r.Status.Route.Before = nil }
	tests := []struct {
		name   string
		pod    *core.Pod
		change []func(*v1alpha1.Release)
		want   string
	}{
		{"stable", podOf("a", hashed("old")), nil, "stable of r at 7: stable 100%"},
		{"the canary", podOf("b", hashed("new")), nil, "canary of r at 7: canary 100%"},
		{"stable, undone", podOf("a", hashed("old")), []func(*v1alpha1.Release){shut}, "stable of r at 8: stable 100%"},
		{"the canary, undone", podOf("b", hashed("new")), []func(*v1alpha1.Release){shut}, "canary of r at 8: stable 100% canary 0% shut"},
		{"the canary, undone, and nobody else is there", podOf("b", hashed("new")), []func(*v1alpha1.Release){bare, shut}, "canary of r at 8: canary 100%"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := sharesOf(tt.pod, releaseOf("r", append([]func(*v1alpha1.Release){byGateways}, tt.change...)...))
			if got := brief(w); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if w.share.problem != "" || !w.share.counts {
				t.Errorf("problem %q, counts: %v", w.share.problem, w.share.counts)
			}
		})
	}
	cohorts := sharesOf(podOf("b", hashed("new")), releaseOf("r", byGateways)).share.splits[0].Cohorts
	want := []steer.Cohort{
		{Match: steer.Match{Headers: []steer.HeaderMatch{{Name: "x-staff", Value: "y"}}}, Version: "canary"},
		{Match: steer.Match{Path: "/a"}, Query: []steer.HeaderMatch{{Name: "look", Value: "new"}}, Methods: []string{"GET"}, Exact: true, Version: "canary"},
	}
	if diff := cmp.Diff(want, cohorts); diff != "" {
		t.Errorf("what was chosen is not seen (-want +got):\n%s", diff)
	}
	back := sharesOf(podOf("b", hashed("new")), releaseOf("r", byGateways, shut)).share.splits[0].Versions[0].Addresses
	if diff := cmp.Diff("[10.0.0.6:8080 10.0.0.7:8080]", addressesText(back)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func addressesText(all []netip.AddrPort) string {
	s := "["
	for i, a := range all {
		if i > 0 {
			s += " "
		}
		s += a.String()
	}
	return s + "]"
}

// A share that grows counts at once, one that falls when gateways have obeyed for a while:
// what is told is never less than what was true.
func TestWhatGatewaysShareIsBounded(t *testing.T) {
	t0 := time.Unix(1000, 0)
	var s shared
	at := func(after time.Duration, weight, mirror int32, generation int64) {
		r := &v1alpha1.Release{ObjectMeta: meta.ObjectMeta{Name: "r"}}
		r.Status.Route = &v1alpha1.Routing{Generation: 5, Weight: weight, Mirror: mirror, Shut: weight == 0 && mirror == 0}
		r.Status.Gateways = []v1alpha1.RouteStatus{{Generation: generation, Parents: []v1alpha1.RouteParent{{Obeys: true}}}}
		s.follow(r, r.Status.Route, t0.Add(after))
	}
	at(0, 500, 0, 4)
	at(1*time.Second, 2500, 0, 4)
	at(2*time.Second, 500, 0, 4) // nobody obeys that yet
	at(3*time.Second, 500, 0, 5)
	at(4*time.Second, 500, 0, 5)
	at(20*time.Second, 0, 0, 5)
	at(21*time.Second, 1000, 0, 5) // before that was so
	at(30*time.Second, 1000, 10000, 5)
	for _, tt := range []struct {
		after time.Duration
		want  steer.Weight
	}{{-1, 0}, {0, 500}, {1 * time.Second, 2500}, {5 * time.Second, 2500}, {7 * time.Second, 2500}, {8 * time.Second, 500}, {20 * time.Second, 500}, {22 * time.Second, 1000}, {25 * time.Second, 1000}, {30 * time.Second, 5500}} {
		if got := s.at(t0.Add(tt.after)); got != tt.want {
			t.Errorf("after %s it is %v, want %v", tt.after, got, tt.want)
		}
	}
	for i := range 1000 {
		at(time.Minute+time.Duration(i)*time.Second, int32(i+1)*9%10000, 0, 5)
	}
	if len(s.all) > mostShares {
		t.Errorf("%d are kept", len(s.all))
	}
}

// What a door has kept is told as though it had drawn the version.
func TestAnOutcomeOfAGatewaysShare(t *testing.T) {
	s := shared{[]change{{time.Unix(1000, 0), 500}}}
	own := netip.MustParseAddrPort("10.0.0.9:8081")
	o := &steer.Outcome{Version: v1alpha1.Canary, Weight: steer.All, Time: time.Unix(1001, 0)}
	if got := s.outcome(o, own); got.Weight != 500 || got.Pod != own || o.Weight != steer.All {
		t.Errorf("%+v", got)
	}
	o.Version = v1alpha1.Stable
	if got := s.outcome(o, own); got.Weight != 9500 || got.Pod.IsValid() {
		t.Errorf("%+v", got)
	}
}
