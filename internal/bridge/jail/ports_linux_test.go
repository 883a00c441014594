package jail

import (
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
)

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
