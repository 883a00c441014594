package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFrameHeaderRoundTrips(t *testing.T) {
	tests := []struct {
		name string
		f    frame
		want string
	}{
		{"open", frame{frameOpen, 2, 5}, "\x01\x00\x00\x05\x00\x00\x00\x02"},
		{"data", frame{frameData, 0x01020304, maxPayload}, "\x02\x01\x00\x00\x01\x02\x03\x04"},
		{"window", frame{frameWindow, 3, 4}, "\x03\x00\x00\x04\x00\x00\x00\x03"},
		{"fin", frame{frameFin, 3, 0}, "\x04\x00\x00\x00\x00\x00\x00\x03"},
		{"stop", frame{frameStop, 3, 4}, "\x05\x00\x00\x04\x00\x00\x00\x03"},
		{"reset", frame{frameReset, 3, 4}, "\x06\x00\x00\x04\x00\x00\x00\x03"},
		{"goaway", frame{frameGoAway, 0, 0}, "\x07\x00\x00\x00\x00\x00\x00\x00"},
		{"ack", frame{frameAck, 0, 8}, "\x81\x00\x00\x08\x00\x00\x00\x00"},
		{"ping", frame{framePing, 0, 8}, "\x82\x00\x00\x08\x00\x00\x00\x00"},
		{"pong", frame{framePong, 0, 8}, "\x83\x00\x00\x08\x00\x00\x00\x00"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var b [headerSize]byte
			test.f.put(b[:])
			if diff := cmp.Diff(test.want, string(b[:])); diff != "" {
				t.Errorf("bytes (-want +got):\n%s", diff)
			}
			got, err := parseFrame(b)
			if err != nil || got != test.f {
				t.Errorf("parseFrame = %+v, %v, want %+v", got, err, test.f)
			}
		})
	}
}

func TestBadFrameHeadersAreRefused(t *testing.T) {
	tests := map[string]string{
		"type 0":               "\x00\x00\x00\x00\x00\x00\x00\x01",
		"unknown type":         "\x08\x00\x00\x00\x00\x00\x00\x01",
		"data too long":        "\x02\x01\x00\x01\x00\x00\x00\x01",
		"open too long":        "\x01\x00\x80\x01\x00\x00\x00\x01",
		"data on no stream":    "\x02\x00\x00\x01\x00\x00\x00\x00",
		"fin with a payload":   "\x04\x00\x00\x01\x00\x00\x00\x01",
		"window of 3 bytes":    "\x03\x00\x00\x03\x00\x00\x00\x01",
		"ping on a stream":     "\x82\x00\x00\x08\x00\x00\x00\x01",
		"goaway on a stream":   "\x07\x00\x00\x00\x00\x00\x00\x01",
		"ack without position": "\x81\x00\x00\x00\x00\x00\x00\x00",
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := parseFrame([headerSize]byte([]byte(in))); !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v, want ErrProtocol", err)
			}
		})
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add([]byte("\x02\x01\x00\x00\x01\x02\x03\x04"))
	f.Add([]byte("\x83\x00\x00\x08\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			return
		}
		fr, err := parseFrame([headerSize]byte(b))
		if err != nil {
			return
		}
		var back [headerSize]byte
		fr.put(back[:])
		if !bytes.Equal(back[:], b[:headerSize]) {
			t.Errorf("%x parsed and written again is %x", b[:headerSize], back)
		}
		if fr.length > maxPayload {
			t.Errorf("accepted a payload of %d bytes", fr.length)
		}
	})
}

// The bytes of the handshake are what old and new programs must agree on.
func TestHandshakeBytes(t *testing.T) {
	tests := []struct {
		name string
		v    any
		want string
	}{
		{
			"a new session",
			hello{Min: 1, Max: 1, Version: "v0.1.0", Token: "t", Window: 262144, Replay: 16777216},
			"bight/s\n\x00\x52" + `{"min":1,"max":1,"version":"v0.1.0","token":"t","window":262144,"replay":16777216}`,
		},
		{
			"going on",
			hello{Min: 1, Max: 2, Version: "v0.1.0", Token: "t", Features: []string{"zstd"}, Window: 1, Replay: 2, Session: "s", Received: 77},
			"bight/s\n\x00\x76" + `{"min":1,"max":2,"version":"v0.1.0","token":"t","features":["zstd"],"window":1,"replay":2,"session":"s","received":77}`,
		},
		{
			"welcome",
			welcome{Protocol: 1, Version: "v0.1.0", Window: 1, Replay: 2, Session: "s", Received: 9},
			"bight/s\n\x00\x52" + `{"protocol":1,"version":"v0.1.0","window":1,"replay":2,"session":"s","received":9}`,
		},
		{
			"refusal",
			welcome{Version: "v0.1.0", Refused: "version", Min: 1, Max: 1},
			"bight/s\n\x00\x38" + `{"version":"v0.1.0","refused":"version","min":1,"max":1}`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := encodeHello(test.v)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("bytes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadHelloTakesNotAByteMore(t *testing.T) {
	want := hello{Min: 1, Max: 1, Token: "t", Window: 5}
	b, err := encodeHello(want)
	if err != nil {
		t.Fatal(err)
	}
	r := strings.NewReader(string(b) + "rest")
	var got hello
	if err := readHello(r, &got); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(r)
	if string(rest) != "rest" {
		t.Errorf("left %q", rest)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzReadHello(f *testing.F) {
	for _, v := range []any{hello{Min: 1, Max: 1, Token: "t"}, welcome{Refused: "token"}} {
		b, _ := encodeHello(v)
		f.Add(b)
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h hello
		if readHello(bytes.NewReader(b), &h) == nil {
			if _, err := json.Marshal(h); err != nil {
				t.Error(err)
			}
		}
		var w welcome
		if readHello(bytes.NewReader(b), &w) == nil {
			_ = checkWelcome(hello{Min: 1, Max: 1}, w)
		}
	})
}

func TestWhoIsRefused(t *testing.T) {
	tests := []struct {
		name     string
		h        hello
		token    string
		protocol int
		refusal  Refusal
	}{
		{"same protocol", hello{Min: 1, Max: 1, Token: "a"}, "a", 1, ""},
		{"newer client that still speaks ours", hello{Min: 1, Max: 7, Token: "a"}, "a", 1, ""},
		{"client too new", hello{Min: 2, Max: 3, Token: "a"}, "a", 0, RefusedVersion},
		{"client too old", hello{Min: 0, Max: 0, Token: "a"}, "a", 0, RefusedVersion},
		{"wrong token", hello{Min: 1, Max: 1, Token: "b"}, "a", 0, RefusedToken},
		{"no token", hello{Min: 1, Max: 1}, "a", 0, RefusedToken},
		{"a server without a token", hello{Min: 1, Max: 1}, "", 0, RefusedToken},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			protocol, refusal := negotiate(test.h)
			if _, err := (&Server{Token: test.token}).admit(test.h.Token); err != nil && refusal == "" {
				protocol, refusal = 0, RefusedToken
			}
			if protocol != test.protocol || refusal != test.refusal {
				t.Errorf("got %d %q, want %d %q", protocol, refusal, test.protocol, test.refusal)
			}
		})
	}
}

func TestRefusalSaysWhichSideToUpdate(t *testing.T) {
	tests := []struct {
		name string
		h    hello
		w    welcome
		want string
	}{
		{
			"the program is older",
			hello{Min: 1, Max: 1, Version: "v1"}, welcome{Refused: "version", Version: "v9", Min: 2, Max: 3},
			"this program (v1) speaks protocol 1 and the agent in the pod (v9) protocol 2 to 3: update bight on this machine",
		},
		{
			"the agent is older",
			hello{Min: 2, Max: 3, Version: "v9"}, welcome{Refused: "version", Version: "v1", Min: 1, Max: 1},
			"this program (v9) speaks protocol 2 to 3 and the agent in the pod (v1) protocol 1: deploy the service anew so that its pod gets the present agent",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var refused *RefusedError
			if err := checkWelcome(test.h, test.w); !errors.As(err, &refused) || refused.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// FuzzFrames feeds a session whatever a peer that knows the token might send:
// it must end or go on, and never hang or panic.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x01\x00\x00\x00\x02x\x02\x00\x00\x02\x00\x00\x00\x02hi\x04\x00\x00\x00\x00\x00\x00\x02"))
	f.Add([]byte("\x81\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08"))
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x02\x06\x00\x00\x04\x00\x00\x00\x02\x00\x00\x00\x01\x07\x00\x00\x00\x00\x00\x00\x00"))
	var credits, answers []byte
	credits = append(credits, rawFrame(frameOpen, 2, nil)...)
	for range 3 {
		credits = append(credits, rawFrame(frameWindow, 2, []byte{0x3f, 0xff, 0xff, 0xff})...)
		answers = appendUint64Frame(answers, framePong, 1<<63)
		answers = appendUint64Frame(answers, framePing, 1<<64-1)
	}
	f.Add(credits)
	f.Add(answers)
	// More than half of a first window, then resets of what is already reset.
	half := append(rawFrame(frameOpen, 2, []byte("x")), rawFrame(frameData, 2, make([]byte, baseWindow*3/4))...)
	f.Add(append(half, rawFrame(frameReset, 2, make([]byte, 4))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSession(context.Background(), newSessionID(), false, Limits{}.withDefaults(), peer{Window: initialWindow, Replay: minReplay})
		s.log = discard()
		s.handle = echo
		up, down := newWire(1<<20), newWire(1<<20)
		up.buf = append(up.buf, b...)
		up.err = io.EOF
		_, _ = s.serveLink(&end{in: up, out: down})
		if kept, limit := s.out.kept(), s.limits.Replay+controlReserve+maxPayload; kept > limit {
			t.Errorf("%d bytes are kept, at most %d should be", kept, limit)
		}
		s.end(errClosed)
		s.finish()
	})
}
