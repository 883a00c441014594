package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bightdev/bight/internal/bridge/jail"
	"github.com/bightdev/bight/internal/steer"
)

const (
	lookAgain = time.Second            // for a process here that begins to listen
	lookLimit = 300 * time.Millisecond // for a connection to this machine
)

// listener is the process here that intercepted requests are for, as far as it answers.
// Its run tells the user when nothing listens, and when something does.
type listener struct {
	port   int
	of     string // whose port it is
	rule   steer.Rule
	say    func(text string)
	dial   func(context.Context) (net.Conn, error)
	failed chan struct{} // a request has found nobody
	met    atomic.Bool   // somebody has answered

	// starts says that the process is being started: nobody is told of it before a
	// request has come and it has had a second more.
	starts bool
	// others returns the ports on which the process listens, as far as they are known.
	others func() []uint16
}

// listener watches a port of this machine.
func (b *Bridge) listener(port int, rule steer.Rule, say func(string)) *listener {
	return &listener{
		port: port, of: "this machine", rule: rule, say: say, failed: make(chan struct{}, 1),
		dial: func(ctx context.Context) (net.Conn, error) { return jail.DialMachine(ctx, "tcp", uint16(port)) },
	}
}

// starting is the listener of a command that is about to be started, nil where a rule has
// no port of its own to watch.
func (b *Bridge) starting(rule steer.Rule) *listener {
	if rule.Mode == steer.Replace {
		return nil
	}
	l := b.listener(rule.Port, rule, b.Say)
	l.of, l.starts = "the command", true
	return l
}

// watch runs l for a command that has been started, until the function is called that it
// returns.
func (l *listener) watch(ctx context.Context, dial inside, others func() []uint16) (stop func()) {
	if l == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	l.dial = func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", uint16(l.port)) }
	l.others = others
	var watching sync.WaitGroup
	watching.Go(func() { l.run(ctx) })
	return func() { cancel(); watching.Wait() }
}

// handle connects a request, and takes note when nobody answers.
func (l *listener) handle(ctx context.Context, _ steer.Info) (net.Conn, error) {
	conn, err := l.dial(ctx)
	l.note(err)
	return conn, err
}

// noting is a handler of which l takes note, too.
func (l *listener) noting(h steer.Handler) steer.Handler {
	if l == nil {
		return h
	}
	return func(ctx context.Context, info steer.Info) (net.Conn, error) {
		conn, err := h(ctx, info)
		l.note(err)
		return conn, err
	}
}

func (l *listener) note(err error) {
	switch {
	case err == nil:
		l.met.Store(true)
	case refused(err):
		select {
		case l.failed <- struct{}{}:
		default: // it is known already
		}
	}
}

// run looks for the process at once, and again when a request has not found it. While
// it is away, it looks every second, until ctx ends. It never connects to a process
// that is known to be there.
func (l *listener) run(ctx context.Context) {
	away := !l.starts && !l.answers(ctx)
	if away {
		l.say(fmt.Sprintf("nothing listens on port %d of %s yet: %s until something does", l.port, l.of, l.meanwhile()))
	}
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	missed, doubted := l.failed, (<-chan time.Time)(nil)
	for {
		select {
		case <-ctx.Done():
			return
		case <-missed:
			if l.starts {
				missed, doubted = nil, time.After(lookAgain)
				continue
			}
			away = l.misses(ctx, away)
		case <-doubted:
			missed, doubted = l.failed, nil
			away = l.misses(ctx, away)
		case <-again.C:
			if away && l.answers(ctx) {
				away = false
				l.say(fmt.Sprintf("port %d of %s answers now", l.port, l.of))
			}
		}
	}
}

// misses looks for the process after a request that has not found it, and tells the user
// when it is not there. away says that he knows; so does what it returns.
func (l *listener) misses(ctx context.Context, away bool) bool {
	if away || l.answers(ctx) || ctx.Err() != nil {
		return away
	}
	since, where := "yet", ""
	if l.met.Load() {
		since = "any more"
	}
	if l.others != nil {
		where = instead(l.others())
	}
	l.say(fmt.Sprintf("a request came, and nothing listens on port %d of %s %s%s: %s until something does", l.port, l.of, since, where, l.meanwhile()))
	return true
}

// instead says on which ports something listens.
func instead(ports []uint16) string {
	const most = 4 // of a list that a person reads
	var names []string
	for i, p := range ports {
		if i == most {
			names = append(names, "...")
			break
		}
		names = append(names, strconv.Itoa(int(p)))
	}
	if len(names) == 0 {
		return ""
	}
	return " (it listens on " + strings.Join(names, ", ") + ")"
}

// meanwhile says what becomes of requests that nobody here answers.
func (l *listener) meanwhile() string {
	switch {
	case l.rule.Mode == steer.Mirror:
		return "copies of requests are dropped"
	case l.rule.Mode == steer.Replace:
		return fmt.Sprintf("requests wait for %s and then fail", patience)
	case l.rule.Strict:
		return "requests are answered with 502 (--strict)"
	}
	return "the app answers the requests"
}

func (l *listener) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	conn, err := l.dial(ctx)
	if err == nil {
		l.met.Store(true)
		_ = conn.Close()
	}
	return !refused(err)
}

// refused reports whether a connection to this machine has failed for want of somebody
// who listens, however the system puts that. One that only took too long has not.
func refused(err error) bool {
	var slow net.Error
	return err != nil && !errors.Is(err, context.Canceled) && !(errors.As(err, &slow) && slow.Timeout())
}
