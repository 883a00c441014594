package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/gateway"
	"github.com/bightdev/bight/internal/release/spec"
)

// Order is what somebody wants of a release from now on: what its orders become. It
// refuses what makes no sense as things are.
type Order func(*v1alpha1.Release) (v1alpha1.ReleaseOrders, error)

// maxRoutes is how many the API takes.
const maxRoutes = 32

// underWay is an order for releases that go on.
func underWay(do func(r *v1alpha1.Release, o *v1alpha1.ReleaseOrders) error) Order {
	return func(r *v1alpha1.Release) (v1alpha1.ReleaseOrders, error) {
		o := *r.Spec.Orders.DeepCopy()
		if err := goesOn(r); err != nil {
			return o, err
		}
		return o, do(r, &o)
	}
}

// goesOn is nil for a release that has neither ended nor is about to.
func goesOn(r *v1alpha1.Release) error {
	why := spec.Convicted(r)
	switch phase := phaseOf(r); {
	case phase.Ended():
		return refuse("release %s is %s: %s", r.Name, lower(r.Status.Phase), r.Status.Message)
	case phase == release.Undoing:
		return refuse("release %s is being undone: %s", r.Name, r.Status.Message)
	case why != "":
		return refuse("release %s is being undone: %s", r.Name, why)
	case r.Spec.Orders.Undo:
		return refuse("release %s is being undone, as %s", r.Name, orderedBy(r.Spec.Orders))
	}
	return nil
}

func lower(s string) string { return strings.ToLower(s) }

// orderedBy says who has ordered it, and why.
func orderedBy(o v1alpha1.ReleaseOrders) string {
	text := "somebody"
	if o.By != "" {
		text = o.By
	}
	text += " has ordered"
	if o.Why != "" {
		text += ": " + o.Why
	}
	return text
}

// promoting refuses orders that a release does not listen to any more that is being
// promoted.
func promoting(r *v1alpha1.Release) error {
	if r.Spec.Orders.Promote || phaseOf(r) == release.Promoting {
		return refuse("release %s is being promoted (%s): wait until it is, or undo it", r.Name, r.Status.Message)
	}
	return nil
}

// Weigh gives the version a share of the requests, whatever the plan says.
func Weigh(w release.Weight) Order {
	return underWay(func(r *v1alpha1.Release, o *v1alpha1.ReleaseOrders) error {
		v := intstr.FromInt32(int32(w) / 100)
		if w%100 != 0 {
			v = intstr.FromString(strconv.FormatFloat(float64(w)/100, 'f', -1, 64) + "%")
		}
		o.Weight = &v
		return promoting(r)
	})
}

// Unweigh goes back to the plan.
func Unweigh() Order {
	return underWay(func(r *v1alpha1.Release, o *v1alpha1.ReleaseOrders) error {
		o.Weight = nil
		return promoting(r)
	})
}

// Promote gives the version everything, without waiting for evidence.
func Promote() Order {
	return underWay(func(_ *v1alpha1.Release, o *v1alpha1.ReleaseOrders) error {
		o.Promote, o.Paused, o.Weight = true, false, nil
		return nil
	})
}

// Pause has the plan not go on.
func Pause() Order {
	return underWay(func(r *v1alpha1.Release, o *v1alpha1.ReleaseOrders) error {
		o.Paused = true
		return promoting(r)
	})
}

// Resume has the plan go on: after a pause, or after a step that waits for somebody's
// word. Of both, it ends the pause: the word is for what one sees afterwards. Of a version
// that is promoted, it has the pods of before it go.
func Resume() Order {
	goOn := resume()
	return func(r *v1alpha1.Release) (v1alpha1.ReleaseOrders, error) {
		if phaseOf(r) != release.Promoted || !keeps(r) || r.Spec.Orders.Undo || spec.Convicted(r) != "" {
			return goOn(r)
		}
		o := *r.Spec.Orders.DeepCopy()
		o.Go++
		return o, nil
	}
}

func resume() Order {
	return underWay(func(r *v1alpha1.Release, o *v1alpha1.ReleaseOrders) error {
		switch {
		case o.Paused:
			o.Paused = false
			return nil
		case o.Weight != nil:
			return refuse("release %s has %s of the requests by hand: bight release weight %s auto goes back to the plan", r.Name, Percent(o.Weight), r.Spec.Deployment)
		case phaseOf(r) != release.Held:
			return refuse("release %s waits for nobody's word: %s", r.Name, r.Status.Message)
		case r.Spec.Plan.Strategy == v1alpha1.ABTest && r.Status.Step >= r.Status.Steps && r.Spec.Plan.Then != v1alpha1.ThenUndo:
			return refuse("release %s is a test of two versions, which goes on until somebody decides: bight release promote %s, or undo", r.Name, r.Spec.Deployment)
		case r.Status.Canary.Ready == 0:
			return refuse("release %s is held because none of its pods is ready: it goes on by itself when one is", r.Name)
		}
		o.Go++
		return nil
	})
}

// gone says that a release is promoted, and the pods of the version before are gone or
// about to be.
func gone(r *v1alpha1.Release) bool {
	return phaseOf(r) == release.Promoted && (r.Status.Route == nil || r.Status.Route.Retire)
}

func tooLate(r *v1alpha1.Release) error {
	return refuse("release %s is promoted, and nothing is left of the version before: bight release start %s --image with the image of that one", r.Name, r.Spec.Deployment)
}

// addressed refuses an order for a release that does not count, or where it can't be told which is meant.
//
// The newest of a Deployment counts. While one before it is promoted and can be undone, it waits, and has no requests:
// then the other can be undone, too, by its own name. By the name of the Deployment either may be meant, and to undo the
// wrong one does harm.
func addressed(all []v1alpha1.Release, found *v1alpha1.Release, name string, undo bool) error {
	var kept []*v1alpha1.Release
	newest := found
	for i := range all {
		r := &all[i]
		switch {
		case r.Spec.Deployment != found.Spec.Deployment:
		case keeps(r):
			kept = append(kept, r)
			fallthrough
		default:
			if spec.Compare(r, newest) > 0 {
				newest = r
			}
		}
	}
	switch {
	case newest.Name != found.Name && undo && keeps(found):
		return nil
	case newest.Name != found.Name:
		return refuse("release %s is not the newest of deployment %s, which is %s: only that one takes orders", found.Name, found.Spec.Deployment, newest.Name)
	case undo && name != found.Name && found.Status.Route == nil && len(kept) > 0 && kept[0].Name != found.Name:
		text := fmt.Sprintf("release %s is %s, and no request is its own; %s has them all, and can be undone still: bight release undo %[3]s takes them from it",
			found.Name, lower(cmp.Or(found.Status.Phase, "new")), kept[0].Name)
		if waits(found) {
			text += fmt.Sprintf(", and bight release undo %s has the other one never begin", found.Name)
		}
		return refuse("%s", text)
	}
	return nil
}

// keeps says that a release is promoted, or about to lose its requests again, and the pods of before it are there.
func keeps(r *v1alpha1.Release) bool {
	return r.Status.Route != nil && (phaseOf(r) == release.Promoted && !gone(r) || phaseOf(r) == release.Undoing && r.Status.Full != nil)
}

// waits says that a release has not begun: no pod of it exists.
func waits(r *v1alpha1.Release) bool { return !phaseOf(r).Ended() && r.Status.Route == nil }

// Undo takes everything from the version. One that is undone already stays so.
func Undo() Order {
	return func(r *v1alpha1.Release) (v1alpha1.ReleaseOrders, error) {
		o := *r.Spec.Orders.DeepCopy()
		switch {
		case phaseOf(r) == release.Superseded:
			return o, refuse("release %s is superseded: nothing of it is left to undo", r.Name)
		case gone(r):
			return o, tooLate(r)
		}
		o.Undo = o.Undo || phaseOf(r) != release.Undone
		return o, nil
	}
}

// Direct gives requests to one of the versions. It comes before all other routes, in
// place of one with the same requests.
func Direct(route v1alpha1.ReleaseRoute) Order {
	return underWay(func(r *v1alpha1.Release, o *v1alpha1.ReleaseOrders) error {
		others := slices.DeleteFunc(o.Routes, func(x v1alpha1.ReleaseRoute) bool {
			x.Name, x.To = route.Name, route.To
			return equality.Semantic.DeepEqual(x, route)
		})
		o.Routes = append([]v1alpha1.ReleaseRoute{route}, others...)
		for _, t := range r.Spec.Traffic.Routes {
			if err := gateway.Sayable(t.Kind, []v1alpha1.ReleaseRoute{route}, nil); err != nil {
				return refuse("%s", err)
			}
		}
		if n := len(o.Routes) + len(spec.Expand(r.Spec.Plan).Routes); n > maxRoutes {
			return refuse("release %s would have %d routes, and %d are the most: bight release route %s --clear", r.Name, n, maxRoutes, r.Spec.Deployment)
		}
		return nil
	})
}

// Undirect ends all routes that were given by hand.
func Undirect() Order {
	return underWay(func(_ *v1alpha1.Release, o *v1alpha1.ReleaseOrders) error {
		o.Routes = nil
		return nil
	})
}

// Percent writes a share of the API as people read it: "25 %".
func Percent(v *intstr.IntOrString) string {
	w, err := spec.Weight(v, "weight")
	if err != nil {
		return v.String()
	}
	return w.String()
}

// Answer is what has become of an order.
type Answer struct {
	Release *v1alpha1.Release `json:"-"`
	Name    string            `json:"release"`
	Weight  string            `json:"weight"` // of the requests: "25 %"
	// Pods of stable obey, of so many; where routes of Gateway API share the requests, it is
	// gateways.
	Pods int `json:"pods"`
	Of   int `json:"of"`
	// Inside says that the version's own pods obey, which is enough to undo.
	Inside bool `json:"inside,omitempty"`
	// Doorless are pods of an undone version that can't hand back what a gateway still leads to them.
	Doorless []string `json:"doorless,omitempty"`
	// Message is where the release is now.
	Phase   string `json:"phase"`
	Message string `json:"message"`
	// Next is the release that has waited for this one to be undone, and begins now.
	Next string        `json:"next,omitempty"`
	Took time.Duration `json:"-"`
	MS   float64       `json:"ms"`
}

func answer(r *v1alpha1.Release, took time.Duration) *Answer {
	a := &Answer{
		Release: r, Name: r.Name, Phase: r.Status.Phase, Message: r.Status.Message,
		Took: took, MS: float64(took.Round(10*time.Microsecond)) / float64(time.Millisecond),
	}
	a.Weight = release.Weight(0).String()
	if e := spec.Effective(r); e != nil {
		a.Weight = release.Weight(e.Weight).String()
		a.Pods, a.Of = Covered(r)
	} // or else there is nothing that pods could obey
	a.Inside = ShutInside(r)
	return a
}

// Give gives an order to the release that a name means, and returns when it is
// observed. say is told what it waits for, each time that this is something else.
func (c *Client) Give(ctx context.Context, name string, order Order, why string, timeout time.Duration, say func(waiting string)) (*Answer, error) {
	began := time.Now()
	given, err := c.order(ctx, name, order, why)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	last, waiting := given, ""
	err = c.Follow(limited, given, func(now *v1alpha1.Release) (bool, error) {
		hint := "; with --ask, somebody else can approve it"
		if by := given.Spec.Orders.Asked; by != "" {
			hint = fmt.Sprintf("; %s asks for it still, and somebody else can approve it", by)
		}
		if x := now.Status.Refused; x != nil && x.Generation >= given.Generation {
			return false, &RefusedError{Text: fmt.Sprintf("refused by policy %s (rule %s): %s%s", x.Policy, x.Rule, x.Why, hint), Policy: true}
		}
		done, still := Observed(now)
		if last = now; done || c.served(limited, now) {
			return true, nil
		}
		if given.Spec.Orders.Undo && gone(now) {
			return false, tooLate(now)
		}
		if !given.Spec.Orders.Undo && phaseOf(given) != release.Promoted {
			if err := goesOn(now); err != nil { // it never will be
				return false, err
			}
		}
		if still != waiting {
			waiting = still
			say(still)
		}
		return false, nil
	})
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return nil, &TimeoutError{Release: given, After: timeout, Waiting: waiting, Behind: c.Behind(ctx, last)}
	}
	if err != nil {
		return nil, err
	}
	c.given(ctx, last)
	a := answer(last, time.Since(began))
	a.Next = c.next(ctx, last)
	if last.Spec.Orders.Undo && ByRoutes(last) && !a.Inside {
		a.Doorless = Doorless(last, c.canaryPods(ctx, last))
	}
	return a, nil
}

// next is the release that begins when a promoted one is undone, "" for none.
func (c *Client) next(ctx context.Context, r *v1alpha1.Release) string {
	if !r.Spec.Orders.Undo || r.Status.Full == nil {
		return ""
	}
	all, err := c.List(ctx)
	if err != nil {
		return "" // the order is given all the same
	}
	newest, err := Find(all, r.Spec.Deployment, c.namespace)
	if err != nil || newest.UID == r.UID || phaseOf(newest).Ended() {
		return ""
	}
	return newest.Name
}

// served reports whether the orders are what the doors do of all pods that get requests,
// where others keep [Observed] from saying so: pods that no node has room for, maybe.
func (c *Client) served(ctx context.Context, r *v1alpha1.Release) bool {
	e := spec.Effective(r)
	obey, of := Covered(r)
	ready := int(r.Status.Stable.Ready)
	if e == nil || ByRoutes(r) || untaken(r, e) != "" || ready >= of || obey < ready {
		return false
	}
	names := serving(c.stablePods(ctx, r))
	return len(names) >= ready && obeying(r, names)
}

// holding is a release whose orders are those that hold: of those that a policy refuses,
// nothing is left in what comes next.
func holding(r *v1alpha1.Release) *v1alpha1.Release {
	r = r.DeepCopy()
	if x := r.Status.Refused; x != nil {
		r.Spec.Orders = x.Orders
	}
	r.Spec.Orders.Asked, r.Spec.Orders.At = "", nil
	return r
}

// Approve gives the orders that somebody has asked for.
func Approve() Order {
	return underWay(func(r *v1alpha1.Release, o *v1alpha1.ReleaseOrders) error {
		ask := Asked(r)
		if ask == nil {
			return refuse("nobody asks for anything of release %s", r.Name)
		}
		if hold := holding(r).Spec.Orders; ask.Over != "" && ask.Over != digest(hold) {
			return refuse("%s has asked for %s, and the orders of release %s have changed since (%s): approved now, that would take them back; %[1]s asks again, or bight release decline %s ends it",
				ask.By, spec.Tell(*ask), r.Name, spec.Tell(hold), r.Spec.Deployment)
		}
		*o = *ask.DeepCopy()
		o.Asked, o.Over = ask.By, ""
		return nil
	})
}

// Asked is what somebody asks for, nil if nobody does or it is given already. It stands until it
// is observed, since a policy may refuse it to who approves.
func Asked(r *v1alpha1.Release) *v1alpha1.ReleaseOrders {
	if r.Spec.Ask == nil || digest(*r.Spec.Ask) == digest(holding(r).Spec.Orders) {
		return nil
	}
	return r.Spec.Ask
}

// given takes back what was asked for and is given now. If that fails, it is no more than a note
// in the release, see [Asked]. That the status was written in between is no failure.
func (c *Client) given(ctx context.Context, r *v1alpha1.Release) {
	if r.Spec.Orders.Asked == "" {
		return
	}
	for range 10 {
		now, err := c.Get(ctx, r.Name)
		if err != nil || now.Spec.Ask == nil || digest(*now.Spec.Ask) != digest(now.Spec.Orders) {
			return // it is gone, or somebody asks for something else by now
		}
		body := fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"spec":{"ask":null}}`, now.ResourceVersion)
		_, err = c.releases().Patch(ctx, now.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: manager})
		if !apierrors.IsConflict(err) {
			return
		}
	}
}

// digest is the same for orders that ask for the same, whoever gives them.
func digest(o v1alpha1.ReleaseOrders) string {
	o = v1alpha1.ReleaseOrders{Weight: o.Weight, Routes: o.Routes, Paused: o.Paused, Go: o.Go, Promote: o.Promote, Undo: o.Undo}
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // a value of the API
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Ask asks for an order that somebody else is to approve. What was asked for before is
// asked for no more.
func (c *Client) Ask(ctx context.Context, name string, order Order, why string) (*v1alpha1.Release, error) {
	by, groups, err := c.who(ctx)
	if err != nil {
		return nil, err
	}
	return c.ask(ctx, name, func(r *v1alpha1.Release) (*v1alpha1.ReleaseOrders, error) {
		o, err := order(holding(r))
		o.By, o.Groups, o.Why, o.At, o.Over = by, groups, why, nil, digest(holding(r).Spec.Orders)
		return &o, err
	})
}

// Decline takes back what somebody has asked for.
func (c *Client) Decline(ctx context.Context, name string) (*v1alpha1.Release, error) {
	return c.ask(ctx, name, func(r *v1alpha1.Release) (*v1alpha1.ReleaseOrders, error) {
		if Asked(r) == nil {
			return nil, refuse("nobody asks for anything of release %s", r.Name)
		}
		return nil, nil
	})
}

func (c *Client) ask(ctx context.Context, name string, what func(*v1alpha1.Release) (*v1alpha1.ReleaseOrders, error)) (*v1alpha1.Release, error) {
	r, err := c.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	o, err := what(r)
	if err != nil {
		return nil, err
	}
	// All of what was asked for before goes.
	for _, spec := range []map[string]any{{"ask": nil}, {"ask": o}} {
		body, err := json.Marshal(map[string]any{"spec": spec})
		if err != nil {
			return nil, err
		}
		u, err := c.releases().Patch(ctx, r.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: manager})
		if err != nil {
			return nil, fmt.Errorf("ask for an order of release %s: %w", r.Name, c.explain(err))
		}
		if r, err = read(u); err != nil || o == nil {
			return r, err
		}
	}
	return r, nil
}

// order writes an order. While the status is written by the controller and by the
// agents, that takes more than one try.
func (c *Client) order(ctx context.Context, name string, order Order, why string) (*v1alpha1.Release, error) {
	by, groups, err := c.who(ctx)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		all, err := c.List(ctx)
		if err != nil {
			return nil, err
		}
		found, err := Find(all, name, c.namespace)
		if err != nil {
			return nil, err
		}
		o, err := order(holding(found))
		if err := addressed(all, found, name, err == nil && o.Undo); err != nil {
			return nil, err
		}
		if err != nil {
			return nil, err
		}
		if found.Status.Refused == nil && equality.Semantic.DeepEqual(o, holding(found).Spec.Orders) && (why == "" || phaseOf(found).Ended()) {
			return found, nil // as it is already
		}
		if o.By, o.Groups = by, groups; o.Asked == "" || why != "" {
			o.Why = why
		}
		if found.Status.Refused != nil { // the same again is to be judged again
			at := metav1.NowMicro()
			o.At = &at
		}
		given, err := c.write(ctx, found, o)
		if err == nil {
			return given, nil
		}
		if kube.KindOf(err) != kube.Conflict || try == 20 {
			return nil, fmt.Errorf("order of release %s: %w", found.Name, err)
		}
	}
}

// Behind says which pods of stable do not obey a release, and why, or which gateways.
func (c *Client) Behind(ctx context.Context, r *v1alpha1.Release) []string {
	if ByRoutes(r) {
		return Behind(r, c.canaryPods(ctx, r))
	}
	return Behind(r, c.stablePods(ctx, r))
}

// stablePods are the pods of the version before, and canaryPods those of the release's own, as far as they may be listed.
func (c *Client) stablePods(ctx context.Context, r *v1alpha1.Release) []core.Pod {
	if e := r.Status.Route; e != nil {
		return c.pods(ctx, e.Selector, e.Stable)
	}
	return nil
}

func (c *Client) canaryPods(ctx context.Context, r *v1alpha1.Release) []core.Pod {
	if e := r.Status.Route; e != nil {
		return c.pods(ctx, e.Selector, e.Canary)
	}
	return nil
}

// pods are those of one version, by the hash of its template.
func (c *Client) pods(ctx context.Context, selector map[string]string, hash string) []core.Pod {
	if hash == "" {
		return nil
	}
	selects := labels.Set(maps.Clone(selector))
	if selects == nil {
		selects = labels.Set{}
	}
	selects[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	list, err := c.typed.CoreV1().Pods(c.namespace).List(limited, metav1.ListOptions{LabelSelector: selects.String()})
	if err != nil {
		return nil // without them less can be said
	}
	return list.Items
}
