package control

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release/bounds"
	"github.com/bightdev/bight/internal/release/spec"
)

// heed decides which orders hold: those of the spec if they are new and allowed, or else
// those that held before. known is false as long as the policies were not seen: then only
// undo is heeded.
func (co *course) heed(b *bounds.Bounds, known bool) {
	orders := co.r.Spec.Orders
	said := digest([]any{orders, co.r.Spec.Plan})
	again := co.refused != nil && b != co.by // by other policies
	switch {
	case said == co.Judged && !again:
		return
	case known || orders.Undo || orders.By == "":
	case co.Judged == "" && co.Said == digest(orders):
		// They held before anybody judged.
	default:
		return
	}
	co.Judged, co.refused, co.by = said, nil, b
	// Nobody's orders are none: who made the Release left it to its plan.
	if orders.By != "" && known {
		co.refused = b.Judge(bounds.Order{Release: co.r, Now: time.Now(), Goes: co.r.Spec.Orders.Go > co.State.Go})
	}
	if co.refused == nil {
		co.Heeded = orders
	} else {
		co.refused.Orders = co.Heeded
	}
}

// refusedBy is why the newest orders do not hold.
func refusedBy(x *v1alpha1.ReleaseRefusal) string {
	return "policy " + x.Policy + ", rule " + x.Rule + ": " + x.Why
}

// ordered is what somebody has ordered, and what became of it.
func (co *course) ordered(o v1alpha1.ReleaseOrders) string {
	text := o.By + " has ordered: " + spec.Tell(o)
	if o.Asked != "" {
		text = o.By + " has approved what " + o.Asked + " asked for: " + spec.Tell(o)
	}
	if co.refused != nil {
		text += "; refused by " + refusedBy(co.refused)
	}
	return text
}

// rulers knows the policies of all namespaces.
type rulers struct {
	seen     bool
	policies map[types.NamespacedName]v1alpha1.ReleasePolicy
	bounds   map[string]*bounds.Bounds
}

// boundsOf are those of a namespace, nil for none; known says that all were seen.
func (c *Controller) boundsOf(namespace string) (b *bounds.Bounds, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rulers.bounds[namespace], c.rulers.seen
}

// followPolicies takes in policies until ctx ends.
func (c *Controller) followPolicies(ctx context.Context) {
	all := follow.Of(c.dynamic.Resource(v1alpha1.ReleasePolicies()), metav1.ListOptions{})
	all.Always(ctx, func(err error) {
		c.Log.Warn("policies of releases are not seen: only undo is obeyed of what is new", "err", err)
	}, func(ch follow.Change) {
		for _, p := range c.takePolicies(ch) {
			c.mark(ctx, p.policy, p.wrong)
		}
	})
}

// marked is a policy, and what can't be read in it.
type marked struct {
	policy v1alpha1.ReleasePolicy
	wrong  string
}

// takePolicies takes in a change, and returns the policies whose status may be another.
func (c *Controller) takePolicies(ch follow.Change) (news []marked) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.rulers
	changed := map[string]bool{}
	note := func(o runtime.Object, gone bool) {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return
		}
		key := types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}
		var p v1alpha1.ReleasePolicy
		switch err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &p); {
		case gone:
			delete(r.policies, key)
			changed[key.Namespace] = true
		case err != nil:
			c.Log.Warn("a ReleasePolicy can't be read: what it was counts on", "name", key.String(), "err", err)
		case r.policies[key].Generation != p.Generation || r.policies[key].UID != p.UID:
			p.ManagedFields = nil
			r.policies[key] = p
			changed[key.Namespace] = true
		}
	}
	if ch.Event == "" {
		for key := range r.policies {
			changed[key.Namespace] = true
		}
		r.policies, r.seen = map[types.NamespacedName]v1alpha1.ReleasePolicy{}, true
		for _, o := range ch.All {
			note(o, false)
		}
	} else {
		note(ch.Object, ch.Event == watch.Deleted)
	}
	for namespace := range changed {
		news = append(news, r.compile(namespace)...)
	}
	for key, d := range c.desks {
		if ch.Event == "" || changed[key.Namespace] {
			d.rouse()
		}
	}
	return news
}

// compile makes the bounds of a namespace anew.
func (r *rulers) compile(namespace string) (all []marked) {
	var policies []v1alpha1.ReleasePolicy
	for key, p := range r.policies {
		if key.Namespace == namespace {
			policies = append(policies, p)
		}
	}
	slices.SortFunc(policies, func(a, b v1alpha1.ReleasePolicy) int { return cmp.Compare(a.Name, b.Name) })
	b := bounds.Compile(policies)
	if r.bounds == nil {
		r.bounds = map[string]*bounds.Bounds{}
	}
	if r.bounds[namespace] = b; len(policies) == 0 {
		delete(r.bounds, namespace)
	}
	for _, p := range policies {
		all = append(all, marked{p, b.Wrong(p.Name)})
	}
	return all
}

// mark says in a policy's status whether its rules can be read.
func (c *Controller) mark(ctx context.Context, p v1alpha1.ReleasePolicy, wrong string) {
	is := metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Read", Message: "its rules hold", ObservedGeneration: p.Generation}
	if wrong != "" {
		is.Status, is.Reason = metav1.ConditionFalse, "Wrong"
		is.Message = strings.ToValidUTF8(wrong[:min(len(wrong), 4096)], "") + ": only undo is obeyed until that is mended"
	}
	conditions := slices.Clone(p.Status.Conditions)
	if !meta.SetStatusCondition(&conditions, is) {
		return
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions}})
	if err == nil {
		_, err = c.dynamic.Resource(v1alpha1.ReleasePolicies()).Namespace(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager}, "status")
	}
	if err != nil && ctx.Err() == nil {
		c.Log.Warn("a policy's status is not written", "name", p.Namespace+"/"+p.Name, "err", err)
	}
}
