package forward

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/bightdev/bight/internal/app"
)

const (
	// rawTapeLimit is how much of what a client sends first is kept until the
	// service has said something.
	rawTapeLimit = 64 << 10
	// acceptPause is after an Accept that failed, for want of file descriptors say.
	acceptPause = 50 * time.Millisecond
)

// Address is where a raw port is on this machine.
type Address struct {
	Service     string
	Environment string
	Port        Port
	Local       string // "localhost:5432"
	Note        string // why it is not what one would expect, or ""
}

// raw is a local listener for one port of a service.
type raw struct {
	*loopback
	note string
}

// Addresses returns the raw ports' local addresses, in the order of the routes.
func (p *Proxy) Addresses() []Address {
	p.start()
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Address
	for _, r := range p.table.Load().routes {
		for _, port := range r.Ports {
			if l := p.raws[key{r.Environment, r.Service, port.Number}]; l != nil && isRaw(port) {
				local := net.JoinHostPort("localhost", strconv.Itoa(l.port))
				all = append(all, Address{r.Service, r.Environment, port, local, l.note})
			}
		}
	}
	return all
}

func isRaw(p Port) bool { return p.Protocol == app.TCP || p.Protocol == app.GRPC }

// updateRaw opens and closes listeners so that each raw port of t has one. It is
// called with p.mu held.
func (p *Proxy) updateRaw(t *table) (notes []string) {
	wanted := map[key]bool{}
	for _, r := range t.routes {
		for _, port := range r.Ports {
			k := key{r.Environment, r.Service, port.Number}
			if port.Protocol == app.UDP && !p.udp[k] {
				p.udp[k] = true
				notes = append(notes, fmt.Sprintf("%s: port %d/udp is not forwarded to this machine, because a port-forward carries TCP only: use it from inside the environment", r.Service, port.Number))
			}
			if !isRaw(port) {
				continue
			}
			wanted[k] = true
			if p.raws[k] != nil {
				continue
			}
			note, err := p.openRaw(k)
			switch {
			case err != nil:
				notes = append(notes, fmt.Sprintf("%s: port %d is not forwarded: %v", r.Service, port.Number, err))
			case note != "":
				notes = append(notes, note)
			}
		}
	}
	for k, r := range p.raws {
		if !wanted[k] {
			r.close()
			delete(p.raws, k)
		}
	}
	return notes
}

// openRaw listens for a raw port: on the number it had before, on its own number
// or on any, the first that is free.
func (p *Proxy) openRaw(k key) (note string, err error) {
	wanted := k.port
	if before := p.numbers[k]; before != 0 {
		wanted = before
	}
	l, err := listenLoopback(wanted)
	if err != nil {
		why := inWords(err)
		if l, err = listenLoopback(0); err != nil {
			return "", err
		}
		note = fmt.Sprintf("%s: port %d is %s, so it is at localhost:%d", k.service, wanted, why, l.port)
	}
	p.numbers[k] = l.port
	p.raws[k] = &raw{l, note}
	for _, ln := range l.listeners {
		p.tasks.Go(func() { p.accept(ln, k) })
	}
	return note, nil
}

// accept serves a listener until it is closed.
func (p *Proxy) accept(ln net.Listener, k key) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.Log.Warn("accept a connection", "service", k.service, "port", k.port, "err", err)
			select {
			case <-time.After(acceptPause):
				continue
			case <-p.ctx.Done():
				return
			}
		}
		if !p.track(c) {
			_ = c.Close()
			return
		}
		p.tasks.Go(func() { // within a task, so the count is not zero
			defer p.untrack(c)
			p.splice(c, k)
		})
	}
}

// splice connects a client to a service until both have ended.
func (p *Proxy) splice(client net.Conn, k key) {
	var tasks sync.WaitGroup
	err := p.exchange(client, k, &tasks)
	if err != nil {
		p.Log.Debug("connection ended", "service", k.service, "port", k.port, "err", err)
		if tcp, ok := client.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // the client is to see that it was cut off
		}
	}
	_ = client.Close() // ends the tasks
	tasks.Wait()
}

// exchange connects a client to the process that listens, as soon as one does.
func (p *Proxy) exchange(client net.Conn, k key, tasks *sync.WaitGroup) error {
	patience := p.patience()
	sent := newTape(client, rawTapeLimit)
	for {
		changed := p.watch()
		server, err := p.reach(k)
		if err == nil {
			err = relay(client, server, sent, tasks)
			if !server.refused.Load() || !sent.again() {
				return err
			}
		}
		more, stop := patience.wait(p.ctx, changed)
		if stop != nil {
			return stop
		}
		if !more {
			return &unreadyError{k.service, p.Hold, err}
		}
	}
}

func (p *Proxy) reach(k key) (*conn, error) {
	u := p.table.Load().upstreams[k]
	if u == nil {
		return nil, &goneError{k.service}
	}
	return u.dial(p.waits)
}

// relay copies both ways until both have ended. The copying of what the client
// sends is one of tasks: it may outlive a server that was not there.
func relay(client net.Conn, server *conn, sent *tape, tasks *sync.WaitGroup) error {
	defer server.Close()
	from, err := sent.next()
	if err != nil {
		return err
	}
	up := make(chan error, 1)
	tasks.Go(func() { up <- upload(server, from) })
	_, err = io.Copy(&first{client, sent.seal}, server)
	if err != nil {
		return err
	}
	if server.refused.Load() {
		return nil
	}
	if half, ok := client.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return nil // it has gone
		}
	}
	return <-up
}

// upload copies what the client sends, and its end.
func upload(server *conn, from io.ReadCloser) error {
	_, err := io.Copy(server, from)
	_ = from.Close()
	if err != nil {
		_ = server.Close() // ends the other direction
		return err
	}
	if err := server.CloseWrite(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// first calls a function before the first byte is written.
type first struct {
	w    io.Writer
	call func()
}

func (f *first) Write(p []byte) (int, error) {
	if f.call != nil {
		f.call()
		f.call = nil
	}
	return f.w.Write(p)
}
