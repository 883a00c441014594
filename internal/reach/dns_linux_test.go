package reach

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// query makes a question for the address of a name.
func query(id uint16, name string) message {
	m := make(message, dnsHeader)
	m.setID(id)
	m[2], m[5] = 0x01, 1
	for label := range strings.SplitSeq(name, ".") {
		m = append(append(m, byte(len(label))), label...)
	}
	return append(m, 0, 0, 1, 0, 1)
}

// reply answers a question with a text that is the question's name.
func reply(q message, rcode int) message {
	m := q.failure(rcode)
	return append(m, q.name()...)
}

// nameserver is a server of the test, over UDP and TCP on one port.
type nameserver struct {
	ip       string
	udp, tcp atomic.Int64
	// over UDP and TCP; nil answers are not sent
	answer    func(q message) message
	answerTCP func(q message) message
}

// start serves on ip, on any port if port is "0", and returns the port.
func (n *nameserver) start(t testing.TB, port string) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", net.JoinHostPort(n.ip, port))
	must(t, err)
	_, port, _ = net.SplitHostPort(pc.LocalAddr().String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65535)
		for {
			k, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			n.udp.Add(1)
			if a := n.answer(append(message(nil), buf[:k]...)); a != nil {
				_, _ = pc.WriteTo(a, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = pc.Close()
		<-done
	})
	if n.answerTCP == nil {
		return port
	}
	listen(t, net.JoinHostPort(n.ip, port), func(c *net.TCPConn) {
		in := frames{r: c}
		for {
			b, _, err := in.next()
			if err != nil {
				return
			}
			n.tcp.Add(1)
			if a := n.answerTCP(append(message(nil), b...)); a != nil {
				_, _ = c.Write(appendFrame(nil, a))
			}
		}
	})
	return port
}

func normal(q message) message { return reply(q, 0) }

// resolverFor returns a resolver through an agent with a resolv.conf.
func resolverFor(t testing.TB, port, conf string) *Resolver {
	t.Helper()
	etc := t.TempDir()
	if conf != "" {
		must(t, os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte(conf), 0o644))
	}
	r := NewResolver(connect(t, &Server{etc: etc, dnsPort: port}))
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func exchange(t testing.TB, r *Resolver, q message) message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	a, err := r.Exchange(ctx, q)
	must(t, err)
	if message(a).id() != q.id() {
		t.Errorf("answer has the ID %d, want %d", message(a).id(), q.id())
	}
	return a
}

func TestQuestionIsAnsweredByThePodsNameserver(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		n := &nameserver{ip: ip, answer: normal}
		r := resolverFor(t, n.start(t, "0"), "nameserver "+ip+"\n")
		if got, want := string(exchange(t, r, query(7, "cart.shop"))), string(reply(query(7, "cart.shop"), 0)); got != want {
			t.Errorf("answer %q, want %q", got, want)
		}
	}
}

func TestTruncatedAnswerIsAskedForOverTCP(t *testing.T) {
	long := func(q message) message { return append(reply(q, 0), strings.Repeat("x", 60000)...) }
	n := &nameserver{ip: "127.0.77.1", answerTCP: long, answer: func(q message) message {
		m := reply(q, 0)
		m[2] |= 0x02
		return m
	}}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.77.1\n")
	if got := exchange(t, r, query(7, "long.shop")); len(got) < 60000 || got.truncated() {
		t.Errorf("%d bytes, truncated: %v", len(got), got.truncated())
	}
}

func TestTruncatedAnswerStaysWhereTCPFails(t *testing.T) {
	n := &nameserver{ip: "127.0.0.1", answer: func(q message) message {
		m := reply(q, 0)
		m[2] |= 0x02
		return m
	}}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.0.1\n")
	if got := exchange(t, r, query(7, "long.shop")); !got.truncated() || got.rcode() != 0 {
		t.Errorf("truncated: %v, code %d", got.truncated(), got.rcode())
	}
}

func TestUseTCPOnly(t *testing.T) {
	n := &nameserver{ip: "127.0.77.1", answer: normal, answerTCP: normal}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.77.1\noptions use-vc\n")
	exchange(t, r, query(7, "cart.shop"))
	if n.udp.Load() != 0 || n.tcp.Load() != 1 {
		t.Errorf("%d questions over UDP and %d over TCP", n.udp.Load(), n.tcp.Load())
	}
}

func TestNextNameserverIsAskedWhenOneFails(t *testing.T) {
	for name, bad := range map[string]func(message) message{
		"silent":   func(message) message { return nil },
		"unable":   func(q message) message { return reply(q, rcodeServer) },
		"refusing": func(q message) message { return reply(q, rcodeRefused) },
	} {
		t.Run(name, func(t *testing.T) {
			first := &nameserver{ip: "127.0.0.2", answer: bad}
			port := first.start(t, "0")
			second := &nameserver{ip: "127.0.0.3", answer: normal}
			second.start(t, port)
			r := resolverFor(t, port, "nameserver 127.0.0.4\nnameserver 127.0.0.2\nnameserver 127.0.0.3\noptions timeout:1\n")
			if a := exchange(t, r, query(7, "cart.shop")); a.rcode() != 0 {
				t.Errorf("code %d", a.rcode())
			}
			if first.udp.Load() > 2 || second.udp.Load() != 1 {
				t.Errorf("asked %d and %d times", first.udp.Load(), second.udp.Load())
			}
		})
	}
}

func TestAttemptsAsResolvConfSays(t *testing.T) {
	n := &nameserver{ip: "127.0.0.1"}
	n.answer = func(q message) message {
		if n.udp.Load() < 5 { // each attempt is two datagrams
			return nil
		}
		return reply(q, 0)
	}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.0.1\noptions timeout:1 attempts:3\n")
	if a := exchange(t, r, query(7, "cart.shop")); a.rcode() != 0 {
		t.Errorf("code %d", a.rcode())
	}
}

func TestFailureWhenNobodyAnswers(t *testing.T) {
	for name, conf := range map[string]string{
		"no resolv.conf": "",
		"no nameserver":  "search shop\n",
		"nobody listens": "nameserver 127.0.0.9\n",
		"bad address":    "nameserver nonsense.invalid\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := resolverFor(t, closedPort(t), conf)
			q := query(7, "cart.shop")
			a := exchange(t, r, q)
			if a.rcode() != rcodeServer || !a.response() || a.name() != "cart.shop." {
				t.Errorf("answer %q", a)
			}
		})
	}
}

func TestServersOwnFailureComesThrough(t *testing.T) {
	n := &nameserver{ip: "127.0.0.1", answer: func(q message) message { return reply(q, rcodeServer) }}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.0.1\n")
	if got, want := string(exchange(t, r, query(7, "cart.shop"))), string(reply(query(7, "cart.shop"), rcodeServer)); got != want {
		t.Errorf("answer %q, want %q", got, want)
	}
	if n.udp.Load() != 1 {
		t.Errorf("asked %d times", n.udp.Load())
	}
}

func TestLostDatagramIsSentAgainSoon(t *testing.T) {
	n := &nameserver{ip: "127.0.0.1"}
	n.answer = func(q message) message {
		if n.udp.Load() == 1 {
			return nil
		}
		return reply(q, 0)
	}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.0.1\noptions attempts:1 timeout:15\n")
	if a := exchange(t, r, query(7, "cart.shop")); a.rcode() != 0 || n.udp.Load() != 2 {
		t.Errorf("code %d after %d datagrams", a.rcode(), n.udp.Load())
	}
}

func TestForgedAndLateAnswersAreNotTaken(t *testing.T) {
	n := &nameserver{ip: "127.0.0.1"}
	n.answer = func(q message) message {
		other := query(q.id(), "evil.shop")
		return reply(other, 0)
	}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
	if a := exchange(t, r, query(7, "cart.shop")); a.rcode() != rcodeServer {
		t.Errorf("answer %q to another question was taken", a)
	}
}

func TestQuestionThatIsNone(t *testing.T) {
	n := &nameserver{ip: "127.0.0.1", answer: normal}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.0.1\n")
	for _, b := range [][]byte{nil, make([]byte, 11), make([]byte, 12), query(1, "a")[:14]} {
		if _, err := r.Exchange(t.Context(), b); !errors.Is(err, errMessage) {
			t.Errorf("%x: %v", b, err)
		}
	}
	st, err := r.open.Open(t.Context(), []byte(headerDNS))
	must(t, err)
	defer st.Close()
	_, err = st.Write(appendFrame(nil, make([]byte, 12)))
	must(t, err)
	in := frames{r: st}
	if b, _, err := in.next(); err != nil || message(b).rcode() != rcodeFormat {
		t.Errorf("answer to no question: %x, %v", b, err)
	}
}

// Programs choose the same ID now and then, and answers come in another order.
func TestQuestionsWithTheSameIDAtOnce(t *testing.T) {
	const n = 200
	var mu sync.Mutex
	var held []message
	s := &nameserver{ip: "127.0.0.1"}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer pc.Close()
	go func() {
		buf := make([]byte, 4096)
		for {
			k, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			held = append(held, append(message(nil), buf[:k]...))
			if len(held) == n { // answered in reverse
				for _, q := range slices.Backward(held) {
					_, _ = pc.WriteTo(reply(q, 0), from)
				}
			}
			mu.Unlock()
		}
	}()
	_, port, _ := net.SplitHostPort(pc.LocalAddr().String())
	r := resolverFor(t, port, "nameserver "+s.ip+"\n")
	var g sync.WaitGroup
	for i := range n {
		g.Go(func() {
			q := query(42, fmt.Sprintf("service-%d.shop", i))
			a, err := r.Exchange(t.Context(), q)
			if err != nil || string(a) != string(reply(q, 0)) {
				t.Errorf("answer %q, %v", a, err)
			}
		})
	}
	g.Wait()
}

func TestTenThousandQuestionsAtOnce(t *testing.T) {
	n := &nameserver{ip: "127.0.0.1", answer: normal}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.0.1\noptions timeout:2\n")
	const all = 10_000
	var failed, servfail atomic.Int64
	var g sync.WaitGroup
	start := time.Now()
	for i := range all {
		g.Go(func() {
			q := query(uint16(i), fmt.Sprintf("n%d.shop", i))
			a, err := r.Exchange(t.Context(), q)
			switch {
			case err != nil:
				failed.Add(1)
			case message(a).rcode() != 0:
				servfail.Add(1)
			case string(a) != string(reply(q, 0)):
				t.Errorf("answer %q to %s", a, q.name())
			}
		})
	}
	g.Wait()
	d := time.Since(start)
	t.Logf("%d questions in %v: %.0f/s, %d sent to the nameserver", all, d, all/d.Seconds(), n.udp.Load())
	if failed.Load() > 0 || servfail.Load() > 0 {
		t.Errorf("%d failed, %d could not be answered", failed.Load(), servfail.Load())
	}
}

func TestSilentNameserverHoldsNobodyUp(t *testing.T) {
	n := &nameserver{ip: "127.0.0.1", answer: func(q message) message {
		if strings.HasPrefix(q.name(), "silent") {
			return nil
		}
		return reply(q, 0)
	}}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.0.1\n")
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	for i := range 100 {
		g.Go(func() {
			if _, err := r.Exchange(ctx, query(uint16(i), "silent.shop")); !errors.Is(err, context.Canceled) {
				t.Errorf("silent: %v", err)
			}
		})
	}
	eventually(t, "all questions to be under way", func() bool { return n.udp.Load() == 100 })
	exchange(t, r, query(1, "cart.shop"))
	cancel()
	g.Wait()
}

// breaking opens streams and remembers them.
type breaking struct {
	Opener
	mu  sync.Mutex
	all []*stream.Stream
}

func (b *breaking) Open(ctx context.Context, header []byte) (*stream.Stream, error) {
	st, err := b.Opener.Open(ctx, header)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, st)
	return st, err
}

func TestBrokenStreamIsReplaced(t *testing.T) {
	n := &nameserver{ip: "127.0.0.1", answer: normal}
	b := &breaking{}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.0.1\n")
	b.Opener, r.open = r.open, b
	for i := range 5 {
		exchange(t, r, query(uint16(i), "cart.shop"))
		b.mu.Lock()
		if len(b.all) != i+1 {
			t.Errorf("%d streams after %d breaks", len(b.all), i)
		}
		b.all[len(b.all)-1].Reset(stream.CodeAborted)
		b.mu.Unlock()
	}
}

func TestClosedResolver(t *testing.T) {
	n := &nameserver{ip: "127.0.0.1", answer: func(message) message { return nil }}
	r := resolverFor(t, n.start(t, "0"), "nameserver 127.0.0.1\n")
	done := make(chan error, 1)
	go func() {
		_, err := r.Exchange(t.Context(), query(1, "cart.shop"))
		done <- err
	}()
	eventually(t, "the question", func() bool { return n.udp.Load() > 0 })
	must(t, r.Close())
	if err := <-done; !errors.Is(err, errResolverClosed) {
		t.Errorf("question under way: %v", err)
	}
	if _, err := r.Exchange(t.Context(), query(1, "cart.shop")); !errors.Is(err, errResolverClosed) {
		t.Errorf("question after the end: %v", err)
	}
	must(t, r.Close())
}

func TestAgentWithoutDNS(t *testing.T) {
	s := connect(t, &Server{})
	r := NewResolver(refuser{s})
	defer r.Close()
	_, err := r.Exchange(t.Context(), query(1, "cart.shop"))
	var reset *stream.ResetError
	if !errors.As(err, &reset) || reset.Code != stream.CodeRefused {
		t.Errorf("error %v", err)
	}
}

// refuser asks for what no agent knows.
type refuser struct{ Opener }

func (r refuser) Open(ctx context.Context, _ []byte) (*stream.Stream, error) {
	return r.Opener.Open(ctx, []byte("dance"))
}

func TestParseResolvConf(t *testing.T) {
	type conf = resolvConf
	for text, want := range map[string]conf{
		"": {timeout: 5 * time.Second, attempts: 2, ndots: 1},
		"search a b\nnameserver 10.96.0.10\noptions ndots:5\n": {
			servers: []string{"10.96.0.10"}, timeout: 5 * time.Second, attempts: 2, search: []string{"a", "b"}, ndots: 5},
		"domain x\nsearch a b\ndomain c\noptions ndots:0": {timeout: 5 * time.Second, attempts: 2, search: []string{"c"}},
		"# x\n; y\nnameserver 1.1.1.1 # one\nnameserver\tfe80::1%eth0\nnameserver 3\nnameserver 4\noptions timeout:1 attempts:9 rotate use-vc": {
			servers: []string{"1.1.1.1", "fe80::1%eth0", "3"}, timeout: time.Second, attempts: 5, rotate: true, tcp: true, ndots: 1},
		"options timeout:99\noptions attempts:0 timeout:x": {timeout: time.Second, attempts: 1, ndots: 1},
	} {
		if got := parseResolvConf(text); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func TestFramesInPieces(t *testing.T) {
	var b []byte
	var want []string
	for i := range 40 {
		msg := strings.Repeat(string(rune('a'+i%26)), i*i*40)
		want = append(want, msg)
		b = appendFrame(b, []byte(msg))
	}
	for _, size := range []int{1, 3, 1000, 1 << 20} {
		in := frames{r: &pieces{b: b, size: size}}
		for i, w := range want {
			msg, _, err := in.next()
			if err != nil || string(msg) != w {
				t.Fatalf("pieces of %d: message %d has %d bytes, want %d, %v", size, i, len(msg), len(w), err)
			}
		}
		if _, _, err := in.next(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("at the end: %v", err)
		}
	}
	in := frames{r: &pieces{b: binary.BigEndian.AppendUint16(nil, 5), size: 9}}
	if _, _, err := in.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut message: %v", err)
	}
}

// pieces reads a few bytes at a time, and now and then none.
type pieces struct {
	b    []byte
	size int
	n    int
}

func (p *pieces) Read(out []byte) (int, error) {
	if p.n++; p.n%3 == 0 {
		return 0, nil
	}
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(out, p.b[:min(p.size, len(p.b))])
	p.b = p.b[n:]
	return n, nil
}
