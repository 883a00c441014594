package gate

import (
	"net/netip"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/procnet"
)

func TestACountThatBeganEarlierIsNotBelieved(t *testing.T) {
	one := []procnet.Socket{{
		Local: netip.MustParseAddrPort("10.0.0.1:8080"), Remote: netip.MustParseAddrPort("10.0.0.2:4711"), Inode: 7,
	}}
	exempts := func(netip.Addr, uint16) bool { return false }
	start := time.Now().Add(-time.Minute)
	var p passed
	p.count(one, start.Add(2*time.Second), nil, exempts)
	p.count(nil, start.Add(time.Second), nil, exempts)
	if p.old[8080] != 1 {
		t.Error("a count that took longer has overwritten a newer one")
	}
	p.recount()
	p.count(nil, start.Add(3*time.Second), nil, exempts)
	if p.old[8080] != 1 || !p.as.IsZero() {
		t.Error("a count was taken that had begun before it was asked for")
	}
	p.count(nil, time.Now(), nil, exempts)
	if p.old[8080] != 0 || p.as.IsZero() {
		t.Error("a count was not taken that began afterwards")
	}
}
