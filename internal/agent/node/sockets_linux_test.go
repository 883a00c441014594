package node

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestConnectionsInTheKernelsTables(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	for _, tt := range []struct {
		text string
		want []Socket
	}{
		{head, nil},
		{head + "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0\n" +
			"   1: 02004D0A:1F90 01004D0A:C350 01 00000000:00000000 00:00000000 00000000     0        0 78 1 0\n",
			[]Socket{{netip.MustParseAddrPort("10.77.0.2:8080"), netip.MustParseAddrPort("10.77.0.1:50000"), 78}}},
		{head + "   0: 0000000000000000FFFF000002004D0A:1F90 00000000000000000000000001000000:0001 01 0:0 0:0 0 0 0 0 1\n",
			[]Socket{{netip.MustParseAddrPort("10.77.0.2:8080"), netip.MustParseAddrPort("[::1]:1"), 0}}},
	} {
		got, err := parseEstablished(tt.text)
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", tt.text, err, diff)
		}
	}
	for _, line := range []string{
		"0: 02004D0A:1F90 01004D0A:C350 01 0", "0: XY:1F90 01004D0A:C350 01 0 0 0 0 0 7", "0: 02004D0A:1F90 01004D0A:C350 01 0 0 0 0 0 x",
	} {
		if got, err := parseEstablished(head + line + "\n"); err == nil {
			t.Errorf("%q: got %v, want an error", line, got)
		}
	}
}

func TestConnectionsOfANamespace(t *testing.T) {
	n := newNetwork(t)
	n.app(t, ":8080")
	eachFamily(t, func(t *testing.T, a addresses) {
		at := netip.AddrPortFrom(a.pod, appPort)
		c := dial(t, n.client, at)
		all, err := n.pod.Established(t.Context())
		must(t, err)
		if !slices.ContainsFunc(all, func(s Socket) bool {
			return s.Local == at && s.Remote.String() == c.LocalAddr().String() && s.Inode != 0
		}) {
			t.Errorf("got %v, want one from %s to %s", all, c.LocalAddr(), at)
		}
	})
}
