package direct

import (
	"crypto/tls"
	"net"
	"sync"
)

// conn is a TLS connection that writes what it is given in few pieces, and whose Close
// waits for nobody: package stream has a farewell of its own.
type conn struct {
	*tls.Conn
	packer *packer
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.packer.hold()
	n, err := c.Conn.Write(p)
	if e := c.packer.release(); err == nil {
		err = e
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error { return c.packer.Close() }

const (
	// packSize is how much is written at once: all that a session hands over at a time,
	// with what TLS adds. Relays on the way are woken once for it.
	packSize = 320 << 10
	// little is what needs no buffer that is kept.
	little = 16 << 10
)

// packer is below a TLS connection, which writes each record by itself. While it is
// held it writes several at a time.
type packer struct {
	net.Conn

	mu    sync.Mutex
	held  bool
	since int // bytes written since it is held
	buf   []byte
}

// Write implements net.Conn.
func (p *packer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held {
		return p.Conn.Write(b)
	}
	p.since += len(b)
	p.buf = append(p.buf, b...)
	if len(p.buf) < packSize {
		return len(b), nil
	}
	return len(b), p.flush()
}

func (p *packer) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held, p.since = true, 0
}

func (p *packer) release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = false
	err := p.flush()
	if p.since <= little { // an idle one holds no memory
		p.buf = nil
	}
	return err
}

// flush writes what there is. It wants p.mu held.
func (p *packer) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	_, err := p.Conn.Write(p.buf)
	p.buf = p.buf[:0]
	return err
}
