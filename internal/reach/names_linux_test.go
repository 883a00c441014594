package reach

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func texts(all []netip.Addr) []string {
	var out []string
	for _, a := range all {
		out = append(out, a.String())
	}
	return out
}

func TestHostsFile(t *testing.T) {
	const hosts = "# Kubernetes-managed\n127.0.0.1\tlocalhost\nfe00::0 ip6-localnet # old\n10.1.2.3 Cart-0 cart-0.shop.svc\nnonsense cart-0\n10.1.2.3\n10.9.9.9 two cart-0 cart-0\n"
	for name, want := range map[string][]netip.Addr{
		"localhost":       addrs("127.0.0.1"),
		"cart-0":          addrs("10.1.2.3", "10.9.9.9"),
		"CART-0.shop.svc": addrs("10.1.2.3"),
		"two.":            addrs("10.9.9.9"),
		"old":             nil,
		"nobody":          nil,
	} {
		if diff := cmp.Diff(texts(want), texts(hostsOf(hosts, name))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff([]string{"127.0.0.1", "::1"}, texts(hostsOf("", "LocalHost"))); diff != "" {
		t.Errorf("without a file (-want +got):\n%s", diff)
	}
}

func TestSearchList(t *testing.T) {
	c := resolvConf{search: []string{"shop.svc.cluster.local", "lan."}, ndots: 2}
	for host, want := range map[string]string{
		"db":      "db.shop.svc.cluster.local. db.lan. db.",
		"db.pay":  "db.pay.shop.svc.cluster.local. db.pay.lan. db.pay.",
		"a.b.com": "a.b.com. a.b.com.shop.svc.cluster.local. a.b.com.lan.",
		"db.":     "db.",
	} {
		if got := strings.Join(c.candidates(host), " "); got != want {
			t.Errorf("%s: got %s, want %s", host, got, want)
		}
	}
}

func TestAddressesInAnswers(t *testing.T) {
	q, ok := questionFor("cart.shop.", typeA)
	if !ok || q.name() != "cart.shop." {
		t.Fatalf("question: got %x, want one about cart.shop.", q)
	}
	record := func(name string, kind byte, data ...byte) string {
		return name + string([]byte{0, kind, 0, classIN, 0, 0, 0, 5, 0, byte(len(data))}) + string(data)
	}
	answer := func(records ...string) message {
		a := append(q.failure(0), strings.Join(records, "")...)
		a[7] = byte(len(records))
		return a
	}
	const same = "\xc0\x0c"
	for name, tt := range map[string]struct {
		m    message
		want []netip.Addr
		err  error
	}{
		"none":         {answer(), nil, nil},
		"two":          {answer(record(same, typeA, 10, 0, 0, 1), record(same, typeA, 10, 0, 0, 2)), addrs("10.0.0.1", "10.0.0.2"), nil},
		"behind alias": {answer(record(same, 5, 1, 'a', 0), record("\x01a\x00", typeA, 10, 0, 0, 3)), addrs("10.0.0.3"), nil},
		"IPv6":         {answer(record(same, typeAAAA, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7)), addrs("fd00::7"), nil},
		"wrong length": {answer(record(same, typeA, 1, 2, 3)), nil, nil},
		"cut":          {answer(record(same, typeA, 10, 0, 0, 1))[:len(q)+14], nil, errMessage},
		"bad name":     {answer("\x80"), nil, errMessage},
	} {
		got, err := tt.m.addresses()
		if diff := cmp.Diff(texts(tt.want), texts(got)); diff != "" || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v (-want +got):\n%s", name, err, tt.err, diff)
		}
	}
	for _, name := range []string{"a..b.", strings.Repeat("a", 64) + ".", strings.Repeat("a.", 130)} {
		if q, ok := questionFor(name, typeA); ok {
			t.Errorf("%.20s: got %x, want no question", name, q)
		}
	}
}

func TestStatusOfAProcess(t *testing.T) {
	got, err := parseStatus("Name:\tcart\nUid:\t0\t1000\t0\t0\nGid:\t0\t2000\t0\t0\nFDSize:\t64\nGroups:\t5 6 \n")
	want := identity{uid: 1000, gid: 2000, groups: []int{5, 6}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(identity{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, text := range []string{"", "Uid:\t1\nGid:\t1\t1\n", "Uid:\tx\ty\n", "Uid:\t1\t1\n"} {
		if got, err := parseStatus(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}
