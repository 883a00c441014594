package jail

import (
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
)

// listenAt1 listens at a port of ::1 that nobody has at 127.0.0.1.
func listenAt1(t *testing.T) net.Listener {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", "[::1]:0")
		if err != nil {
			t.Fatal(err)
		}
		// A socket that is bound and does not listen refuses, and keeps others away.
		port := ln.Addr().(*net.TCPAddr).Port
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = ln.Close()
			_ = syscall.Close(fd)
		})
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err == nil {
			return ln
		}
	}
	t.Fatal("all ports are taken")
	return nil
}

// What listens at "localhost" on the machine is at ::1 alone for some programs.
func TestTheMachineIsReachedAtEitherLoopback(t *testing.T) {
	ln := listenAt1(t)
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
