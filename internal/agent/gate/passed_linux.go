package gate

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
	"weak"

	"github.com/bightdev/bight/internal/procnet"
)

// countAgain is how old a count of connections may be while there are some from before
// the door, and countRarely while there are none: none will be, for as long as it is
// engaged. Each count has the kernel go through the connections of the whole node.
const countAgain, countRarely = 500 * time.Millisecond, 5 * time.Second

// passed knows which of the pod's connections have come through the door, by the
// numbers of their sockets.
type passed struct {
	mu     sync.Mutex
	inodes map[uint64]time.Time // when they were accepted
	old    map[int]int64        // connections of the app that have not, by port
	as     time.Time            // when that was
	due    time.Time            // what was counted before that is of no use
	// conns are the connections, as long as anybody has them. When there are as many as few, those
	// are forgotten that nobody has.
	conns map[weak.Pointer[net.TCPConn]]bool
	few   int
}

// add takes note of a connection that the door has accepted.
func (p *passed) add(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return // it is closed
	}
	var st syscall.Stat_t
	if raw.Control(func(fd uintptr) { err = syscall.Fstat(int(fd), &st) }) != nil || err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inodes == nil {
		p.inodes, p.conns = map[uint64]time.Time{}, map[weak.Pointer[net.TCPConn]]bool{}
	}
	p.inodes[st.Ino] = time.Now()
	if tcp, ok := c.(*net.TCPConn); ok {
		if p.conns[weak.Make(tcp)] = true; len(p.conns) > p.few {
			maps.DeleteFunc(p.conns, func(c weak.Pointer[net.TCPConn], _ bool) bool { return c.Value() == nil })
			p.few = 2*len(p.conns) + 64
		}
	}
}

// sever resets all connections that have come through the door. It waits for nothing else that
// is about to end with them.
func (p *passed) sever() {
	p.mu.Lock()
	var all []*net.TCPConn
	for c := range p.conns {
		if tcp := c.Value(); tcp != nil {
			all = append(all, tcp)
		}
	}
	p.mu.Unlock()
	var closing sync.WaitGroup
	for _, c := range all {
		closing.Go(func() {
			_ = c.SetLinger(0) // it may be closed
			_ = c.Close()
		})
	}
	closing.Wait()
}

// count counts the connections to the app by port, leaving out those from the pod
// itself and from exempt sources, and forgets sockets that are no more. all is what
// there was since then.
func (p *passed) count(all []procnet.Socket, then time.Time, own []netip.Addr, exempt func(from netip.Addr, port uint16) bool) {
	old, present := map[int]int64{}, map[uint64]bool{}
	for _, s := range all {
		from := s.Remote.Addr()
		present[s.Inode] = true
		switch _, ours := p.inodes[s.Inode]; {
		case ours, s.Inode == 0, from.IsLoopback(), slices.Contains(own, from),
			exempt(from, s.Local.Port()):
		default:
			old[int(s.Local.Port())]++
		}
	}
	maps.DeleteFunc(p.inodes, func(inode uint64, added time.Time) bool { return !present[inode] && added.Before(then) })
	if then.After(p.as) && !then.Before(p.due) { // another may have been faster
		p.old, p.as = old, then
	}
}

// recount has the next question answered by a count that begins after this.
func (p *passed) recount() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.as, p.due = time.Time{}, time.Now()
}

// older counts the connections to a port that were there before the door took those
// to it.
func (g *Gate) older(port int) int64 {
	p := &g.passed
	p.mu.Lock()
	now := time.Now()
	old, enough := p.old[port], countAgain
	if old == 0 {
		enough = countRarely
	}
	fresh := now.Sub(p.as) < enough
	p.mu.Unlock()
	if fresh {
		return old
	}
	ctx, cancel := context.WithTimeout(g.life, steerTime)
	defer cancel()
	own, err := g.ns.Addrs(ctx)
	var all []procnet.Socket
	if err == nil {
		all, err = g.ns.Established(ctx)
	}
	if err != nil {
		g.o.Log.Debug("connections from before are not counted", "service", g.o.Service, "err", err)
		return old
	}
	p.mu.Lock() // not before: what has just been accepted is known by now
	defer p.mu.Unlock()
	p.count(all, now, own, g.o.exempts)
	return p.old[port]
}
