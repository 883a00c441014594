package steer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bightdev/bight/internal/stream"
)

// lease is a rule and the laptop that keeps it alive.
type lease struct {
	host  *Host
	doors []*Door
	rule  Rule
	sess  *stream.Session
	since time.Time

	// over ends with the lease, its cause says why. lost ends with it, too, unless
	// the owner has left: then what is under way is still answered.
	over    context.Context
	finish  context.CancelCauseFunc
	lost    chan struct{}
	changed chan struct{} // there is news for the laptop

	requests, connections, byApp, missed, mirrored, dropped, unread atomic.Int64
	copying                                                         atomic.Int64 // mirrored requests under way

	mu     sync.Mutex
	last   time.Time     // a sign of life came
	silent chan struct{} // closed while there is none
	past   Counters      // as the laptop has said: see Status
	age    time.Duration // when it began, the same
	state  State
	timer  *time.Timer
	// While it is engaging for the first time, its laptop, which waits for the outcome,
	// gives no signs of life. Of a rule that replaces the app, holding says that it
	// keeps the process stopped, done that it never will again.
	engaging, holding, done bool
}

func (h *Host) newLease(r Rule, doors []*Door, sess *stream.Session) *lease {
	l := &lease{
		host: h, doors: doors, rule: r, sess: sess, since: time.Now(), engaging: true,
		lost: make(chan struct{}), changed: make(chan struct{}, 1), silent: make(chan struct{}),
		state: Active,
	}
	l.over, l.finish = context.WithCancelCause(context.Background())
	l.last = l.since
	l.mu.Lock() // the timer may be over at once
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(h.suspend(), l.check)
	return l
}

// beat is a sign of life, with what the laptop says of the past.
func (l *lease) beat(past Counters) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.past = past
	if l.state == Gone {
		return
	}
	l.last = time.Now()
	if l.state == Suspended {
		l.state, l.silent = Active, make(chan struct{})
		l.host.logger().Info("intercept is active again", "rule", l.rule.ID, "owner", l.rule.Owner)
	}
	l.timer.Reset(l.host.suspend())
	l.tell()
}

// check is called when a sign of life may be overdue.
func (l *lease) check() {
	l.mu.Lock()
	quiet := time.Since(l.last)
	switch {
	case l.state == Gone:
	case l.engaging:
		l.timer.Reset(l.host.suspend())
	case quiet >= l.host.expire():
		l.mu.Unlock()
		l.end(errSilent)
		return
	case quiet < l.host.suspend():
		l.timer.Reset(l.host.suspend() - quiet)
	case l.state == Active:
		l.release()
		l.state = Suspended
		close(l.silent)
		l.tell()
		l.host.logger().Info("intercept is suspended: its laptop is silent", "rule", l.rule.ID, "owner", l.rule.Owner)
		fallthrough
	default:
		l.timer.Reset(l.host.expire() - quiet)
	}
	l.mu.Unlock()
}

// end takes the rule out of the way. Who learns that the lease is over does not find
// the rule any more.
func (l *lease) end(why error) {
	l.mu.Lock()
	l.release()
	l.done = true
	l.mu.Unlock()
	l.host.remove(l)
	if err := l.host.settle(); err != nil {
		l.host.logger().Warn("requests still come to the agent, which passes them on", "err", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == Gone {
		return
	}
	if !errors.Is(why, errLeft) {
		if l.state == Active {
			close(l.silent)
		}
		close(l.lost)
	}
	l.state = Gone
	l.timer.Stop()
	l.finish(why)
	l.host.logger().Info("intercept has ended", "rule", l.rule.ID, "owner", l.rule.Owner, "why", why)
}

func (l *lease) tell() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// quiet returns what is closed when the laptop falls silent.
func (l *lease) quiet() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.silent
}

// absent says why the laptop can't answer, "" if it can.
func (l *lease) absent() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.state {
	case Active:
		return ""
	case Gone:
		return fmt.Sprintf("%s is gone", l.rule.Owner)
	}
	return fmt.Sprintf("%s has been silent for %.0f s", l.rule.Owner, time.Since(l.last).Seconds())
}

// left says whether the owner took the rule back. What was about to go to the laptop
// then is as though the rule had never been.
func (l *lease) left() bool { return errors.Is(context.Cause(l.over), errLeft) }

// leases are those of which nobody has answered a request.
type leases []*lease

// byApp counts that the app does.
func (all leases) byApp() {
	for _, l := range all {
		l.byApp.Add(1)
	}
}

// missed counts that nobody can.
func (all leases) missed() {
	for _, l := range all {
		l.missed.Add(1)
	}
}

func (l *lease) status() Status {
	s := Status{Rule: l.rule, Direct: l.sess.State().Direct, Counters: Counters{
		Requests: l.requests.Load(), Connections: l.connections.Load(), ByApp: l.byApp.Load(), Lost: l.missed.Load(),
		Mirrored: l.mirrored.Load(), Dropped: l.dropped.Load(), Unread: l.unread.Load(),
	}}
	for _, d := range l.doors {
		s.Counters.Old += d.unsteered(l.since)
	}
	s.Why = l.absent()
	l.mu.Lock()
	s.State, s.Past, s.Since = l.state, l.past, l.since.Add(-l.age)
	l.mu.Unlock()
	if s.State == Gone {
		s.Why = context.Cause(l.over).Error()
	}
	return s
}

// open opens a connection to the laptop, for the port of info or else that of the
// rule. Whether its handler is there is the first that is heard on it.
func (l *lease) open(ctx context.Context, info Info) (*upstream, error) {
	info.ID, info.Port = l.rule.ID, cmp.Or(info.Port, l.rule.Port)
	text, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.host.suspend())
	defer cancel()
	st, err := l.sess.Open(ctx, append([]byte(HeaderIn), text...))
	if err != nil {
		return nil, fmt.Errorf("open a stream to %s: %w", l.rule.Owner, err)
	}
	return &upstream{source: source{conn: st}, lease: l}, nil
}

// failure is why the laptop did not answer, before anything of an answer has
// reached the client.
type failure struct {
	why    string
	unseen bool // the laptop's handler has seen nothing of the request
}

func (f *failure) Error() string { return f.why }

// greeted reads, after something has come from the laptop, whether its handler is
// there. The reason for its absence comes in one piece. It is called until u.taken or
// it fails.
func (u *upstream) greeted() error {
	if u.err != nil && len(u.bytes()) == 0 {
		return &failure{fmt.Sprintf("%s has not answered: %v", u.lease.rule.Owner, ended(u.err)), false}
	}
	if len(u.bytes()) == 0 {
		return nil
	}
	switch u.bytes()[0] {
	case byteTaken:
		u.taken = true
		u.skip(1)
		return nil
	case byteRefused:
		why := string(u.bytes()[1:min(len(u.bytes()), 1<<10)])
		return &failure{fmt.Sprintf("%s: %s", u.lease.rule.Owner, why), true}
	}
	return &failure{u.lease.rule.Owner + " does not keep to the protocol", true}
}

// ended is an error that says something when a connection was just closed.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the connection was closed")
	}
	return err
}

// await waits for the handler at the laptop, for as long as that is not silent.
func (u *upstream) await(ctx context.Context) error {
	for !u.taken {
		select {
		case <-u.watch():
			u.heard()
			if err := u.greeted(); err != nil {
				return err
			}
		case <-u.lease.quiet():
			return &failure{fmt.Sprintf("%s is silent", u.lease.rule.Owner), true}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
