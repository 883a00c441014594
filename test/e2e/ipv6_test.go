//go:build e2e

package e2e

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// six makes a Service that leads where another one does, but by IPv6 alone, and returns
// its address.
func (b *bay) six(of string) (address string) {
	b.Helper()
	services := client.CoreV1().Services(b.namespace)
	s, err := services.Get(context(), of, meta.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	six := &core.Service{ObjectMeta: meta.ObjectMeta{Name: of + "-6"}, Spec: core.ServiceSpec{
		Selector: s.Spec.Selector, IPFamilies: []core.IPFamily{core.IPv6Protocol}, IPFamilyPolicy: ptr.To(core.IPFamilyPolicySingleStack),
	}}
	for _, p := range s.Spec.Ports {
		p.NodePort = 0
		six.Spec.Ports = append(six.Spec.Ports, p)
	}
	if six, err = services.Create(context(), six, meta.CreateOptions{}); err != nil {
		b.Fatalf("the cluster has to have both families (bight cluster start --dual-stack): %v", err)
	}
	b.Cleanup(func() {
		if err := services.Delete(context(), six.Name, meta.DeleteOptions{}); err != nil {
			b.Error(err)
		}
	})
	if a, err := netip.ParseAddr(six.Spec.ClusterIP); err != nil || !a.Is6() {
		b.Fatalf("Service %s has the address %q", six.Name, six.Spec.ClusterIP)
	}
	b.eventually(six.Name+" answers", func() error {
		_, err := b.ask(b.client(false, false), "http://"+six.Name+":8080/")
		return err
	})
	return six.Spec.ClusterIP
}

// testBySix asks a service by IPv6, by its name and its address, from a command in
// pods, from outside, and while requests for it come to laptops.
func (b *bay) testBySix(service, target string) {
	address := b.six(service)
	name, at := service+"-6", net.JoinHostPort(address, "8080")
	byName, byAddress := "http://"+name+":8080/", "http://"+at+"/"
	tool := b.program("tool")
	for _, test := range []struct{ name, what, to, want string }{
		{"Name", "get", byName, "app HTTP/1.1 "},
		{"Address", "get", byAddress, "app HTTP/1.1 "},
		{"TCP", "tcp", name + ":7000", "app hello\n"},
		{"UDP", "udp", name + ":7001", "app hello\n"},
		{"Resolved", "dns", name, address},
	} {
		if test.name == "UDP" && service == tillNamed {
			continue // it has no such port
		}
		b.Run(test.name, func(t *testing.T) {
			out, errs, code := b.on(t).run(target, "--", tool, test.what, test.to)
			if code != 0 || !strings.HasPrefix(out, test.want) {
				t.Errorf("exit code %d; stdout %q, want %q; stderr:\n%s", code, out, test.want, errs)
			}
		})
	}
	ada := b.laptop("ada")
	s := b.intercept("ada", target, "--port", ada.at(8080), "--header", "x-dev=ada")
	for _, http2 := range []bool{false, true} {
		c := b.client(http2, true)
		for _, url := range []string{byName, byAddress} {
			b.answers("app", c, url)
			b.answers("ada", c, url, "x-dev", "ada")
		}
	}
	b.leave(s)
	s = b.intercept("ada", target, "--port", ada.at(8080))
	b.answers("ada", b.client(false, false), byName)
	b.leave(s)
	b.answers("app", b.client(false, false), byName)
}
