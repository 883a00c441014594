package bridge

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/bridge/jail"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/steer"
)

func TestUnknownServiceNamesNearOnes(t *testing.T) {
	known := []string{"cart", "catalog", "checkout"}
	for name, want := range map[string]string{
		"crt":      "did you mean cart?",
		"catalgo":  "did you mean catalog?",
		"payments": `no service "payments"; there is cart, catalog, checkout (namespace shop-ada, context kind-dev)`,
		"x":        `no service "x"; there is`,
	} {
		err := (&Bridge{Cluster: &kube.Cluster{Context: "kind-dev"}, Namespace: "shop-ada", App: "shop", Services: known}).check(name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", name, err, want)
		}
	}
	if err := (&Bridge{Services: known}).check(""); err != nil {
		t.Errorf("no service: got %v", err)
	}
}

func TestEnvironmentIsThePodsButForPlacesHere(t *testing.T) {
	here := []string{"PATH=/here/bin", "HOME=/home/ada", "CART_URL=http://localhost:1", "EDITOR=vi", "HOSTNAME=laptop"}
	pod := []reach.Variable{
		{Name: "PATH", Value: "/bin"}, {Name: "HOME", Value: "/home/nonroot"}, {Name: "CART_URL", Value: "http://cart:7002"},
		{Name: "HOSTNAME", Value: "cart-1"}, {Name: "TMPDIR", Value: "/pod/tmp"}, {Name: "A", Value: "x=y"},
	}
	want := []string{"PATH=/here/bin", "HOME=/home/ada", "EDITOR=vi", "CART_URL=http://cart:7002", "HOSTNAME=cart-1", "TMPDIR=/pod/tmp", "A=x=y"}
	if diff := cmp.Diff(want, environment(here, pod)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestProxiesOfTheMachineAreNotTheClusters(t *testing.T) {
	var said []string
	b := &Bridge{Say: func(text string) { said = append(said, text) }}
	o := Order{Env: []string{"A=1", "HTTP_PROXY=http://proxy.corp:3128", "https_proxy=http://proxy.corp:3128", "ALL_PROXY=", "NO_PROXY=.corp", "MY_PROXY=x"}}
	b.leaveProxies(&o)
	if diff := cmp.Diff([]string{"A=1", "MY_PROXY=x"}, o.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if len(said) != 1 || !strings.Contains(said[0], "this machine's HTTP_PROXY, https_proxy:") {
		t.Errorf("it says %q", said)
	}
	pod := []reach.Variable{{Name: "HTTP_PROXY", Value: "http://egress:3128"}}
	if diff := cmp.Diff([]string{"A=1", "MY_PROXY=x", "HTTP_PROXY=http://egress:3128"}, environment(o.Env, pod)); diff != "" {
		t.Errorf("the pod's are its own (-want +got):\n%s", diff)
	}
	said, o.Env = nil, []string{"A=1", "NO_PROXY=.corp"}
	if b.leaveProxies(&o); len(said) > 0 {
		t.Errorf("without a proxy it says %q", said)
	}
}

func TestMergePutsPodsTogether(t *testing.T) {
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	rule := steer.Rule{ID: "cart-1", Owner: "ada@laptop", Service: "cart", Port: 80, Mode: steer.Intercept}
	other := steer.Rule{ID: "cart-1", Owner: "ben@laptop", Service: "cart", Port: 80, Mode: steer.Mirror}
	got := merge([]steer.Status{
		{Rule: rule, State: steer.Active, Since: late, Direct: true, Counters: steer.Counters{Requests: 1, Old: 2}, Past: steer.Counters{Requests: 10, Lost: 1}},
		{Rule: rule, State: steer.Suspended, Since: early, Counters: steer.Counters{Requests: 4, ByApp: 1}, Past: steer.Counters{Requests: 7}}, // an older account
		{Rule: other, State: steer.Active, Since: early, Direct: true},
	}, map[string]int{"cart": 3})
	if len(got) != 2 {
		t.Fatalf("got %d intercepts: %+v", len(got), got)
	}
	for _, i := range got {
		want := Intercept{
			ID: "cart-1", Owner: i.Owner, Service: "cart", Port: 80, Match: "every request", Since: early, Of: 3, Transport: TransportDirect,
			Mode: steer.Mirror, State: steer.Active, Pods: 1,
		}
		if i.Owner == rule.Owner {
			want.Mode, want.State, want.Pods, want.Transport = steer.Intercept, steer.Suspended, 1, TransportPortForward
			want.Counters = steer.Counters{Requests: 15, ByApp: 1, Lost: 1, Old: 2}
		}
		if diff := cmp.Diff(want, i); diff != "" {
			t.Errorf("%s (-want +got):\n%s", i.Owner, diff)
		}
	}
	if none := merge(nil, nil); none == nil || len(none) != 0 {
		t.Errorf("without any: got %v, want an empty list", none)
	}
}

func TestServicesAreTheirAddressesAndPorts(t *testing.T) {
	ranges := []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}
	service := func(ip string, ports ...core.ServicePort) *core.Service {
		return &core.Service{Spec: core.ServiceSpec{ClusterIPs: []string{ip}, Ports: ports}}
	}
	got := services(ranges, map[string]*core.Service{
		"shop/cart":  service("10.43.0.7", core.ServicePort{Port: 80, Protocol: core.ProtocolTCP}),
		"shop/heads": service("None", core.ServicePort{Port: 81, Protocol: core.ProtocolTCP}),
		"shop/sctp":  service("10.43.0.8", core.ServicePort{Port: 82, Protocol: core.ProtocolSCTP}),
		"dns/dns":    service("10.43.0.10", core.ServicePort{Port: 53, Protocol: core.ProtocolUDP}),
	})
	want := jail.Services{
		Ranges: ranges,
		TCP:    []netip.AddrPort{netip.MustParseAddrPort("10.43.0.7:80")},
		UDP:    []netip.AddrPort{netip.MustParseAddrPort("10.43.0.10:53")},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
}
