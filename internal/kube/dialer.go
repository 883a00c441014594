package kube

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// DialPod connects to a port of a pod through the API server. It needs the
// right to create pods/portforward and nothing else. Whether anybody listens
// turns out with the first Read or Write: a [*PortError].
func (c *Cluster) DialPod(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	conn, err := c.openTunnel(ctx, namespace, pod)
	if err != nil {
		return nil, err
	}
	if err := conn.start(ctx, port, false); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// PodDialer dials ports of one pod, many times. A port-forward has no flow
// control of its own: one reader that stops holds up every other connection on
// it. So each connection has a port-forward to itself, and the dialer keeps a
// spare one at hand, which makes dialling as fast as a shared one would.
type PodDialer struct {
	cluster        *Cluster
	namespace, pod string
	ctx            context.Context
	cancel         context.CancelFunc
	spare          chan *podConn // holds one at most
	tasks          sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// NewPodDialer returns a dialer for a pod. The caller closes it; connections
// live on.
func NewPodDialer(c *Cluster, namespace, pod string) *PodDialer {
	ctx, cancel := context.WithCancel(context.Background())
	return &PodDialer{
		cluster: c, namespace: namespace, pod: pod,
		ctx: ctx, cancel: cancel, spare: make(chan *podConn, 1),
	}
}

// Dial connects to a port of the pod, as [Cluster.DialPod] does.
func (d *PodDialer) Dial(ctx context.Context, port int) (net.Conn, error) {
	select {
	case conn := <-d.spare:
		err := conn.start(ctx, port, true)
		if err == nil {
			d.prepare()
			return conn, nil
		}
		_ = conn.Close() // it broke while nobody looked
		if ctx.Err() != nil {
			return nil, err
		}
	default:
	}
	if d.ctx.Err() != nil {
		return nil, fmt.Errorf("forward to pod %s/%s: %w", d.namespace, d.pod, net.ErrClosed)
	}
	conn, err := d.cluster.DialPod(ctx, d.namespace, d.pod, port)
	if err == nil {
		d.prepare()
	}
	return conn, err
}

// prepare opens the next spare in the background.
func (d *PodDialer) prepare() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.spare) > 0 {
		return
	}
	d.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(d.ctx, 10*time.Second)
		defer cancel()
		conn, err := d.cluster.openTunnel(ctx, d.namespace, d.pod)
		if err != nil {
			return // the next Dial will say why
		}
		select {
		case d.spare <- conn:
		default:
			_ = conn.Close()
		}
	})
}

// Close gives the spare up.
func (d *PodDialer) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.tasks.Wait()
	select {
	case conn := <-d.spare:
		_ = conn.Close()
	default:
	}
	return nil
}
