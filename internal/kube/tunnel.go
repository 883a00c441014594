package kube

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/spdystream/spdy"
	corev1 "k8s.io/api/core/v1"
)

const (
	pingPeriod   = 10 * time.Second
	closeTimeout = time.Second

	// The streams of a port-forward. There is one pair: see PodDialer.
	errorStream = 1
	dataStream  = 3

	frameHead  = 8
	maxFrame   = 1<<24 - 1
	controlBit = 1 << 31
	// maxControl bounds the frames that are no data.
	maxControl = 64 << 10
)

// tunnel is one port-forward to a pod, good for one pair of streams. It speaks as
// much of SPDY/3.1 as that takes: a library that can do more hands each frame from
// goroutine to goroutine, and writes its head apart from its body, which then goes
// through all relays by itself.
type tunnel struct {
	namespace, pod string
	over           carrier
	raw            io.Closer     // the connection below; closing it never waits
	lost           chan struct{} // closed when nothing more comes
	replied        chan struct{} // closed when the other side has taken both streams
	close          sync.Once

	wmu sync.Mutex // one frame at a time
}

// openTunnel opens a port-forward, for a stream to any port.
func (c *Cluster) openTunnel(ctx context.Context, namespace, pod string) (*podConn, error) {
	over, raw, err := c.openCarrier(ctx, namespace, pod)
	if err != nil {
		// The WebSocket's dialler notices a deadline a moment before ctx does.
		if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
			<-ctx.Done()
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("forward to pod %s/%s: %w", namespace, pod, c.Explain(err))
	}
	return newPodConn(&tunnel{
		namespace: namespace, pod: pod, over: over, raw: raw,
		lost: make(chan struct{}), replied: make(chan struct{}),
	}), nil
}

// write writes a frame whose head is there already, or several.
func (t *tunnel) write(head, body []byte) error {
	t.wmu.Lock()
	defer t.wmu.Unlock()
	return t.over.writeFrame(head, body)
}

// writeData writes a frame of data.
func (t *tunnel) writeData(body []byte, last bool) error {
	var head [frameHead]byte
	binary.BigEndian.PutUint32(head[:], dataStream)
	binary.BigEndian.PutUint32(head[4:], uint32(len(body)))
	if last {
		head[4] = byte(spdy.DataFlagFin)
	}
	return t.write(head[:], body)
}

// keepAlive sends a ping now and then, for relays that end silent connections.
func (t *tunnel) keepAlive(over <-chan struct{}) {
	ticker := time.NewTicker(pingPeriod)
	defer ticker.Stop()
	for id := uint32(1); ; id += 2 {
		select {
		case <-over:
			return
		case <-t.lost:
			return
		case <-ticker.C:
		}
		if t.write(control(spdy.TypePing, binary.BigEndian.AppendUint32(nil, id)), nil) != nil {
			return // whoever reads notices, too
		}
	}
}

// control returns a control frame.
func control(kind spdy.ControlFrameType, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, controlBit|spdy.Version<<16|uint32(kind))
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}

// shut closes the tunnel, politely as long as that takes no time.
func (t *tunnel) shut() {
	t.close.Do(func() {
		timer := time.AfterFunc(closeTimeout, func() { _ = t.raw.Close() })
		_ = t.write(control(spdy.TypeGoAway, make([]byte, 8)), nil)
		t.over.goodbye()
		timer.Stop()
		_ = t.raw.Close()
	})
}

// opening returns the frames that open the streams to a port. They are one message:
// nothing of it needs an answer first.
func opening(port int) ([]byte, error) {
	var b bytes.Buffer
	framer, err := spdy.NewFramer(&b, nil)
	if err != nil {
		return nil, err
	}
	h := http.Header{}
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.PortForwardRequestIDHeader, "0")
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	if err := framer.WriteFrame(&spdy.SynStreamFrame{StreamId: errorStream, Headers: h}); err != nil {
		return nil, err
	}
	// Nothing is written to the error stream.
	if err := framer.WriteFrame(&spdy.DataFrame{StreamId: errorStream, Flags: spdy.DataFlagFin}); err != nil {
		return nil, err
	}
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	if err := framer.WriteFrame(&spdy.SynStreamFrame{StreamId: dataStream, Headers: h}); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// PortError is what the pod's side says of a forwarded port.
type PortError struct {
	Namespace, Pod string
	Port           int
	Refused        bool   // nothing listens there
	Text           string // what it said
}

func (e *PortError) Error() string {
	if e.Refused {
		return fmt.Sprintf("nothing listens on port %d in pod %s/%s", e.Port, e.Namespace, e.Pod)
	}
	return fmt.Sprintf("port %d of pod %s/%s: %s", e.Port, e.Namespace, e.Pod, e.Text)
}

func portError(t *tunnel, port int, text string) *PortError {
	text = strings.TrimSpace(text)
	return &PortError{
		Namespace: t.namespace, Pod: t.pod, Port: port, Text: text,
		Refused: strings.Contains(text, "connection refused"),
	}
}

// ErrTunnelLost is why a connection to a pod ends when the port-forward below
// it does.
var ErrTunnelLost = errors.New("port-forward was cut")
