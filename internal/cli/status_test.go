package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/steer"
)

func TestTheAppsOfANamespaceAreKnownWithoutSource(t *testing.T) {
	pod := func(app, service string) core.Pod {
		return core.Pod{
			ObjectMeta: meta.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/name": service, "app.kubernetes.io/part-of": app}},
			Spec: core.PodSpec{Containers: []core.Container{{
				Command: []string{"/bight/agent", "run", "--listen", "127.0.0.1:24448", "--", "./" + service},
			}}},
		}
	}
	// A pod and its Deployment's template are of one service.
	got := map[string][]string{}
	for _, a := range appsOf([]core.Pod{pod("shop", "stock"), pod("shop", "cart"), pod("blog", "web"), pod("shop", "cart"), {}}) {
		if a.Dir != "" {
			t.Errorf("%s is said to have its source at %q", a.Name, a.Dir)
		}
		for _, s := range a.Services {
			got[a.Name] = append(got[a.Name], s.Name)
		}
	}
	if diff := cmp.Diff(map[string][]string{"shop": {"cart", "stock"}, "blog": {"web"}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRequestsOfPodsThatHaveGoneAreCountedOnce(t *testing.T) {
	i := &v1alpha1.Intercept{Status: v1alpha1.InterceptStatus{Nodes: []v1alpha1.NodeStatus{
		{Node: "n1", Pods: []v1alpha1.PodStatus{{Name: "a", State: "active", Requests: 2, EarlierRequests: 40}, {Name: "b", State: "suspended", Requests: 1, EarlierRequests: 30}}},
		{Node: "n2", Pods: []v1alpha1.PodStatus{{Name: "c"}}},
	}}}
	got := interceptOf(i, &steer.Rule{Service: "deployment/till", Mode: steer.Intercept})
	if got.Counters.Taken() != 43 || got.Pods != 1 || got.Of != 3 || got.State != steer.Suspended {
		t.Errorf("got %+v", got)
	}
}

func TestStatusDoesNotSayWhatItCannotKnow(t *testing.T) {
	services := []session.ServiceStatus{{Name: "cart", Ready: 1, Replicas: 1, Image: "r/cart", Running: true}}
	for without, want := range map[bool]string{true: "unknown", false: "false"} {
		table := statusTable(statusAnswer{Status: &session.Status{Session: "ada", Services: services, NoSource: without}})
		if got := table.Rows[0][2]; got != want {
			t.Errorf("without source %t: in sync is %q, want %q", without, got, want)
		}
	}
}
