package bridge

import (
	"net/http"
	"net/netip"
	"net/url"
	"strconv"

	"github.com/bightdev/bight/internal/kube"
)

// onLoopback is where the way to a cluster's API server begins if that is on this
// machine's loopback, as a local cluster's is, and a tunnel's: nothing otherwise.
// A command with a network of its own finds it there, too, so that whatever reads the
// kubeconfig works.
func onLoopback(cluster *kube.Cluster) []netip.AddrPort {
	u, err := url.Parse(cluster.Server)
	if err != nil {
		return nil
	}
	if proxy := cluster.RESTConfig().Proxy; proxy != nil {
		if by, err := proxy(&http.Request{URL: u}); err == nil && by != nil {
			u = by
		}
	}
	port, err := strconv.ParseUint(portOf(u), 10, 16)
	if err != nil || port == 0 {
		return nil
	}
	if u.Hostname() == "localhost" {
		return []netip.AddrPort{
			netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)),
			netip.AddrPortFrom(netip.IPv6Loopback(), uint16(port)),
		}
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil || !addr.IsLoopback() {
		return nil
	}
	return []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), uint16(port))}
}

// portOf is the port of a URL, or the usual one of its scheme.
func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
}
