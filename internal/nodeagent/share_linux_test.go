package nodeagent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/agent/gate"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/steer"
)

func releaseOf(name string, change ...func(*v1alpha1.Release)) *v1alpha1.Release {
	r := &v1alpha1.Release{
		ObjectMeta: meta.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID("uid-" + name)},
		Spec:       v1alpha1.ReleaseSpec{Deployment: "cart", Service: "cart"},
		Status: v1alpha1.ReleaseStatus{Phase: "Progressing", Route: &v1alpha1.Routing{
			Generation: 7, Weight: 500, Held: 2500, Selector: map[string]string{"app": "cart"}, Stable: "old", Canary: "new",
			Ports:     []v1alpha1.RoutingPort{{Stable: 8080, Canary: 8081, Protocol: "http"}},
			Addresses: []string{"10.0.0.2", "10.0.0.2", "fd00::2"}, Judges: 4,
		}},
	}
	for _, c := range change {
		c(r)
	}
	return r
}

func hashed(hash string) func(*core.Pod) { return func(p *core.Pod) { p.Labels[hashLabel] = hash } }

func routingOf(r *v1alpha1.Release) routing {
	return routing{r, spec.Effective(r), []time.Duration{30 * time.Second}, 0}
}

// sharesOf is what releases want in one pod.
func sharesOf(pod *core.Pod, all ...*v1alpha1.Release) *wanted {
	var routings []routing
	for _, r := range all {
		routings = append(routings, routingOf(r))
	}
	want := map[types.UID]*wanted{}
	shares(want, routings, map[types.UID]*core.Pod{pod.UID: pod})
	return want[pod.UID]
}

func TestStableSharesItsRequests(t *testing.T) {
	r := releaseOf("r", func(r *v1alpha1.Release) {
		r.Status.Route.Mirror = 100
		r.Status.Route.Affinity = &v1alpha1.Affinity{Cookie: "seat", Give: true}
		r.Status.Route.Routes = []v1alpha1.ReleaseRoute{{
			Name: "staff", Headers: []v1alpha1.HeaderMatch{{Name: "x-staff", Value: "y", Prefix: true}},
			Cookies: []v1alpha1.HeaderMatch{{Name: "beta", Value: "1"}}, Path: "/a", Exact: true, To: "canary",
			Query: []v1alpha1.HeaderMatch{{Name: "look", Value: "new"}}, Methods: []string{"GET", "HEAD"},
		}}
		r.Status.Route.Ports = append(r.Status.Route.Ports, v1alpha1.RoutingPort{Stable: 7000, Canary: 7000, Protocol: "tcp"})
	})
	w := sharesOf(podOf("a", hashed("old")), r)
	want := &share{of: releaseSubject(r), generation: 7, local: "stable", splits: []*steer.Split{{
		Generation: 7, Of: "uid-r", Service: "cart", Port: 8080, Stable: "stable", Slow: []time.Duration{30 * time.Second},
		Record: &steer.Record{Body: 16 << 10, Every: 20},
		Versions: []steer.Version{{Name: "stable", Weight: 9500}, {
			Name: "canary", Weight: 500, Held: 2500,
			Addresses: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:8081"), netip.MustParseAddrPort("[fd00::2]:8081")},
		}},
		Cohorts: []steer.Cohort{{
			Name: "staff", Version: "canary", Cookies: []steer.HeaderMatch{{Name: "beta", Value: "1"}},
			Query: []steer.HeaderMatch{{Name: "look", Value: "new"}}, Methods: []string{"GET", "HEAD"}, Exact: true,
			Match: steer.Match{Headers: []steer.HeaderMatch{{Name: "x-staff", Value: "y", Prefix: true}}, Path: "/a"},
		}},
		Affinity: &steer.Affinity{Cookie: "seat", Give: true},
		Mirror:   &steer.Copies{Version: "canary", Weight: 100},
	}}}
	if d := cmp.Diff(want, w.share, cmp.AllowUnexported(share{}, subject{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff([]gate.Port{{Number: 8080, Protocol: "http"}, {Number: 7000, Protocol: "tcp"}}, w.ports); d != "" {
		t.Errorf("ports (-want +got):\n%s", d)
	}
}

func TestTheCanaryKeepsWhatComesToIt(t *testing.T) {
	w := sharesOf(podOf("a", hashed("new")), releaseOf("r"))
	want := []*steer.Split{{
		Generation: 7, Of: "uid-r", Service: "cart", Port: 8081, Stable: "canary", Versions: []steer.Version{{Name: "canary", Weight: steer.All}},
	}}
	if d := cmp.Diff(want, w.share.splits, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" || w.share.local != "canary" {
		t.Errorf("local is %s (-want +got):\n%s", w.share.local, d)
	}
}

// brief is what matters of a share.
func brief(w *wanted) string {
	if w == nil || w.share == nil {
		return "nothing"
	}
	s := fmt.Sprintf("%s of %s at %d:", w.share.local, w.share.of.Name, w.share.generation)
	for _, split := range w.share.splits {
		for _, v := range split.Versions {
			s += fmt.Sprintf(" %s %v", v.Name, v.Weight)
			if v.Shut {
				s += " shut"
			}
		}
		if split.Mirror != nil {
			s += " mirrored"
		}
	}
	return s + w.share.problem
}

func TestWhichPodSharesWhat(t *testing.T) {
	old := podOf("a", hashed("old"))
	route := func(f func(*v1alpha1.Routing)) func(*v1alpha1.Release) {
		return func(r *v1alpha1.Release) { f(r.Status.Route) }
	}
	later := func(r *v1alpha1.Release) { r.CreationTimestamp = meta.Unix(2000, 0) }
	undo := func(r *v1alpha1.Release) { r.Spec.Orders.Undo = true }
	for _, tt := range []struct {
		name     string
		pod      *core.Pod
		releases []*v1alpha1.Release
		want     string
	}{
		{"stable", old, []*v1alpha1.Release{releaseOf("r")}, "stable of r at 7: stable 95% canary 5%"},
		{"one that is not ready yet", podOf("a", hashed("old"), func(p *core.Pod) {
			p.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: core.ConditionFalse}}
		}), []*v1alpha1.Release{releaseOf("r")}, "stable of r at 7: stable 95% canary 5%"},
		{"one that does not run yet", podOf("a", hashed("old"), func(p *core.Pod) { p.Status.Phase = core.PodPending }), []*v1alpha1.Release{releaseOf("r")}, "nothing"},
		{"a third version", podOf("a", hashed("older")), []*v1alpha1.Release{releaseOf("r")}, "nothing"},
		{"no version", podOf("a"), []*v1alpha1.Release{releaseOf("r", route(func(r *v1alpha1.Routing) { r.Canary = "" }))}, "nothing"},
		{"another app", podOf("a", hashed("old"), func(p *core.Pod) { p.Labels["app"] = "web" }), []*v1alpha1.Release{releaseOf("r")}, "nothing"},
		{"another namespace", podOf("a", hashed("old"), func(p *core.Pod) { p.Namespace = "other" }), []*v1alpha1.Release{releaseOf("r")}, "nothing"},
		{"an undone release, before the controller knows", old, []*v1alpha1.Release{releaseOf("r", undo, route(func(r *v1alpha1.Routing) { r.Mirror = 100 }))},
			"stable of r at 8: stable 100% canary 0% shut"},
		{"convicted by another node", old, []*v1alpha1.Release{releaseOf("r", func(r *v1alpha1.Release) {
			r.Status.Doors = []v1alpha1.NodeDoors{{Node: "other", Convicted: "errors"}}
		})}, "stable of r at 8: stable 100% canary 0% shut"},
		{"shut, whatever its weight", old, []*v1alpha1.Release{releaseOf("r", route(func(r *v1alpha1.Routing) { r.Shut = true }))}, "stable of r at 7: stable 100% canary 0% shut"},
		{"the newest release", old, []*v1alpha1.Release{releaseOf("z", route(func(r *v1alpha1.Routing) { r.Weight = 100 })), releaseOf("b", later)},
			"stable of b at 7: stable 95% canary 5%"},
		{"held less than its weight", old, []*v1alpha1.Release{releaseOf("r", route(func(r *v1alpha1.Routing) { r.Held = 1 }))}, "stable of r at 7: stable 95% canary 5%"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := brief(sharesOf(tt.pod, tt.releases...)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// What makes no sense is said, and stable has everything.
func TestARoutingThatMakesNoSense(t *testing.T) {
	for why, change := range map[string]func(*v1alpha1.Routing){
		"status.route.addresses of Release r": func(r *v1alpha1.Routing) { r.Addresses = []string{"x"} },
		`cohort 1 "": it has every request`:   func(r *v1alpha1.Routing) { r.Routes = []v1alpha1.ReleaseRoute{{To: "canary"}} },
	} {
		s := sharesOf(podOf("a", hashed("old")), releaseOf("r", func(r *v1alpha1.Release) { change(r.Status.Route) })).share
		if !strings.Contains(s.problem, why) || s.splits != nil {
			t.Errorf("got %q and %d splits, want %q", s.problem, len(s.splits), why)
		}
	}
}

func TestAnInterceptAndAReleaseShareAGate(t *testing.T) {
	pod := podOf("a", hashed("old"))
	i := interceptOf("x")
	pods := map[types.UID]*core.Pod{pod.UID: pod}
	all := plan(map[types.NamespacedName]*v1alpha1.Intercept{nameOf(i): i}, pods)
	shares(all, []routing{routingOf(releaseOf("r"))}, pods)
	if w := all[pod.UID]; len(all) != 1 || len(w.grants) != 1 || brief(w) != "stable of r at 7: stable 95% canary 5%" || len(w.ports) != 1 {
		t.Errorf("got %d pods, %+v, %s", len(all), w, brief(w))
	}
}

func TestANodesEntryIsToldSlowly(t *testing.T) {
	t0 := time.Unix(1000, 0)
	e := &entry{}
	n := func(generation, decided int64, pods ...string) v1alpha1.NodeDoors {
		return v1alpha1.NodeDoors{Node: "n", Generation: generation, Decided: decided, Pods: pods}
	}
	convicted := n(2, 9, "a", "b")
	convicted.Convicted = "errors"
	for _, step := range []struct {
		name  string
		after time.Duration
		now   v1alpha1.NodeDoors
		soon  bool
		want  v1alpha1.NodeDoors
	}{
		{"the first", 0, n(1, 0), true, n(1, 0)},
		{"the first pod, and the second soon", 10 * time.Millisecond, n(1, 0, "a"), true, n(1, 0)},
		{"both", 20 * time.Millisecond, n(1, 0, "a", "b"), false, n(1, 0, "a", "b")},
		{"what has only counted on", 500 * time.Millisecond, n(1, 5, "a", "b"), false, n(1, 0, "a", "b")},
		{"one is about to obey the next", 600 * time.Millisecond, n(2, 7, "a"), true, n(1, 0, "a", "b")},
		{"a new generation", 610 * time.Millisecond, n(2, 8, "a", "b"), false, n(2, 8, "a", "b")},
		{"a conviction", 620 * time.Millisecond, convicted, false, convicted},
		{"after a while", 2620 * time.Millisecond, func() v1alpha1.NodeDoors { c := convicted; c.Decided = 50; return c }(), false,
			func() v1alpha1.NodeDoors { c := convicted; c.Decided = 50; return c }()},
	} {
		if d := cmp.Diff(step.want, e.next(step.now, step.soon, t0.Add(step.after))); d != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, d)
		}
	}
}

func TestDoorsThatStandOpen(t *testing.T) {
	annotated := func(p *core.Pod) { p.Annotations = map[string]string{v1alpha1.DoorsAnnotation: "true"} }
	stands := func(p *core.Pod) *wanted {
		want := map[types.UID]*wanted{}
		standing(want, map[types.UID]*core.Pod{p.UID: p})
		return want[p.UID]
	}
	w := stands(podOf("a", annotated))
	if w == nil || len(w.share.splits) != len(w.ports) || len(w.ports) == 0 || w.counts() {
		t.Fatalf("it has %+v", w)
	}
	for _, s := range w.share.splits {
		if err := s.Check(); err != nil || s.Find(w.share.local) < 0 {
			t.Errorf("port %d: %v", s.Port, err)
		}
	}
	if w := stands(podOf("a")); w != nil {
		t.Errorf("a pod that does not ask for doors has %+v", w)
	}
	if w := stands(podOf("a", annotated, func(p *core.Pod) { p.Status.Phase = core.PodPending })); w != nil {
		t.Errorf("a pod that does not run has %+v", w)
	}
	ends := func(p *core.Pod) { p.DeletionTimestamp = &meta.Time{Time: time.Now()} }
	if w := stands(podOf("a", annotated, ends)); w != nil {
		t.Errorf("a pod that ends has %+v", w)
	}
	if s := sharesOf(podOf("a", hashed("old"), ends), releaseOf("r")).share.splits[0]; !s.Retire {
		t.Error("clients stay with a pod that ends")
	}
	if s := sharesOf(podOf("a", hashed("old")), releaseOf("r")).share.splits[0]; s.Retire {
		t.Error("clients leave a pod that goes on")
	}
	pod := podOf("a", annotated, hashed("old"))
	of := sharesOf(pod, releaseOf("r"))
	want := map[types.UID]*wanted{pod.UID: of}
	was := of.share
	standing(want, map[types.UID]*core.Pod{pod.UID: pod})
	if of.share != was {
		t.Errorf("what a release wants is replaced by %+v", of.share)
	}
}
