package client

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

func ptr[T any](v T) *T { return &v }

// running is a release at 5 %, which both pods of stable obey.
func running(change func(*v1alpha1.Release)) *v1alpha1.Release {
	r := &v1alpha1.Release{
		ObjectMeta: metav1.ObjectMeta{Name: "cart-1", Namespace: "shop", UID: "u1", Generation: 7, ResourceVersion: "1"},
		Spec:       v1alpha1.ReleaseSpec{Deployment: "cart", Service: "carts", Version: "cart:v2"},
		Status: v1alpha1.ReleaseStatus{
			Phase: string(release.Progressing), Message: "5 % of the requests: collecting evidence", Step: 1, Steps: 2,
			Route:  &v1alpha1.Routing{Generation: 4, Weight: 500, Held: 500, Stable: "aaa", Canary: "bbb", Selector: map[string]string{"app": "cart"}},
			Stable: v1alpha1.VersionStatus{Hash: "aaa", Want: 2, Ready: 2, Pods: 2},
			Canary: v1alpha1.VersionStatus{Hash: "bbb", Want: 1, Ready: 1, Pods: 1},
			Doors: []v1alpha1.NodeDoors{
				{Node: "n1", Generation: 4, Pods: []string{"cart-a"}},
				{Node: "n2", Generation: 4, Pods: []string{"cart-b"}},
			},
			Conditions: []metav1.Condition{{Type: "Ended", Status: metav1.ConditionFalse, ObservedGeneration: 7}},
		},
	}
	if change != nil {
		change(r)
	}
	return r
}

func phase(p release.Phase, message string) func(*v1alpha1.Release) {
	return func(r *v1alpha1.Release) { r.Status.Phase, r.Status.Message = string(p), message }
}

func both(changes ...func(*v1alpha1.Release)) func(*v1alpha1.Release) {
	return func(r *v1alpha1.Release) {
		for _, c := range changes {
			c(r)
		}
	}
}

// unseen is a release whose newest order the controller has not seen.
func unseen(r *v1alpha1.Release) { r.Status.Conditions[0].ObservedGeneration = 6 }

func behindOn2(r *v1alpha1.Release) { r.Status.Doors[1].Generation = 3 }

func route(value string) []v1alpha1.ReleaseRoute {
	return []v1alpha1.ReleaseRoute{{Headers: []v1alpha1.HeaderMatch{{Name: "x-dev", Value: value}}, To: v1alpha1.Canary}}
}

// What was ordered since somebody has asked is not taken back by who approves.
func TestApproveGivesOnlyWhatWasAsked(t *testing.T) {
	r := running(func(r *v1alpha1.Release) { r.Spec.Orders.By = "bob" })
	asked, err := Weigh(5000)(r)
	if err != nil {
		t.Fatal(err)
	}
	asked.By, asked.Over = "ada", digest(r.Spec.Orders)
	r.Spec.Ask = &asked
	r.Spec.Orders.Why, r.Spec.Orders.By = "another word", "carol" // which is no other order
	got, err := Approve()(r)
	if err != nil || got.Asked != "ada" || got.Over != "" || got.Weight.IntValue() != 50 {
		t.Errorf("%+v, %v", got, err)
	}
	r.Spec.Orders.Paused = true
	if _, err := Approve()(r); err == nil || !strings.Contains(err.Error(), "ada has asked for 50 % of the requests, and the orders of release cart-1 have changed since (pause (another word))") {
		t.Errorf("what would end a pause: %v", err)
	}
	r.Spec.Ask.Over = "" // written without this program
	if _, err := Approve()(r); err != nil {
		t.Error(err)
	}
}

// What was asked for stands where a policy refuses it to who approves, and not where it holds.
func TestWhatIsAskedForStandsUntilItIsGiven(t *testing.T) {
	r := running(nil)
	asked, err := Weigh(5000)(r)
	if err != nil {
		t.Fatal(err)
	}
	asked.By, asked.Over = "ada", digest(r.Spec.Orders)
	r.Spec.Ask = &asked
	before := r.Spec.Orders
	given, err := Approve()(r)
	if err != nil {
		t.Fatal(err)
	}
	write := func(o v1alpha1.ReleaseOrders) string {
		t.Helper()
		text, err := patch(r, o)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if text := write(given); strings.Contains(text, "ask\":") {
		t.Errorf("before it is judged, an approval takes it away: %s", text)
	}
	r.Spec.Orders = given
	r.Status.Refused = &v1alpha1.ReleaseRefusal{Orders: before}
	if Asked(r) == nil {
		t.Error("refused, nobody asks for it")
	}
	if again, err := Approve()(r); err != nil || again.Asked != "ada" {
		t.Errorf("approved by somebody else: %+v, %v", again, err)
	}
	r.Status.Refused = nil
	if Asked(r) != nil {
		t.Error("given, somebody asks for it")
	}
	if _, err := Approve()(r); err == nil {
		t.Error("it is approved twice")
	}
	if text := write(before); !strings.Contains(text, `"ask":null`) {
		t.Errorf("it stays in the release: %s", text)
	}
}

// While a promoted version can be undone a newer release waits: either may be meant.
func TestWhichReleaseAnOrderIsFor(t *testing.T) {
	at := func(name string, minute int, change func(*v1alpha1.Release)) v1alpha1.Release {
		r := running(change)
		r.Name, r.CreationTimestamp = name, metav1.NewTime(time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC))
		return *r
	}
	none := func(r *v1alpha1.Release) { r.Status.Route = nil }
	full := func(r *v1alpha1.Release) { r.Status.Full = ptr(metav1.NowMicro()) }
	waiting := at("cart-3", 3, both(none, phase(release.Starting, "it begins after that")))
	fresh := at("cart-3", 3, both(none, phase("", "")))
	undone := at("cart-3", 3, both(none, phase(release.Undone, "undone before it began")))
	begun := at("cart-3", 3, nil)
	promoted := at("cart-2", 2, both(full, phase(release.Promoted, "it has all requests")))
	retiring := at("cart-2", 2, both(full, phase(release.Promoted, ""), func(r *v1alpha1.Release) { r.Status.Route.Retire = true }))
	undoing := at("cart-2", 2, both(full, phase(release.Undoing, "")))
	over := at("cart-2", 2, both(none, full, phase(release.Promoted, "it has all requests")))
	first := at("cart-1", 1, both(none, phase(release.Promoted, "")))
	other := at("api-9", 9, func(r *v1alpha1.Release) { r.Spec.Deployment, r.Spec.Service = "api", "apis" })
	const notNewest, either = "is not the newest of deployment cart, which is cart-3", "bight release undo cart-2 takes them from it"
	for _, tt := range []struct {
		name   string
		is     string // by which it is called
		undo   bool
		newest v1alpha1.Release
		second v1alpha1.Release
		want   string // of the refusal, "" for none
	}{
		{"undo the promoted one", "cart-2", true, waiting, promoted, ""},
		{"undo it again", "cart-2", true, waiting, undoing, ""},
		{"undo it, the other has ended", "cart-2", true, undone, promoted, ""},
		{"weigh the promoted one", "cart-2", false, waiting, promoted, notNewest},
		{"too late", "cart-2", true, waiting, retiring, notNewest},
		{"long over", "cart-2", true, waiting, over, notNewest},
		{"undo the one that waits", "cart-3", true, waiting, promoted, ""},
		{"undo either", "cart", true, waiting, promoted, "release cart-3 is starting, and no request is its own; cart-2 has them all, and can be undone still: " + either + ", and bight release undo cart-3 has the other one never begin"},
		{"undo either, by the service", "carts", true, waiting, promoted, either},
		{"undo either, before the controller has seen one", "cart", true, fresh, promoted, "release cart-3 is new"},
		{"undo the only one that can be", "cart", true, undone, promoted, either},
		{"weigh the one that waits", "cart", false, waiting, promoted, ""},
		{"undo one that has taken the place", "cart", true, begun, over, ""},
		{"undo one that waits for something else", "cart", true, waiting, over, ""},
	} {
		all := []v1alpha1.Release{other, tt.newest, tt.second, first}
		found, err := Find(all, tt.is, "shop")
		if err != nil {
			t.Fatal(err)
		}
		err = addressed(all, found, tt.is, tt.undo)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// The Service leads to the new pods alone: no weight is observed, whatever was ordered.
func TestAloneNothingIsObserved(t *testing.T) {
	weigh := func(w int32, alone bool) *v1alpha1.Release {
		return running(func(r *v1alpha1.Release) {
			r.Spec.Orders.Weight, r.Status.Route.Weight, r.Status.Route.Alone = ptr(intstr.FromInt32(w)), w*100, alone
			r.Status.Stable, r.Status.Doors = v1alpha1.VersionStatus{Hash: "aaa", Want: 2}, nil
		})
	}
	if done, still := Observed(weigh(0, true)); done || !strings.Contains(still, "it has all requests, whatever its share is") {
		t.Errorf("0 %%: %v, %s", done, still)
	}
	if done, still := Observed(weigh(100, true)); !done {
		t.Errorf("100 %%: %s", still)
	}
	if done, still := Observed(weigh(0, false)); !done {
		t.Errorf("with pods of stable: %s", still)
	}
	undone := weigh(0, true)
	undone.Spec.Orders = v1alpha1.ReleaseOrders{Undo: true}
	undone.Status.Stable.Pods = 2 // which are not ready
	if done, still := Observed(undone); done || !strings.Contains(still, "nobody else could have its requests") {
		t.Errorf("undo: %v, %s", done, still)
	}
}

func TestObserved(t *testing.T) {
	const no = "the controller has not seen the order yet; does it run? kubectl get pods -n bight-system"
	weigh := func(w int32) func(*v1alpha1.Release) {
		return func(r *v1alpha1.Release) { r.Spec.Orders.Weight = ptr(intstr.FromInt32(w)) }
	}
	undo := func(r *v1alpha1.Release) { r.Spec.Orders.Undo = true }
	promote := func(r *v1alpha1.Release) { r.Spec.Orders.Promote = true }
	shut := func(r *v1alpha1.Release) { r.Status.Route.Weight, r.Status.Route.Shut = 0, true }
	all := func(generation int64) func(*v1alpha1.Release) {
		return func(r *v1alpha1.Release) {
			r.Status.Doors[0].Generation, r.Status.Doors[1].Generation = generation, generation
		}
	}
	noRoute := func(r *v1alpha1.Release) { r.Status.Route = nil }
	tests := []struct {
		name   string
		change func(*v1alpha1.Release)
		want   string // what it waits for, "" for done
	}{
		{"no order", nil, ""},
		{"a pod behind", behindOn2, "1 of 2 pods obey"},
		{"a node that says nothing", func(r *v1alpha1.Release) { r.Status.Doors = r.Status.Doors[:1] }, "1 of 2 pods obey"},
		{"a new pod of stable", func(r *v1alpha1.Release) { r.Status.Stable.Pods = 3 }, "2 of 3 pods obey"},
		{"a pod that has gone since", func(r *v1alpha1.Release) { r.Status.Stable.Pods = 1 }, ""},
		{"an order not seen", unseen, no},
		{"a controller that never said anything", func(r *v1alpha1.Release) { r.Status.Conditions = nil }, no},
		{"not begun", both(noRoute, phase("", "")), "the controller has not begun with it"},
		{"weight", weigh(5), ""},
		{"weight not seen", both(weigh(5), unseen), no},
		{"weight without pods for it", both(weigh(25), phase(release.Progressing, "waits for 1 of 2 pods to be ready")),
			"it has 5 % of the requests, and not yet 25 % (waits for 1 of 2 pods to be ready)"},
		{"weight behind", both(weigh(5), behindOn2), "1 of 2 pods obey"},
		{"weight while copies go on", both(weigh(5), func(r *v1alpha1.Release) { r.Status.Route.Mirror, r.Status.Message = 100, "" }),
			"it gets copies of requests still"},
		{"undo before the controller", both(undo, unseen, all(5)), ""},
		{"undo before the doors", both(undo, unseen), "0 of 2 pods obey"},
		{"undo before one door", both(undo, unseen, all(5), behindOn2), "1 of 2 pods obey"},
		{"undo after the controller", both(undo, shut), ""},
		{"undo when no pod of stable is left", both(undo, phase(release.Held, "bring one back"), func(r *v1alpha1.Release) {
			r.Status.Stable.Pods, r.Status.Canary.Ready = 0, 1
		}), "nobody else could have its requests (bring one back)"},
		{"undo of what never began", both(undo, noRoute, phase("", "")), ""},
		{"undone and away", both(undo, noRoute, phase(release.Undone, "by ada")), ""},
		{"undo of a promoted one", both(undo, phase(release.Promoted, "it has all requests")),
			"0 of 2 pods obey"},
		{"undo of a promoted one without pods of before", both(undo, phase(release.Promoted, "it has all requests"), func(r *v1alpha1.Release) {
			r.Status.Stable.Pods, r.Status.Canary.Ready = 0, 1
		}), "nobody else could have its requests (it has all requests)"},
		{"undone by the evidence instead", both(weigh(5), shut, phase(release.Undone, "bad")), ""},
		{"promote", promote, "it has 5 % of the requests, and not yet all (5 % of the requests: collecting evidence)"},
		{"promote in force", both(promote, func(r *v1alpha1.Release) { r.Status.Route.Weight = 10000 }), ""},
		{"promoted, and stable's pods go", both(promote, behindOn2, phase(release.Promoted, "")), ""},
		{"route not in force", func(r *v1alpha1.Release) { r.Spec.Orders.Routes = route("ada") },
			"the routes are not in force yet (5 % of the requests: collecting evidence)"},
		{"route in force", func(r *v1alpha1.Release) {
			r.Spec.Orders.Routes, r.Spec.Plan.Routes = route("ada"), route("bob")
			r.Status.Route.Routes = append(route("ada"), route("bob")...)
		}, ""},
		{"pause", both(func(r *v1alpha1.Release) { r.Spec.Orders.Paused = true }, unseen), no},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			done, waiting := Observed(running(tt.change))
			if waiting != tt.want || done != (tt.want == "") {
				t.Errorf("Observed: %v %q, want %q", done, waiting, tt.want)
			}
		})
	}
}

func TestOrders(t *testing.T) {
	half := ptr(intstr.FromInt32(50))
	held := phase(release.Held, "20 % of the requests, until somebody says bight release resume")
	tests := []struct {
		name   string
		order  Order
		change func(*v1alpha1.Release)
		want   v1alpha1.ReleaseOrders
		refuse string // the error's beginning
	}{
		{name: "weight", order: Weigh(5000), want: v1alpha1.ReleaseOrders{Weight: half}},
		{name: "part of a percent", order: Weigh(25), want: v1alpha1.ReleaseOrders{Weight: ptr(intstr.FromString("0.25%"))}},
		{name: "weight of one that is promoted", order: Weigh(5000), change: phase(release.Promoting, "3 of 5 pods are ready"),
			refuse: "release cart-1 is being promoted (3 of 5 pods are ready): wait until it is, or undo it"},
		{name: "weight of one that has ended", order: Weigh(5000), change: phase(release.Undone, "E = 1430"), refuse: "release cart-1 is undone: E = 1430"},
		{name: "weight of one that a node has convicted", order: Weigh(5000), change: func(r *v1alpha1.Release) { r.Status.Doors[0].Convicted = "9 of 9 failed" },
			refuse: "release cart-1 is being undone: 9 of 9 failed (node n1)"},
		{name: "weight of one that somebody undoes", order: Weigh(5000), change: func(r *v1alpha1.Release) {
			r.Spec.Orders = v1alpha1.ReleaseOrders{Undo: true, By: "ada", Why: "ugly"}
		}, refuse: "release cart-1 is being undone, as ada has ordered: ugly"},
		{name: "auto", order: Unweigh(), change: func(r *v1alpha1.Release) { r.Spec.Orders.Weight = half }, want: v1alpha1.ReleaseOrders{}},
		{name: "promote", order: Promote(), change: func(r *v1alpha1.Release) {
			r.Spec.Orders = v1alpha1.ReleaseOrders{Weight: half, Paused: true, Routes: route("a")}
		}, want: v1alpha1.ReleaseOrders{Promote: true, Routes: route("a")}},
		{name: "pause", order: Pause(), want: v1alpha1.ReleaseOrders{Paused: true}},
		{name: "resume after a pause", order: Resume(), change: both(held, func(r *v1alpha1.Release) { r.Spec.Orders.Paused = true }), want: v1alpha1.ReleaseOrders{}},
		{name: "resume after a hold", order: Resume(), change: both(held, func(r *v1alpha1.Release) { r.Spec.Orders.Go = 2 }), want: v1alpha1.ReleaseOrders{Go: 3}},
		{name: "resume of what is promoted", order: Resume(), change: both(phase(release.Promoted, ""), func(r *v1alpha1.Release) { r.Spec.Orders.Go = 1 }), want: v1alpha1.ReleaseOrders{Go: 2}},
		{name: "resume of what is promoted, and over", order: Resume(), change: both(phase(release.Promoted, ""), func(r *v1alpha1.Release) { r.Status.Route.Retire = true }), refuse: "release cart-1 is promoted"},
		{name: "resume of what goes on", order: Resume(), refuse: "release cart-1 waits for nobody's word"},
		{name: "resume of what has a weight", order: Resume(), change: func(r *v1alpha1.Release) { r.Spec.Orders.Weight = half },
			refuse: "release cart-1 has 50 % of the requests by hand: bight release weight cart auto"},
		{name: "resume without pods", order: Resume(), change: both(held, func(r *v1alpha1.Release) { r.Status.Canary.Ready = 0 }),
			refuse: "release cart-1 is held because none of its pods is ready"},
		{name: "undo", order: Undo(), change: func(r *v1alpha1.Release) { r.Spec.Orders.Promote = true }, want: v1alpha1.ReleaseOrders{Promote: true, Undo: true}},
		{name: "undo again", order: Undo(), change: phase(release.Undone, ""), want: v1alpha1.ReleaseOrders{}},
		{name: "undo of a promoted one", order: Undo(), change: phase(release.Promoted, ""), want: v1alpha1.ReleaseOrders{Undo: true}},
		{name: "undo too late", order: Undo(), change: both(phase(release.Promoted, ""), func(r *v1alpha1.Release) { r.Status.Route = nil }),
			refuse: "release cart-1 is promoted, and nothing is left of the version before"},
		{name: "undo of a superseded one", order: Undo(), change: phase(release.Superseded, ""), refuse: "release cart-1 is superseded"},
		{name: "route", order: Direct(route("b")[0]), change: func(r *v1alpha1.Release) { r.Spec.Orders.Routes = route("a") },
			want: v1alpha1.ReleaseOrders{Routes: append(route("b"), route("a")...)}},
		{name: "route of the same requests", order: Direct(route("a")[0]), change: func(r *v1alpha1.Release) {
			r.Spec.Orders.Routes = append(route("b"), route("a")...)
			r.Spec.Orders.Routes[1].To = v1alpha1.Stable
		}, want: v1alpha1.ReleaseOrders{Routes: append(route("a"), route("b")...)}},
		{name: "too many routes", order: Direct(route("a")[0]), change: func(r *v1alpha1.Release) {
			for range maxRoutes {
				r.Spec.Plan.Routes = append(r.Spec.Plan.Routes, route("p")...)
			}
		}, refuse: "release cart-1 would have 33 routes"},
		{name: "no routes", order: Undirect(), change: func(r *v1alpha1.Release) { r.Spec.Orders.Routes = route("a") }, want: v1alpha1.ReleaseOrders{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := running(tt.change)
			before := r.DeepCopy()
			got, err := tt.order(r)
			if diff := cmp.Diff(before, r); diff != "" {
				t.Errorf("the release itself is changed:\n%s", diff)
			}
			var refused *RefusedError
			switch {
			case tt.refuse != "":
				if !errors.As(err, &refused) || !strings.HasPrefix(err.Error(), tt.refuse) {
					t.Errorf("error %v, want %s", err, tt.refuse)
				}
			case err != nil:
				t.Error(err)
			default:
				if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("orders (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// A merge patch leaves alone what it does not name.
func TestPatchTakesBackWhatHolds(t *testing.T) {
	r := running(func(r *v1alpha1.Release) {
		r.Spec.Orders = v1alpha1.ReleaseOrders{Weight: ptr(intstr.FromInt32(5)), Paused: true, Why: "slow"}
	})
	body, err := patch(r, v1alpha1.ReleaseOrders{Promote: true, By: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"metadata":{"resourceVersion":"1"},"spec":{"orders":{"by":"ada","paused":null,"promote":true,"weight":null,"why":null}}}`
	if string(body) != want {
		t.Errorf("patch %s\nwant %s", body, want)
	}
}

func TestBehind(t *testing.T) {
	pod := func(name, node string) core.Pod {
		return core.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: core.PodSpec{NodeName: node}}
	}
	r := running(func(r *v1alpha1.Release) {
		r.Status.Doors[1].Generation = 3
		r.Status.Doors[0].Problems = []v1alpha1.DoorProblem{{Name: "cart-c", Why: "its network namespace can't be opened"}}
	})
	want := []string{
		"pod cart-b on node n2 obeys generation 3 of the routing, and not yet 4",
		"pod cart-c on node n1: its network namespace can't be opened",
	}
	if diff := cmp.Diff(want, Behind(r, nil)); diff != "" {
		t.Errorf("without pods (-want +got):\n%s", diff)
	}
	want = append(want,
		"pod cart-d on node n1 has no door yet",
		"pod cart-e on node n3: the agent of that node says nothing",
		"pod cart-f is on no node yet",
	)
	pods := []core.Pod{pod("cart-f", ""), pod("cart-e", "n3"), pod("cart-d", "n1"), pod("cart-c", "n1"), pod("cart-b", "n2"), pod("cart-a", "n1")}
	if diff := cmp.Diff(want, Behind(r, pods)); diff != "" {
		t.Errorf("with pods (-want +got):\n%s", diff)
	}
}

func TestFind(t *testing.T) {
	at := func(name, deployment, service string, minute int) v1alpha1.Release {
		return v1alpha1.Release{
			ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 2, 3, minute, 0, 0, time.UTC))},
			Spec:       v1alpha1.ReleaseSpec{Deployment: deployment, Service: service},
		}
	}
	all := []v1alpha1.Release{
		at("cart-1", "cart", "public", 1), at("cart-2", "cart", "public", 3), at("shop-1", "shop", "cart", 4),
		at("cart-3", "cart", "public", 2), at("shop-0", "shop", "cart", 4),
	}
	newestFirst(all)
	for name, want := range map[string]string{
		"cart": "cart-2", "cart-1": "cart-1", "public": "cart-2", "shop": "shop-1",
	} {
		if got, err := Find(all, name, "ns"); err != nil || got.Name != want {
			t.Errorf("Find %s: %v %v, want %s", name, got, err, want)
		}
	}
	_, err := Find(all, "card", "ns")
	if want := "there is no release of card in namespace ns; there is one of cart, shop; choose another namespace with -n"; err == nil || err.Error() != want {
		t.Errorf("error %v\nwant %s", err, want)
	}
	var current []string
	for _, r := range Current(all) {
		current = append(current, r.Name)
	}
	if diff := cmp.Diff([]string{"cart-2", "shop-1"}, current); diff != "" {
		t.Errorf("current (-want +got):\n%s", diff)
	}
}

func TestManyPodsBehind(t *testing.T) {
	e := &TimeoutError{Release: running(nil), After: time.Second, Waiting: "0 of 12 pods obey"}
	for range 12 {
		e.Behind = append(e.Behind, "pod x")
	}
	if text := e.Error(); strings.Count(text, "\npod x") != maxBehind || !strings.Contains(text, "\nand 2 more\n") {
		t.Error(text)
	}
}

// What is given is asked for no more, though the controller writes the status meanwhile.
func TestWhatIsGivenIsTakenBackBesideAController(t *testing.T) {
	r := running(nil)
	asked, err := Weigh(5000)(r)
	if err != nil {
		t.Fatal(err)
	}
	asked.By = "bob"
	r.Spec.Ask, r.Spec.Orders = &asked, asked
	r.Spec.Orders.Asked = "bob"
	r.Status.Refused = &v1alpha1.ReleaseRefusal{} // of the order before, which the doors know before the controller says so
	s, c := newServer(t, r)
	conflicts := 0
	s.refuse = func(q *http.Request) *metav1.Status {
		if q.Method == http.MethodPatch && conflicts < 3 {
			conflicts++
			s.change(r.Name, func(r *v1alpha1.Release) { r.Status.Message = "news" })
		}
		return nil
	}
	c.given(t.Context(), r)
	if got := s.get(r.Name); got.Spec.Ask != nil || conflicts != 3 {
		t.Errorf("after %d conflicts %+v is asked for", conflicts, got.Spec.Ask)
	}
}
