package jail

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
)

func TestListeningSockets(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	for _, tt := range []struct {
		name, table string
		want        []string
	}{
		{"none", head, nil},
		{"one of each kind", head +
			"   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n" +
			"   1: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000\n", []string{"127.0.0.1:3000", "[::1]:8080"}},
		{"a connection", head + "   0: 0100007F:0BB8 0100007F:8000 01 00000000:00000000\n", nil},
		{"nonsense", "a b:c d 0A\nx\n", nil},
	} {
		var got []string
		for _, at := range listening(tt.table) {
			got = append(got, at.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// What listens at "localhost" on the machine is at ::1 alone for some programs.
func TestTheMachineIsReachedAtEitherLoopback(t *testing.T) {
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	port := netip.MustParseAddrPort(ln.Addr().String()).Port()
	to := net.JoinHostPort(HostName, strconv.Itoa(int(port)))
	if got := run(t, newCluster(t).role("echo", to, "hello")); got.Out != "hello" {
		t.Errorf("%+v", got)
	}
}
