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

// Host has the rules of one pod. Its fields are set before its doors are served.
type Host struct {
	Service string
	Doors   []*Door
	// Suspend is how long a laptop may be silent before its requests go to the
	// app, 2.5 s; Expire how long before its rule is gone, 10 s.
	Suspend, Expire time.Duration
	Log             *slog.Logger

	mu     sync.Mutex
	leases []*lease
}

// table is what a door looks at for each request. It is never changed.
type table struct {
	rules  []Rule
	leases []*lease // of the rules
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
		s := Status{State: Refused, Why: err.Error()}
		if first.Rule != nil {
			s.Rule = *first.Rule
		}
		if r, ok := errors.AsType[*RefusedError](err); ok {
			s.Why, s.Owner = r.Why, r.Owner
		}
		return say(st, s)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		l.hear(in)
	}()
	for err == nil && l.over.Err() == nil {
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
		l.beat()
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
	i := slices.IndexFunc(h.Doors, func(d *Door) bool { return d.Port == r.Port })
	if i < 0 {
		var ports []int
		for _, d := range h.Doors {
			ports = append(ports, d.Port)
		}
		return nil, fmt.Errorf("%s has no port %d that can be steered, it has %v: name one of those", h.Service, r.Port, ports)
	}
	if err := r.Check(h.Doors[i].Protocol); err != nil {
		return nil, err
	}
	l, old, err := h.add(r, h.Doors[i], sess)
	if err != nil {
		return nil, err
	}
	if old != nil {
		old.end(fmt.Errorf("%w: the rule has come again", errLeft))
	}
	h.logger().Info("intercept is active", "rule", r.ID, "owner", r.Owner, "port", r.Port, "match", r.Match.String())
	return l, nil
}

// add puts a rule into force unless another owner's is in the way. old is the rule
// with the same id that it replaces.
func (h *Host) add(r Rule, d *Door, sess *stream.Session) (l, old *lease, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var others []Rule
	for _, o := range h.leases {
		if o.rule.ID == r.ID && o.rule.Owner == r.Owner {
			old = o
		} else if o.rule.ID == r.ID {
			return nil, nil, &RefusedError{"another rule has the same id", o.rule.Owner}
		} else {
			others = append(others, o.rule)
		}
	}
	if o, ok := conflict(others, r); ok {
		return nil, nil, &RefusedError{
			Why: fmt.Sprintf("%s already intercepts %s of %s, port %d: wait until they leave, or both take a --header NAME=VALUE with a value of your own",
				o.Owner, o.Match, h.Service, o.Port),
			Owner: o.Owner,
		}
	}
	if len(h.leases) >= maxRules {
		return nil, nil, fmt.Errorf("%s has %d rules already: leave some", h.Service, maxRules)
	}
	l = h.newLease(r, d, sess)
	h.leases = append(slices.DeleteFunc(h.leases, func(o *lease) bool { return o == old }), l)
	h.publish(d)
	if old != nil && old.door != d {
		h.publish(old.door)
	}
	return l, old, nil
}

func (h *Host) remove(l *lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leases = slices.DeleteFunc(h.leases, func(o *lease) bool { return o == l })
	h.publish(l.door)
}

// publish gives a door its rules. It is called with h.mu held.
func (h *Host) publish(d *Door) {
	t := &table{}
	for _, l := range h.leases {
		if l.door == d {
			t.rules, t.leases = append(t.rules, l.rule), append(t.leases, l)
		}
	}
	if len(t.rules) == 0 {
		t = nil
	}
	d.steerBy(t)
}
