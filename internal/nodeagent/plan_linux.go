package nodeagent

import (
	"cmp"
	"maps"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/agent/gate"
	"github.com/bightdev/bight/internal/intercept"
	"github.com/bightdev/bight/internal/intercept/podports"
	"github.com/bightdev/bight/internal/steer"
)

// wanted is what should be served in one pod.
type wanted struct {
	pod        *core.Pod
	intercepts []*v1alpha1.Intercept
	grants     []gate.Grant // of the intercepts
	ports      []gate.Port
	// exempt are the ports whose probes don't say that they are kubelet's, so that
	// everything that comes from the node goes to the app there.
	exempt []uint16
	share  *share // of a release, nil for none
	trial  *trial // that is told of requests, nil for none
}

// counts says whether there is to be told what the gate has done.
func (w *wanted) counts() bool { return len(w.intercepts) > 0 || w.trial != nil }

// plan returns what should be served in which pods.
func plan(intercepts map[types.NamespacedName]*v1alpha1.Intercept, pods map[types.UID]*core.Pod) map[types.UID]*wanted {
	all := map[types.UID]*wanted{}
	// The oldest comes first: of two with one token hash, which anyone can read, the
	// second is no owner's.
	for _, i := range slices.SortedFunc(maps.Values(intercepts), func(a, b *v1alpha1.Intercept) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(nameOf(a).String(), nameOf(b).String()))
	}) {
		for uid, pod := range pods {
			if !selects(i, pod) {
				continue
			}
			w := all[uid]
			if w == nil {
				w = newWanted(pod)
				all[uid] = w
			}
			w.add(i)
		}
	}
	return all
}

// selects reports whether an Intercept is about a pod that runs.
func selects(i *v1alpha1.Intercept, pod *core.Pod) bool {
	if i.Namespace != pod.Namespace || i.DeletionTimestamp != nil || pod.Status.Phase != core.PodRunning {
		return false
	}
	for k, v := range i.Spec.Selector {
		if pod.Labels[k] != v {
			return false
		}
	}
	return len(i.Spec.Selector) > 0
}

func newWanted(pod *core.Pod) *wanted {
	w := &wanted{pod: pod}
	for _, p := range podports.Of(pod) {
		w.port(p)
	}
	return w
}

// port makes a port of the pod one that can be steered, and returns it.
func (w *wanted) port(p podports.Port) *gate.Port {
	at := slices.IndexFunc(w.ports, func(o gate.Port) bool { return o.Number == p.Number })
	if at < 0 {
		at = len(w.ports)
		w.ports = append(w.ports, gate.Port{Number: p.Number, Probes: p.Probes})
		if p.Silent {
			w.exempt = append(w.exempt, uint16(p.Number))
		}
	}
	return &w.ports[at]
}

func (w *wanted) add(i *v1alpha1.Intercept) {
	g := gate.Grant{
		ID: i.Name, Owner: i.Who(), TokenHash: i.Spec.TokenHash, Environment: i.Spec.Pod,
		Container: containerOf(i, w.pod),
	}
	if r := i.Spec.Rule; r != nil {
		g.Rule = intercept.RuleOf(i)
		for _, p := range podports.Of(w.pod, int(r.Port)) {
			if port := w.port(p); p.Number == int(r.Port) && port.Protocol == "" {
				port.Protocol = steer.Protocol(r.Protocol)
			}
		}
	}
	w.intercepts, w.grants = append(w.intercepts, i), append(w.grants, g)
}

// containerOf names the container that an Intercept is about.
func containerOf(i *v1alpha1.Intercept, pod *core.Pod) string {
	if i.Spec.Container != "" || len(pod.Spec.Containers) == 0 {
		return i.Spec.Container
	}
	return pod.Spec.Containers[0].Name
}

// renewal is when an Intercept's owner was last heard of, by this node's clock.
type renewal struct {
	text string // the annotation
	at   time.Time
}

// expired reports whether an Intercept that is gone now has ended for want of news,
// rather than by somebody's decision.
func (r renewal) expired(now time.Time) bool { return now.Sub(r.at) > lease-time.Second }

// late is an Intercept that has expired. Its owner's network may come back, and with
// it the connections that go through the pod: rules are over by then, but what they
// need to be let in is kept for as long as a session waits for its laptop.
type late struct {
	intercept *v1alpha1.Intercept
	until     time.Time
}

// comeback is how long after an owner's last sign of life they may come back.
const comeback = time.Minute

// withLate are the Intercepts there are and those that may come back. It forgets
// those for which it is too late.
func withLate(present map[types.NamespacedName]*v1alpha1.Intercept, all map[types.NamespacedName]late, now time.Time) map[types.NamespacedName]*v1alpha1.Intercept {
	maps.DeleteFunc(all, func(_ types.NamespacedName, l late) bool { return !l.until.After(now) })
	if len(all) == 0 {
		return present
	}
	both := maps.Clone(present)
	for name, l := range all {
		if both[name] == nil {
			both[name] = l.intercept
		}
	}
	return both
}

// lease is how long an Intercept lives without news of its owner. Agents without a
// pod of it leave it to the others for as long again.
const lease = v1alpha1.InterceptLease * time.Second

// expired returns the Intercepts whose owners have not been heard of for too long,
// and when to look again: the zero time for not before something changes.
func expired(seen map[types.NamespacedName]renewal, here func(types.NamespacedName) bool, now time.Time) (over []types.NamespacedName, next time.Time) {
	for name, r := range seen {
		limit := r.at.Add(lease)
		if !here(name) {
			limit = limit.Add(lease)
		}
		if !limit.After(now) {
			over = append(over, name)
		} else if next.IsZero() || limit.Before(next) {
			next = limit
		}
	}
	slices.SortFunc(over, func(a, b types.NamespacedName) int { return cmp.Compare(a.String(), b.String()) })
	return over, next
}
