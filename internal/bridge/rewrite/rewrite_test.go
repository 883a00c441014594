package rewrite

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/reach"
)

func services() []Service {
	return []Service{
		{Hosts: []string{"cart", "cart.shop", "cart.shop.svc.cluster.local", "10.43.0.7"}, Ports: []int{8080, 9090}},
		{Hosts: []string{"redis", "redis.shop"}, Ports: []int{6379}},
		{Hosts: []string{"web", "web.shop"}, Ports: []int{80}},
	}
}

// numbered opens ports from 50001 on, one for each port of a service.
type numbered struct {
	opened []string
	taken  []int // that can't be had exactly
}

func (n *numbered) open(p Port, exactly bool) (netip.AddrPort, error) {
	if exactly {
		if slices.Contains(n.taken, p.Number) {
			return netip.AddrPort{}, errors.New("taken")
		}
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(p.Number)), nil
	}
	i := slices.Index(n.opened, p.String())
	if i < 0 {
		i, n.opened = len(n.opened), append(n.opened, p.String())
	}
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(50001+i)), nil
}

func TestApply(t *testing.T) {
	for _, tc := range []struct {
		name     string
		env      string // lines
		want     string
		wantOpen string
	}{
		{"host and port", "CART_ADDR=cart:8080", "CART_ADDR=127.0.0.1:50001", "cart:8080"},
		{"a URL", "CART_URL=http://cart.shop:8080/api?x=1", "CART_URL=http://127.0.0.1:50001/api?x=1", "cart:8080"},
		{"a URL without a port", "WEB=http://web/ REDIS", "WEB=http://127.0.0.1:50001/ REDIS", "web:80"},
		{"with a password", "R=redis://user:p@ss@redis/0", "R=redis://user:p@ss@127.0.0.1:50001/0", "redis:6379"},
		{"the whole name, in capitals", "A=Cart.Shop.svc.cluster.local:9090", "A=127.0.0.1:50001", "cart:9090"},
		{"by address", "CART_PORT=tcp://10.43.0.7:8080", "CART_PORT=tcp://127.0.0.1:50001", "cart:8080"},
		{"several in one value, the same port once", "ALL=cart:8080,cart:9090,cart.shop:8080", "ALL=127.0.0.1:50001,127.0.0.1:50002,127.0.0.1:50001", "cart:8080 cart:9090"},
		{"host and port apart", "CART_SERVICE_HOST=10.43.0.7\nCART_SERVICE_PORT=8080", "CART_SERVICE_HOST=127.0.0.1\nCART_SERVICE_PORT=50001", "cart:8080"},
		{"the ports of a host by name", "CART_SERVICE_HOST=10.43.0.7\nCART_SERVICE_PORT=8080\nCART_SERVICE_PORT_HTTP=8080\nCART_SERVICE_PORT_ADMIN=9090\nCART_SERVICE_PORT_80_TCP_PORT=8080\nCART_SERVICE_PORT_X=81",
			"CART_SERVICE_HOST=127.0.0.1\nCART_SERVICE_PORT=50001\nCART_SERVICE_PORT_HTTP=50001\nCART_SERVICE_PORT_ADMIN=50002\nCART_SERVICE_PORT_80_TCP_PORT=8080\nCART_SERVICE_PORT_X=81", "cart:8080 cart:9090"},
		{"a host alone has its only port", "REDIS_HOST=redis", "REDIS_HOST=127.0.0.1", ""},
		{"a name that is no host", "NAME=redis", "NAME=redis", ""},
		{"a host alone with several ports", "CART_HOST=cart", "CART_HOST=cart", ""},
		{"a port that the service does not have", "CART=cart:81", "CART=cart:81", ""},
		{"a name within another", "A=my-cart:8080 cart-v2:8080 cart.example.com:8080 xcart:8080", "A=my-cart:8080 cart-v2:8080 cart.example.com:8080 xcart:8080", ""},
		{"a path that looks like one", "A=/etc/cart/file", "A=/etc/cart/file", ""},
		{"TLS checks the name", "A=https://cart:8080/", "A=https://cart:8080/", ""},
		{"what is no service", "HOME=/root\nGREETING=cart before horse", "HOME=/root\nGREETING=cart before horse", ""},
		{"a database's data source", "DSN=root:pw@tcp(redis:6379)/db", "DSN=root:pw@tcp(127.0.0.1:50001)/db", "redis:6379"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var env []reach.Variable
			for line := range strings.SplitSeq(tc.env, "\n") {
				name, value, _ := strings.Cut(line, "=")
				env = append(env, reach.Variable{Name: name, Value: value})
			}
			n := &numbered{}
			out, changes, why := Apply(env, services(), n.open)
			var lines []string
			for _, v := range out {
				lines = append(lines, v.Name+"="+v.Value)
			}
			if d := cmp.Diff(tc.want, strings.Join(lines, "\n")); d != "" {
				t.Errorf("environment (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tc.wantOpen, strings.Join(n.opened, " ")); d != "" {
				t.Errorf("opened (-want +got):\n%s", d)
			}
			if len(why) > 0 || (len(changes) > 0) != (tc.want != tc.env) {
				t.Errorf("changes %v, %v", changes, why)
			}
		})
	}
}

func TestWhatCanNotBeOpenedStays(t *testing.T) {
	env := []reach.Variable{{Name: "REDIS_HOST", Value: "redis"}}
	n := &numbered{taken: []int{6379}}
	out, changes, why := Apply(env, services(), n.open)
	if out[0].Value != "redis" || len(changes) > 0 || len(why) != 1 || !strings.Contains(why[0].Error(), "port 6379 of redis has no port here: taken") {
		t.Errorf("%v, %v, %v", out, changes, why)
	}
}

func FuzzApply(f *testing.F) {
	f.Add("CART_URL", "http://cart:8080/")
	f.Add("X_HOST", "redis://a@redis")
	f.Fuzz(func(t *testing.T, name, value string) {
		n := &numbered{}
		out, changes, _ := Apply([]reach.Variable{{Name: name, Value: value}}, services(), n.open)
		if len(out) != 1 || out[0].Name != name || len(changes) == 0 && out[0].Value != value {
			t.Errorf("%q=%q becomes %v, with the changes %v", name, value, out, changes)
		}
	})
}
