package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/steer"
	"github.com/bightdev/bight/internal/stream"
	"github.com/bightdev/bight/internal/tree"
)

// hub passes events to every session. A session that does not take them is cut
// off: it comes back and asks for the state.
type hub struct {
	mu      sync.Mutex
	clients map[*client]bool
}

func (h *hub) add(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clients == nil {
		h.clients = map[*client]bool{}
	}
	h.clients[c] = true
}

func (h *hub) remove(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clients[c] {
		delete(h.clients, c)
		close(c.events)
	}
}

// send gives ev to everyone but one.
func (h *hub) send(ev wire.Event, but *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		if c == but {
			continue
		}
		select {
		case c.events <- ev:
		default:
			delete(h.clients, c)
			close(c.events)
			c.cut()
		}
	}
}

func (h *hub) names() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for c := range h.clients {
		if c.name == "" { // somebody who only asks
			continue
		}
		names = append(names, c.name)
	}
	return names
}

// handle serves one stream.
func (a *Agent) handle(ctx context.Context, st *stream.Stream) {
	header := string(st.Header())
	switch port, dial := strings.CutPrefix(header, wire.HeaderDial); {
	case dial:
		a.reach.ServePort(ctx, st, a.hosts, a.steered(port))
	case header == wire.HeaderLive:
		c := &client{a: a, st: st, r: wire.NewReader(st), w: wire.NewWriter(st), events: make(chan wire.Event, 256)}
		if err := c.serve(ctx); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
			a.Log.Debug("session's conversation ended", "client", c.name, "err", err)
		}
	case header == steer.HeaderIntercept, header == steer.HeaderList:
		a.host.Handle(ctx, st)
	case a.reach.Handle(ctx, st):
	case a.direct.Handle(ctx, st):
	default:
		a.Log.Debug("stream of an unknown kind refused", "header", header)
		st.Reset(stream.CodeRefused)
	}
}

// client is one session's conversation.
type client struct {
	a      *Agent
	st     *stream.Stream
	name   string
	r      *wire.Reader
	events chan wire.Event

	mu sync.Mutex // over w
	w  *wire.Writer
}

func (c *client) cut() { c.st.Reset(stream.CodeAborted) }

func (c *client) send(k wire.Kind, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.w.Send(k, body)
}

func (c *client) serve(ctx context.Context) error {
	k, body, err := c.r.Next()
	if err != nil {
		return err
	}
	if k != wire.KindHello {
		return fmt.Errorf("%w: the first message is %d", wire.ErrFrame, k)
	}
	hello, err := wire.DecodeHello(body)
	if err != nil {
		return err
	}
	c.name = hello.Client
	if hello.Version != wire.Version {
		return c.send(wire.KindStateIs, wire.State{Version: wire.Version}.Encode())
	}
	c.a.hub.add(c)
	var forward sync.WaitGroup
	defer forward.Wait()
	defer c.a.hub.remove(c)
	// The state goes out before any event.
	if err := c.sendState(); err != nil {
		return err
	}
	if by := c.a.sup.HeldBy(); by != "" {
		if err := c.send(wire.KindEvent, wire.Event{Kind: wire.Replaced, By: by}.Encode()); err != nil {
			return err
		}
	}
	c.a.limitMemory() // the tree is known now
	forward.Go(func() {
		for ev := range c.events {
			if c.send(wire.KindEvent, ev.Encode()) != nil {
				c.cut()
				return
			}
		}
	})
	for {
		k, body, err := c.r.Next()
		if err == nil {
			err = c.answer(ctx, k, body)
		}
		if err != nil {
			return err
		}
	}
}

// answer does what a request asks for.
func (c *client) answer(ctx context.Context, k wire.Kind, body []byte) error {
	switch k {
	case wire.KindState:
		return c.sendState()
	case wire.KindTree:
		return c.sendTree(c.a.store.now())
	case wire.KindVerify:
		return c.sendTree(c.a.store.verify())
	case wire.KindPatch:
		head, err := wire.DecodePatchHeader(body)
		if err != nil {
			return err
		}
		return c.patch(ctx, head)
	case wire.KindRestart:
		c.a.sup.Restart(ctx)
		return c.sendState()
	case wire.KindTail:
		return c.send(wire.KindOutput, c.a.sup.Output())
	}
	return fmt.Errorf("%w: request %d", wire.ErrFrame, k)
}

func (c *client) sendState() error {
	m := wire.State{
		Version: wire.Version, Agent: c.a.Version, Service: c.a.Name,
		Clients: c.a.hub.names(), Process: c.a.sup.Process(),
	}
	sum, err := c.a.store.now()
	if err == nil {
		err = c.a.openErr
	}
	if err != nil {
		m.Problem = err.Error()
	}
	m.Change, m.Digest, m.Source, m.Files, m.Live, m.LastFrom = sum.change, sum.digest, sum.source, sum.files, sum.live, sum.by
	return c.send(wire.KindStateIs, m.Encode())
}

// sendTree sends every entry of a tree. One that can't be read is sent as empty:
// the session then sends everything, and is told what is wrong.
func (c *client) sendTree(sum summary, err error) error {
	if err != nil {
		c.a.Log.Warn("files of the service can't be read", "err", err)
		sum = summary{digest: tree.Tree{}.Digest()}
	}
	var b []byte
	for p, e := range sum.tree {
		b = wire.AppendEntry(b, p, e)
		if len(b) >= 64<<10 {
			if err := c.send(wire.KindEntries, b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	if len(b) > 0 {
		if err := c.send(wire.KindEntries, b); err != nil {
			return err
		}
	}
	return c.send(wire.KindTreeEnd, wire.TreeEnd{Change: sum.change, Digest: sum.digest, Source: sum.source}.Encode())
}

// patch receives a patch, makes it true and answers.
func (c *client) patch(ctx context.Context, head wire.PatchHeader) error {
	body := &patchBody{r: c.r}
	done, err := c.receive(ctx, head, body)
	if body.err != nil { // the conversation is over, not only the patch
		return body.err
	}
	if err != nil {
		if err := c.send(wire.KindRefused, c.refused(err).Encode()); err != nil {
			return err
		}
		return body.skip()
	}
	a := c.a
	a.hub.send(wire.Event{Kind: wire.TreeIs, Change: done.change, Tree: head.Target, By: c.name}, c)
	var stopped <-chan struct{}
	if head.Restart && a.RestartProcess || a.sup.Process().Phase == wire.Waiting {
		stopped = a.sup.Restart(ctx)
	}
	a.background.Go(func() {
		if stopped != nil {
			select {
			case <-stopped:
			case <-a.ended:
			}
		}
		a.store.discard(done.old)
		a.limitMemory()
		if done.written > 4<<20 {
			debug.FreeOSMemory()
		}
	})
	c.r.Shrink()
	return c.send(wire.KindApplied, wire.Applied{
		Change: done.change, Digest: head.Target, Stage: done.stage, Swap: done.swap, Whole: done.whole, Written: done.written,
	}.Encode())
}

// receive applies the patch that comes through body.
func (c *client) receive(ctx context.Context, head wire.PatchHeader, body *patchBody) (applied, error) {
	var r io.Reader = body
	switch head.Encoding {
	case wire.Plain:
	case wire.Zstd:
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(wire.ZstdWindow), zstd.WithDecoderMaxMemory(1<<40))
		if err != nil {
			return applied{}, err
		}
		defer z.Close()
		r = z
	default:
		return applied{}, refuse(wire.BadPatch, "", "encoding %d is not known", head.Encoding)
	}
	content := bufio.NewReaderSize(r, 32<<10)
	return c.a.store.apply(ctx, head, c.name, content, func() error {
		// The patch counts when all of it has come, and nothing else.
		if n, err := io.Copy(io.Discard, content); n > 0 || err != nil {
			return errors.Join(err, refuse(wire.BadPatch, "", "the patch has %d bytes too many", n))
		}
		if !body.done {
			return refuse(wire.BadPatch, "", "the patch has data behind its end")
		}
		return nil
	})
}

// refused is how an error is told to the session.
func (c *client) refused(err error) wire.Refused {
	m := wire.Refused{Code: wire.Failed, Text: err.Error()}
	if r, ok := errors.AsType[*refusal](err); ok {
		m.Code, m.Path = r.code, r.path
	} else if errors.Is(err, wire.ErrFrame) {
		m.Code = wire.BadPatch
	}
	if errors.Is(err, errAborted) {
		m.Code = wire.Aborted
	}
	if sum, err := c.a.store.now(); err == nil {
		m.Change, m.Have, m.By = sum.change, sum.digest, sum.by
	}
	m.Text = m.Text[:min(len(m.Text), 8<<10)]
	m.Path = m.Path[:min(len(m.Path), 4096)]
	return m
}

var errAborted = errors.New("the session has given the patch up")

// patchBody is the content of a patch, out of the frames that carry it.
type patchBody struct {
	r    *wire.Reader
	rest []byte
	done bool  // its last frame was read
	err  error // of the conversation
}

func (b *patchBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		if b.done {
			return 0, io.EOF
		}
		k, body, err := b.r.Next()
		switch {
		case err != nil:
			b.err = err
			if errors.Is(err, io.EOF) {
				b.err = io.ErrUnexpectedEOF
			}
		case k == wire.KindData:
			b.rest = body
		case k == wire.KindEnd:
			b.done = true
		case k == wire.KindAbort:
			b.done = true
			return 0, errAborted
		default:
			b.err = fmt.Errorf("%w: request %d within a patch", wire.ErrFrame, k)
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// skip reads what is left of a patch that was refused.
func (b *patchBody) skip() error {
	b.rest = nil
	_, err := io.Copy(io.Discard, b)
	if errors.Is(err, errAborted) {
		return nil
	}
	return err
}
