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
	"github.com/bightdev/bight/internal/bridge/permit"
	"github.com/bightdev/bight/internal/steer"
)

// wanted is what should be served in one pod.
type wanted struct {
	pod        *core.Pod
	intercepts []*v1alpha1.Intercept
	grants     []gate.Grant // of the intercepts
	ports      []gate.Port
	// exempt says that the node's own connections can't be told from kubelet's
	// probes by what they say, so that all of them go to the app.
	exempt bool
}

// plan returns what should be served in which pods.
func plan(intercepts map[types.NamespacedName]*v1alpha1.Intercept, pods map[types.UID]*core.Pod) map[types.UID]*wanted {
	all := map[types.UID]*wanted{}
	for _, name := range slices.SortedFunc(maps.Keys(intercepts), func(a, b types.NamespacedName) int { return cmp.Compare(a.String(), b.String()) }) {
		i := intercepts[name]
		for uid, pod := range pods {
			if !selects(i, pod) {
				continue
			}
			w := all[uid]
			if w == nil {
				w = &wanted{pod: pod, ports: declared(pod)}
				all[uid] = w
			}
			w.add(i)
		}
	}
	for _, w := range all {
		w.exempt = slices.ContainsFunc(w.ports, func(p gate.Port) bool { return silentProbe(w.pod, p.Number) })
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

func (w *wanted) add(i *v1alpha1.Intercept) {
	g := gate.Grant{
		ID: i.Name, Owner: i.Who(), TokenHash: i.Spec.TokenHash, Environment: i.Spec.Pod,
		Container: containerOf(i, w.pod),
	}
	if r := i.Spec.Rule; r != nil {
		g.Rule = permit.RuleOf(i)
		number := int(r.Port)
		at := slices.IndexFunc(w.ports, func(p gate.Port) bool { return p.Number == number })
		if at < 0 {
			at = len(w.ports)
			w.ports = append(w.ports, gate.Port{Number: number, Probes: probePaths(w.pod, number)})
		}
		if w.ports[at].Protocol == "" {
			w.ports[at].Protocol = steer.Protocol(r.Protocol)
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

// declared are the TCP ports that a pod's containers declare.
func declared(pod *core.Pod) []gate.Port {
	var ports []gate.Port
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			number := int(p.ContainerPort)
			if p.Protocol != core.ProtocolTCP && p.Protocol != "" || slices.ContainsFunc(ports, func(o gate.Port) bool { return o.Number == number }) {
				continue
			}
			ports = append(ports, gate.Port{Number: number, Probes: probePaths(pod, number)})
		}
	}
	return ports
}

// probes are what kubelet asks of a port of the pod.
func probes(pod *core.Pod, port int) []core.ProbeHandler {
	var all []core.ProbeHandler
	for _, c := range pod.Spec.Containers {
		for _, p := range []*core.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p != nil && probedPort(c, p.ProbeHandler) == port {
				all = append(all, p.ProbeHandler)
			}
		}
	}
	return all
}

func probedPort(c core.Container, h core.ProbeHandler) int {
	switch {
	case h.HTTPGet != nil:
		return portOf(c, h.HTTPGet.Port.IntValue(), h.HTTPGet.Port.StrVal)
	case h.TCPSocket != nil:
		return portOf(c, h.TCPSocket.Port.IntValue(), h.TCPSocket.Port.StrVal)
	case h.GRPC != nil:
		return int(h.GRPC.Port)
	}
	return 0
}

func portOf(c core.Container, number int, name string) int {
	for _, p := range c.Ports {
		if name != "" && p.Name == name {
			return int(p.ContainerPort)
		}
	}
	return number
}

// probePaths are the paths that kubelet asks of a port.
func probePaths(pod *core.Pod, port int) []string {
	var paths []string
	for _, h := range probes(pod, port) {
		if h.HTTPGet != nil && !slices.Contains(paths, h.HTTPGet.Path) {
			paths = append(paths, h.HTTPGet.Path)
		}
	}
	return paths
}

// silentProbe reports whether kubelet probes a port without saying who it is: by a
// connection alone, or inside TLS.
func silentProbe(pod *core.Pod, port int) bool {
	return slices.ContainsFunc(probes(pod, port), func(h core.ProbeHandler) bool {
		return h.TCPSocket != nil || h.HTTPGet != nil && h.HTTPGet.Scheme == core.URISchemeHTTPS
	})
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
