package steer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Record says what a door keeps of the requests that a split decides about, and of
// their answers. What it keeps comes with their last Outcome, and with the one that says
// that it has crossed the last of Split.Slow.
type Record struct {
	// Body is how many bytes of each body are kept.
	Body int `json:"body"`
	// Slow is the latency from which on a request is kept though it went well; 0 is none.
	Slow time.Duration `json:"slowNs,omitempty"`
	// Every says that of so many requests for one version one is kept, whatever becomes
	// of it; 0 is none.
	Every int `json:"every,omitempty"`
}

func (r *Record) check() error {
	if r != nil && (r.Body < 0 || r.Slow < 0 || r.Every < 0) {
		return fmt.Errorf("record: %+v: nothing of it may be below 0", *r)
	}
	return nil
}

// Pair is a request and its answer, as the door has seen them.
type Pair struct {
	Method, Target, Host string
	HTTP2                bool
	Header               http.Header
	Body                 Kept
	Answer               *PairAnswer // nil: none came

	// Again asks the app of the door's own pod the same thing, and does not count that.
	// It is nil if that could change something: only requests that are known to be safe
	// and are kept whole are asked again.
	Again func(context.Context) (*PairAnswer, error)
}

// PairAnswer is what came of a request.
type PairAnswer struct {
	Status  int
	Header  http.Header
	Body    Kept
	Trailer http.Header // of HTTP/2
}

// Kept is what was kept of a body.
type Kept struct {
	Bytes []byte
	Cut   bool // there was more of it
}

// maxTapes is how many requests of a door are recorded at a time: many may last for long.
const maxTapes = 256

// tape is what is kept of one request as long as it is under way. Bodies may be written
// by other goroutines than that of the request.
type tape struct {
	record  Record
	door    *Door
	dialled net.Addr
	chosen  bool // it is one of Every
	stable  bool // it was decided for the stable version

	head []byte        // of HTTP/1
	r    *http.Request // of HTTP/2
	resp *http.Response

	mu         sync.Mutex
	answerHead []byte
	deaf       bool // the answer's body is not kept
	request    Kept
	answer     Kept
	whole      bool // the request of HTTP/2 was read to its end
}

// record begins to keep what passes by of a request to a version, or of its copy, nil if
// nothing is to be kept: a request of HTTP/1 has a head, one of HTTP/2 is r.
func (dec *decision) record(f *flight, to int, dialled net.Addr, head []byte, r2 *http.Request) *tape {
	r := dec.s.Record
	if r == nil {
		return nil
	}
	if dec.d.counts.taping.Add(1) > maxTapes {
		dec.d.counts.taping.Add(-1)
		return nil
	}
	t := &tape{record: *r, door: dec.d, dialled: dialled, stable: dec.s.Versions[to].Name == dec.s.Stable, head: head, r: r2}
	if r.Every > 0 {
		t.chosen = dec.s.arms[to].recorded.Add(1)%uint64(r.Every) == 1%uint64(r.Every)
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.tape = t
	return t
}

func (k *Kept) add(p []byte, limit int) {
	room := limit - len(k.Bytes)
	k.Cut = k.Cut || len(p) > room
	k.Bytes = append(k.Bytes, p[:max(min(len(p), room), 0)]...)
}

// asked is shown what passes by of the request's body.
func (t *tape) asked(p []byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.request.add(p, t.record.Body)
}

// asks is what is kept of the request's body.
func (t *tape) asks() *Kept {
	if t == nil {
		return nil
	}
	return &t.request
}

// said is shown what passes by of the answer's body.
func (t *tape) said(p []byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.deaf {
		t.answer.add(p, t.record.Body)
	}
}

// hears says whether the answer's body is kept. of is the head of an answer of HTTP/1,
// status its status.
func (t *tape) hears(f *flight, of []byte, status int, call bool) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answerHead, t.answer = bytes.Clone(of), Kept{}
	t.deaf = !(t.chosen || call || status >= 500 || t.slow(f.Latency) || !t.stable)
	return !t.deaf
}

func (t *tape) slow(latency time.Duration) bool {
	return t.record.Slow > 0 && latency >= t.record.Slow
}

// keeps says whether a request that has ended is kept.
func (t *tape) keeps(o *Outcome) bool {
	if t == nil || o.Cancelled {
		return false
	}
	return t.chosen || o.Broken || o.Fallback || o.Status >= 500 || o.GRPC > 0 || t.slow(o.Latency)
}

// pair is what was kept, nil if that can't be read.
func (t *tape) pair() *Pair {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &Pair{}
	var err error
	if t.r != nil {
		p.HTTP2, p.Method, p.Target, p.Host, p.Header, p.Body = true, t.r.Method, t.r.RequestURI, t.r.Host, t.r.Header.Clone(), t.request
		p.Body.Cut = p.Body.Cut || !t.whole && t.r.ContentLength != 0
		if t.resp != nil {
			p.Answer = &PairAnswer{Status: t.resp.StatusCode, Header: t.resp.Header.Clone(), Body: t.answer, Trailer: t.resp.Trailer.Clone()}
		}
	} else if err = t.plain(p); err != nil {
		return nil
	}
	if !p.Body.Cut && (p.Method == "GET" || p.Method == "HEAD" || p.Method == "OPTIONS") && t.dialled != nil && p.Header.Get("Upgrade") == "" {
		door, dialled, limit := t.door, t.dialled, t.record.Body
		p.Again = func(ctx context.Context) (*PairAnswer, error) { return door.again(ctx, p, dialled, limit) }
	}
	return p
}

// plain reads a request and an answer of HTTP/1.
func (t *tape) plain(p *Pair) error {
	r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(t.head), bytes.NewReader(t.request.Bytes))))
	if err != nil {
		return err
	}
	p.Method, p.Target, p.Host, p.Header = r.Method, r.RequestURI, r.Host, r.Header
	p.Body = whole(r.Body, t.request.Cut)
	if len(t.answerHead) == 0 {
		return nil
	}
	a, err := http.ReadResponse(bufio.NewReader(io.MultiReader(bytes.NewReader(t.answerHead), bytes.NewReader(t.answer.Bytes))), r)
	if err != nil {
		return err
	}
	p.Answer = &PairAnswer{Status: a.StatusCode, Header: a.Header, Body: whole(a.Body, t.answer.Cut)}
	return nil
}

// whole reads what there is of a body.
func whole(r io.Reader, cut bool) Kept {
	b, err := io.ReadAll(r)
	return Kept{Bytes: b, Cut: cut || err != nil}
}

// hear keeps an answer's body as it is read.
func (t *tape) hear(f *flight, resp *http.Response) {
	if t == nil {
		return
	}
	if t.resp = resp; t.hears(f, nil, resp.StatusCode, isCall(resp.Header)) && resp.Body != http.NoBody {
		resp.Body = &heard{resp.Body, t}
	}
}

// heard is a body that a tape hears.
type heard struct {
	io.ReadCloser
	t *tape
}

// Read implements io.Reader.
func (h *heard) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	h.t.said(p[:n])
	return n, err
}

// asking is the body of a request that a tape is shown.
type asking struct {
	io.Reader
	t *tape
}

// Read implements io.Reader.
func (a *asking) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	a.t.asked(p[:n])
	if errors.Is(err, io.EOF) {
		a.t.wasWhole()
	}
	return n, err
}

// wasWhole says that the request of HTTP/2 was read to its end.
func (t *tape) wasWhole() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.whole = true
}

// skips says whether a body of HTTP/1 is so long that it passes by without being looked
// at: the kernel may copy it. It is not kept then.
func (t *tape) skips(b *body, of *Kept) bool {
	if t == nil || t.record.Body > 0 && (b.kind != bodyLength || b.left < largeBuffer) {
		return t == nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	of.Cut = of.Cut || !b.done()
	return true
}

// again asks the app what a request has asked.
func (d *Door) again(ctx context.Context, p *Pair, dialled net.Addr, limit int) (*PairAnswer, error) {
	var protocols http.Protocols
	protocols.SetHTTP1(!p.HTTP2)
	protocols.SetUnencryptedHTTP2(p.HTTP2)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.connect(ctx, dialled) },
		Protocols:   &protocols, DisableCompression: true, DisableKeepAlives: true,
	}
	defer transport.CloseIdleConnections()
	host := p.Host
	if host == "" {
		host = "app"
	}
	r, err := http.NewRequestWithContext(ctx, p.Method, "http://"+host, bytes.NewReader(p.Body.Bytes))
	if err != nil {
		return nil, err
	}
	if r.URL, err = r.URL.Parse(p.Target); err != nil {
		return nil, err
	}
	r.Header, r.Host = p.Header.Clone(), p.Host
	noAgent(r.Header)
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("ask the app again: %w", err)
	}
	defer resp.Body.Close()
	a := &PairAnswer{Status: resp.StatusCode, Header: resp.Header, Body: Kept{}}
	buf := make([]byte, 16<<10)
	for !a.Body.Cut {
		n, err := resp.Body.Read(buf)
		a.Body.add(buf[:n], limit)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("ask the app again: %w", err)
		}
	}
	a.Trailer = resp.Trailer
	return a, nil
}
