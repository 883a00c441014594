package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// place is where a door of one address family listens.
type place struct {
	family, level, option int // the option makes a socket transparent
	address               netip.Addr
}

// places returns the doors' places. Their addresses are nobody's (RFC 5737,
// RFC 6666), so that a door can't be reached but by its rules. A transparent
// socket may have them all the same.
func places() []place {
	return []place{
		{unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT, netip.MustParseAddr("192.0.2.66")},
		{unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, netip.MustParseAddr("100::66")},
	}
}

const (
	backlog = 4096
	// highNumber is the least number that listeners' descriptors have, if so
	// many are allowed.
	highNumber = 8192
)

// listener is a transparent listening socket. It is not a net.Listener since
// it decides on the number of its descriptor: a killed process's files are
// closed from the last to the first, and closing the connection that holds a
// table takes the kernel 10 ms. Until a listener is closed, new connections wait
// in vain. So all listeners have higher numbers than all else.
type listener struct {
	file *os.File
	raw  syscall.RawConn
	addr netip.AddrPort
}

// listen makes a listener in the namespace, on a port that the kernel chooses.
func (p place) listen(ctx context.Context, n *Netns) (*listener, error) {
	fd := -1
	err := n.In(ctx, func() (err error) {
		fd, err = unix.Socket(p.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, err
	}
	l, err := p.open(fd)
	if err != nil {
		return nil, fmt.Errorf("listen in the pod's network: %w (it needs the capability NET_ADMIN)", err)
	}
	return l, nil
}

// open makes a listener of a new socket.
func (p place) open(fd int) (*listener, error) {
	if high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, least()); err == nil {
		unix.Close(fd)
		fd = high
	}
	file := os.NewFile(uintptr(fd), "door "+p.address.String())
	l, err := p.bind(file, fd)
	if err != nil {
		file.Close()
		return nil, err
	}
	return l, nil
}

func (p place) bind(file *os.File, fd int) (*listener, error) {
	if p.family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return nil, os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
	}
	if err := unix.SetsockoptInt(fd, p.level, p.option, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt IP_TRANSPARENT", err)
	}
	_, to := sockaddr(netip.AddrPortFrom(p.address, 0))
	if err := unix.Bind(fd, to); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	l := &listener{file: file}
	switch a := bound.(type) {
	case *unix.SockaddrInet4:
		l.addr = netip.AddrPortFrom(p.address, uint16(a.Port))
	case *unix.SockaddrInet6:
		l.addr = netip.AddrPortFrom(p.address, uint16(a.Port))
	}
	l.raw, err = file.SyscallConn()
	return l, err
}

// least returns the least number that a listener's descriptor should have.
func least() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur/2, highNumber))
}

// accept waits for a connection. It fails with net.ErrClosed once the listener
// is closed.
func (l *listener) accept() (net.Conn, error) {
	fd, failure := -1, error(nil)
	err := l.raw.Read(func(listening uintptr) bool {
		for {
			fd, _, failure = unix.Accept4(int(listening), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if failure != unix.EINTR && failure != unix.ECONNABORTED {
				return failure != unix.EAGAIN
			}
		}
	})
	if errors.Is(err, os.ErrClosed) {
		return nil, net.ErrClosed
	}
	if err = cmp.Or(err, os.NewSyscallError("accept", failure)); err != nil {
		return nil, l.failed(err)
	}
	f := os.NewFile(uintptr(fd), "accepted")
	defer f.Close() // net.FileConn makes a copy
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, l.failed(err)
	}
	return conn, nil
}

// failed returns an error as a net.Listener does, so that servers know which
// ones pass, like too many open files.
func (l *listener) failed(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: net.TCPAddrFromAddrPort(l.addr), Err: err}
}

func (l *listener) close() { l.file.Close() }
