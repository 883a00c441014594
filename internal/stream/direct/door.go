package direct

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

const (
	// maxStrangers is how many connections may be without a session at a time. It is
	// all that somebody without a token can use up.
	maxStrangers = 16
	// handshakeTime is for TLS; the session's own handshake has as much again.
	handshakeTime = 5 * time.Second
	// acceptPause is after an Accept that failed, for want of file descriptors say.
	acceptPause = 50 * time.Millisecond
)

// Door is the agent's end. Its listener is open while a session lives that has asked
// for it. Its fields are set before it is used.
type Door struct {
	Server *stream.Server // of the sessions
	// Listen listens in the pod's network; nil is this process's.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	Log    *slog.Logger

	mu       sync.Mutex
	config   *tls.Config // made when somebody asks first
	offer    Offer       // its Port is that of listener
	pod      netip.Addr  // where listener listens
	listener net.Listener
	end      context.CancelFunc // of what came by listener and has no session yet
	users    map[*stream.Session]bool
	closed   bool
	work     sync.WaitGroup
}

// Handle answers a stream that asks for the door. It returns false, and has done
// nothing, if the stream is about something else. ctx ends with the stream's session.
func (d *Door) Handle(ctx context.Context, st *stream.Stream) bool {
	address, ok := strings.CutPrefix(string(st.Header()), header)
	if !ok {
		return false
	}
	offer, err := d.open(ctx, st.Session(), address)
	if err != nil {
		offer = Offer{Refused: err.Error()}
	}
	b, err := json.Marshal(offer)
	if err != nil {
		panic(err) // there is nothing in it that JSON does not have
	}
	if _, err := st.Write(b); err == nil {
		_ = st.CloseWrite()
	}
	return true
}

var errClosed = errors.New("the agent is ending")

// open makes sure that the door is open for a session.
func (d *Door) open(ctx context.Context, sess *stream.Session, address string) (Offer, error) {
	pod, err := netip.ParseAddr(address)
	if err != nil || !pod.IsGlobalUnicast() || pod.Zone() != "" {
		return Offer{}, fmt.Errorf("%q is no address of a pod", address)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return Offer{}, errClosed
	}
	if d.listener != nil && d.pod != pod.Unmap() {
		return Offer{}, fmt.Errorf("it is open at %s, and not at %s", d.pod, pod)
	}
	if d.listener == nil {
		if err := d.listen(ctx, pod.Unmap()); err != nil {
			return Offer{}, err
		}
	}
	if !d.users[sess] {
		d.users[sess] = true
		context.AfterFunc(ctx, func() { d.leave(sess) })
	}
	return d.offer, nil
}

// listen opens the listener. It wants d.mu held.
func (d *Door) listen(ctx context.Context, pod netip.Addr) error {
	if d.config == nil {
		if err := d.prepare(); err != nil {
			return err
		}
	}
	listen := d.Listen
	if listen == nil {
		listen = new(net.ListenConfig).Listen
	}
	ln, err := listen(ctx, "tcp", netip.AddrPortFrom(pod, 0).String())
	if err != nil {
		return err
	}
	life, end := context.WithCancel(context.Background())
	d.pod, d.listener, d.end, d.users = pod, ln, end, map[*stream.Session]bool{}
	d.offer.Port = ln.Addr().(*net.TCPAddr).Port
	d.work.Go(func() { d.accept(life, ln) })
	return nil
}

// prepare makes the certificate, and the name by which those who were told of the door
// are known: nobody else can make this process compute anything. It wants d.mu held.
func (d *Door) prepare() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(100, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	name, sum := strings.ToLower(rand.Text()), sha256.Sum256(der)
	d.offer = Offer{Name: name, Sum: sum[:]}
	d.config = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if hello.ServerName != name {
				return nil, errors.New("it does not know the door's name")
			}
			return nil, nil
		},
		SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
	}
	return nil
}

// leave closes the door when nobody is left who has asked for it.
func (d *Door) leave(sess *stream.Session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if delete(d.users, sess); len(d.users) == 0 {
		d.shut()
	}
}

// shut closes the listener. Sessions keep the transports that they have. It wants
// d.mu held.
func (d *Door) shut() {
	if d.listener != nil {
		_ = d.listener.Close()
		d.end()
		d.listener = nil
	}
}

// Close closes the door for good and waits for its goroutines.
func (d *Door) Close() {
	d.mu.Lock()
	d.closed = true
	d.shut()
	d.mu.Unlock()
	d.work.Wait()
}

// accept takes connections until ln is closed.
func (d *Door) accept(ctx context.Context, ln net.Listener) {
	strangers := make(chan struct{}, maxStrangers)
	for {
		raw, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			d.Log.Warn("accept a direct connection", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case strangers <- struct{}{}:
		default:
			_ = raw.Close()
			continue
		}
		d.work.Go(func() {
			d.welcome(ctx, raw)
			<-strangers
		})
	}
}

// welcome does the handshakes on a connection and leaves it to its session.
func (d *Door) welcome(ctx context.Context, raw net.Conn) {
	p := &packer{Conn: raw}
	t := tls.Server(p, d.config)
	limited, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := t.HandshakeContext(limited); err != nil {
		_ = raw.Close()
		d.Log.Debug("direct connection dropped", "from", raw.RemoteAddr().String(), "err", err)
		return
	}
	d.Server.Resume(ctx, &conn{Conn: t, packer: p})
}
