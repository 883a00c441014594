package reach

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

const (
	maxAnswering = 1 << 10 // questions of one stream that are being answered
	maxBurst     = 128     // of these, how many were just asked
	burstTime    = 100 * time.Millisecond
	againTime    = 400 * time.Millisecond
	socketLife   = 10 * time.Second
	confLife     = 5 * time.Second
)

// serveDNS answers the questions of one stream.
func (v *Server) serveDNS(ctx context.Context, st *stream.Stream) error {
	ctx, cancel := context.WithCancel(ctx)
	f := v.forwarder(ctx)
	var g sync.WaitGroup
	defer f.close()
	defer g.Wait()
	defer cancel()
	slots := make(chan struct{}, maxAnswering)
	in := frames{r: st}
	for {
		b, _, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		q, err := parseMessage(b)
		if err != nil {
			return err // a peer that sends this is none of ours
		}
		q = append(message(nil), q...)
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		g.Go(func() {
			defer func() { <-slots }()
			if a := f.answer(ctx, q); ctx.Err() == nil {
				_ = sendFrame(st, &v.bufs, a) // the reader hears of a broken stream
			}
		})
	}
}

// forwarder makes one that asks the nameservers of the process.
func (v *Server) forwarder(ctx context.Context) *forwarder {
	f := &forwarder{
		open: func() (*os.File, error) {
			p, err := v.process(ctx)
			if err != nil {
				return nil, err
			}
			return p.Open(resolvConfPath)
		},
		dial:    new(net.Dialer).DialContext,
		port:    cmp.Or(v.dnsPort, "53"),
		log:     v.Log,
		burst:   make(chan struct{}, maxBurst),
		sockets: map[string]*dnsSocket{},
	}
	if v.Network != nil {
		f.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			return v.Network.Dial(ctx, network, to)
		}
	}
	return f
}

const resolvConfPath = "/etc/resolv.conf"

// forwarder asks the nameservers of a resolv.conf.
type forwarder struct {
	open  func() (*os.File, error) // that file
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	port  string
	log   *slog.Logger
	burst chan struct{}
	warn  sync.Once
	g     sync.WaitGroup // the sockets' readers

	mu      sync.Mutex
	sockets map[string]*dnsSocket // by address
	known   resolvConf
	read    time.Time // when known was
	stamp   time.Time // of the file
	turns   int       // of rotate
}

// dnsSocket is a connected UDP socket that many questions share.
type dnsSocket struct {
	conn net.Conn
	asks asks
	born time.Time
}

// answer finds the answer to q, with q's ID.
func (f *forwarder) answer(ctx context.Context, q message) message {
	if _, err := q.question(); err != nil || q.response() {
		return q.failure(rcodeFormat)
	}
	conf, first, err := f.settings()
	if err == nil && len(conf.servers) == 0 {
		err = errors.New(resolvConfPath + " names no nameserver")
	}
	if err != nil {
		f.warn.Do(func() { f.log.Warn("names can't be resolved", "err", err) })
		return q.failure(rcodeServer)
	}
	var unwilling message // the answer of a server that could not tell
	heard := make([]bool, len(conf.servers))
	for range conf.attempts {
		for i := range conf.servers {
			at := (first + i) % len(conf.servers)
			if heard[at] {
				continue // it would say the same again
			}
			a, err := f.ask(ctx, conf, conf.servers[at], q)
			if ctx.Err() != nil {
				return q.failure(rcodeServer)
			}
			if err != nil {
				f.log.Debug("nameserver does not answer", "server", conf.servers[at], "name", q.name(), "err", err)
				continue
			}
			a.setID(q.id())
			switch a.rcode() {
			case rcodeServer, rcodeNotImplemented, rcodeRefused:
				heard[at] = true
				if unwilling == nil {
					unwilling = a
				}
				continue
			}
			return a
		}
	}
	if unwilling != nil {
		return unwilling
	}
	f.log.Info("no nameserver answers", "name", q.name(), "servers", conf.servers)
	return q.failure(rcodeServer)
}

// settings returns what resolv.conf says, and which server comes first.
func (f *forwarder) settings() (resolvConf, int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.read.IsZero() || time.Since(f.read) > confLife {
		if err := f.reread(); err != nil {
			return resolvConf{}, 0, err
		}
		f.read = time.Now()
	}
	if f.known.rotate {
		f.turns++
	}
	return f.known, f.turns, nil
}

// reread takes note of a file that has changed. It wants f.mu held.
func (f *forwarder) reread() error {
	file, err := f.open()
	if err != nil {
		return err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil || !f.read.IsZero() && st.ModTime().Equal(f.stamp) {
		return err
	}
	b, err := readUpTo(file, maxFileSize)
	if err != nil {
		return err
	}
	f.known, f.stamp = parseResolvConf(string(b)), st.ModTime()
	return nil
}

// ask asks one server, once, and over TCP if the answer is too long for UDP.
func (f *forwarder) ask(ctx context.Context, conf resolvConf, server string, q message) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, conf.timeout)
	defer cancel()
	addr := net.JoinHostPort(server, f.port)
	if !conf.tcp {
		a, err := f.askUDP(ctx, addr, q)
		if err != nil || !a.truncated() {
			return a, err
		}
		if long, err := f.askTCP(ctx, addr, q); err == nil {
			return long, nil
		}
		return a, nil // a part is better than nothing, and says that it is one
	}
	return f.askTCP(ctx, addr, q)
}

// askUDP asks over a shared socket. Questions are let go in bursts that a
// nameserver's buffer can take, and asked again soon, once, since datagrams get
// lost and the timeout is for servers that do not answer.
func (f *forwarder) askUDP(ctx context.Context, addr string, q message) (message, error) {
	select {
	case f.burst <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	release := sync.OnceFunc(func() { <-f.burst })
	defer release()
	s, a, err := f.enter(ctx, addr, q)
	if err != nil {
		return nil, err
	}
	defer s.asks.drop(a)
	out := append(message(nil), q...)
	out.setID(a.id)
	if _, err := s.conn.Write(out); err != nil {
		return nil, err
	}
	timer := time.NewTimer(burstTime)
	defer timer.Stop()
	for again := false; ; again = true {
		select {
		case m, ok := <-a.answer:
			if !ok {
				return nil, s.asks.why()
			}
			return m, nil
		case <-timer.C:
			if release(); !again {
				timer.Reset(againTime - burstTime)
			} else if _, err := s.conn.Write(out); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			f.renew(addr, s) // perhaps its path is dead
			return nil, ctx.Err()
		}
	}
}

// enter adds a question to the socket for addr, after making a new one if there
// is none or it is old: nameservers come and go behind one address, and a socket
// sticks to one of them.
func (f *forwarder) enter(ctx context.Context, addr string, q message) (*dnsSocket, *ask, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sockets[addr]; s != nil {
		if time.Since(s.born) < socketLife {
			a, err := s.asks.add(q)
			if err == nil {
				return s, a, nil
			}
		}
		s.asks.retire()
		delete(f.sockets, addr)
	}
	conn, err := f.dial(ctx, "udp", addr) // which is done at once
	if err != nil {
		return nil, nil, err
	}
	s := &dnsSocket{conn: conn, born: time.Now()}
	s.asks.onIdle = func() { _ = conn.Close() }
	f.sockets[addr] = s
	f.g.Go(s.receive)
	a, err := s.asks.add(q)
	return s, a, err
}

// renew lets the questions that come use another socket than s.
func (f *forwarder) renew(addr string, s *dnsSocket) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sockets[addr] == s {
		delete(f.sockets, addr)
	}
	s.asks.retire()
}

func (f *forwarder) close() {
	f.mu.Lock()
	for _, s := range f.sockets {
		s.asks.retire()
	}
	f.sockets = nil
	f.mu.Unlock()
	f.g.Wait()
}

// receive delivers answers until the socket is closed or fails.
func (s *dnsSocket) receive() {
	defer s.conn.Close()
	buf := make([]byte, 16<<10) // more than any answer over UDP
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			s.asks.fail(err)
			return
		}
		if m, err := parseMessage(buf[:n]); err == nil {
			s.asks.deliver(m)
		}
	}
}

// askTCP asks over a connection of its own.
func (f *forwarder) askTCP(ctx context.Context, addr string, q message) (message, error) {
	conn, err := f.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	question, err := q.question()
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(appendFrame(nil, q)); err != nil {
		return nil, err
	}
	for {
		var length [frameHeader]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return nil, err
		}
		b := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, b); err != nil {
			return nil, err
		}
		m, err := parseMessage(b)
		if err != nil {
			return nil, err
		}
		if m.id() == q.id() && m.answers(question) {
			return m, nil
		}
	}
}
