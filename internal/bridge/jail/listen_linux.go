package jail

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bightdev/bight/internal/bridge/splice"
)

// dialTimeout bounds a dial for a flow.
const dialTimeout = 30 * time.Second

// serve makes the sockets of the namespace and serves them.
func (j *Jail) serve() error {
	if err := j.serveNames(); err != nil {
		return setupError(stepListen, err)
	}
	if j.mode == ModeListeners {
		if err := j.listenTo(j.cfg.Services); err != nil {
			j.log.Warn("services that can't be reached", "err", err) // the others can
		}
		j.serveMachine()
		return nil
	}
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		at := netip.AddrPortFrom(any, proxyPort)
		_, err := j.serveTCP(at)
		if err == nil {
			_, err = j.serveUDP(at)
		}
		if err != nil && !(any.Is6() && noIPv6(err)) {
			return setupError(stepListen, err)
		}
	}
	j.serveMachine()
	return nil
}

func (j *Jail) serveNames() error {
	at := netip.AddrPortFrom(nameserver, 53)
	udp, err := j.bind(at, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	conn, err := packetConn(udp)
	if err != nil {
		return err
	}
	tcp, err := j.bind(at, unix.SOCK_STREAM)
	if err != nil {
		_ = conn.Close()
		return err
	}
	ln, err := listener(tcp)
	if err != nil {
		_ = conn.Close()
		return err
	}
	context.AfterFunc(j.ctx, func() { _ = conn.Close(); _ = ln.Close() })
	j.tasks.Go(func() { j.names.serveUDP(j.ctx, conn) })
	j.tasks.Go(func() { j.names.serveTCP(j.ctx, ln) })
	return nil
}

// listenTo makes the sockets of ModeListeners equal to what s names.
func (j *Jail) listenTo(s Services) error {
	type socket struct {
		at    netip.AddrPort
		serve func(netip.AddrPort) (func(), error)
	}
	want := map[string]socket{}
	for _, at := range s.TCP {
		want["tcp "+at.String()] = socket{at, j.serveTCP}
	}
	for _, at := range s.UDP {
		want["udp "+at.String()] = socket{at, j.serveUDP}
	}
	j.listenMu.Lock()
	defer j.listenMu.Unlock()
	for name, stop := range j.listening {
		if _, ok := want[name]; !ok {
			stop()
			delete(j.listening, name)
		}
	}
	var problems []error
	for name, w := range want {
		if j.listening[name] != nil {
			continue
		}
		stop, err := w.serve(w.at)
		if err != nil {
			problems = append(problems, fmt.Errorf("listen for %s: %w", name, err))
			continue
		}
		j.listening[name] = stop
	}
	return errors.Join(problems...)
}

// serveTCP serves connections to an address inside.
func (j *Jail) serveTCP(at netip.AddrPort) (stop func(), err error) {
	file, err := j.bind(at, unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	ln, err := listener(file)
	if err != nil {
		return nil, err
	}
	if err := j.task(func() { j.accept(ln, j.carry) }); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return func() { _ = ln.Close() }, nil
}

// serveUDP serves datagrams to an address inside.
func (j *Jail) serveUDP(at netip.AddrPort) (stop func(), err error) {
	file, err := j.bind(at, unix.SOCK_DGRAM)
	if err != nil {
		return nil, err
	}
	conn, err := packetConn(file)
	if err != nil {
		return nil, err
	}
	unhook := context.AfterFunc(j.ctx, func() { _ = conn.Close() })
	if err := j.task(func() { j.receive(conn) }); err != nil {
		unhook()
		_ = conn.Close()
		return nil, err
	}
	return func() { unhook(); _ = conn.Close() }, nil
}

// accept serves the connections of ln until it or the jail is closed, and waits
// for them.
func (j *Jail) accept(ln net.Listener, serve func(net.Conn)) {
	stop := context.AfterFunc(j.ctx, func() { _ = ln.Close() })
	defer stop()
	defer ln.Close()
	var busy sync.WaitGroup
	defer busy.Wait()
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			busy.Go(func() { serve(conn) })
		case errors.Is(err, net.ErrClosed), j.ctx.Err() != nil:
			return
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			j.log.Warn("connection not taken", "err", err)
			select {
			case <-j.ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// carry takes a connection to where the command wanted it.
func (j *Jail) carry(conn net.Conn) {
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		splice.Abort(conn)
		return
	}
	up, err := j.connect(local.AddrPort())
	if err != nil {
		j.log.Debug("flow refused", "to", local.String(), "err", err)
		splice.Abort(conn)
		return
	}
	splice.Conns(j.ctx, conn, up)
}

var errNobody = errors.New("nothing is at this address")

func (j *Jail) connect(dst netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(j.ctx, dialTimeout)
	defer cancel()
	where, to := j.routes.decide(dst)
	switch where {
	case toCluster:
		return j.cfg.Dial(ctx, "tcp", to)
	case toMachine:
		if dst.Addr().Unmap() == machine4 {
			return DialMachine(ctx, "tcp", to.Port())
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", to.String())
	default:
		return nil, errNobody
	}
}

// bind makes a socket inside that has an address there; one of the proxy's takes
// what was meant for others.
func (j *Jail) bind(at netip.AddrPort, typ int) (*os.File, error) {
	file, err := j.socket(familyOf(at.Addr()), typ)
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err == nil {
		var result error
		err = raw.Control(func(fd uintptr) { result = bindFD(int(fd), at, typ) })
		err = errors.Join(err, result)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("bind %s inside: %w", at, err)
	}
	return file, nil
}

func bindFD(fd int, at netip.AddrPort, typ int) error {
	level, transparent, original := unix.SOL_IP, unix.IP_TRANSPARENT, unix.IP_RECVORIGDSTADDR
	options := [][3]int{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	if at.Addr().Is6() {
		level, transparent, original = unix.SOL_IPV6, unix.IPV6_TRANSPARENT, unix.IPV6_RECVORIGDSTADDR
		// Unlike IPv4, a local route alone makes no address one to bind to.
		options = append(options, [3]int{level, unix.IPV6_V6ONLY, 1}, [3]int{level, unix.IPV6_FREEBIND, 1})
	}
	if at.Addr().IsUnspecified() {
		options = append(options, [3]int{level, transparent, 1})
	}
	if typ == unix.SOCK_DGRAM {
		options = append(options, [3]int{level, original, 1})
		// Above the machine's limit if the owner of the namespace may, else up to it.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
		}
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if typ == unix.SOCK_STREAM {
		return os.NewSyscallError("listen", unix.Listen(fd, 4096))
	}
	return nil
}

const udpBuffer = 4 << 20

func listener(file *os.File) (net.Listener, error) {
	defer file.Close()
	return net.FileListener(file)
}

func packetConn(file *os.File) (*net.UDPConn, error) {
	defer file.Close()
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		_ = conn.Close()
		return nil, errors.New("not a UDP socket")
	}
	return udp, nil
}

func familyOf(a netip.Addr) int {
	if a.Is4() || a.Is4In6() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if a := ap.Addr().Unmap(); a.Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}
