package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

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
	rule   steer.Rule
	say    func(text string)
	dial   func(context.Context) (net.Conn, error)
	failed chan struct{} // a request has found nobody
}

// listener watches a port of this machine.
func (b *Bridge) listener(port int, rule steer.Rule, say func(string)) *listener {
	return &listener{
		port: port, rule: rule, say: say, failed: make(chan struct{}, 1),
		dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		},
	}
}

// handle connects a request, and takes note when nobody answers.
func (l *listener) handle(ctx context.Context, _ steer.Info) (net.Conn, error) {
	conn, err := l.dial(ctx)
	if refused(err) {
		select {
		case l.failed <- struct{}{}:
		default: // it is known already
		}
	}
	return conn, err
}

// run looks for the process at once, and again when a request has not found it. While
// it is away, it looks every second, until ctx ends. It never connects to a process
// that is known to be there.
func (l *listener) run(ctx context.Context) {
	away := !l.answers(ctx)
	if away {
		l.say(fmt.Sprintf("nothing listens on port %d of this machine yet: %s until something does", l.port, l.meanwhile()))
	}
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.failed:
			if !away && !l.answers(ctx) && ctx.Err() == nil {
				away = true
				l.say(fmt.Sprintf("a request came, and nothing listens on port %d of this machine any more: %s until something does", l.port, l.meanwhile()))
			}
		case <-again.C:
			if away && l.answers(ctx) {
				away = false
				l.say(fmt.Sprintf("port %d of this machine answers now", l.port))
			}
		}
	}
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
