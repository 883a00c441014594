package node

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/bightdev/bight/internal/procnet"
)

func TestConnectionsOfANamespace(t *testing.T) {
	n := newNetwork(t)
	n.app(t, ":8080")
	eachFamily(t, func(t *testing.T, a addresses) {
		at := netip.AddrPortFrom(a.pod, appPort)
		c := dial(t, n.client, at)
		all, err := n.pod.Established(t.Context())
		must(t, err)
		if !slices.ContainsFunc(all, func(s procnet.Socket) bool {
			return s.Local == at && s.Remote.String() == c.LocalAddr().String() && s.Inode != 0
		}) {
			t.Errorf("got %v, want one from %s to %s", all, c.LocalAddr(), at)
		}
	})
}
