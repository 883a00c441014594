package kube

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/moby/spdystream/spdy"
	corev1 "k8s.io/api/core/v1"
)

// wireServer is an API server that gives the WebSocket of a port-forward to serve.
func wireServer(t *testing.T, serve func(ws *websocket.Conn)) *Cluster {
	t.Helper()
	c, _ := apiServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{Subprotocols: []string{tunnelProtocol}}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		serve(ws)
	}))
	return c
}

// The frames are read by the library that kubelet and the container runtimes read them with.
func TestOpeningIsSPDY(t *testing.T) {
	framer, err := spdy.NewFramer(io.Discard, bytes.NewReader(opening(8080)))
	if err != nil {
		t.Fatal(err)
	}
	headers := func(kind string) http.Header {
		return http.Header{http.CanonicalHeaderKey(corev1.StreamType): {kind}, http.CanonicalHeaderKey(corev1.PortHeader): {"8080"}, http.CanonicalHeaderKey(corev1.PortForwardRequestIDHeader): {"0"}}
	}
	var got []any
	for {
		frame, err := framer.ReadFrame()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("frame %d: %v", len(got)+1, err)
		}
		switch f := frame.(type) {
		case *spdy.SynStreamFrame:
			got = append(got, f.StreamId, f.Headers)
		case *spdy.DataFrame:
			got = append(got, f.StreamId, f.Flags, len(f.Data))
		}
	}
	want := []any{
		spdy.StreamId(errorStream), headers("error"),
		spdy.StreamId(errorStream), spdy.DataFlagFin, 0,
		spdy.StreamId(dataStream), headers("data"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if n := testing.AllocsPerRun(10, func() { opening(8080) }); n > 40 {
		t.Errorf("%v allocations", n)
	}
}

// A frame whose head goes by itself costs each relay as much as a full one.
func TestEachFrameIsOneMessage(t *testing.T) {
	got := make(chan []int, 1)
	c := wireServer(t, func(ws *websocket.Conn) {
		var sizes []int
		for len(sizes) < 4 {
			kind, message, err := ws.ReadMessage()
			if err != nil || kind != websocket.BinaryMessage {
				t.Errorf("message of type %d: %v", kind, err)
				break
			}
			if len(sizes) == 0 {
				message = nil // the streams are opened with one, too
			}
			sizes = append(sizes, len(message))
		}
		got <- sizes
	})
	conn := dial(t, c, 7)
	for _, n := range []int{1, 100_000, maxPodWrite + 5} {
		if _, err := conn.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	want := []int{0, frameHead + 1, frameHead + 100_000, frameHead + maxPodWrite}
	if diff := cmp.Diff(want, <-got); diff != "" {
		t.Error(diff)
	}
}

func TestPingsOfTheServerAreAnswered(t *testing.T) {
	got := make(chan []byte, 1)
	ping := control(spdy.TypePing, []byte{0, 0, 0, 2})
	c := wireServer(t, func(ws *websocket.Conn) {
		_, _, _ = ws.ReadMessage()
		_ = ws.WriteMessage(websocket.BinaryMessage, ping)
		_, answer, err := ws.ReadMessage()
		if err != nil {
			t.Error(err)
		}
		got <- answer
	})
	_ = dial(t, c, 7)
	if diff := cmp.Diff(ping, <-got); diff != "" {
		t.Error(diff)
	}
}

func TestNonsenseFromTheServerEndsTheConnection(t *testing.T) {
	huge := binary.BigEndian.AppendUint32(nil, controlBit|spdy.Version<<16|uint32(spdy.TypeHeaders))
	huge = binary.BigEndian.AppendUint32(huge, maxFrame)
	for name, test := range map[string]struct {
		kind    int
		message []byte
		want    error
	}{
		"a text":                {websocket.TextMessage, []byte("hello"), ErrTunnelLost},
		"a huge control frame":  {websocket.BinaryMessage, huge, errFrame},
		"half a frame":          {websocket.BinaryMessage, huge[:5], ErrTunnelLost},
		"goodbye":               {websocket.BinaryMessage, control(spdy.TypeGoAway, make([]byte, 8)), ErrTunnelLost},
		"a reset of the stream": {websocket.BinaryMessage, control(spdy.TypeRstStream, []byte{0, 0, 0, dataStream, 0, 0, 0, 1}), io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			c := wireServer(t, func(ws *websocket.Conn) {
				_, _, _ = ws.ReadMessage()
				_ = ws.WriteMessage(test.kind, test.message)
				if test.want == io.EOF {
					_, _, _ = ws.ReadMessage() // until the client has gone
				}
			})
			conn := dial(t, c, 7)
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// The ring is compared with a plain slice.
func TestRingKeepsTheOrder(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var b ring
		var want []byte
		for range 500 {
			if free := b.free(); len(free) == 0 {
				t.Fatal("nothing is free")
			} else if rnd.IntN(2) == 0 && b.n < 100<<10 {
				free = free[:1+rnd.IntN(len(free))]
				for i := range free {
					free[i] = byte(rnd.Uint32())
				}
				b.n += len(free)
				want = append(want, free...)
			}
			p := make([]byte, rnd.IntN(20<<10))
			n := b.take(p)
			if !bytes.Equal(p[:n], want[:n]) {
				t.Fatal("bytes differ")
			}
			want = want[n:]
			if n < len(p) && len(want) > 0 {
				t.Fatalf("%d bytes were left behind", len(want))
			}
		}
	}
}
