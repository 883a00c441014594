package steer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// Handler connects to what serves a connection at the laptop. Its error tells the
// agent why that is not possible; the app answers then.
type Handler func(ctx context.Context, info Info) (net.Conn, error)

// Laptop joins rules to pods and takes what their agents send. Its exported fields
// are set before it is used.
type Laptop struct {
	// Beat is how often a sign of life is sent: 1 s.
	Beat time.Duration
	// OnStatus is told what agents say of the rules, one at a time for each. It
	// must return soon.
	OnStatus func(*Membership, Status)
	Log      *slog.Logger

	mu      sync.Mutex
	members map[member]*Membership
	past    map[ruleKey]Counters  // of conversations that are over
	first   map[ruleKey]time.Time // joined
}

// ruleKey names a rule in all pods.
type ruleKey struct{ service, id string }

// member names a rule in a pod.
type member struct {
	sess *stream.Session
	id   string
}

// Membership is a rule in one pod. Its owner calls Leave, or ends the context that it was
// joined with, even if the agent has taken the rule back: what is under way then goes on.
type Membership struct {
	laptop  *Laptop
	sess    *stream.Session
	rule    Rule
	handler Handler
	ctx     context.Context // of everything
	cancel  context.CancelFunc
	leaving chan struct{}
	leave   func()        // closes leaving
	done    chan struct{} // the conversation is over, err is why
	// Handlers that have not connected when it is over are given up: who waits for
	// them asks somebody else.
	joined context.Context
	over   context.CancelFunc

	mu     sync.Mutex
	err    error
	status Status
	flows  int
	none   chan struct{} // closed when there are no flows, if somebody waits for it
}

func (lt *Laptop) beat() time.Duration {
	if lt.Beat > 0 {
		return lt.Beat
	}
	return time.Second
}

func (lt *Laptop) logger() *slog.Logger {
	if lt.Log != nil {
		return lt.Log
	}
	return slog.New(slog.DiscardHandler)
}

// Join puts a rule into force at the pod that sess leads to, and returns when the
// agent has confirmed it. The error is a *RefusedError if the agent does not want
// it. What the rule steers here is given to handler; the session's client has to
// pass streams whose header begins with HeaderIn to Handle. The rule is kept alive
// until ctx ends, which cuts everything off, or Leave is called. If the agent has
// dropped it because the network was away for too long, it is joined again.
func (lt *Laptop) Join(ctx context.Context, sess *stream.Session, rule Rule, handler Handler) (*Membership, error) {
	m := &Membership{
		laptop: lt, sess: sess, rule: rule, handler: handler,
		leaving: make(chan struct{}), done: make(chan struct{}),
	}
	m.leave = sync.OnceFunc(func() { close(m.leaving) })
	m.ctx, m.cancel = context.WithCancel(ctx)
	m.joined, m.over = context.WithCancel(m.ctx)
	key := member{sess, rule.ID}
	lt.mu.Lock()
	if lt.members == nil {
		lt.members = map[member]*Membership{}
	}
	if lt.members[key] != nil {
		lt.mu.Unlock()
		m.cancel()
		return nil, fmt.Errorf("join rule %s: it is joined to that pod already", rule.ID)
	}
	lt.members[key] = m // before the agent can send anything
	if lt.first == nil {
		lt.first = map[ruleKey]time.Time{}
	}
	if k := (ruleKey{rule.Service, rule.ID}); lt.first[k].IsZero() {
		lt.first[k] = time.Now().Round(0) // the clock on the wall goes on while the laptop sleeps
	}
	lt.mu.Unlock()
	t, err := m.ask()
	if err != nil {
		lt.forget(m)
		m.cancel()
		return nil, fmt.Errorf("join rule %s: %w", rule.ID, err)
	}
	go m.run(t) // done is closed at its end
	return m, nil
}

func (lt *Laptop) forget(m *Membership) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	delete(lt.members, member{m.sess, m.rule.ID})
}

// remember adds what the rule has done in a conversation that is over. Of one that broke
// off, that is what the agent said last, at most a beat ago.
func (lt *Laptop) remember(m *Membership) {
	done := m.Status().Counters.Done()
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if lt.past == nil {
		lt.past = map[ruleKey]Counters{}
	}
	key := ruleKey{m.rule.Service, m.rule.ID}
	lt.past[key] = lt.past[key].Plus(done)
}

// before is what a rule has done in conversations that are over.
func (lt *Laptop) before(r Rule) Counters {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	return lt.past[ruleKey{r.Service, r.ID}]
}

// age is how long there has been a rule.
func (lt *Laptop) age(r Rule) time.Duration {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	return time.Since(lt.first[ruleKey{r.Service, r.ID}])
}

// List asks the agent at the end of sess for the rules of its pod.
func List(ctx context.Context, sess *stream.Session) ([]Status, error) {
	st, err := sess.Open(ctx, []byte(HeaderList))
	if err != nil {
		return nil, fmt.Errorf("list intercepts: %w", err)
	}
	defer st.Close()
	stop := context.AfterFunc(ctx, func() { st.Reset(stream.CodeAborted) })
	defer stop()
	var all []Status
	if err := json.NewDecoder(io.LimitReader(st, 16<<20)).Decode(&all); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("list intercepts: %w", err)
	}
	return all, nil
}

// talk is a conversation with an agent.
type talk struct {
	st *stream.Stream
	in lines
}

// ask sends the rule and waits for what the agent says.
func (m *Membership) ask() (*talk, error) {
	st, err := m.sess.Open(m.ctx, []byte(HeaderIntercept))
	if err != nil {
		return nil, err
	}
	t := &talk{st, newLines(st)}
	stop := context.AfterFunc(m.ctx, func() { st.Reset(stream.CodeAborted) })
	defer stop()
	var s Status
	if err = say(st, asked{Version: protocolVersion, Rule: &m.rule, Past: m.laptop.before(m.rule), Age: m.laptop.age(m.rule)}); err == nil {
		err = t.in.next(&s)
	}
	switch {
	case m.ctx.Err() != nil:
		err = m.ctx.Err()
	case errors.Is(err, io.EOF):
		err = errors.New("the agent has ended the conversation")
	case err == nil && s.State == Refused:
		err = &RefusedError{s.Why, s.Owner}
		if m.rule.Mode == Replace && !slices.Contains(s.Modes, Replace) {
			err = &RefusedError{Why: "it is of an older release and can't stop the process of " + m.rule.Service + ": deploy the service again with this program"}
		}
	}
	m.tell(s)
	if err != nil {
		_ = st.Close()
		return nil, err
	}
	return t, nil
}

// tell keeps what the agent says.
func (m *Membership) tell(s Status) {
	if s.State == "" {
		return
	}
	m.mu.Lock()
	m.status = s
	m.mu.Unlock()
	if m.laptop.OnStatus != nil {
		m.laptop.OnStatus(m, s)
	}
}

// run keeps the rule alive.
func (m *Membership) run(t *talk) {
	defer close(m.done)
	defer m.over()
	for {
		err := m.keep(t)
		m.laptop.remember(m)
		select {
		case <-m.leaving:
			m.end(nil)
			return
		default:
		}
		if err == nil && m.ctx.Err() == nil { // the agent has dropped it
			t, err = m.ask()
		}
		if m.ctx.Err() != nil {
			err = m.ctx.Err()
		}
		if err != nil {
			m.end(err)
			return
		}
	}
}

// end is the end of the rule at this pod. The agent, which has taken it back, decides what
// becomes of the connections under way: nothing else is cancelled before they are over.
func (m *Membership) end(err error) {
	if err != nil {
		m.laptop.forget(m)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
	if m.status.State != Gone {
		m.status.State = Gone
		if m.status.Why = ""; err != nil {
			m.status.Why = err.Error()
		}
	}
	if err != nil && m.flows == 0 {
		m.cancel()
	}
}

// keep sends signs of life until the agent says that the rule is gone, which is no
// error.
func (m *Membership) keep(t *talk) error {
	heard := make(chan error, 1)
	go func() {
		var s Status
		for s.State != Gone {
			s = Status{}
			if err := t.in.next(&s); err != nil {
				heard <- err
				return
			}
			m.tell(s)
		}
		heard <- nil
	}()
	// What is said waits while the network is away. Either way it is heard that this is over.
	defer context.AfterFunc(m.ctx, func() { t.st.Reset(stream.CodeAborted) })()
	beat := time.NewTicker(m.laptop.beat())
	defer beat.Stop()
	leaving := m.leaving
	for {
		var err error
		select {
		case err = <-heard:
			_ = t.st.Close()
			return err
		case <-beat.C:
			if leaving != nil {
				err = say(t.st, asked{Past: m.laptop.before(m.rule)})
			}
		case <-leaving:
			leaving = nil
			err = say(t.st, asked{Leave: true})
		}
		if err != nil {
			t.st.Reset(stream.CodeAborted)
			if gone := <-heard; gone == nil {
				return nil // the agent was first
			}
			return err
		}
	}
}

// Rule returns the rule.
func (m *Membership) Rule() Rule { return m.rule }

// Status returns what the agent said last.
func (m *Membership) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// Done is closed when the rule is not kept alive any more.
func (m *Membership) Done() <-chan struct{} { return m.done }

// Err returns why it is not, nil while it is or after Leave.
func (m *Membership) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Leave takes the rule back and lets what is under way end by itself. When ctx ends
// before that, the rest is cut off, and its error returned.
func (m *Membership) Leave(ctx context.Context) error {
	defer m.cancel()
	defer m.laptop.forget(m)
	m.leave()
	select {
	case <-m.done:
	case <-ctx.Done():
		m.cancel()
		<-m.done
		return fmt.Errorf("leave rule %s: %w", m.rule.ID, ctx.Err())
	}
	m.mu.Lock()
	n, none := m.flows, make(chan struct{})
	if m.none = none; n == 0 {
		close(none)
		m.none = nil
	}
	m.mu.Unlock()
	select {
	case <-none:
		return nil
	case <-m.ctx.Done():
		return nil // the session is over, and they with it
	case <-ctx.Done():
		return fmt.Errorf("leave rule %s: %d connections did not end: %w", m.rule.ID, n, ctx.Err())
	}
}

func (m *Membership) flow(by int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flows += by
	if m.flows == 0 && m.none != nil {
		close(m.none)
		m.none = nil
	}
	if m.flows == 0 && m.err != nil {
		m.cancel()
	}
}

// Handle serves a stream that an agent has opened, whose header begins with
// HeaderIn. It returns when the connection that the stream carries is over.
func (lt *Laptop) Handle(ctx context.Context, st *stream.Stream) {
	text, ok := strings.CutPrefix(string(st.Header()), HeaderIn)
	var info Info
	if !ok || json.Unmarshal([]byte(text), &info) != nil {
		st.Reset(stream.CodeRefused)
		return
	}
	lt.mu.Lock()
	m := lt.members[member{st.Session(), info.ID}]
	if m != nil {
		m.flow(1)
	}
	lt.mu.Unlock()
	if m == nil {
		refuse(st, "the intercept is over")
		return
	}
	defer m.flow(-1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	dialing, connected := context.WithCancel(ctx)
	stop := context.AfterFunc(m.joined, connected)
	nc, err := m.handler(dialing, info)
	stop()
	connected()
	if err != nil {
		lt.logger().Debug("connection refused", "rule", info.ID, "err", err)
		refuse(st, err.Error())
		return
	}
	if _, err := st.Write([]byte{byteTaken}); err != nil {
		abort(nc)
		return
	}
	splice(ctx, &source{conn: st}, &source{conn: nc}, nil, nil)
}

// refuse tells an agent that nothing of a stream was used.
func refuse(st *stream.Stream, why string) {
	_, _ = st.Write(append([]byte{byteRefused}, why[:min(len(why), 1<<10)]...)) // who does not hear it has gone
	_ = st.Close()
}
