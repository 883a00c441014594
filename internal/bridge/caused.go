package bridge

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/bightdev/bight/internal/bridge/propagate"
	"github.com/bightdev/bight/internal/steer"
)

// caused marks the requests that a command sends because of one that was steered to
// it. The zero value leaves them as they are.
type caused struct {
	by     *propagate.Propagator // nil for none
	ranges atomic.Pointer[[]netip.Prefix]
}

// mark begins to mark, if an order has a rule with a header, and says so.
func (c *caused) mark(o Order, say func(string)) {
	if o.Rule == nil || o.Unmarked || len(o.Rule.Match.Headers) == 0 {
		return
	}
	key, ok := propagate.KeyOf(o.Rule.Match)
	if !ok {
		say(fmt.Sprintf("what the command sends on does not get %s, which must not be in other requests", o.Rule.Match))
		return
	}
	c.by = &propagate.Propagator{Key: key, Inside: c.inside}
	say(fmt.Sprintf("what the command asks of other services for such a request gets %s, too (--no-propagate leaves it as it is)", key))
}

// learn is told where the addresses of Services are.
func (c *caused) learn(ranges []netip.Prefix) { c.ranges.Store(&ranges) }

// carriers are addresses that no machine of the internet has, as pods often have
// them: the shared space of RFC 6598.
func carriers() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) }

// inside says whether an address may be one of the cluster's: not one of the
// internet, or known to be a Service's.
func (c *caused) inside(to netip.AddrPort) bool {
	addr := to.Addr().Unmap()
	if addr.IsPrivate() || carriers().Contains(addr) {
		return true
	}
	ranges := c.ranges.Load()
	return ranges != nil && slices.ContainsFunc(*ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// handler takes note of the requests that a handler gets.
func (c *caused) handler(h steer.Handler) steer.Handler {
	if c.by == nil {
		return h
	}
	return func(ctx context.Context, info steer.Info) (net.Conn, error) {
		nc, err := h(ctx, info)
		if err != nil {
			return nil, err
		}
		return c.by.Serving(nc, info.Kind), nil
	}
}

// dial is how a command connects.
type dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)

// dial marks what is sent on connections.
func (c *caused) dial(d dial) dial {
	if c.by == nil {
		return d
	}
	return func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		nc, err := d(ctx, network, to)
		if err != nil {
			return nil, err
		}
		return c.by.Calling(nc, to), nil
	}
}
