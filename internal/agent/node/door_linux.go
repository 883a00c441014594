package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Options are the settings of a door.
type Options struct {
	// Exempt are sources whose connections always go to the app: the node's own
	// addresses, which kubelet's probes come from. Connections that the node
	// forwards with its address in place of the client's are not told apart from
	// probes.
	Exempt []netip.Prefix
	// ExemptPorts are those that Exempt is about; none are all.
	ExemptPorts []uint16
	// Linger is for how long Shutdown goes on accepting after the last rule is
	// gone, since connections may be half open: 1 s.
	Linger time.Duration
	Log    *slog.Logger

	unowned bool // as on kernels that don't know owned tables
}

// Door is a listener in a pod's network namespace to which the pod's connections
// come while it is engaged. It is a net.Listener; the local address of what it
// accepts is what the client has dialled. To reach the app, dial that address
// with Netns.Dial.
//
// Connections that were accepted stay with whoever accepted them, also after
// Disengage and Close.
type Door struct {
	o         Options
	ns        *Netns
	listeners []*listener
	incoming  chan accepted
	closed    chan struct{}
	accepting sync.WaitGroup
	once      sync.Once // of Close

	mu       sync.Mutex
	table    *table // nil once closed, and while it is let go of
	closing  bool   // no table is opened any more
	ports    []uint16
	released time.Time // when the last ports were
}

type accepted struct {
	conn net.Conn
	err  error
}

// OpenDoor makes a door that is not engaged yet. The namespace stays the
// caller's, and open for as long as the door. A pod has one door at a time:
// while a living process has one, the error is ErrHeld. In a process's own
// namespace, where there may be several such processes, it is one that is engaged
// at a time: Engage fails with ErrHeld, too.
func OpenDoor(ctx context.Context, ns *Netns, o Options) (*Door, error) {
	if o.Linger == 0 {
		o.Linger = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if i := slices.IndexFunc(o.Exempt, func(p netip.Prefix) bool { return !p.IsValid() || p.Addr().Is4In6() }); i >= 0 {
		return nil, fmt.Errorf("open a door: source %d that is exempt, %v, is no network", i+1, o.Exempt[i])
	}
	d := &Door{o: o, ns: ns, incoming: make(chan accepted), closed: make(chan struct{})}
	own, err := ns.Addrs(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a door: %w", err)
	}
	if d.table, err = d.openTable(ctx); err != nil {
		return nil, fmt.Errorf("open a door: %w", err)
	}
	if err := d.listen(ctx, own); err != nil {
		d.stop()
		return nil, fmt.Errorf("open a door: %w", errors.Join(err, d.table.close()))
	}
	for _, l := range d.listeners {
		d.accepting.Go(func() { d.accept(l) })
	}
	return d, nil
}

// openTable opens the door's table. In the own namespace the process that holds it may
// be one of ours that is about to end: it is given a moment.
func (d *Door) openTable(ctx context.Context) (*table, error) {
	const moment, pause = 3 * time.Second, 50 * time.Millisecond
	flags := uint32(tableOwned)
	if d.o.unowned {
		flags = 0
	}
	for deadline := time.Now().Add(moment); ; {
		t, err := openTable(d.ns, flags)
		if !d.ns.own || !errors.Is(err, ErrHeld) || time.Now().After(deadline) {
			return t, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// listen listens for the address families that the pod has.
func (d *Door) listen(ctx context.Context, own []netip.Addr) error {
	for _, p := range places() {
		if !slices.ContainsFunc(own, func(a netip.Addr) bool { return a.Is4() == p.address.Is4() }) {
			continue
		}
		l, err := p.listen(ctx, d.ns)
		if err != nil {
			return err
		}
		d.listeners = append(d.listeners, l)
	}
	if len(d.listeners) == 0 {
		return errors.New("the network namespace has no address; has the pod been set up?")
	}
	return nil
}

func (d *Door) accept(l *listener) {
	for {
		conn, err := l.accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case d.incoming <- accepted{conn, err}:
		case <-d.closed:
			if conn != nil {
				conn.Close()
			}
			return
		}
	}
}

// Engage brings new connections to these TCP ports of the pod's own addresses to
// the door, in place of the ports before. Connections that exist stay where they
// are.
func (d *Door) Engage(ctx context.Context, ports ...uint16) error {
	if len(ports) == 0 || slices.Contains(ports, 0) {
		return fmt.Errorf("engage ports %v: name one to 65535", ports)
	}
	ports = slices.Compact(slices.Sorted(slices.Values(ports)))
	own, err := d.ns.Addrs(ctx)
	if err != nil {
		return fmt.Errorf("engage ports %v: %w", ports, err)
	}
	if err := d.set(ctx, ports, plan{addrs: own, ports: ports, exempt: d.o.Exempt, exemptPorts: d.o.ExemptPorts, doors: d.addrs()}); err != nil {
		return fmt.Errorf("engage ports %v: %w", ports, err)
	}
	return nil
}

// Disengage lets new connections go to the app. The door goes on accepting: a
// connection may have been half open.
func (d *Door) Disengage(ctx context.Context) error {
	if err := d.set(ctx, nil, plan{}); err != nil {
		return fmt.Errorf("disengage: %w", err)
	}
	return nil
}

func (d *Door) set(ctx context.Context, ports []uint16, p plan) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return net.ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(ports) == 0 && len(d.ports) == 0 {
		return d.letGo()
	}
	begun := time.Now()
	rules := p.rules()
	if len(ports) == 0 {
		rules = nil
	}
	if d.table == nil {
		var err error
		if d.table, err = d.openTable(ctx); err != nil {
			return err
		}
	}
	if err := d.table.set(rules); err != nil {
		return err
	}
	if d.ports = ports; len(ports) == 0 {
		d.released = time.Now()
		if err := d.letGo(); err != nil {
			return err
		}
	}
	d.o.Log.Info("steering changed", "ports", ports, "took", time.Since(begun))
	return nil
}

// letGo gives the own namespace's table up, which another process may want. The lock
// is held.
func (d *Door) letGo() error {
	if !d.ns.own || d.table == nil {
		return nil
	}
	t := d.table
	d.table = nil
	return t.close()
}

// Ports returns the ports that are engaged.
func (d *Door) Ports() []uint16 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.ports)
}

func (d *Door) addrs() []netip.AddrPort {
	var all []netip.AddrPort
	for _, l := range d.listeners {
		all = append(all, l.addr)
	}
	return all
}

// Accept implements net.Listener.
func (d *Door) Accept() (net.Conn, error) {
	select {
	case a := <-d.incoming:
		return a.conn, a.err
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener. It is the address of the door's own socket,
// which nobody can dial.
func (d *Door) Addr() net.Addr { return net.TCPAddrFromAddrPort(d.listeners[0].addr) }

// Shutdown lets new connections go to the app, lets Accept return those that
// were on their way to the door (for Options.Linger after it was engaged last, or
// until ctx ends) and closes the door. No connection fails that Accept is called
// for in that time.
func (d *Door) Shutdown(ctx context.Context) error {
	err := d.Disengage(context.WithoutCancel(ctx)) // also if ctx leaves no time for more
	d.mu.Lock()
	left := time.Until(d.released.Add(d.o.Linger))
	d.mu.Unlock()
	if left > 0 && err == nil {
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return errors.Join(err, d.Close())
}

// Close implements net.Listener: it removes the rules and closes the door at
// once. A connection on its way to the door is reset; Shutdown avoids that.
func (d *Door) Close() error {
	var err error
	d.once.Do(func() {
		d.mu.Lock()
		t := d.table
		d.table, d.ports, d.closing = nil, nil, true
		d.mu.Unlock()
		if t != nil {
			err = t.close() // first of all, so that new connections have somewhere to go
		}
		close(d.closed)
		d.stop()
	})
	if err != nil {
		return fmt.Errorf("close the door: %w", err)
	}
	return nil
}

// stop closes the listeners and waits for their goroutines.
func (d *Door) stop() {
	for _, l := range d.listeners {
		l.close()
	}
	d.accepting.Wait()
}
