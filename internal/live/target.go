package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/live/wire"
	"github.com/bightdev/bight/internal/stream"
	"github.com/bightdev/bight/internal/tree"
)

// TargetConfig says which agent a [Target] is about.
type TargetConfig struct {
	Name    string                                      // for events
	Dial    func(ctx context.Context) (net.Conn, error) // to the agent's port
	Token   string                                      // that the agent wants
	Client  string                                      // who we are, for people: "anna@laptop"
	Version string                                      // of this program
	Log     *slog.Logger
	Events  func(Event) // called by one goroutine, must return soon
	Bases   *Bases      // shared between targets; nil: its own
}

// Target keeps one pod's files equal to a wanted tree.
type Target struct {
	cfg   TargetConfig
	seen  chan observation // from other goroutines to Run's
	wants chan struct{}    // wanted has changed
	links chan struct{}    // the transport has come or gone

	mu     sync.Mutex
	wanted *Wanted
	state  TargetState
	sess   *stream.Session
	ready  chan struct{} // closed when sess is there, renewed when it goes

	// Of Run's goroutine.
	m       machine
	conv    *conversation
	outcome sent // of the last patch
	began   time.Time
	said    EventKind // about the connection
	timer   *time.Timer
	work    sync.WaitGroup // goroutines that Run waits for
}

// NewTarget returns a Target; Run makes it work.
func NewTarget(cfg TargetConfig) *Target {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Bases == nil {
		cfg.Bases = &Bases{}
	}
	if cfg.Events == nil {
		cfg.Events = func(Event) {}
	}
	return &Target{
		cfg: cfg, seen: make(chan observation), wants: make(chan struct{}, 1), links: make(chan struct{}, 1), ready: make(chan struct{}),
		state: TargetState{Name: cfg.Name},
	}
}

// Want says what the pod's files should be. The latest one counts: what was
// wanted before and is not yet done is given up.
func (t *Target) Want(w Wanted) {
	if w.Digest.IsZero() {
		w.Digest = w.Tree.Digest()
	}
	t.mu.Lock()
	t.wanted = &w
	t.state.Want, t.state.InSync = w.Digest, t.state.Connected && t.state.Have == w.Digest
	t.mu.Unlock()
	select {
	case t.wants <- struct{}{}:
	default:
	}
}

// State returns what is known at this moment.
func (t *Target) State() TargetState {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// Run keeps the pod equal to what is wanted until ctx ends.
func (t *Target) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer t.work.Wait()
	defer cancel()
	t.timer = time.NewTimer(time.Hour)
	defer t.timer.Stop()
	t.observe(ctx, sawTimer{})
	for {
		var msgs <-chan message
		if t.conv != nil {
			msgs = t.conv.msgs
		}
		select {
		case <-t.wants:
			t.mu.Lock()
			w := t.wanted
			t.mu.Unlock()
			t.observe(ctx, sawWant{w})
		case <-t.links:
			t.announce()
		case o := <-t.seen:
			t.observe(ctx, o)
		case msg := <-msgs:
			t.hear(ctx, msg)
		case <-t.timer.C:
			t.observe(ctx, sawTimer{})
		case <-ctx.Done():
			t.hangUp()
			return context.Cause(ctx)
		}
	}
}

// observe has the machine decide and does what it says.
func (t *Target) observe(ctx context.Context, o observation) {
	if up, ok := o.(sawOpen); ok {
		t.opened(up)
		o = sawUp{up.state.Change, up.state.Digest}
	}
	if down, ok := o.(sawDown); ok {
		t.hangUp()
		t.lost(down.err)
	}
	var acts []action
	t.m, acts = next(t.m, o)
	for _, a := range acts {
		t.do(ctx, a)
	}
	t.mu.Lock()
	t.state.Have = t.m.digest
	t.state.InSync = t.m.up && t.state.Connected && t.wanted != nil && t.m.digest == t.wanted.Digest
	if t.state.InSync {
		t.state.Err = nil
	}
	t.mu.Unlock()
}

func (t *Target) do(ctx context.Context, a action) {
	switch a := a.(type) {
	case dial:
		t.work.Go(func() { t.open(ctx, a.after) })
	case askTree:
		t.conv.ask(wire.KindTree)
	case send:
		t.began = time.Now()
		t.outcome = sent{}
		t.conv.patch(a, t.cfg.Bases)
	case abort:
		t.conv.abort.Store(true)
	case retry:
		t.timer.Reset(a.after)
	case tell:
		t.tell(ctx, a.want)
	case problem:
		t.mu.Lock()
		t.state.Err = a.err
		t.mu.Unlock()
		t.event(Event{Kind: Problem, Err: a.err, Path: a.path})
	}
}

func (t *Target) event(ev Event) {
	ev.Target, ev.Time = t.cfg.Name, time.Now()
	t.cfg.Events(ev)
}

// tell says that the agent has what is wanted, and learns the large files for
// the next delta.
func (t *Target) tell(ctx context.Context, w *Wanted) {
	ev := Event{Kind: Synced, Seq: w.Seq, Tree: w.Digest}
	changed := t.outcome.large
	if o := t.outcome; o.files+o.deleted > 0 {
		ev.Files, ev.Deleted, ev.Bytes, ev.Content = o.files, o.deleted, o.bytes, o.content
		ev.Diff, ev.Send = o.diff, o.send
		ev.Apply = max(0, time.Since(t.began)-o.diff-o.send)
		t.outcome = sent{}
	}
	// InSync is true before anybody is told so.
	t.mu.Lock()
	t.state.Have, t.state.Err = w.Digest, nil
	t.state.InSync = t.wanted.Digest == w.Digest
	t.mu.Unlock()
	t.event(ev)
	t.work.Go(func() { t.learn(ctx, w.Tree, changed) })
}

// learn indexes the large files that are likely to change next: those that did,
// and programs. Everything else that is large is mostly pictures.
func (t *Target) learn(ctx context.Context, all tree.Tree, changed []string) {
	for name, e := range all {
		if ctx.Err() != nil {
			return
		}
		if e.Size < deltaSize || e.Mode&0o111 == 0 && !slices.Contains(changed, name) {
			continue
		}
		if err := t.cfg.Bases.learn(e); err != nil {
			t.cfg.Log.Debug("file not indexed", "path", e.Local, "err", err)
		}
	}
}

// sawOpen is the observation that a conversation was opened.
type sawOpen struct {
	sess  *stream.Session
	conv  *conversation
	state wire.State
}

func (sawOpen) isObservation() {}

// post gives an observation to Run.
func (t *Target) post(ctx context.Context, o observation) {
	select {
	case t.seen <- o:
	case <-ctx.Done():
		if up, ok := o.(sawOpen); ok {
			up.conv.close()
			_ = up.sess.Close()
		}
	}
}

// open opens a session and a conversation on it, after a pause.
func (t *Target) open(ctx context.Context, after time.Duration) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	client := &stream.Client{
		Dial:  func(ctx context.Context) (io.ReadWriteCloser, error) { return t.cfg.Dial(ctx) },
		Token: t.cfg.Token, Version: t.cfg.Version, Log: t.cfg.Log, OnState: t.onState,
	}
	sess, err := client.Connect(ctx)
	if err != nil {
		t.post(ctx, sawDown{err})
		return
	}
	gctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conv, state, err := converse(gctx, sess, t.cfg.Client)
	if err != nil {
		_ = sess.Close()
		t.post(ctx, sawDown{err})
		return
	}
	t.post(ctx, sawOpen{sess, conv, state})
}

// onState notes that the transport below a session was lost or is back. The
// session itself goes on, and so do the conversations on it.
func (t *Target) onState(s stream.State) {
	t.mu.Lock()
	switch s.Kind {
	case stream.Lost:
		t.state.Connected, t.state.InSync, t.state.Err = false, false, s.Err
	case stream.Resumed:
		t.state.Connected, t.state.Err = true, nil
		t.state.InSync = t.wanted != nil && t.state.Have == t.wanted.Digest
	}
	t.mu.Unlock()
	select {
	case t.links <- struct{}{}:
	default:
	}
}

// announce tells when the connection is another than what was told last.
func (t *Target) announce() {
	t.mu.Lock()
	up, err, agent := t.state.Connected, t.state.Err, t.state.Agent
	t.mu.Unlock()
	switch {
	case up && t.said != Connected:
		t.said = Connected
		t.event(Event{Kind: Connected, State: agent, Tree: agent.Digest})
	case !up && t.said != Lost:
		t.said = Lost
		t.event(Event{Kind: Lost, Err: err})
	}
}

func (t *Target) opened(up sawOpen) {
	t.conv = up.conv
	t.work.Go(up.conv.read)
	t.mu.Lock()
	t.sess, t.state.Connected, t.state.Agent, t.state.Err = up.sess, true, up.state, nil
	close(t.ready)
	t.mu.Unlock()
	t.announce()
	if up.state.Problem != "" {
		t.event(Event{Kind: Problem, Err: fmt.Errorf("the pod's agent has a problem: %s", up.state.Problem)})
	}
}

// lost notes the end of a conversation.
func (t *Target) lost(err error) {
	t.mu.Lock()
	t.state.Connected, t.state.InSync, t.state.Err = false, false, err
	t.mu.Unlock()
	t.announce()
}

// hangUp ends the conversation and its session.
func (t *Target) hangUp() {
	if t.conv == nil {
		return
	}
	t.conv.close()
	t.conv = nil
	t.mu.Lock()
	sess := t.sess
	t.sess, t.ready = nil, make(chan struct{})
	t.mu.Unlock()
	_ = sess.Close()
}

// hear takes what the agent says.
func (t *Target) hear(ctx context.Context, msg message) {
	switch m := msg.(type) {
	case ended:
		t.observe(ctx, sawDown(m))
	case wholeTree:
		t.observe(ctx, sawTree{m.change, m.tree, true})
	case wire.Applied:
		t.outcome = t.conv.result()
		t.observe(ctx, sawApplied{m.Change})
	case wire.Refused:
		t.conv.abort.Store(true) // what is still being sent is of no use
		t.conv.result()
		var local *localError
		if m.Code == wire.Aborted && errors.As(t.conv.failure, &local) {
			t.observe(ctx, sawLocal{local.path, local})
			return
		}
		t.observe(ctx, sawRefused{m})
	case wire.Event:
		t.hearEvent(ctx, m)
	}
}

func (t *Target) hearEvent(ctx context.Context, m wire.Event) {
	t.mu.Lock()
	p := &t.state.Agent.Process
	switch m.Kind {
	case wire.Started:
		*p = wire.Process{Phase: wire.Starting, Pid: m.Pid, Starts: p.Starts + 1, Tree: m.Tree}
	case wire.BecameUp:
		p.Phase = wire.Ready
	case wire.Exited:
		*p = wire.Process{Phase: wire.Waiting, Starts: p.Starts, Code: m.Code, Signal: m.Signal, Pause: m.Pause, Tree: p.Tree}
	case wire.Replaced:
		*p = wire.Process{Phase: wire.Held, Starts: p.Starts, Tree: p.Tree}
	}
	t.mu.Unlock()
	switch m.Kind {
	case wire.Replaced:
		t.event(Event{Kind: Replaced, By: m.By})
	case wire.Started:
		t.event(Event{Kind: Started, Pid: m.Pid, After: m.After, Tree: m.Tree})
	case wire.BecameUp:
		t.event(Event{Kind: Ready, Pid: m.Pid, After: m.After})
	case wire.Exited:
		t.event(Event{Kind: Exited, Pid: m.Pid, Code: m.Code, Signal: m.Signal, Pause: m.Pause, Output: m.Output})
	case wire.TreeIs:
		t.observe(ctx, sawOther{m.Change, m.Tree, m.By})
	}
}

// session waits until there is one.
func (t *Target) session(ctx context.Context) (*stream.Session, error) {
	for {
		t.mu.Lock()
		sess, ready := t.sess, t.ready
		t.mu.Unlock()
		if sess != nil {
			return sess, nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, fmt.Errorf("not connected to %s: %w", t.cfg.Name, context.Cause(ctx))
		}
	}
}

// DialPort connects to a port of the pod. A port on which nothing listens is
// refused at once.
func (t *Target) DialPort(ctx context.Context, port int) (net.Conn, error) {
	sess, err := t.session(ctx)
	if err != nil {
		return nil, err
	}
	return DialPort(ctx, sess, port)
}

// Verify has the agent read all of its files again and returns the digest of
// what they are. A difference to what is wanted is mended.
func (t *Target) Verify(ctx context.Context) (tree.Hash, error) {
	var found wholeTree
	err := t.aside(ctx, wire.KindVerify, func(msg message) bool {
		m, ok := msg.(wholeTree)
		found = m
		return ok
	})
	if err != nil {
		return tree.Hash{}, fmt.Errorf("verify the files of %s: %w", t.cfg.Name, err)
	}
	select {
	case t.seen <- sawTree{found.change, found.tree, false}:
	case <-ctx.Done():
	}
	return found.tree.Digest(), nil
}

// Output returns the last that the process has printed.
func (t *Target) Output(ctx context.Context) ([]byte, error) {
	var out []byte
	err := t.aside(ctx, wire.KindTail, func(msg message) bool {
		m, ok := msg.(output)
		out = m
		return ok
	})
	return out, err
}

// Restart starts the process anew.
func (t *Target) Restart(ctx context.Context) error {
	return t.aside(ctx, wire.KindRestart, func(msg message) bool {
		_, ok := msg.(wire.State)
		return ok
	})
}

// aside asks one thing on a conversation of its own, so that it does not wait
// for a patch.
func (t *Target) aside(ctx context.Context, k wire.Kind, take func(message) bool) error {
	sess, err := t.session(ctx)
	if err != nil {
		return err
	}
	c, _, err := converse(ctx, sess, "")
	if err != nil {
		return err
	}
	return c.once(ctx, k, take)
}

// farAway is from which round trip time on compressing pays: the network is then
// more than this machine or the next one, and slower than the compression.
const farAway = 4 * time.Millisecond
