package cli

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/bridge/permit"
	"github.com/bightdev/bight/internal/kube"
)

// ownedPod is a pod that a workload has made, and that is ready.
func ownedPod(kind, name string, change ...func(*core.Pod)) core.Pod {
	yes := true
	pod := core.Pod{
		ObjectMeta: meta.ObjectMeta{
			Labels:          map[string]string{"pod-template-hash": "7d9f"},
			OwnerReferences: []meta.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, Controller: &yes}},
		},
		Status: core.PodStatus{Phase: core.PodRunning, Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}}},
	}
	for _, f := range change {
		f(&pod)
	}
	return pod
}

func TestAnyWorkloadIsOneWithAReadyPod(t *testing.T) {
	going := func(p *core.Pod) { p.DeletionTimestamp = &meta.Time{} }
	unready := func(p *core.Pod) { p.Status.Conditions[0].Status = core.ConditionFalse }
	nodes := func(p *core.Pod) { p.Spec.HostNetwork = true }
	old := func(p *core.Pod) { p.OwnerReferences[0].APIVersion = "example.com/v1" }
	for _, tt := range []struct {
		name string
		pods []core.Pod
		want string
	}{
		{"none", nil, "/"},
		{"deployment", []core.Pod{ownedPod("ReplicaSet", "till-7d9f")}, "deployment/till"},
		{"first by name", []core.Pod{ownedPod("StatefulSet", "db"), ownedPod("ReplicaSet", "till-7d9f"), ownedPod("ReplicaSet", "cart-7d9f")}, "deployment/cart"},
		{"others are not ready", []core.Pod{ownedPod("ReplicaSet", "a-7d9f", going), ownedPod("ReplicaSet", "b-7d9f", unready), ownedPod("DaemonSet", "agents")}, "daemonset/agents"},
		{"the node's own network", []core.Pod{ownedPod("DaemonSet", "agents", nodes)}, "/"},
		{"kinds that Bight has no name for", []core.Pod{ownedPod("Job", "once"), ownedPod("ReplicaSet", "bare"), ownedPod("StatefulSet", "db", old), {}}, "/"},
	} {
		if kind, name := anyWorkload(tt.pods); kind+"/"+name != tt.want {
			t.Errorf("%s: got %s/%s, want %s", tt.name, kind, name, tt.want)
		}
	}
}

func TestWithoutNodeAgentsNoPodIsEnteredUnasked(t *testing.T) {
	s := &subject{workload: "deployment/till", unasked: true, bridge: &bridge.Bridge{Namespace: "shop", Cluster: &kube.Cluster{Context: "kind-dev"}}}
	err := s.uninvited(&permit.MissingError{Context: "kind-dev"})
	if code := exitCode(t.Context(), err); code != exitNotFound {
		t.Errorf("exit code %d, want %d", code, exitNotFound)
	}
	for _, want := range []string{"nothing that bight up deployed is in namespace shop (context kind-dev)", "bight install", "bight run deployment/till -n shop -- COMMAND"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it says %v, want %q in it", err, want)
		}
	}
}
