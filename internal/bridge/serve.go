package bridge

import (
	"context"
	"net"
	"strconv"

	"github.com/bightdev/bight/internal/bridge/proxy"
	"github.com/bightdev/bight/internal/reach"
	"github.com/bightdev/bight/internal/steer"
)

// Intercept leads requests to a port of this machine until ctx ends, which is no
// error. tell is called once it is in force in all pods.
func (b *Bridge) Intercept(ctx context.Context, rule steer.Rule, local int, tell func(text string)) error {
	if err := b.check(rule.Service); err != nil {
		return err
	}
	c, err := b.cover(ctx, rule, func(ctx context.Context, _ steer.Info) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(local)))
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer c.leave()
	tell(active(c, rule))
	<-ctx.Done()
	return nil
}

// Proxy serves SOCKS5 and HTTP on a listener, with the cluster's network behind it,
// until ctx ends.
func (b *Bridge) Proxy(ctx context.Context, service string, ln net.Listener) error {
	if err := b.check(service); err != nil {
		return err
	}
	w, err := b.way(ctx, service)
	if err != nil {
		return err
	}
	defer w.close()
	dialer := &reach.Dialer{Open: w}
	return (&proxy.Server{Dial: dialer.DialContext, Log: b.Log}).Serve(ctx, ln)
}
