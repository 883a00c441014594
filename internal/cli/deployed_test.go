package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/app/detect"
	"github.com/bightdev/bight/internal/bridge"
)

func TestAPodSaysWhatItsServiceIs(t *testing.T) {
	agent := []string{"/bight/agent", "run", "--listen", "127.0.0.1:24448", "--door", "24460=8080/http", "--door", "24461=7000/tcp", "--door", "24462=9090/grpc", "--", "./cart"}
	ports := []core.ContainerPort{
		{Name: "web", ContainerPort: 8080, Protocol: core.ProtocolTCP}, {Name: "raw", ContainerPort: 7000}, {Name: "api", ContainerPort: 9090}, {Name: "dns", ContainerPort: 53, Protocol: core.ProtocolUDP},
	}
	mine := map[string]string{"app.kubernetes.io/name": "cart", "app.kubernetes.io/part-of": "shop"}
	for _, tt := range []struct {
		name    string
		labels  map[string]string
		command []string
		want    *app.Service
	}{
		{"of ours", mine, agent, &app.Service{Name: "cart", Ports: []app.Port{
			{Name: "web", Number: 8080, Protocol: app.HTTP}, {Name: "raw", Number: 7000, Protocol: app.TCP}, {Name: "api", Number: 9090, Protocol: app.GRPC}, {Name: "dns", Number: 53, Protocol: app.UDP},
		}}},
		{"without an agent", mine, []string{"./cart"}, nil},
		{"of nobody", nil, agent, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy := core.Container{Name: "linkerd-proxy", Ports: []core.ContainerPort{{Name: "linkerd-proxy", ContainerPort: 4143}}}
			pod := &core.Pod{ObjectMeta: meta.ObjectMeta{Labels: tt.labels}, Spec: core.PodSpec{Containers: []core.Container{{Name: "cart", Command: tt.command, Ports: ports}}}}
			if diff := cmp.Diff(tt.want, serviceOfPod(pod)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			pod.Spec.Containers = append([]core.Container{proxy}, pod.Spec.Containers...)
			if diff := cmp.Diff(tt.want, serviceOfPod(pod)); diff != "" {
				t.Errorf("behind a proxy (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNothingToBeAboutIsNotFound(t *testing.T) {
	err := error(&noAppError{where: "namespace x (context kind-dev)", err: detect.ErrNoService})
	if code := exitCode(t.Context(), err); code != exitNotFound {
		t.Errorf("exit code %d, want %d", code, exitNotFound)
	}
	here := &noAppError{where: "namespace x (context kind-dev)", namespace: "x", app: "shop"}
	if code := exitCode(t.Context(), here); code != exitNotFound || !strings.Contains(here.Error(), "bight up -n x deploys shop there") {
		t.Errorf("with source: exit code %d, %v", code, here)
	}
	for _, e := range []*noAppError{
		{where: "namespace x (context kind-dev)", namespace: "x", absent: true, app: "shop"},
		{where: "namespace x (context kind-dev)", namespace: "x", absent: true, err: detect.ErrNoService},
	} {
		if code := exitCode(t.Context(), e); code != exitNotFound || !strings.HasPrefix(e.Error(), "there is no namespace x (context kind-dev): ") || strings.Contains(e.Error(), "makes it and deploys shop") != (e.app != "") {
			t.Errorf("no such namespace: exit code %d, %v", code, e)
		}
	}
	meant := &noAppError{where: "namespace x (context kind-dev)", err: detect.ErrNoService, meant: "deployment/cart"}
	if want := "nothing that bight up deployed is in namespace x (context kind-dev); did you mean deployment/cart, which somebody else deployed?"; meant.Error() != want || exitCode(t.Context(), meant) != exitNotFound {
		t.Errorf("a workload has the name: %v, want %s", meant, want)
	}
	if code := exitCode(t.Context(), fmt.Errorf("cart has %w", bridge.ErrNoPod)); code != exitNotFound {
		t.Errorf("no pod: exit code %d, want %d", code, exitNotFound)
	}
	if code := exitCode(t.Context(), &bridge.OverlapError{ID: "cart-1"}); code != exitFailed {
		t.Errorf("overlapping rules: exit code %d, want %d", code, exitFailed)
	}
	if !errors.Is(err, detect.ErrNoService) || !strings.Contains(err.Error(), "name the namespace with -n") {
		t.Errorf("it says %v", err)
	}
}

func TestNoCommandSaysWhatToGive(t *testing.T) {
	for _, tt := range []struct {
		service app.Service
		want    string
	}{
		{app.Service{Build: app.Build{Kind: app.BuildGo, Package: "./cmd/cart", Module: "."}, Args: []string{"serve"}}, "go run ./cmd/cart serve"},
		{app.Service{Build: app.Build{Kind: app.BuildGo, Package: ".", Module: "cart"}}, "go run -C cart ."},
		{app.Service{Build: app.Build{Kind: app.BuildStatic}}, "COMMAND"},
	} {
		if got := startHere(&tt.service); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "bight run cart -- go run ./cmd/cart"},
		{[]string{"worker"}, "bight run worker -- COMMAND, or bight run worker -- sh"},
		{[]string{"worker", "go", "run", "."}, "put -- before the command, as in bight run worker -- go run ."},
	} {
		if err := noCommand(t.Context(), "bight run", t.TempDir(), tt.args); exitCode(t.Context(), err) != exitUsage || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q in it", tt.args, err, tt.want)
		}
	}
}
