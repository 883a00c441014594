package bridge

import (
	"context"
	"net/netip"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/internal/bridge/jail"
	"github.com/bightdev/bight/internal/kube/follow"
)

// watchServices tells a jail which ports the cluster's Services have, so that others
// are refused as they are in a pod. Whoever may not see all of them does without:
// what is not there is reset then instead of refused. also are ports that there are besides.
// learn is told where the addresses of Services are.
func (b *Bridge) watchServices(ctx context.Context, j *jail.Jail, also []netip.AddrPort, learn func([]netip.Prefix)) error {
	client, err := b.Cluster.Typed()
	if err != nil {
		return err
	}
	ranges := serviceRanges(ctx, client)
	if len(ranges) == 0 {
		b.Log.Debug("the service range is not known")
		return nil
	}
	learn(ranges)
	known := map[string]*core.Service{}
	source := follow.Of(client.CoreV1().Services(""), meta.ListOptions{})
	for ctx.Err() == nil {
		err := source.Changes(ctx, "", func(c follow.Change) error {
			take(known, c)
			now := services(ranges, known)
			now.TCP = append(now.TCP, also...)
			if err := j.SetServices(now); err != nil && ctx.Err() == nil {
				b.Log.Debug("ports of Services are not told", "error", err)
			}
			return nil
		})
		if ctx.Err() != nil {
			return nil
		}
		// What is not known any more must not be refused.
		_ = j.SetServices(jail.Services{TCP: also})
		if apierrors.IsForbidden(err) {
			return nil
		}
		b.Log.Debug("Services are not followed", "error", err)
		pause(ctx)
	}
	return nil
}

// take takes in a change of the cluster's Services.
func take(known map[string]*core.Service, c follow.Change) {
	if c.Event == "" {
		clear(known)
		for _, object := range c.All {
			s := object.(*core.Service)
			known[s.Namespace+"/"+s.Name] = s
		}
		return
	}
	s, ok := c.Object.(*core.Service)
	switch {
	case !ok:
	case c.Event == watch.Deleted:
		delete(known, s.Namespace+"/"+s.Name)
	default:
		known[s.Namespace+"/"+s.Name] = s
	}
}

func pause(ctx context.Context) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
}

// serviceRanges returns where ClusterIPs come from, nothing where that can't be seen.
func serviceRanges(ctx context.Context, client kubernetes.Interface) []netip.Prefix {
	list, err := client.NetworkingV1().ServiceCIDRs().List(ctx, meta.ListOptions{})
	if err != nil {
		return nil
	}
	var ranges []netip.Prefix
	for _, s := range list.Items {
		for _, text := range s.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				ranges = append(ranges, p)
			}
		}
	}
	return ranges
}

// services are the addresses and ports of Services.
func services(ranges []netip.Prefix, known map[string]*core.Service) jail.Services {
	out := jail.Services{Ranges: ranges}
	for _, s := range known {
		for _, ip := range s.Spec.ClusterIPs {
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				continue // "None"
			}
			for _, p := range s.Spec.Ports {
				at := netip.AddrPortFrom(addr, uint16(p.Port))
				switch p.Protocol {
				case core.ProtocolTCP:
					out.TCP = append(out.TCP, at)
				case core.ProtocolUDP:
					out.UDP = append(out.UDP, at)
				}
			}
		}
	}
	return out
}
