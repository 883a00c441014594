package bridge

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"testing"

	restclient "k8s.io/client-go/rest"

	"github.com/bightdev/bight/internal/kube"
)

func TestWhereAServerOnLoopbackIs(t *testing.T) {
	for _, tc := range []struct {
		server, proxy string
		want          []string
	}{
		{"https://127.0.0.1:40000", "", []string{"127.0.0.1:40000"}},
		{"https://127.0.0.1", "", []string{"127.0.0.1:443"}},
		{"https://[::1]:6443", "", []string{"[::1]:6443"}},
		{"https://localhost:6443", "", []string{"127.0.0.1:6443", "[::1]:6443"}},
		{"https://192.0.2.1:6443", "", nil},
		{"https://cluster.example", "", nil},
		{"https://cluster.example", "socks5://127.0.0.1:1080", []string{"127.0.0.1:1080"}},
		{"https://127.0.0.1:6443", "http://proxy.example", nil},
	} {
		config := &restclient.Config{Host: tc.server}
		if tc.proxy != "" {
			u, err := url.Parse(tc.proxy)
			if err != nil {
				t.Fatal(err)
			}
			config.Proxy = http.ProxyURL(u)
		}
		var want []netip.AddrPort
		for _, w := range tc.want {
			want = append(want, netip.MustParseAddrPort(w))
		}
		if got := onLoopback(kube.New(config, "kind-dev", "")); !slices.Equal(got, want) {
			t.Errorf("%s by %q: %v, want %v", tc.server, tc.proxy, got, want)
		}
	}
}
