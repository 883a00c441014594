package jail

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// flow is the datagrams between a socket of the command and an address. The first
// one of a flow arrives at the proxy's socket. Then the flow gets a socket of its
// own that is bound to the address the command sent to and connected to the
// command's, so that answers come from where they should, and the kernel gives
// further datagrams to it directly.
type flow struct {
	first  chan []byte // datagrams from before it had its own socket
	active atomic.Int64
}

type flowKey struct{ from, to netip.AddrPort }

const (
	maxFlows     = 4096
	flowQueue    = 64
	flowIdle     = 60 * time.Second
	maxDatagram  = 64 << 10
	flowInterval = flowIdle / 4
)

// receive takes the first datagrams of flows.
func (j *Jail) receive(conn *net.UDPConn) {
	buf, oob := make([]byte, maxDatagram), make([]byte, 256)
	for {
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) || j.ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		to, ok := originalDestination(oob[:oobn])
		if !ok {
			continue
		}
		j.datagram(flowKey{from, to}, append([]byte{}, buf[:n]...))
	}
}

func (j *Jail) datagram(key flowKey, payload []byte) {
	j.flowsMu.Lock()
	defer j.flowsMu.Unlock()
	f := j.flows[key]
	if f == nil {
		if len(j.flows) >= maxFlows {
			j.log.Debug("datagram dropped: too many flows", "to", key.to.String())
			return
		}
		f = &flow{first: make(chan []byte, flowQueue)}
		j.flows[key] = f
		j.tasks.Go(func() {
			j.converse(f, key)
			j.flowsMu.Lock()
			defer j.flowsMu.Unlock()
			delete(j.flows, key)
		})
	}
	select {
	case f.first <- payload:
	default: // as a full socket does
	}
}

// converse carries one flow until it has been idle for long.
func (j *Jail) converse(f *flow, key flowKey) {
	up, err := j.connectUDP(key.to)
	if err != nil {
		j.log.Debug("flow refused", "to", key.to.String(), "err", err)
		return
	}
	defer up.Close()
	inside, err := j.flowSocket(key)
	if err != nil {
		j.log.Debug("flow without a socket", "to", key.to.String(), "err", err)
		return
	}
	defer inside.Close()
	stop := context.AfterFunc(j.ctx, func() { _ = up.Close(); _ = inside.Close() })
	defer stop()
	done := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		defer inside.Close()
		f.pass(inside, up)
	})
	both.Go(func() {
		for {
			select {
			case b := <-f.first:
				f.active.Store(time.Now().UnixNano())
				if _, err := up.Write(b); err != nil && !passing(err) {
					return
				}
			case <-done:
				return
			}
		}
	})
	f.pass(up, inside)
	close(done)
	_ = up.Close()
	both.Wait()
}

func (j *Jail) connectUDP(dst netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(j.ctx, dialTimeout)
	defer cancel()
	where, to := j.routes.decide(dst)
	switch where {
	case toCluster:
		return j.cfg.DialUDP(ctx, to)
	case toMachine:
		var d net.Dialer
		return d.DialContext(ctx, "udp", to.String())
	default:
		return nil, errNobody
	}
}

// flowSocket makes the socket of a flow.
func (j *Jail) flowSocket(key flowKey) (net.Conn, error) {
	file, err := j.bind(key.to, unix.SOCK_DGRAM)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var result error
	err = raw.Control(func(fd uintptr) { result = unix.Connect(int(fd), sockaddr(key.from)) })
	if err = errors.Join(err, result); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// pass copies datagrams until the flow is idle in both directions or one end is
// closed.
func (f *flow) pass(dst, src net.Conn) {
	buf := make([]byte, maxDatagram)
	for {
		_ = src.SetReadDeadline(time.Now().Add(flowInterval))
		n, err := src.Read(buf)
		var timeout interface{ Timeout() bool }
		switch {
		case err == nil:
			f.active.Store(time.Now().UnixNano())
			if _, err := dst.Write(buf[:n]); err != nil && !passing(err) {
				return
			}
		case errors.As(err, &timeout) && timeout.Timeout():
			if time.Since(time.Unix(0, f.active.Load())) > flowIdle {
				return
			}
		case !passing(err):
			return
		}
	}
}

// passing says whether a flow of datagrams goes on after an error: the other side
// may not have listened, or its queue may have been full.
func passing(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EMSGSIZE) ||
		errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EPERM)
}

// originalDestination reads where a datagram was sent to.
func originalDestination(oob []byte) (netip.AddrPort, bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_ORIGDSTADDR && len(m.Data) >= unix.SizeofSockaddrInet4:
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Data[4:8])), binary.BigEndian.Uint16(m.Data[2:])), true
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_ORIGDSTADDR && len(m.Data) >= unix.SizeofSockaddrInet6:
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(m.Data[8:24])), binary.BigEndian.Uint16(m.Data[2:])), true
		}
	}
	return netip.AddrPort{}, false
}
