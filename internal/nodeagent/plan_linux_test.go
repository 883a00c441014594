package nodeagent

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/agent/gate"
)

func podOf(name string, change ...func(*core.Pod)) *core.Pod {
	p := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID("uid-" + name), Labels: map[string]string{"app": "cart", "tier": "back"}},
		Spec: core.PodSpec{Containers: []core.Container{
			{Name: "cart", Ports: []core.ContainerPort{{Name: "http", ContainerPort: 8080}, {ContainerPort: 53, Protocol: core.ProtocolUDP}}},
			{Name: "sidecar"},
		}},
		Status: core.PodStatus{Phase: core.PodRunning},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func interceptOf(name string, change ...func(*v1alpha1.Intercept)) *v1alpha1.Intercept {
	i := &v1alpha1.Intercept{
		ObjectMeta: meta.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID("uid-" + name)},
		Spec: v1alpha1.InterceptSpec{
			Owner: "ada", From: "ada@laptop", Selector: map[string]string{"app": "cart"}, TokenHash: "hash-" + name,
			Rule: &v1alpha1.Rule{Port: 8080, Protocol: "http", Mode: "intercept"},
		},
	}
	for _, c := range change {
		c(i)
	}
	return i
}

// got is what plan says of one pod.
type got struct {
	Grants []string
	Ports  []gate.Port
	Exempt []uint16
}

func TestPlan(t *testing.T) {
	probe := func(h core.ProbeHandler) func(*core.Pod) {
		return func(p *core.Pod) { p.Spec.Containers[0].ReadinessProbe = &core.Probe{ProbeHandler: h} }
	}
	for _, tc := range []struct {
		name       string
		pod        *core.Pod
		intercepts []*v1alpha1.Intercept
		want       *got
	}{
		{"a pod that is selected", podOf("a"), []*v1alpha1.Intercept{interceptOf("x")},
			&got{[]string{"x of ada (ada@laptop) in cart"}, []gate.Port{{Number: 8080, Protocol: "http"}}, nil}},
		{"two owners, in the order of their names", podOf("a"), []*v1alpha1.Intercept{interceptOf("y"), interceptOf("x", func(i *v1alpha1.Intercept) { i.Spec.From = "" })},
			&got{[]string{"x of ada in cart", "y of ada (ada@laptop) in cart"}, []gate.Port{{Number: 8080, Protocol: "http"}}, nil}},
		{"a port that no container declares", podOf("a"), []*v1alpha1.Intercept{interceptOf("x", func(i *v1alpha1.Intercept) { i.Spec.Rule.Port, i.Spec.Rule.Protocol = 9000, "" })},
			&got{[]string{"x of ada (ada@laptop) in cart"}, []gate.Port{{Number: 8080}, {Number: 9000}}, nil}},
		{"another container's environment", podOf("a"), []*v1alpha1.Intercept{interceptOf("x", func(i *v1alpha1.Intercept) { i.Spec.Rule, i.Spec.Container = nil, "sidecar" })},
			&got{[]string{"x of ada (ada@laptop) in sidecar"}, []gate.Port{{Number: 8080}}, nil}},
		{"every label must be there", podOf("a"), []*v1alpha1.Intercept{interceptOf("x", func(i *v1alpha1.Intercept) { i.Spec.Selector["tier"] = "front" })}, nil},
		{"no selector selects nothing", podOf("a"), []*v1alpha1.Intercept{interceptOf("x", func(i *v1alpha1.Intercept) { i.Spec.Selector = nil })}, nil},
		{"another namespace", podOf("a"), []*v1alpha1.Intercept{interceptOf("x", func(i *v1alpha1.Intercept) { i.Namespace = "other" })}, nil},
		{"a pod that does not run yet", podOf("a", func(p *core.Pod) { p.Status.Phase = core.PodPending }), []*v1alpha1.Intercept{interceptOf("x")}, nil},
		{"an Intercept that is being deleted", podOf("a"), []*v1alpha1.Intercept{interceptOf("x", func(i *v1alpha1.Intercept) { i.DeletionTimestamp = &meta.Time{} })}, nil},
		{"kubelet's HTTP probes say who they are",
			podOf("a", probe(core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Path: "/ready", Port: intstr.FromString("http")}})), []*v1alpha1.Intercept{interceptOf("x")},
			&got{[]string{"x of ada (ada@laptop) in cart"}, []gate.Port{{Number: 8080, Protocol: "http"}}, nil}},
		{"unless they are told to use another name",
			podOf("a", probe(core.ProbeHandler{HTTPGet: &core.HTTPGetAction{
				Path: "/ready", Port: intstr.FromString("http"), HTTPHeaders: []core.HTTPHeader{{Name: "User-Agent", Value: "x"}},
			}})), []*v1alpha1.Intercept{interceptOf("x")},
			&got{[]string{"x of ada (ada@laptop) in cart"}, []gate.Port{{Number: 8080, Protocol: "http", Probes: []string{"/ready"}}}, nil}},
		{"its TCP probes don't",
			podOf("a", probe(core.ProbeHandler{TCPSocket: &core.TCPSocketAction{Port: intstr.FromInt32(8080)}})), []*v1alpha1.Intercept{interceptOf("x")},
			&got{[]string{"x of ada (ada@laptop) in cart"}, []gate.Port{{Number: 8080, Protocol: "http"}}, []uint16{8080}}},
		{"nor do those inside TLS",
			podOf("a", probe(core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080), Scheme: core.URISchemeHTTPS}})), []*v1alpha1.Intercept{interceptOf("x")},
			&got{[]string{"x of ada (ada@laptop) in cart"}, []gate.Port{{Number: 8080, Protocol: "http"}}, []uint16{8080}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			intercepts := map[types.NamespacedName]*v1alpha1.Intercept{}
			for _, i := range tc.intercepts {
				intercepts[nameOf(i)] = i
			}
			all := plan(intercepts, map[types.UID]*core.Pod{tc.pod.UID: tc.pod})
			var have *got
			if w := all[tc.pod.UID]; w != nil {
				have = &got{Ports: w.ports, Exempt: w.exempt}
				for _, g := range w.grants {
					have.Grants = append(have.Grants, g.ID+" of "+g.Owner+" in "+g.Container)
				}
			}
			if d := cmp.Diff(tc.want, have); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestWhatHasExpiredMayComeBack(t *testing.T) {
	t0 := time.Unix(1000, 0)
	x, y := interceptOf("x"), interceptOf("y")
	present := map[types.NamespacedName]*v1alpha1.Intercept{nameOf(x): x}
	all := map[types.NamespacedName]late{nameOf(y): {y, t0.Add(comeback)}, {Name: "z"}: {y, t0}}
	both := withLate(present, all, t0)
	if len(both) != 2 || both[nameOf(y)] != y || len(present) != 1 || len(all) != 1 {
		t.Errorf("there is %v, of %v and %v", both, present, all)
	}
	if left := withLate(present, all, t0.Add(comeback)); len(left) != 1 || len(all) != 0 {
		t.Errorf("a minute later there is %v", left)
	}
	r := renewal{at: t0}
	if r.expired(t0.Add(3*time.Second)) || !r.expired(t0.Add(lease)) {
		t.Error("an Intercept that was renewed just now has not expired; one that was not, has")
	}
}

func TestExpired(t *testing.T) {
	t0 := time.Unix(1000, 0)
	x, y := types.NamespacedName{Name: "x"}, types.NamespacedName{Name: "y"}
	seen := map[types.NamespacedName]renewal{x: {"", t0}, y: {"", t0.Add(2 * time.Second)}}
	for _, tc := range []struct {
		name  string
		here  []types.NamespacedName // which have pods on this node
		after time.Duration
		over  []types.NamespacedName
		next  time.Duration // 0 for none
	}{
		{"both are fresh", []types.NamespacedName{x, y}, 5 * time.Second, nil, 10 * time.Second},
		{"the first is over", []types.NamespacedName{x, y}, 10 * time.Second, []types.NamespacedName{x}, 12 * time.Second},
		{"both are over", []types.NamespacedName{x, y}, 12 * time.Second, []types.NamespacedName{x, y}, 0},
		{"those without pods here are left to others", nil, 12 * time.Second, nil, 20 * time.Second},
		{"but not for ever", nil, 22 * time.Second, []types.NamespacedName{x, y}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			over, next := expired(seen, func(n types.NamespacedName) bool { return slices.Contains(tc.here, n) }, t0.Add(tc.after))
			if d := cmp.Diff(tc.over, over); d != "" {
				t.Errorf("over (-want +got):\n%s", d)
			}
			want := time.Time{}
			if tc.next != 0 {
				want = t0.Add(tc.next)
			}
			if !next.Equal(want) {
				t.Errorf("next = %v, want %v", next, want)
			}
		})
	}
}
