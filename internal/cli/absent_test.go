package cli

import (
	"fmt"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/bridge"
)

func TestWhatSomebodyMayHaveMeant(t *testing.T) {
	many := []string{}
	for i := range 14 {
		many = append(many, fmt.Sprintf("worker-%c", 'a'+i))
	}
	all := map[string][]string{"deployment": {"cart", "menu"}, "statefulset": {"db"}, "daemonset": many}
	for _, test := range []struct{ kind, name, want string }{
		{"deployment", "crt", "; did you mean deployment/cart?"},
		{"deployment", "db", "; did you mean statefulset/db?"},
		{"deployment", "payments", "; there is cart, menu"},
		{"service", "shipping", "; -n names another namespace"},
		{"daemonset", "zzzzzzzzzzz", "; there is " + strings.Join(many[:12], ", ") + " and 2 others"},
	} {
		if got := instead(all, test.kind, test.name); got != test.want {
			t.Errorf("%s/%s: %q, want %q", test.kind, test.name, got, test.want)
		}
	}
}

func TestWhatMayBeMeantThatIsNoService(t *testing.T) {
	all := map[string][]string{"deployment": {"till", "carts"}, "service": {"vault"}}
	services := []string{"cart", "menu"}
	for _, test := range []struct{ name, want string }{
		{"till", "deployment/till, which somebody else deployed? There is cart, menu"},
		{"tll", "deployment/till, which somebody else deployed? There is cart, menu"},
		{"valt", "service/vault, which somebody else deployed? There is cart, menu"},
		{"crt", "cart? There is cart, menu"}, // although carts is near, too
		{"carts", "deployment/carts, which somebody else deployed? There is cart, menu"},
		{"payments", ""},
	} {
		err := &bridge.UnknownServiceError{Name: test.name, App: "shop", Namespace: "x", Context: "kind-dev", Known: services, Other: other(all, services, test.name)}
		want := fmt.Sprintf("shop has no service %q; there is cart, menu (namespace x, context kind-dev)", test.name)
		if test.want != "" {
			want = fmt.Sprintf("shop has no service %q; did you mean %s (namespace x, context kind-dev)", test.name, test.want)
		}
		if err.Error() != want {
			t.Errorf("%s\nwant %s", err, want)
		}
	}
}

func TestWhyNoPodCanBeEntered(t *testing.T) {
	pod := func(states ...core.ContainerStatus) core.Pod {
		return core.Pod{
			ObjectMeta: meta.ObjectMeta{Name: "cart-1", Namespace: "shop"},
			Status:     core.PodStatus{Phase: core.PodPending, ContainerStatuses: states},
		}
	}
	ended := &core.ContainerStateTerminated{ExitCode: 3, Reason: "Error"}
	loop := core.ContainerStatus{
		Name: "cart", State: core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		LastTerminationState: core.ContainerState{Terminated: ended},
	}
	runs := core.ContainerStatus{Name: "proxy", State: core.ContainerState{Running: &core.ContainerStateRunning{}}}
	pull := core.ContainerStatus{Name: "cart", State: core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}
	for _, test := range []struct {
		name string
		pods []core.Pod
		want []string // parts
	}{
		{"none", nil, []string{"has no pods: is it scaled to 0?"}},
		{"one that crashes", []core.Pod{pod(loop)}, []string{"pod cart-1 is not running (CrashLoopBackOff, container cart ended with exit code 3)", "kubectl -n shop logs cart-1 -c cart --previous"}},
		{"one that has ended", []core.Pod{pod(core.ContainerStatus{Name: "cart", State: core.ContainerState{Terminated: ended}})}, []string{"(Error, container cart ended with exit code 3)"}},
		{"one without its image", []core.Pod{pod(pull)}, []string{"(ImagePullBackOff of container cart)", "describe pod cart-1"}},
		{"one that is nowhere yet", []core.Pod{pod()}, []string{"is not running (Pending)"}},
		{"one of several runs", []core.Pod{pod(loop), pod(runs)}, nil},
	} {
		got := halted(test.pods)
		if (got == "") != (test.want == nil) {
			t.Errorf("%s: %q", test.name, got)
		}
		for _, part := range test.want {
			if !strings.Contains(got, part) {
				t.Errorf("%s: %q is not in %q", test.name, part, got)
			}
		}
	}
}
