package kube

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// socketWrite makes a full frame of the WebSocket, with its header of eight bytes,
	// four full records of TLS. A message that is longer becomes several frames.
	socketWrite = 64<<10 - 8
	// socketReadAhead is little, so that what is read goes straight to where it is
	// wanted.
	socketReadAhead = 4 << 10
)

// writeBuffers are shared by the connections of a cluster: an idle one holds none.
type writeBuffers struct {
	sockets sync.Pool // the WebSocket library's
	corked  sync.Pool // of *[]byte
}

// webSocket carries SPDY frames in binary messages, one in each. Relays pass on what
// they get, so a frame that was cut up here would go through all of them in pieces.
type webSocket struct {
	ws      *websocket.Conn
	below   *corked
	message io.Reader // that is being read
}

func (s *webSocket) Read(p []byte) (int, error) {
	for {
		if s.message == nil {
			kind, message, err := s.ws.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, fmt.Errorf("the server sent a message of type %d on a port-forward", kind)
			}
			s.message = message
		}
		n, err := s.message.Read(p)
		if err == io.EOF {
			s.message, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (s *webSocket) writeFrame(head, body []byte) error {
	s.below.hold()
	err := s.writeMessage(head, body)
	if released := s.below.release(); err == nil {
		err = released
	}
	return err
}

func (s *webSocket) writeMessage(head, body []byte) error {
	w, err := s.ws.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	if _, err := w.Write(body); err != nil {
		return err
	}
	return w.Close()
}

func (s *webSocket) goodbye() {
	text := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = s.ws.WriteControl(websocket.CloseMessage, text, time.Now().Add(closeTimeout)) // nobody waits for it
}

// corked is the connection below TLS. Between hold and release it keeps what is
// written, so that the records of a message need one system call, not one each.
type corked struct {
	net.Conn
	bufs *writeBuffers

	mu   sync.Mutex
	held *[]byte // nil when nothing is held
}

// Write implements net.Conn.
func (c *corked) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return c.Conn.Write(p)
	}
	*c.held = append(*c.held, p...)
	return len(p), nil
}

// SetWriteDeadline implements net.Conn, and does nothing. The WebSocket's library sets
// a deadline for each message of its own, an answer to a ping for example, which would
// break off what is released meanwhile. Who has waited enough closes the connection.
func (c *corked) SetWriteDeadline(time.Time) error { return nil }

func (c *corked) hold() {
	buf, ok := c.bufs.corked.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = buf
}

// release writes what was held.
func (c *corked) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf := c.held
	c.held = nil
	_, err := c.Conn.Write(*buf)
	*buf = (*buf)[:0]
	c.bufs.corked.Put(buf)
	return err
}
