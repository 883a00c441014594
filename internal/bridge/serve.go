package bridge

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/bridge/proxy"
	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/steer"
)

// Who replaces a service is given time to listen, since nobody else answers.
const (
	patience  = 10 * time.Second
	dialPause = 20 * time.Millisecond
)

// patient makes a handler try for a while to connect, if rules of a mode want that.
func patient(mode steer.Mode, dial steer.Handler) steer.Handler {
	if mode != steer.Replace {
		return dial
	}
	return func(ctx context.Context, info steer.Info) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		for {
			conn, err := dial(ctx, info)
			if err == nil {
				return conn, nil
			}
			select {
			case <-time.After(dialPause):
			case <-ctx.Done():
				return nil, err
			}
		}
	}
}

// Intercept leads requests to a port of this machine until ctx ends, which is no
// error, or until somebody takes the right to it away. tell hears when it is in force in
// all pods, and whether anything listens on the port; it may be called from several
// goroutines.
func (b *Bridge) Intercept(ctx context.Context, rule steer.Rule, local int, tell func(text string)) error {
	if err := b.check(rule.Service); err != nil {
		return err
	}
	context.AfterFunc(ctx, b.losses().end)
	l := b.listener(local, rule, tell)
	if local != 0 {
		var watching sync.WaitGroup
		beside, stop := context.WithCancel(ctx)
		defer watching.Wait()
		defer stop()
		watching.Go(func() { l.run(beside) })
	}
	handler := patient(rule.Mode, l.handle)
	c, err := b.cover(ctx, rule, func(ctx context.Context, info steer.Info) (net.Conn, error) {
		if info.Port != rule.Port { // of a service that is replaced
			return nil, fmt.Errorf("only port %d of %s is led here", rule.Port, rule.Service)
		}
		return handler(ctx, info)
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer c.leave()
	tell(active(c, rule))
	select {
	case <-ctx.Done():
		return nil
	case <-c.revoked:
		return c.failure()
	}
}

// Proxy serves SOCKS5 and HTTP on a listener, with the cluster's network behind it,
// until ctx ends. With a service, loopback ports lead to what that one's variables
// name, and variables is told how these read here.
func (b *Bridge) Proxy(ctx context.Context, service string, ln net.Listener, variables func([]reach.Variable) error) error {
	if err := b.check(service); err != nil {
		return err
	}
	context.AfterFunc(ctx, b.losses().end)
	w, err := b.way(ctx, service)
	if err != nil {
		return err
	}
	defer w.close()
	ctx, stop := context.WithCancel(ctx)
	l := b.locals(ctx, w)
	defer func() { stop(); l.close() }()
	if service != "" {
		pod, err := reach.GetPod(ctx, w)
		if err != nil {
			return fmt.Errorf("ask pod %s what its process was given: %w", w.through(), err)
		}
		if err := variables(l.rewritten(ctx, pod.Env)); err != nil {
			return err
		}
	}
	return (&proxy.Server{Dial: l.dial, Log: b.Log}).Serve(ctx, ln)
}
