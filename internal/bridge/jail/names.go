package jail

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// names answers the command's DNS questions: from a small cache, else by asking.
type names struct {
	ask func(context.Context, []byte) ([]byte, error)
	log *slog.Logger

	slots chan struct{} // one per question under way

	mu      sync.Mutex
	answers map[string]answer
	asking  map[string]*question
}

// answer is a DNS message that may be given until it is too old.
type answer struct {
	message []byte
	ttls    []int // where the times to live are
	at      time.Time
	until   time.Time
}

// question is one that is under way; others with the same wait for it.
type question struct {
	done    chan struct{}
	message []byte // nil if it could not be answered
}

const (
	maxQuestions    = 256              // under way at a time
	maxAnswers      = 4096             // kept
	maxAnswerAge    = 30 * time.Second // however long its time to live is
	questionTimeout = 15 * time.Second
	maxUDPAnswer    = 512 // for who doesn't say more
	maxNameConns    = 128 // TCP connections at a time
	nameConnIdle    = 10 * time.Second
)

func newNames(ask func(context.Context, []byte) ([]byte, error), log *slog.Logger) *names {
	return &names{
		ask: ask, log: log, slots: make(chan struct{}, maxQuestions),
		answers: map[string]answer{}, asking: map[string]*question{},
	}
}

// reply returns the message that answers query; nil if query is no question. It
// never waits for others' questions: with too many of them under way, the answer
// is SERVFAIL.
func (n *names) reply(ctx context.Context, query []byte) []byte {
	if len(query) < dnsHeader || query[2]&0x80 != 0 {
		return nil
	}
	key := string(query[2:])
	n.mu.Lock()
	if a, ok := n.answers[key]; ok {
		if now := time.Now(); now.Before(a.until) {
			n.mu.Unlock()
			return withID(aged(a, now), query)
		}
		delete(n.answers, key)
	}
	q := n.asking[key]
	if q != nil {
		n.mu.Unlock()
		select {
		case <-q.done:
		case <-ctx.Done():
		}
		return n.finish(q, query)
	}
	select {
	case n.slots <- struct{}{}:
	default:
		n.mu.Unlock()
		return failure(query)
	}
	q = &question{done: make(chan struct{})}
	n.asking[key] = q
	n.mu.Unlock()
	n.resolve(ctx, q, query)
	<-n.slots
	return n.finish(q, query)
}

func (n *names) finish(q *question, query []byte) []byte {
	select {
	case <-q.done:
		if q.message != nil {
			return withID(q.message, query)
		}
	default:
	}
	return failure(query)
}

func (n *names) resolve(ctx context.Context, q *question, query []byte) {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	message, err := n.ask(ctx, query)
	if err != nil || len(message) < dnsHeader {
		n.log.Debug("question not answered", "err", err)
		message = nil
	}
	key := string(query[2:])
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.asking, key)
	q.message = message
	close(q.done)
	if message == nil {
		return
	}
	age, ttls, ok := lifetime(message)
	if !ok || age <= 0 {
		return
	}
	for k := range n.answers {
		if len(n.answers) < maxAnswers {
			break
		}
		delete(n.answers, k) // any one
	}
	now := time.Now()
	n.answers[key] = answer{message: message, ttls: ttls, at: now, until: now.Add(min(age, maxAnswerAge))}
}

// aged is the answer with what is left of its times to live.
func aged(a answer, now time.Time) []byte {
	message := append([]byte{}, a.message...)
	age := uint32(now.Sub(a.at) / time.Second)
	for _, at := range a.ttls {
		ttl := binary.BigEndian.Uint32(message[at:])
		binary.BigEndian.PutUint32(message[at:], ttl-min(age, ttl))
	}
	return message
}

// withID is the message as the answer to query.
func withID(message, query []byte) []byte {
	out := append([]byte{}, message...)
	copy(out[:2], query[:2])
	return out
}

// serveUDP answers questions that come to conn until it is closed.
func (n *names) serveUDP(ctx context.Context, conn *net.UDPConn) {
	var busy sync.WaitGroup
	defer busy.Wait()
	// Those that wait for another's answer have no slot, but are bounded as well.
	waiting := make(chan struct{}, 4*maxQuestions)
	buf := make([]byte, 64<<10)
	for {
		size, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		query := append([]byte{}, buf[:size]...)
		select {
		case waiting <- struct{}{}:
		default:
			if len(query) >= dnsHeader {
				_, _ = conn.WriteToUDPAddrPort(failure(query), from)
			}
			continue
		}
		busy.Go(func() {
			defer func() { <-waiting }()
			n.replyUDP(ctx, conn, query, from)
		})
	}
}

func (n *names) replyUDP(ctx context.Context, conn *net.UDPConn, query []byte, from netip.AddrPort) {
	if message := n.reply(ctx, query); message != nil {
		_, _ = conn.WriteToUDPAddrPort(fit(message, udpSize(query)), from)
	}
}

// serveTCP answers questions on connections to ln until it is closed.
func (n *names) serveTCP(ctx context.Context, ln net.Listener) {
	var busy sync.WaitGroup
	defer busy.Wait()
	slots := make(chan struct{}, maxNameConns)
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		busy.Go(func() {
			defer func() { <-slots }()
			n.converse(ctx, conn)
		})
	}
}

// converse answers the questions of one TCP connection, one after the other.
func (n *names) converse(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	size := make([]byte, 2)
	for {
		_ = conn.SetDeadline(time.Now().Add(nameConnIdle))
		if _, err := io.ReadFull(conn, size); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		message := n.reply(ctx, query)
		if message == nil || len(message) > 0xffff {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(nameConnIdle))
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)); err != nil {
			return
		}
	}
}
