package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/stream"
	"github.com/bightdev/bight/internal/tree"
)

// message is what an agent says: a wire.State, wholeTree, wire.Applied,
// wire.Refused, output, wire.Event, or that it is ended.
type message any

type (
	wholeTree struct {
		change uint64
		tree   tree.Tree
	}
	output []byte
	ended  struct{ err error }
)

// conversation is one stream on which an agent answers. Its owner asks one thing
// at a time; events come in between.
type conversation struct {
	sess *stream.Session
	st   *stream.Stream
	r    *wire.Reader
	msgs chan message
	done chan struct{} // nobody listens any more
	stop sync.Once
	part tree.Tree // what has come of a tree

	mu      sync.Mutex // over w
	w       *wire.Writer
	abort   atomic.Bool
	writing sync.WaitGroup
	sent    sent  // of the patch; valid when writing is over
	failure error // the same
}

// converse opens a conversation. client "" is somebody who only asks.
func converse(ctx context.Context, sess *stream.Session, client string) (*conversation, wire.State, error) {
	st, err := sess.Open(ctx, []byte(wire.HeaderLive))
	if err != nil {
		return nil, wire.State{}, err
	}
	c := &conversation{
		sess: sess, st: st, r: wire.NewReader(st), w: wire.NewWriter(st),
		msgs: make(chan message), done: make(chan struct{}),
	}
	stop := context.AfterFunc(ctx, func() { st.Reset(stream.CodeAborted) })
	defer stop()
	state, err := c.greet(client)
	if err != nil {
		_ = st.Close()
		return nil, wire.State{}, err
	}
	return c, state, nil
}

func (c *conversation) greet(client string) (wire.State, error) {
	if err := c.w.Send(wire.KindHello, wire.Hello{Version: wire.Version, Client: client}.Encode()); err != nil {
		return wire.State{}, err
	}
	msg, err := c.next()
	if err != nil {
		return wire.State{}, err
	}
	state, ok := msg.(wire.State)
	if !ok {
		return wire.State{}, fmt.Errorf("%w: a greeting was answered with %T", wire.ErrFrame, msg)
	}
	if state.Version != wire.Version {
		return wire.State{}, stream.Permanent(fmt.Errorf(
			"the pod's agent speaks version %d of the protocol, this program version %d: deploy the service again with this program",
			state.Version, wire.Version))
	}
	return state, nil
}

// next reads the next message.
func (c *conversation) next() (message, error) {
	for {
		k, body, err := c.r.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the agent has ended the conversation")
			}
			return nil, err
		}
		switch k {
		case wire.KindStateIs:
			return wire.DecodeState(body)
		case wire.KindEntries:
			if c.part == nil {
				c.part = tree.Tree{}
			}
			err = wire.DecodeEntries(body, func(path string, e tree.Entry) error {
				c.part[path] = e
				return nil
			})
			if err != nil {
				return nil, err
			}
		case wire.KindTreeEnd:
			end, err := wire.DecodeTreeEnd(body)
			if err != nil {
				return nil, err
			}
			t := c.part
			if c.part = nil; t == nil {
				t = tree.Tree{}
			}
			if d := t.Digest(); d != end.Digest {
				return nil, fmt.Errorf("%w: the agent's tree is %s, said to be %s", wire.ErrFrame, d.Short(), end.Digest.Short())
			}
			return wholeTree{end.Change, t}, nil
		case wire.KindApplied:
			return wire.DecodeApplied(body)
		case wire.KindRefused:
			return wire.DecodeRefused(body)
		case wire.KindOutput:
			return output(append([]byte(nil), body...)), nil
		case wire.KindEvent:
			return wire.DecodeEvent(body)
		default:
			return nil, fmt.Errorf("%w: answer %d", wire.ErrFrame, k)
		}
	}
}

// read passes on what the agent says until the conversation ends.
func (c *conversation) read() {
	for {
		msg, err := c.next()
		if err != nil {
			msg = ended{err}
		}
		select {
		case c.msgs <- msg:
		case <-c.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// ask sends a request without a body. That it fails is heard by read.
func (c *conversation) ask(k wire.Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.w.Send(k, nil); err != nil {
		c.st.Reset(stream.CodeAborted)
	}
}

// patch sends a patch in the background.
func (c *conversation) patch(job send, bases *Bases) {
	c.abort.Store(false)
	s := &sending{
		w: c.w, bases: bases, stop: c.abort.Load,
		compress: c.sess.State().RTT > farAway,
	}
	c.writing.Go(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		err := s.run(job)
		c.sent, c.failure = s.sent, err
		var local *localError
		if err != nil && !errors.As(err, &local) && !errors.Is(err, errAbort) {
			c.st.Reset(stream.CodeAborted)
		}
	})
}

// result waits until a patch is sent or given up; its answer is here already.
func (c *conversation) result() sent {
	c.writing.Wait()
	return c.sent
}

// once asks one thing and closes the conversation.
func (c *conversation) once(ctx context.Context, k wire.Kind, take func(message) bool) error {
	stop := context.AfterFunc(ctx, func() { c.st.Reset(stream.CodeAborted) })
	defer stop()
	defer c.st.Close()
	if err := c.w.Send(k, nil); err != nil {
		return err
	}
	for {
		msg, err := c.next()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if take(msg) {
			return nil
		}
	}
}

// close ends the conversation and waits for what it has started.
func (c *conversation) close() {
	c.stop.Do(func() {
		close(c.done)
		c.abort.Store(true)
		c.st.Reset(stream.CodeAborted)
		c.writing.Wait()
	})
}

// DialPort connects to a port of the pod that a session leads to.
func DialPort(ctx context.Context, sess *stream.Session, port int) (net.Conn, error) {
	st, err := sess.Open(ctx, []byte(wire.HeaderDial+strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { st.Reset(stream.CodeAborted) })
	defer stop()
	var first [1]byte
	if _, err := io.ReadFull(st, first[:]); err != nil {
		_ = st.Close()
		return nil, fmt.Errorf("connect to port %d of the pod: %w", port, err)
	}
	if first[0] != 0 {
		why, _ := io.ReadAll(io.LimitReader(st, 4<<10)) // what has come is shown
		_ = st.Close()
		return nil, fmt.Errorf("connect to port %d of the pod: %s", port, why)
	}
	return st, nil
}
