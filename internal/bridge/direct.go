package bridge

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	core "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/stream"
	"github.com/bightdev/bight/internal/stream/direct"
)

// dialer opens a transport of a session.
type dialer = func(context.Context) (io.ReadWriteCloser, error)

// direct returns what finds the way to a pod's own address, nil where this machine
// was not told that it can reach those. Only the port is the agent's word: the address
// is the API server's, so that no agent can have this machine connect to others.
func (b *Bridge) direct(pod *core.Pod) func(context.Context, *stream.Session) (dialer, error) {
	if b.Cluster.Pods == nil {
		return nil
	}
	return func(ctx context.Context, sess *stream.Session) (dialer, error) {
		address, err := netip.ParseAddr(pod.Status.PodIP)
		if err != nil {
			return nil, stream.Permanent(fmt.Errorf("address of pod %s: %w", pod.Name, err))
		}
		offer, err := direct.Ask(ctx, sess, address)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (io.ReadWriteCloser, error) {
			raw, err := b.Cluster.Pods(ctx, netip.AddrPortFrom(address, uint16(offer.Port)))
			if err != nil {
				return nil, err
			}
			return offer.Open(ctx, raw)
		}, nil
	}
}
