package doors

import (
	"net"
	"sync"
)

// once is a listener that has one connection, and ends with it.
type once struct {
	conn net.Conn
	done chan struct{}
	take sync.Once
	end  sync.Once
}

// Accept implements net.Listener.
func (o *once) Accept() (net.Conn, error) {
	var nc net.Conn
	o.take.Do(func() { nc = &closing{o.conn, o} })
	if nc != nil {
		return nc, nil
	}
	<-o.done
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (o *once) Close() error {
	o.end.Do(func() { close(o.done) })
	return nil
}

// Addr implements net.Listener.
func (o *once) Addr() net.Addr { return o.conn.LocalAddr() }

// closing ends the listener with its connection.
type closing struct {
	net.Conn
	of *once
}

// Close implements net.Conn.
func (c *closing) Close() error {
	_ = c.of.Close()
	return c.Conn.Close()
}
