package nodeagent

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/agent/gate"
	"github.com/bightdev/bight/internal/steer"
)

func TestAPostIsOnlyWokenByNews(t *testing.T) {
	pod := podOf("a")
	w := func(change ...func(*wanted)) *wanted {
		w := &wanted{pod: podOf("a"), grants: []gate.Grant{{ID: "x"}}, ports: []gate.Port{{Number: 8080}}}
		for _, c := range change {
			c(w)
		}
		return w
	}
	p := &post{news: make(chan struct{}, 1)}
	woken := func() bool {
		select {
		case <-p.news:
			return true
		default:
			return false
		}
	}
	for _, tc := range []struct {
		name string
		want *wanted
		news bool
	}{
		{"wanted", w(), true},
		{"the same", w(), false},
		{"the same of a pod that has other labels", w(func(w *wanted) { w.pod.Labels = nil }), false},
		{"another grant", w(func(w *wanted) { w.grants[0].TokenHash = "y" }), true},
		{"a container that was started again", w(func(w *wanted) {
			w.grants[0].TokenHash = "y"
			w.pod.Status.ContainerStatuses = []core.ContainerStatus{{ContainerID: "containerd://1"}}
		}), true},
		{"not wanted", nil, true},
		{"still not", nil, false},
	} {
		if !p.set(tc.want) {
			t.Fatalf("%s: the post has ended", tc.name)
		}
		if got := woken(); got != tc.news {
			t.Errorf("%s: woken is %v, want %v", tc.name, got, tc.news)
		}
	}
	if !p.end() || p.set(w()) {
		t.Errorf("pod %s: a post that has ended takes orders", pod.Name)
	}
}

// rules is a gate's list.
type rules []steer.Status

func (r *rules) List() []steer.Status { return slices.Clone(*r) }

func TestCountersAreToldSlowly(t *testing.T) {
	g := &rules{{Rule: steer.Rule{ID: "x"}, State: steer.Active}}
	c := &counts{}
	t0 := time.Unix(1000, 0)
	tell := func(after time.Duration, requests int64, state steer.State) v1alpha1.PodStatus {
		(*g)[0].Counters.Requests, (*g)[0].State = requests, state
		return c.status(v1alpha1.PodStatus{Name: "a", Port: gatePort}, "x", g, t0.Add(after))
	}
	told := func(requests int64, state steer.State) v1alpha1.PodStatus {
		return v1alpha1.PodStatus{Name: "a", Port: gatePort, State: string(state), Requests: requests}
	}
	for _, step := range []struct {
		after    time.Duration
		requests int64
		state    steer.State
		want     v1alpha1.PodStatus
	}{
		{0, 1, steer.Active, told(1, steer.Active)},
		{1500 * time.Millisecond, 7, steer.Active, told(1, steer.Active)},       // only counted on
		{1600 * time.Millisecond, 8, steer.Suspended, told(1, steer.Active)},    // not looked at again yet
		{2600 * time.Millisecond, 9, steer.Suspended, told(9, steer.Suspended)}, // that is news
		{8 * time.Second, 12, steer.Suspended, told(12, steer.Suspended)},
	} {
		if d := cmp.Diff(step.want, tell(step.after, step.requests, step.state)); d != "" {
			t.Errorf("after %s (-want +got):\n%s", step.after, d)
		}
	}
}

func TestAnInterceptIsDeletedOnce(t *testing.T) {
	now := time.Unix(1000, 0)
	x, y := interceptOf("x"), interceptOf("y")
	y.DeletionTimestamp = &x.CreationTimestamp
	a := &Agent{
		intercepts: map[types.NamespacedName]*v1alpha1.Intercept{nameOf(x): x, nameOf(y): y},
		deleting:   map[types.NamespacedName]time.Time{},
	}
	over := []types.NamespacedName{nameOf(x), nameOf(y), {Name: "gone"}}
	fresh, again := a.begin(over, now)
	if d := cmp.Diff([]types.NamespacedName{nameOf(x)}, fresh); d != "" {
		t.Errorf("first (-want +got):\n%s", d)
	}
	if fresh, then := a.begin(over, now.Add(time.Second)); len(fresh) > 0 || then != again {
		t.Errorf("a second later: %v", again)
	}
	if later, _ := a.begin(over, again); len(later) != 1 {
		t.Errorf("much later: %v", later)
	}
}
