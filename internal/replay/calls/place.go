package calls

import (
	"net"
	"net/netip"
	"strings"
)

// Place is HOST:PORT as a recording has it: where a request went that says it is for
// host, on a connection to HOST:PORT. What the request says counts, since an address of
// today is another one tomorrow, unless it says no more than the address.
func Place(to, host, namespace string) string {
	name, port, err := net.SplitHostPort(to)
	if err != nil {
		name, port = to, "80"
	}
	if said, _, err := net.SplitHostPort(host); err == nil {
		host = said
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); host != "" && err != nil && !strings.EqualFold(host, "localhost") {
		name = host
	}
	return place(Host(name, namespace), port)
}

// place is net.JoinHostPort.
func place(host, port string) string { return net.JoinHostPort(host, port) }

// Host is the shortest of the names that a host has in a namespace: stock for
// stock.shop.svc.cluster.local.
func Host(name, namespace string) string {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if service, _, ok := strings.Cut(name+".", ".svc."); ok && strings.Contains(service, ".") {
		name = service
	}
	if service, ok := strings.CutSuffix(name, "."+namespace); ok && namespace != "" && service != "" && !strings.Contains(service, ".") {
		return service
	}
	return name
}
