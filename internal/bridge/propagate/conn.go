package propagate

import (
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bightdev/bight/internal/bridge/splice"
)

// calling is a connection that the command has opened.
type calling struct {
	splice.End
	blind atomic.Bool // nothing is read any more

	mu       sync.Mutex
	requests requests
}

// Write implements net.Conn.
func (c *calling) Write(p []byte) (int, error) {
	if c.blind.Load() {
		return c.Conn.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.requests.take(p)
	if c.requests.at == blind {
		defer c.blind.Store(true) // what follows goes behind this
	}
	if len(out) == 0 {
		return len(p), nil // it is held back until there is more
	}
	if n, err := c.Conn.Write(out); err != nil {
		return min(n, len(p)), err
	}
	return len(p), nil
}

// CloseWrite passes on what was held back, and closes.
func (c *calling) CloseWrite() error {
	c.mu.Lock()
	rest := c.requests.rest()
	c.blind.Store(true)
	c.mu.Unlock()
	if len(rest) > 0 {
		if _, err := c.Conn.Write(rest); err != nil {
			return err
		}
	}
	return c.End.CloseWrite()
}

// serving is a connection that intercepted requests come by.
type serving struct {
	splice.End
	p *Propagator

	mu       sync.Mutex
	requests requests
	answers  answers
	under    map[uint32]*cause
}

// Write implements net.Conn: a request comes.
func (s *serving) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.requests.take(p)
	s.mu.Unlock()
	return s.Conn.Write(p)
}

// Read implements net.Conn: an answer comes.
func (s *serving) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers.take(p[:n])
	if err != nil && !isTimeout(err) {
		s.finishAll()
	}
	return n, err
}

// Close implements net.Conn.
func (s *serving) Close() error {
	s.mu.Lock()
	s.finishAll()
	s.mu.Unlock()
	return s.Conn.Close()
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// begin takes in a request. The caller has the lock, as for finish and finishAll.
func (s *serving) begin(r request) *field {
	s.answers.expect(r)
	value, has := r.value(s.p.Key.Name)
	if s.p.Key.Value != "" {
		value, has = s.p.Key.Value, true
	}
	if has && sendable(value) {
		s.under[r.stream] = s.p.causes.begin(value, Traces(r.value))
	}
	return nil
}

func (s *serving) finish(stream uint32) {
	if one := s.under[stream]; one != nil {
		s.p.causes.end(one, time.Now())
		delete(s.under, stream)
	}
}

func (s *serving) finishAll() {
	for stream := range s.under {
		s.finish(stream)
	}
}

// sendable says whether a value can be in a request's head: one of HTTP/2 may have
// bytes that would end a line of HTTP/1.
func sendable(value string) bool {
	return value != "" && strings.IndexFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) < 0
}
