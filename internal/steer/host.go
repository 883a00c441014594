package steer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// maxRules is how many rules a pod has at most.
const maxRules = 256

// Host has the rules of one pod. Its fields are set before its doors are served;
// AddDoor adds doors later.
type Host struct {
	Service string
	Doors   []*Door
	// Suspend is how long a laptop may be silent before its requests go to the
	// app, 2.5 s; Expire how long before its rule is gone, 10 s.
	Suspend, Expire time.Duration
	// Process is stopped by rules that replace the app. Without it they are refused.
	Process Process
	// Admit, if not nil, says why a session may not have a rule. It must not call
	// the Host.
	Admit func(*stream.Session, Rule) error
	// Steer, if not nil, is told which ports have rules whenever that changes, in
	// order and one at a time: before the first rule of a port is confirmed, which
	// is refused if it fails, and after the last one's end. It must not call the Host.
	Steer func(ports []int) error
	Log   *slog.Logger

	turn    sync.Mutex // of Steer
	steered []int      // the ports that it was told

	mu     sync.Mutex
	leases []*lease

	holding sync.Mutex
	holders []*lease // that keep the process stopped, oldest first
}

// table is what a door looks at for each request. It is never changed.
type table struct {
	rules    []Rule
	leases   []*lease // of the rules
	replaced bool     // one of them replaces the app
}

// without returns a table that lacks some of the rules.
func (t *table) without(out []*lease) *table {
	rest := &table{replaced: t.replaced}
	for i, l := range t.leases {
		if !slices.Contains(out, l) {
			rest.rules, rest.leases = append(rest.rules, t.rules[i]), append(rest.leases, l)
		}
	}
	return rest
}

func (h *Host) suspend() time.Duration {
	if h.Suspend > 0 {
		return h.Suspend
	}
	return 2500 * time.Millisecond
}

func (h *Host) expire() time.Duration {
	if h.Expire > 0 {
		return h.Expire
	}
	return 10 * time.Second
}

func (h *Host) logger() *slog.Logger {
	if h.Log != nil {
		return h.Log
	}
	return slog.New(slog.DiscardHandler)
}

// List tells the present rules.
func (h *Host) List() []Status {
	h.mu.Lock()
	leases := slices.Clone(h.leases)
	h.mu.Unlock()
	all := make([]Status, len(leases))
	for i, l := range leases {
		all[i] = l.status()
	}
	return all
}

// Handle serves a stream with the header HeaderIntercept or HeaderList. It returns
// when the conversation is over.
func (h *Host) Handle(ctx context.Context, st *stream.Stream) {
	switch string(st.Header()) {
	case HeaderIntercept:
		if err := h.converse(ctx, st); err != nil {
			h.logger().Debug("conversation about an intercept ended", "err", err)
		}
	case HeaderList:
		if err := say(st, h.List()); err != nil {
			h.logger().Debug("list of intercepts not sent", "err", err)
		}
	default:
		st.Reset(stream.CodeRefused)
	}
}

// converse is the agent's side of a conversation about one rule.
func (h *Host) converse(ctx context.Context, st *stream.Stream) error {
	stop := context.AfterFunc(ctx, func() { st.Reset(stream.CodeAborted) })
	defer stop()
	in := newLines(st)
	var first asked
	if err := in.next(&first); err != nil {
		return err
	}
	l, err := h.join(first, st.Session())
	if err != nil {
		s := Status{State: Refused, Why: err.Error(), Modes: modes()}
		if first.Rule != nil {
			s.Rule = *first.Rule
		}
		if r, ok := errors.AsType[*RefusedError](err); ok {
			s.Why, s.Owner = r.Why, r.Owner
		}
		return say(st, s)
	}
	l.mu.Lock()
	l.past, l.age = first.Past, max(first.Age, 0)
	l.mu.Unlock()
	read := make(chan struct{})
	go func() {
		defer close(read)
		l.hear(in)
	}()
	for err == nil && l.over.Err() == nil {
		l.engage()
		err = say(st, l.status())
		select {
		case <-l.changed:
		case <-l.over.Done():
		}
	}
	l.end(err) // unless it has ended
	if err == nil {
		err = say(st, l.status())
	}
	_ = st.Close() // ends the reader
	<-read
	return err
}

// hear reads what the laptop says until that ends.
func (l *lease) hear(in lines) {
	for {
		var a asked
		err := in.next(&a)
		if err == nil && a.Leave {
			err = errLeft
		}
		if err != nil {
			l.end(err)
			return
		}
		l.beat(a.Past)
	}
}

// join makes a lease of what a laptop asks for.
func (h *Host) join(a asked, sess *stream.Session) (*lease, error) {
	switch {
	case a.Version != protocolVersion:
		return nil, fmt.Errorf("the pod's agent speaks version %d of the protocol, this program version %d: deploy the service again with this program", protocolVersion, a.Version)
	case a.Rule == nil:
		return nil, errors.New("no rule was sent")
	}
	r := *a.Rule
	doors, err := h.doors(r)
	if err != nil {
		return nil, err
	}
	l, old, err := h.add(r, doors, sess)
	if err != nil {
		return nil, err
	}
	if old != nil {
		l.succeed(old)
		old.end(fmt.Errorf("%w: the rule has come again", errLeft))
	}
	if err := h.engaged(l); err != nil {
		return nil, err
	}
	h.logger().Info("intercept is active", "rule", r.ID, "owner", r.Owner, "port", r.Port, "match", r.Match.String())
	return l, nil
}

// Split makes the door of a port share requests between versions, as [Door.Split]
// does, and sees to it that they come to the door. A nil split ends that.
func (h *Host) Split(port int, local string, s *Split) error {
	if s != nil && s.Port != port {
		return fmt.Errorf("split of %s: it is of port %d, and was given to port %d", s.Service, s.Port, port)
	}
	doors := h.present()
	i := slices.IndexFunc(doors, func(d *Door) bool { return d.Port == port })
	if i < 0 {
		return fmt.Errorf("%s has no port %d that can be steered", h.Service, port)
	}
	d := doors[i]
	fresh := d.split.Load() == nil
	if err := d.Split(local, s); err != nil {
		return err
	}
	err := h.settle()
	switch {
	case err == nil:
		return nil
	case s == nil:
		return fmt.Errorf("requests for port %d of %s still come to the agent, which passes them on: %w", port, h.Service, err)
	case fresh:
		_ = d.Split("", nil) // never fails
	}
	return fmt.Errorf("requests for port %d of %s can't be brought to the agent: %w", port, h.Service, err)
}

// AddDoor adds a door that is served already, or is about to be.
func (h *Host) AddDoor(d *Door) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Doors = append(h.Doors, d)
}

// present are the doors there are.
func (h *Host) present() []*Door {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.Doors)
}

// doors returns those that a rule is about, if it makes sense there.
func (h *Host) doors(r Rule) ([]*Door, error) {
	var protocol Protocol
	all := h.present()
	doors := all
	if i := slices.IndexFunc(all, func(d *Door) bool { return d.Port == r.Port }); i >= 0 {
		protocol = all[i].Protocol
		doors = all[i : i+1]
	} else if r.Mode != Replace || r.Port != 0 {
		var ports []int
		for _, d := range all {
			ports = append(ports, d.Port)
		}
		return nil, fmt.Errorf("%s has no port %d that can be steered, it has %v: name one of those", h.Service, r.Port, ports)
	}
	if err := r.Check(protocol); err != nil {
		return nil, err
	}
	if r.Mode != Replace {
		return doors, nil
	}
	if h.Process == nil {
		return nil, fmt.Errorf("the process of %s can't be stopped here, because Bight has not started it: use --intercept, or deploy %s with bight up", h.Service, h.Service)
	}
	return all, nil
}

// apart says what the owner of a match that is refused can do about another one that is in
// force. Two values of one header are apart, and nothing else of headers is.
func apart(there, refused Match) string {
	switch {
	case len(there.Headers) > 0:
		return fmt.Sprintf("take --header %s=VALUE with a value of your own", there.Headers[0].Name)
	case len(refused.Headers) > 0:
		return fmt.Sprintf("have them take --header %s=VALUE with a value of their own", refused.Headers[0].Name)
	}
	return "both take a --header NAME=VALUE with a value of your own"
}

// inTheWay says why a rule is refused.
func (h *Host) inTheWay(o, r Rule) error {
	why := fmt.Sprintf("%s already intercepts %s of %s, port %d: wait until they leave, or %s", o.Owner, o.Match, h.Service, o.Port, apart(o.Match, r.Match))
	switch {
	case o.Mode == Replace:
		why = fmt.Sprintf("%s replaces %s, whose process is stopped meanwhile: wait until they leave", o.Owner, h.Service)
	case r.Mode == Replace:
		why = fmt.Sprintf("%s already intercepts %s of %s, port %d, and --replace takes them all: wait until they leave", o.Owner, o.Match, h.Service, o.Port)
	}
	return &RefusedError{Why: why, Owner: o.Owner}
}

// add puts a rule into force unless another owner's is in the way. old is the rule
// with the same id that it replaces.
func (h *Host) add(r Rule, doors []*Door, sess *stream.Session) (l, old *lease, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Admit != nil { // under the lock, so that End finds whoever came in before
		if err := h.Admit(sess, r); err != nil {
			return nil, nil, err
		}
	}
	var others []Rule
	for _, o := range h.leases {
		if o.rule.ID == r.ID && o.rule.Owner == r.Owner {
			old = o
		} else if o.rule.ID == r.ID {
			return nil, nil, &RefusedError{fmt.Sprintf("%s has a rule with the id %s: choose another", o.rule.Owner, r.ID), o.rule.Owner}
		} else {
			others = append(others, o.rule)
		}
	}
	if o, ok := conflict(others, r); ok {
		return nil, nil, h.inTheWay(o, r)
	}
	if len(h.leases) >= maxRules {
		return nil, nil, fmt.Errorf("%s has %d rules already: leave some", h.Service, maxRules)
	}
	l = h.newLease(r, doors, sess)
	h.leases = append(slices.DeleteFunc(h.leases, func(o *lease) bool { return o == old }), l)
	h.publish()
	return l, old, nil
}

func (h *Host) remove(l *lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leases = slices.DeleteFunc(h.leases, func(o *lease) bool { return o == l })
	h.publish()
}

// publish gives the doors their rules. It is called with h.mu held.
func (h *Host) publish() {
	for _, d := range h.Doors {
		t := &table{}
		for _, l := range h.leases {
			if slices.Contains(l.doors, d) {
				t.rules, t.leases = append(t.rules, l.rule), append(t.leases, l)
				t.replaced = t.replaced || l.rule.Mode == Replace
			}
		}
		if len(t.rules) == 0 {
			t = nil
		}
		d.steerBy(t)
	}
}
