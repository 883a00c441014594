package kube

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
func opening(port int) []byte {
	var b []byte
	b = append(b, synStream(errorStream, zlibHead, corev1.StreamTypeError, port)...)
	// Nothing is written to the error stream.
	b = binary.BigEndian.AppendUint32(b, errorStream)
	b = binary.BigEndian.AppendUint32(b, uint32(spdy.DataFlagFin)<<24)
	return append(b, synStream(dataStream, "", corev1.StreamTypeData, port)...)
}

// zlibHead begins the compressed headers of a connection: deflate with a window of
// 32 KiB, and the checksum of SPDY/3's dictionary, which has to be named.
const zlibHead = "\x78\xbb\xe3\xc6\xa7\xc2"

// synStream returns the frame that opens one stream. Its headers are in a block of
// deflate that is stored as it is: a compressor takes over a megabyte, and more time
// than the rest of the opening.
func synStream(id uint32, zlibHead, kind string, port int) []byte {
	headers := [...][2]string{{corev1.StreamType, kind}, {corev1.PortHeader, strconv.Itoa(port)}, {corev1.PortForwardRequestIDHeader, "0"}}
	block := binary.BigEndian.AppendUint32(nil, uint32(len(headers)))
	for _, h := range headers {
		block = binary.BigEndian.AppendUint32(block, uint32(len(h[0])))
		block = append(block, strings.ToLower(h[0])...)
		block = binary.BigEndian.AppendUint32(block, uint32(len(h[1])))
		block = append(block, h[1]...)
	}
	body := binary.BigEndian.AppendUint32(nil, id)
	body = append(body, make([]byte, 6)...) // no other stream, no priority, no slot
	body = append(body, zlibHead...)
	body = stored(body, block)
	return control(spdy.TypeSynStream, stored(body, nil)) // one that is empty says: this is all for now
}

// stored appends a block of deflate that is not the stream's last.
func stored(to, block []byte) []byte {
	to = append(to, 0)
	to = binary.LittleEndian.AppendUint16(to, uint16(len(block)))
	to = binary.LittleEndian.AppendUint16(to, ^uint16(len(block)))
	return append(to, block...)
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
