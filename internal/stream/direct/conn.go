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

// packSize is how much is written at once: four records.
const packSize = 64 << 10

// packer is below a TLS connection, which writes each record by itself. While it is
// held it writes several at a time.
type packer struct {
	net.Conn

	mu   sync.Mutex
	held bool
	buf  []byte
}

// Write implements net.Conn.
func (p *packer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held {
		return p.Conn.Write(b)
	}
	p.buf = append(p.buf, b...)
	if len(p.buf) < packSize {
		return len(b), nil
	}
	return len(b), p.flush()
}

func (p *packer) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = true
}

func (p *packer) release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = false
	return p.flush()
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
