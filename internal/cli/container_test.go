package cli

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
)

func TestTheContainerOfAWorkload(t *testing.T) {
	mesh := core.Container{Name: "proxy", Ports: []core.ContainerPort{{ContainerPort: 15001}}}
	cart := core.Container{Name: "cart", Ports: []core.ContainerPort{{ContainerPort: 8080}, {ContainerPort: 9090}}}
	logs := core.Container{Name: "logs"}
	usual := map[string]string{defaultContainer: "cart"}
	for _, test := range []struct {
		name  string
		pods  pods
		named string
		port  int
		want  string
	}{
		{"the only one", pods{containers: []core.Container{cart}}, "", 0, "cart"},
		{"the first", pods{containers: []core.Container{logs, cart}}, "", 0, "logs"},
		{"kubectl's", pods{containers: []core.Container{mesh, cart}, annotations: usual}, "", 0, "cart"},
		{"kubectl's, which is not there", pods{containers: []core.Container{mesh, logs}, annotations: usual}, "", 0, "proxy"},
		{"the port's", pods{containers: []core.Container{mesh, logs, cart}}, "", 9090, "cart"},
		{"the port's before kubectl's", pods{containers: []core.Container{cart, mesh}, annotations: usual}, "", 15001, "proxy"},
		{"a port that none declares", pods{containers: []core.Container{mesh, cart}, annotations: usual}, "", 7000, "cart"},
		{"the one that is named", pods{containers: []core.Container{mesh, cart, logs}, annotations: usual}, "logs", 8080, "logs"},
		{"nothing is known", pods{}, "", 8080, ""},
		{"nothing is known, one is named", pods{}, "logs", 0, "logs"},
	} {
		if got, err := test.pods.choose(test.named, test.port); got != test.want || err != nil {
			t.Errorf("%s: %q, %v; want %q", test.name, got, err, test.want)
		}
	}
	_, err := pods{containers: []core.Container{mesh, cart}}.choose("crat", 0)
	if err == nil || !strings.Contains(err.Error(), "no such container; there is proxy, cart") || exitCode(t.Context(), err) != exitNotFound {
		t.Errorf("of one that is not there it says %v", err)
	}
	if said := (pods{containers: []core.Container{cart}}).others("cart"); said != "" {
		t.Errorf("of a single container it says %q", said)
	}
}
