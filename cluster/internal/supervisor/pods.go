package supervisor

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// socksTime is how long somebody may take to say where to.
const socksTime = 10 * time.Second

// podsTime is how long a pod may take to accept a connection.
const podsTime = 10 * time.Second

// Of SOCKS5 (RFC 1928) and its passwords (RFC 1929).
const (
	socksVersion  = 5
	socksPassword = 2 // the one method that there is here
	socksNoMethod = 0xff
	passwordVer   = 1
	socksConnect  = 1
	socksIPv4     = 1
	socksIPv6     = 4

	replyDone       = 0
	replyForbidden  = 2
	replyNoHost     = 4
	replyNoCommand  = 7
	replyNoAddress  = 8
	replyAddressLen = 6
)

// openPods opens the way to the pods' own addresses: a SOCKS5 proxy on this machine's
// loopback, for those who have the password, which is in the kubeconfig. The cluster
// can do without, so a port that is taken is no error.
func (s *Supervisor) openPods(ctx context.Context) {
	if s.Cluster.PodsHostPort == 0 {
		return
	}
	l, err := hostPort("way to the pods", s.Cluster.PodsHostPort, s.Cluster)
	if err != nil {
		s.Log.Warn("addresses of pods can't be reached from this machine", "error", err)
		return
	}
	s.accept(ctx, l, func(outer net.Conn) { s.carryToPod(ctx, outer, s.nodes[0].ns.Dial) })
}

// carryToPod joins a client of the proxy to the pod that it wants.
func (s *Supervisor) carryToPod(ctx context.Context, outer net.Conn, dial func(ctx context.Context, address string) (net.Conn, error)) {
	defer outer.Close()
	stop := context.AfterFunc(ctx, func() { outer.Close() })
	defer stop()
	_ = outer.SetDeadline(time.Now().Add(socksTime)) // fails only on one that is closed
	to, err := greetSOCKS(outer, s.Cluster.PodsSecret)
	if err != nil {
		s.Log.Debug("way to the pods", "error", err)
		return
	}
	limited, cancel := context.WithTimeout(ctx, podsTime)
	defer cancel()
	inner, err := dial(limited, to.String())
	if err != nil {
		s.Log.Debug("way to the pods", "to", to.String(), "error", err)
		_, _ = outer.Write(socksReply(replyNoHost))
		return
	}
	defer inner.Close()
	stopInner := context.AfterFunc(ctx, func() { inner.Close() })
	defer stopInner()
	if _, err := outer.Write(socksReply(replyDone)); err != nil {
		return
	}
	_ = outer.SetDeadline(time.Time{})
	join(outer.(*net.TCPConn), inner.(*net.TCPConn))
}

var podNetworks = []netip.Prefix{netip.MustParsePrefix(spec.PodNetwork), netip.MustParsePrefix(spec.PodNetwork6)}

func isPods(a netip.Addr) bool {
	return slices.ContainsFunc(podNetworks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// greetSOCKS speaks with a client until it has said which address of a pod it wants.
// It reads no byte more.
func greetSOCKS(conn io.ReadWriter, secret string) (netip.AddrPort, error) {
	var none netip.AddrPort
	if err := takeMethods(conn); err != nil {
		return none, err
	}
	if err := takePassword(conn, secret); err != nil {
		return none, err
	}
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return none, err
	}
	if head[0] != socksVersion {
		return none, fmt.Errorf("SOCKS version %d", head[0])
	}
	size := map[byte]int{socksIPv4: 4, socksIPv6: 16}[head[3]]
	if size == 0 {
		_, err := conn.Write(socksReply(replyNoAddress))
		return none, errors.Join(fmt.Errorf("address of type %d", head[3]), err)
	}
	rest := make([]byte, size+2)
	if _, err := io.ReadFull(conn, rest); err != nil {
		return none, err
	}
	a, _ := netip.AddrFromSlice(rest[:size])
	to := netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(rest[size:]))
	switch {
	case head[1] != socksConnect:
		_, err := conn.Write(socksReply(replyNoCommand))
		return none, errors.Join(fmt.Errorf("SOCKS command %d", head[1]), err)
	case !isPods(to.Addr()) || to.Port() == 0:
		_, err := conn.Write(socksReply(replyForbidden))
		return none, errors.Join(fmt.Errorf("%s is no address of a pod", to), err)
	}
	return to, nil
}

// takeMethods agrees on a password as what shows who it is.
func takeMethods(conn io.ReadWriter) error {
	var head [2]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	if head[0] != socksVersion {
		return errors.New("not SOCKS5")
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(conn, methods); err != nil {
		return err
	}
	for _, m := range methods {
		if m == socksPassword {
			_, err := conn.Write([]byte{socksVersion, socksPassword})
			return err
		}
	}
	_, err := conn.Write([]byte{socksVersion, socksNoMethod})
	return errors.Join(errors.New("the client offers no password"), err)
}

// takePassword checks user and password.
func takePassword(conn io.ReadWriter, secret string) error {
	var version [1]byte
	if _, err := io.ReadFull(conn, version[:]); err != nil {
		return err
	}
	if version[0] != passwordVer {
		return fmt.Errorf("password version %d", version[0])
	}
	var said [2]string // user, password
	for i := range said {
		var n [1]byte
		if _, err := io.ReadFull(conn, n[:]); err != nil {
			return err
		}
		b := make([]byte, n[0])
		if _, err := io.ReadFull(conn, b); err != nil {
			return err
		}
		said[i] = string(b)
	}
	want := spec.PodsUser + "\x00" + secret
	if secret == "" || subtle.ConstantTimeCompare([]byte(said[0]+"\x00"+said[1]), []byte(want)) != 1 {
		_, err := conn.Write([]byte{passwordVer, 1})
		return errors.Join(errors.New("wrong password"), err)
	}
	_, err := conn.Write([]byte{passwordVer, 0})
	return err
}

// socksReply is an answer; the address that it has room for, which nobody uses, is
// 0.0.0.0:0.
func socksReply(code byte) []byte {
	return append([]byte{socksVersion, code, 0, socksIPv4}, make([]byte, replyAddressLen)...)
}
