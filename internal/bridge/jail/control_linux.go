package jail

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// message is what the two processes say to each other. Each one of this process
// has an ID, which the keeper's answer repeats; news of the keeper has none.
type message struct {
	ID   uint64
	Kind kind

	Setup    *setup
	Mount    *Mount
	Services *Services
	Machine  []netip.AddrPort
	Family   int // of a socket
	Type     int
	Signal   int

	Code int // an exit code, of the command or for it
	PID  int
	Err  *problem
}

type kind string

const (
	kindSetup    kind = "setup"    // make the namespaces usable
	kindStart    kind = "start"    // the command
	kindSocket   kind = "socket"   // one made inside
	kindMount    kind = "mount"    // replace its files
	kindServices kind = "services" // replace what is known
	kindMachine  kind = "machine"  // addresses of it are the command's, too
	kindSignal   kind = "signal"   // to the command
	kindEnd      kind = "end"      // everything, at once
	kindStopped  kind = "stopped"  // news: the command was, by a signal
	kindExited   kind = "exited"   // news: with Code
)

// setup is what the keeper needs to know before the command is started.
type setup struct {
	Command   []string
	Dir       string
	Env       []string
	Hostname  string
	Mounts    []Mount
	Etc       map[string]string // files of /etc
	Own       []string
	IPv6      bool
	Ranges6   []string
	Netfilter bool
	Services  Services
	Group     bool // the keeper leads the command's process group
	Trial     bool // no command will follow
}

// problem is an error on its way through the socket.
type problem struct {
	Step   string
	Text   string
	Errno  int
	Remedy string
}

func problemOf(step string, err error) *problem {
	if err == nil {
		return nil
	}
	p := &problem{Step: step, Text: err.Error()}
	var errno unix.Errno
	if errors.As(err, &errno) {
		p.Errno = int(errno)
	}
	return p
}

// err is the error that p was made of: its text, and its errno for errors.Is.
func (p *problem) err() error {
	if p.Errno == 0 {
		return errors.New(p.Text)
	}
	return &remoteError{text: p.Text, errno: unix.Errno(p.Errno)}
}

type remoteError struct {
	text  string
	errno unix.Errno
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.errno }

// control carries messages and descriptors over a Unix socket. One goroutine may
// receive, any may send.
type control struct {
	conn *net.UnixConn

	mu  sync.Mutex
	out bytes.Buffer
	enc *gob.Encoder

	in  bytes.Buffer
	dec *gob.Decoder
}

const maxMessage = 256 << 20

func newControl(conn *net.UnixConn) *control {
	c := &control{conn: conn}
	c.enc, c.dec = gob.NewEncoder(&c.out), gob.NewDecoder(&c.in)
	return c
}

// send writes m, with a descriptor unless fd is negative.
func (c *control) send(m *message, fd int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Reset()
	c.out.Write(make([]byte, 4))
	if err := c.enc.Encode(m); err != nil {
		return fmt.Errorf("encode %s: %w", m.Kind, err)
	}
	b := c.out.Bytes()
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	// The descriptor belongs to the first byte; what is left goes as it can.
	n, _, err := c.conn.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = c.conn.Write(b[n:])
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return nil
}

// receive reads the next message. The file is nil if none came with it; the
// caller owns it.
func (c *control) receive() (*message, *os.File, error) {
	head, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.conn.ReadMsgUnix(head, oob)
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		return nil, nil, io.EOF
	}
	file := receivedFile(oob[:oobn])
	if _, err := io.ReadFull(c.conn, head[n:]); err != nil {
		return nil, file, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxMessage {
		return nil, file, fmt.Errorf("a message of %d bytes", size)
	}
	if _, err := io.CopyN(&c.in, c.conn, int64(size)); err != nil {
		return nil, file, err
	}
	m := new(message)
	if err := c.dec.Decode(m); err != nil {
		return nil, file, err
	}
	return m, file, nil
}

func receivedFile(oob []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "socket")
}
