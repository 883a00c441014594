package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/bightdev/bight/internal/stream"
)

// Resolver asks the nameservers of a pod. [NewResolver] makes it, Close ends it.
type Resolver struct {
	open Opener
	turn chan struct{} // a token: whoever has it may touch what follows
	link *dnsLink      // nil before the first question
	over bool
}

var errResolverClosed = errors.New("the resolver is closed")

// NewResolver returns a resolver that opens a stream when the first question is
// asked, and another one whenever that breaks.
func NewResolver(open Opener) *Resolver {
	return &Resolver{open: open, turn: make(chan struct{}, 1)}
}

// Exchange returns the answer to a DNS message, which has to have one question.
// The answer is whole, whatever size the question allows, and has the question's
// ID. An error means that the pod could not be asked, or that ctx is over; a
// nameserver's failure is an answer.
func (r *Resolver) Exchange(ctx context.Context, msg []byte) ([]byte, error) {
	q, err := parseMessage(msg)
	if err != nil {
		return nil, err
	}
	for again := false; ; again = true {
		l, err := r.connected(ctx)
		if err != nil {
			return nil, fmt.Errorf("resolve %s: %w", q.name(), err)
		}
		answer, err := l.ask(ctx, q)
		if err == nil {
			return answer, nil
		}
		var reset *stream.ResetError
		refused := errors.As(err, &reset) && reset.Code == stream.CodeRefused
		if again || refused || ctx.Err() != nil || !errors.Is(err, errLinkBroken) {
			return nil, fmt.Errorf("resolve %s: %w", q.name(), err)
		}
	}
}

// connected returns a link that works as far as is known.
func (r *Resolver) connected(ctx context.Context) (*dnsLink, error) {
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-r.turn }()
	if r.over {
		return nil, errResolverClosed
	}
	if r.link != nil && r.link.asks.why() == nil {
		return r.link, nil
	}
	if r.link != nil {
		r.link.close(errLinkBroken)
	}
	st, err := r.open.Open(ctx, []byte(headerDNS))
	if err != nil {
		return nil, err
	}
	r.link = newDNSLink(st)
	return r.link, nil
}

// Close ends the resolver. Questions under way fail.
func (r *Resolver) Close() error {
	r.turn <- struct{}{} // held by Exchange as long as opening a stream takes
	defer func() { <-r.turn }()
	r.over = true
	if r.link != nil {
		r.link.close(errResolverClosed)
	}
	return nil
}

var errLinkBroken = errors.New("the stream to the pod broke")

// dnsLink is a stream of questions and answers.
type dnsLink struct {
	st   *stream.Stream
	asks asks
	out  chan []byte   // frames to write
	over chan struct{} // closed when nothing is written any more
	once sync.Once
	g    sync.WaitGroup
}

func newDNSLink(st *stream.Stream) *dnsLink {
	l := &dnsLink{st: st, out: make(chan []byte), over: make(chan struct{})}
	l.g.Go(l.read)
	l.g.Go(l.write)
	return l
}

func (l *dnsLink) read() {
	in := frames{r: l.st}
	for {
		b, _, err := in.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			l.end(fmt.Errorf("%w: %w", errLinkBroken, err))
			return
		}
		if m, err := parseMessage(b); err == nil {
			l.asks.deliver(m)
		}
	}
}

func (l *dnsLink) write() {
	for {
		select {
		case b := <-l.out:
			if _, err := l.st.Write(b); err != nil {
				l.end(fmt.Errorf("%w: %w", errLinkBroken, err))
				return
			}
		case <-l.over:
			return
		}
	}
}

// end fails what is under way; the goroutines end soon.
func (l *dnsLink) end(err error) {
	l.once.Do(func() {
		l.asks.fail(err)
		close(l.over)
		l.st.Reset(stream.CodeAborted)
	})
}

func (l *dnsLink) close(err error) {
	l.end(err)
	l.g.Wait()
}

// ask asks one question and waits for the answer.
func (l *dnsLink) ask(ctx context.Context, q message) ([]byte, error) {
	a, err := l.asks.add(q)
	if err != nil {
		return nil, err
	}
	defer l.asks.drop(a)
	b := appendFrame(make([]byte, 0, frameHeader+len(q)), q)
	message(b[frameHeader:]).setID(a.id)
	select {
	case l.out <- b:
	case <-l.over:
		return nil, l.asks.why()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case answer, ok := <-a.answer:
		if !ok {
			return nil, l.asks.why()
		}
		answer.setID(q.id())
		return answer, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
