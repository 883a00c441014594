package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/bightdev/bight/internal/app"
)

func TestPortsThatOnlyAServiceKnows(t *testing.T) {
	service := func(selector map[string]string, ports ...core.ServicePort) core.Service {
		return core.Service{Spec: core.ServiceSpec{Selector: selector, Ports: ports}}
	}
	cart := map[string]string{"app": "cart"}
	web := core.ServicePort{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}
	got := undeclared([]core.Service{
		service(map[string]string{"app": "menu"}, core.ServicePort{Port: 1}),
		service(nil, core.ServicePort{Port: 2}),
		service(cart, web, core.ServicePort{Name: "raw", Port: 9000, Protocol: core.ProtocolTCP}, core.ServicePort{Name: "x", Port: 1, TargetPort: intstr.FromString("unknown")}),
		service(map[string]string{"tier": "back"}, web, core.ServicePort{Name: "dns", Port: 8080, Protocol: core.ProtocolUDP}),
	}, map[string]string{"app": "cart", "tier": "back"}, func(string) int { return 0 })
	want := []app.Port{{Name: "http", Number: 8080, Protocol: app.HTTP}, {Name: "raw", Number: 9000}, {Name: "dns", Number: 8080, Protocol: app.UDP}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestPortOfAWorkload(t *testing.T) {
	containers := []core.Container{{Ports: []core.ContainerPort{{Name: "web", ContainerPort: 8080}}}}
	served, behind := servedPorts(&core.Service{Spec: core.ServiceSpec{Ports: []core.ServicePort{
		{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}, {Name: "admin", Port: 8080, TargetPort: intstr.FromInt32(9090)},
	}}}, namedIn(containers))
	for _, test := range []struct {
		name  string
		ports []app.Port
		port  string
		want  int
		err   string
	}{
		{"the Service's number", served, "80", 8080, ""},
		{"the Service's number, which another port of the pods has", served, "8080", 9090, ""},
		{"the pods' number", served, "9090", 9090, ""},
		{"a name", served, "admin", 9090, ""},
		{"the main one", served, "", 8080, ""},
		{"one that is not there", served, "81", 0, "deployment/cart has no port 81; there is 80 (http, 8080 of its pods), 8080 (admin, 9090 of its pods)"},
		{"a name that is not there", served, "web", 0, "deployment/cart has no port web; there is 80 (http"},
		{"any number where nothing is known", nil, "7000", 7000, ""},
		{"no number where nothing is known", nil, "", 0, "nothing says which ports deployment/cart has"},
		{"a name where nothing is known", nil, "web", 0, "by its number"},
	} {
		s := &subject{workload: "deployment/cart", service: &app.Service{Name: "cart", Ports: test.ports}}
		if test.ports != nil {
			s.pods.behind = behind
		}
		port, err := s.portOf(test.port)
		var found *app.Port
		if err == nil {
			found, err = findPort(s.service, port)
		}
		switch {
		case test.err == "" && (err != nil || found.Number != test.want):
			t.Errorf("%s: %+v, %v; want %d", test.name, found, err, test.want)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: %v, want %q", test.name, err, test.err)
		}
	}
}
