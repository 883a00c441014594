package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

const patience = 20 * time.Second // of a test that is to fail

func silent(string) {}

// decide is a controller and two node agents that obey a weight at once.
func decide(r *v1alpha1.Release) {
	if w := r.Spec.Orders.Weight; w != nil {
		r.Status.Route.Weight = w.IntVal * 100
		r.Status.Route.Generation++
	}
	r.Status.Conditions[0].ObservedGeneration = r.Generation
	for i := range r.Status.Doors {
		r.Status.Doors[i].Generation = r.Status.Route.Generation
	}
}

func TestAnOrderReturnsWhenItIsObserved(t *testing.T) {
	s, c := newServer(t, running(nil))
	s.patched = decide
	var said []string
	a, err := c.Give(t.Context(), "cart", Weigh(2500), "try it", patience, func(w string) { said = append(said, w) })
	if err != nil {
		t.Fatal(err)
	}
	if a.Weight != "25 %" || a.Pods != 2 || a.Of != 2 || a.Took <= 0 || a.Name != "cart-1" {
		t.Errorf("answer %+v", a)
	}
	if want := []string{`{"by":"ada","weight":25,"why":"try it"}`}; cmp.Diff(want, s.patches) != "" {
		t.Errorf("patches %q, want %q", s.patches, want)
	}
	if len(said) == 0 || !strings.HasPrefix(said[0], "the controller has not seen") {
		t.Errorf("it says %q", said)
	}
}

// What has the pods of before a promoted version go waits until that is seen.
func TestAWordForAPromotedVersionIsObserved(t *testing.T) {
	s, c := newServer(t, running(both(phase(release.Promoted, "it has all requests"), func(r *v1alpha1.Release) { r.Status.Route.Weight = 10000 })))
	s.patched = decide
	var said []string
	a, err := c.Give(t.Context(), "cart", Resume(), "", patience, func(w string) { said = append(said, w) })
	if err != nil || a.Weight != "100 %" || a.Phase != "Promoted" {
		t.Errorf("answer %+v, %v", a, err)
	}
	if want := []string{`{"by":"ada","go":1}`}; cmp.Diff(want, s.patches) != "" || len(said) == 0 {
		t.Errorf("patches %q, want %q; it says %q", s.patches, want, said)
	}
}

func TestUndoWaitsForNoController(t *testing.T) {
	s, c := newServer(t, running(nil))
	s.patched = func(r *v1alpha1.Release) {
		for i := range r.Status.Doors {
			r.Status.Doors[i].Generation = 5
		}
	}
	a, err := c.Give(t.Context(), "cart", Undo(), "", patience, silent)
	if err != nil || a.Weight != "0 %" || a.Pods != 2 {
		t.Errorf("answer %+v, %v", a, err)
	}
}

// While the status is written all the time, an order is written in the end.
func TestAConflictIsTriedAgain(t *testing.T) {
	s, c := newServer(t, running(nil))
	s.patched = decide
	conflicts := 0
	s.refuse = func(r *http.Request) *metav1.Status {
		if r.Method == http.MethodPatch && conflicts < 3 {
			conflicts++
			s.change("cart-1", func(r *v1alpha1.Release) { r.Status.Message = "news" })
		}
		return nil
	}
	if _, err := c.Give(t.Context(), "cart", Weigh(2500), "", patience, silent); err != nil {
		t.Fatal(err)
	}
	if conflicts != 3 || len(s.patches) != 1 {
		t.Errorf("%d conflicts, patches %q", conflicts, s.patches)
	}
}

func TestAnOrderThatIsNotObeyedSaysWhoIsBehind(t *testing.T) {
	s, c := newServer(t, running(nil))
	s.patched = func(r *v1alpha1.Release) {
		decide(r)
		r.Status.Doors[1] = v1alpha1.NodeDoors{Node: "n2", Generation: 4, Problems: []v1alpha1.DoorProblem{{Name: "cart-b", Why: "no memory"}}}
	}
	_, err := c.Give(t.Context(), "cart", Weigh(2500), "", 300*time.Millisecond, silent)
	want := `the order is given, and release cart-1 does not obey it after 300ms: 1 of 2 pods obey
pod cart-b on node n2: no memory
kubectl get pods -n bight-system -o wide shows whether the agents of these nodes run
the order stands: bight release watch cart -n shop tells what becomes of it`
	if err == nil || err.Error() != want || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v\nwant %s", err, want)
	}
}

// A pod that serves nobody keeps no order waiting, unless one that serves is behind.
func TestAPodWithoutANodeIsNotWaitedFor(t *testing.T) {
	ready := core.PodStatus{Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}}}
	pod := func(name string, status core.PodStatus) core.Pod {
		return core.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: status}
	}
	give := func(third core.Pod, readyPods int32) error {
		s, c := newServer(t, running(func(r *v1alpha1.Release) { r.Status.Stable.Pods, r.Status.Stable.Ready = 3, readyPods }))
		s.patched = decide
		s.others["/api/v1/namespaces/shop/pods"] = core.PodList{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []core.Pod{pod("cart-a", ready), pod("cart-b", ready), third},
		}
		_, err := c.Give(t.Context(), "cart", Weigh(2500), "", 300*time.Millisecond, silent)
		return err
	}
	if err := give(pod("cart-c", core.PodStatus{}), 2); err != nil {
		t.Errorf("a pod that is pending: %v", err)
	}
	if err := give(pod("cart-c", ready), 2); err == nil {
		t.Error("a pod that serves and does not obey is not waited for")
	}
}

func TestAPromotedReleaseIsUndoneWhileANewerOneWaits(t *testing.T) {
	promoted := running(both(phase(release.Promoted, "it has all requests"), func(r *v1alpha1.Release) { r.Status.Full = ptr(metav1.NowMicro()) }))
	waiting := running(both(phase(release.Starting, "it begins after that"), func(r *v1alpha1.Release) {
		r.Name, r.UID, r.CreationTimestamp = "cart-2", "u2", metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
		r.Status.Route = nil
	}))
	s, c := newServer(t, promoted, waiting)
	s.patched = func(r *v1alpha1.Release) {
		r.Status.Phase, r.Status.Route.Shut, r.Status.Route.Weight = string(release.Undoing), true, 0
	}
	if _, err := c.Give(t.Context(), "cart", Undo(), "", patience, silent); err == nil || !strings.Contains(err.Error(), "bight release undo cart-1 takes them from it") || len(s.patches) > 0 {
		t.Errorf("by the name of both: %v, %q", err, s.patches)
	}
	a, err := c.Give(t.Context(), "cart-1", Undo(), "", patience, silent)
	if err != nil || a.Name != "cart-1" || a.Next != "cart-2" || len(s.patches) != 1 {
		t.Errorf("%+v, %v, %q", a, err, s.patches)
	}
}

func TestOnlyTheNewestTakesOrders(t *testing.T) {
	newer := running(func(r *v1alpha1.Release) {
		r.Name, r.CreationTimestamp = "cart-2", metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	})
	s, c := newServer(t, running(nil), newer)
	_, err := c.Give(t.Context(), "cart-1", Weigh(2500), "", patience, silent)
	if want := "release cart-1 is not the newest of deployment cart, which is cart-2: only that one takes orders"; err == nil || err.Error() != want || len(s.patches) > 0 {
		t.Errorf("error %v, patches %q", err, s.patches)
	}
}

func TestAnOrderOfAReleaseThatEndsMeanwhile(t *testing.T) {
	s, c := newServer(t, running(nil))
	s.patched = func(r *v1alpha1.Release) { phase(release.Undoing, "E = 1430")(r) }
	_, err := c.Give(t.Context(), "cart", Weigh(2500), "", patience, silent)
	if want := "release cart-1 is being undone: E = 1430"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestFollowGoesOnWhenAWatchIsLost(t *testing.T) {
	s, c := newServer(t, running(nil))
	var seen []string
	err := c.Follow(t.Context(), s.get("cart-1"), func(r *v1alpha1.Release) (bool, error) {
		seen = append(seen, r.Status.Message)
		switch len(seen) {
		case 1, 2:
			go func() {
				s.cutWatches()
				s.change("cart-1", func(r *v1alpha1.Release) { r.Status.Message += "!" })
			}()
		}
		return len(seen) == 3, nil
	})
	if first := running(nil).Status.Message; err != nil || cmp.Diff([]string{first, first + "!", first + "!!"}, seen) != "" {
		t.Errorf("seen %q, %v", seen, err)
	}
}

func TestFollowOfAReleaseThatIsDeleted(t *testing.T) {
	s, c := newServer(t, running(nil))
	err := c.Follow(t.Context(), s.get("cart-1"), func(r *v1alpha1.Release) (bool, error) {
		go s.put("DELETED", s.get("cart-1"))
		return false, nil
	})
	if want := "release cart-1 was deleted by somebody else"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestNothingInstalled(t *testing.T) {
	s, c := newServer(t)
	s.uninstalled = true
	var missing *NotFoundError
	_, err := c.List(t.Context())
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), "bight install") {
		t.Errorf("error %v", err)
	}
}

// shop has deployment cart and its Service.
func shop(t *testing.T, releases ...*v1alpha1.Release) (*server, *Client) {
	t.Helper()
	s, c := newServer(t, releases...)
	s.others["/apis/apps/v1/namespaces/shop/deployments/cart"] = deployed(nil)
	s.others["/apis/apps/v1/namespaces/shop/deployments"] = map[string]any{
		"apiVersion": "apps/v1", "kind": "DeploymentList", "items": []any{deployed(nil)},
	}
	s.others["/api/v1/namespaces/shop/services"] = core.ServiceList{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceList"}, Items: []core.Service{service("carts", nil)},
	}
	return s, c
}

func TestRehearse(t *testing.T) {
	s, c := shop(t)
	w := v2()
	w.Plan.Strategy = v1alpha1.BlueGreen
	r, err := c.Rehearse(t.Context(), w)
	if err != nil || len(r.Spec.Plan.Steps) != 1 || r.Spec.Plan.Steps[0].Pods.StrVal != "100%" || s.get(r.Name) != nil {
		t.Errorf("what it comes to is %+v, %v", r, err)
	}
	if r.Spec.Orders.By != "ada" {
		t.Errorf("applied as it is, it would be refused: it is begun by %q", r.Spec.Orders.By)
	}
	w.Plan.Strategy = ""
	if r, err := c.Rehearse(t.Context(), w); err != nil || len(r.Spec.Plan.Steps) != 2 || r.Spec.Plan.Steps[0].Weight.StrVal != "5%" {
		t.Errorf("the usual plan is %+v, %v", r, err)
	}
}

// What a NetworkPolicy forbids the doors is told when a release begins, not when it is held.
func TestUnsharedByANetworkPolicy(t *testing.T) {
	s, c := shop(t)
	r, err := c.Start(t.Context(), v2(), silent)
	if err != nil {
		t.Fatal(err)
	}
	s.others["/api/v1/namespaces/shop/services/carts"] = service("carts", nil)
	if why, _ := c.Unshared(t.Context(), r); why != "" {
		t.Errorf("where policies can't be read: %s", why)
	}
	s.others["/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies"] = netv1.NetworkPolicyList{
		TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicyList"},
		Items:    []netv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Name: "closed"}}},
	}
	if why, then := c.Unshared(t.Context(), r); !strings.Contains(why, "NetworkPolicy closed does not let") || !strings.Contains(then, "deployment cart") {
		t.Errorf("why %q, then %q", why, then)
	}
	r.Spec.Traffic.Routes = []v1alpha1.TrafficRoute{{Kind: v1alpha1.HTTPRoute, Name: "web"}}
	if why, _ := c.Unshared(t.Context(), r); why != "" {
		t.Errorf("where gateways share the requests: %s", why)
	}
}

func TestStart(t *testing.T) {
	s, c := shop(t)
	r, err := c.Start(t.Context(), v2(), silent)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.get(r.Name); got == nil || got.Spec.Service != "carts" || got.Spec.Orders.By != "ada" || !json.Valid(got.Spec.Template.Raw) {
		t.Errorf("made %+v", got)
	}
	w := v2()
	w.Deployment = "card"
	if _, err := c.Start(t.Context(), w, silent); err == nil || err.Error() != "there is no deployment card in namespace shop; it has cart; choose another namespace with -n" {
		t.Errorf("error %v", err)
	}
	w = v2()
	w.Plan.Steps = []v1alpha1.ReleaseStep{{Pods: ptr(intstr.FromInt32(-1))}}
	if _, err := c.Start(t.Context(), w, silent); err == nil || err.Error() != "steps[0].pods is -1: give 0 or more" {
		t.Errorf("error %v", err)
	}
}

// The pods of others would be cut off from their requests.
func TestStartWithAServiceOfTwo(t *testing.T) {
	s, c := shop(t)
	s.others["/api/v1/namespaces/shop/pods"] = core.PodList{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"},
		Items: []core.Pod{
			{ObjectMeta: metav1.ObjectMeta{Name: "cart-a", Labels: map[string]string{"app": "cart"}}},
			{ObjectMeta: metav1.ObjectMeta{Name: "old-a", Labels: map[string]string{"app": "old"}}},
		},
	}
	_, err := c.Start(t.Context(), v2(), silent)
	if want := "Kubernetes Service carts leads to pod old-a as well"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestRetry(t *testing.T) {
	_, c := shop(t)
	made, err := c.Start(t.Context(), v2(), silent)
	if err != nil {
		t.Fatal(err)
	}
	undone := made.DeepCopy()
	undone.UID = "before"
	undone.Spec.Orders = v1alpha1.ReleaseOrders{Undo: true, By: "bob"}
	undone.Status = running(phase(release.Undone, "by bob")).Status

	s, c := shop(t, undone)
	waits := 0
	again, err := c.Retry(t.Context(), "cart", false, func(string) {
		waits++
		go s.change(undone.Name, func(r *v1alpha1.Release) { r.Status.Route = nil }) // its pods are gone
	})
	if err != nil || waits != 1 {
		t.Fatal(waits, err)
	}
	if again.UID != "made" || again.Name != undone.Name || again.Spec.Orders.Undo || again.Spec.Orders.By != "ada" || again.Status.Phase != "" || string(again.Spec.Template.Raw) == "" {
		t.Errorf("made %+v", again)
	}
	if _, err := c.Retry(t.Context(), "cart", false, silent); err == nil || !strings.Contains(err.Error(), "is about to begin") {
		t.Errorf("of one that runs: %v", err)
	}

	// The doors obey an undo before the controller has written that.
	for _, was := range []release.Phase{release.Held, release.Undoing} {
		held := undone.DeepCopy()
		held.Status.Phase = string(was)
		s, c = shop(t, held)
		_, err := c.Retry(t.Context(), "cart", false, func(waiting string) {
			if !strings.Contains(waiting, "is undoing: this one begins when") {
				t.Errorf("%s: %s", was, waiting)
			}
			go s.change(held.Name, func(r *v1alpha1.Release) { r.Status.Phase, r.Status.Route = string(release.Undone), nil })
		})
		if err != nil {
			t.Errorf("of one that is undone, whose phase is %s still: %v", was, err)
		}
	}

	undone.Status.Convicted, undone.Status.Route = true, nil
	_, c = shop(t, undone)
	if _, err := c.Retry(t.Context(), "cart", false, silent); err == nil || !strings.HasSuffix(err.Error(), "by bob\nbight release retry cart --again tries it all the same") {
		t.Errorf("of a convicted one: %v", err)
	}
	if _, err := c.Retry(t.Context(), "cart", true, silent); err != nil {
		t.Errorf("of a convicted one, again: %v", err)
	}
}

// What was undone goes by itself, so who fixes it and releases that waits, and need not try
// again. What was promoted can be gone back to, which is not for another release to end.
func TestStartWaitsForWhatWasUndone(t *testing.T) {
	for was, shown := range map[release.Phase]string{"": "undoing", release.Undoing: "undoing", release.Undone: "undone", release.Superseded: "superseded"} {
		left := running(both(phase(was, "by bob"), func(r *v1alpha1.Release) { r.UID, r.Spec.Orders.Undo = "before", true }))
		s, c := shop(t, left)
		var said []string
		r, err := c.Start(t.Context(), v2(), func(text string) {
			said = append(said, text)
			go s.change(left.Name, func(r *v1alpha1.Release) {
				r.Status.Phase, r.Status.Route = string(release.Undone), nil // its pods are gone
			})
		})
		if err != nil {
			t.Fatalf("%s: %v", was, err)
		}
		if r.Name == left.Name || len(said) != 1 || !strings.HasPrefix(said[0], "release cart-1 is "+shown+": this one begins when its pods have answered") {
			t.Errorf("%s: made %s, said %q", was, r.Name, said)
		}
	}
	ended := metav1.NewMicroTime(time.Now())
	promoted := running(both(phase(release.Promoted, ""), func(r *v1alpha1.Release) { r.Status.Ended = &ended }))
	_, c := shop(t, promoted)
	if _, err := c.Start(t.Context(), v2(), silent); err == nil || !strings.Contains(err.Error(), "is promoted, and can be undone until") {
		t.Errorf("beside what is promoted: %v", err)
	}
}

// Where nothing of a release is left, no pod obeys it, and none has to.
func TestUndoOfWhatIsUndone(t *testing.T) {
	_, c := shop(t, running(both(phase(release.Undone, "by bob"), func(r *v1alpha1.Release) { r.Status.Route = nil })))
	a, err := c.Give(t.Context(), "cart", Undo(), "", patience, silent)
	if err != nil || a.Pods != 0 || a.Of != 0 || a.Phase != "Undone" {
		t.Errorf("%+v, %v", a, err)
	}
}
