package procnet

import (
	"net/netip"
	"slices"
	"testing"
)

const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func TestListeningAddresses(t *testing.T) {
	for _, tt := range []struct {
		table string
		want  []netip.AddrPort
	}{
		{head, nil},
		{"", nil},
		{head + "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 0 0 0\n" +
			"   1: 00000000:0050 00000000:0000 0A 00000000\n" +
			"   2: 0100007F:0051 0100007F:1F90 01 00000000\n" +
			"   3: 00000000:0050 00000000:0000 0A 00000000\n",
			[]netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:80"), netip.MustParseAddrPort("127.0.0.1:8080")}},
		{head + "   0: 00000000000000000000000001000000:1F90 0:0 0A\n", []netip.AddrPort{netip.MustParseAddrPort("[::1]:8080")}},
	} {
		if got, err := Listening(tt.table); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%q: %v, %v, want %v", tt.table, got, err, tt.want)
		}
	}
	if got, err := Listening(head + " 0: XY:1F90 0:0 0A\n"); err == nil {
		t.Errorf("nonsense is understood as %v", got)
	}
}

func TestEstablishedConnections(t *testing.T) {
	for _, tt := range []struct {
		table string
		want  []Socket
	}{
		{head, nil},
		{head + "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0\n" +
			"   1: 02004D0A:1F90 01004D0A:C350 01 00000000:00000000 00:00000000 00000000     0        0 78 1 0\n",
			[]Socket{{netip.MustParseAddrPort("10.77.0.2:8080"), netip.MustParseAddrPort("10.77.0.1:50000"), 78}}},
		{head + "   0: 0000000000000000FFFF000002004D0A:1F90 00000000000000000000000001000000:0001 01 0:0 0:0 0 0 0 0 1\n",
			[]Socket{{netip.MustParseAddrPort("10.77.0.2:8080"), netip.MustParseAddrPort("[::1]:1"), 0}}},
	} {
		if got, err := Established(tt.table); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%q: %v, %v, want %v", tt.table, got, err, tt.want)
		}
	}
	for _, line := range []string{
		"0: 02004D0A:1F90 01004D0A:C350 01 0", "0: XY:1F90 01004D0A:C350 01 0 0 0 0 0 7", "0: 02004D0A:1F90 01004D0A:C350 01 0 0 0 0 0 x",
	} {
		if got, err := Established(head + line + "\n"); err == nil {
			t.Errorf("%q: got %v, want an error", line, got)
		}
	}
}

func FuzzTables(f *testing.F) {
	f.Add(head + "0: 0100007F:1F90 00000000:0000 0A\n")
	f.Add(head + "0: 0100007F:1F90 0100007F:C350 01 0 0 0 0 0 7\n")
	f.Fuzz(func(_ *testing.T, table string) {
		_, _ = Listening(table)
		_, _ = Established(table)
	})
}
