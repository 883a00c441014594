package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Netns is a network namespace. It lives as long as it is open, whatever happens
// to the processes in it.
type Netns struct {
	file *os.File
	id   namespace
	own  bool // this process is in it, with all of its threads
}

// namespace identifies a namespace as long as it lives.
type namespace struct{ dev, ino uint64 }

func identify(path string) (namespace, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return namespace{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return namespace{uint64(st.Dev), st.Ino}, nil
}

// OpenNetns opens a namespace by its file, for example /proc/PID/ns/net. The
// caller closes it.
func OpenNetns(path string) (*Netns, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return &Netns{file: f, id: namespace{uint64(st.Dev), st.Ino}}, nil
}

// Same tells whether both are the same namespace.
func (n *Netns) Same(other *Netns) bool { return n.id == other.id }

// Close lets go of the namespace. Sockets made in it stay.
func (n *Netns) Close() error { return n.file.Close() }

// In calls fn on a thread in the namespace and returns what it returns. Sockets
// that fn makes itself are in the namespace; goroutines that it starts are not.
// Once begun, fn is waited for, so it must not block: make a socket in it and
// use that outside.
func (n *Netns) In(ctx context.Context, fn func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if n.own {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		err := errors.New("network namespace: the function did not return")
		defer func() { done <- err }()
		runtime.LockOSThread()
		home, openErr := os.Open("/proc/thread-self/ns/net")
		if openErr != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("enter network namespace: %w", openErr)
			return
		}
		defer home.Close()
		if setErr := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); setErr != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("enter network namespace: %w (it needs SYS_ADMIN)", setErr)
			return
		}
		defer func() {
			// A thread that can't go home ends with this goroutine, locked.
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		err = fn()
	}()
	return <-done
}

// Listen listens in the namespace. The address has no names.
func (n *Netns) Listen(ctx context.Context, network, address string) (ln net.Listener, err error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	err = n.In(ctx, func() (err error) {
		ln, err = c.Listen(ctx, network, address)
		return err
	})
	return ln, err
}

// ListenPacket is Listen for UDP.
func (n *Netns) ListenPacket(ctx context.Context, network, address string) (pc net.PacketConn, err error) {
	err = n.In(ctx, func() (err error) {
		pc, err = (&net.ListenConfig{}).ListenPacket(ctx, network, address)
		return err
	})
	return pc, err
}

// Dial connects from inside the namespace; network is "tcp" or "udp". What is
// dialled at the pod's own addresses or at localhost goes through the pod's lo,
// where nothing is steered.
func (n *Netns) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	conn, err := n.dial(ctx, network, to)
	if err != nil {
		return nil, fmt.Errorf("dial %s %s in the pod's network: %w", network, to, err)
	}
	return conn, nil
}

func (n *Netns) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	kinds := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}
	kind, ok := kinds[network]
	if !ok {
		return nil, net.UnknownNetworkError(network)
	}
	if !to.IsValid() {
		return nil, errors.New("no address")
	}
	family, addr := sockaddr(to)
	fd := -1
	// Only the socket is made on the namespace's thread; connecting may take long.
	err := n.In(ctx, func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), network+":"+to.String())
	defer f.Close() // net.FileConn makes a copy
	if err := unix.Connect(fd, addr); err != nil {
		if !errors.Is(err, unix.EINPROGRESS) {
			return nil, os.NewSyscallError("connect", err)
		}
		if err := connected(ctx, f); err != nil {
			return nil, err
		}
	}
	return net.FileConn(f)
}

func sockaddr(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// connected waits until f, a socket that is connecting, has connected.
func connected(ctx context.Context, f *os.File) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := f.SetWriteDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(p, 0); err != nil || n == 0 {
			return false // wait until it can be written
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			failure = os.NewSyscallError("getsockopt", err)
		} else if code != 0 {
			failure = os.NewSyscallError("connect", syscall.Errno(code))
		}
		return true
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, failure)
}

// Addrs returns the namespace's own addresses: those that others can reach it
// at, so neither loopback nor link-local ones.
func (n *Netns) Addrs(ctx context.Context) ([]netip.Addr, error) {
	var own []netip.Addr
	err := n.In(ctx, func() error {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				return err
			}
			if ip := p.Addr().Unmap(); ip.IsGlobalUnicast() {
				own = append(own, ip)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("addresses of the network namespace: %w", err)
	}
	return own, nil
}
