package stream

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
	"unicode"
)

// magic begins what either side says first.
const magic = "bight/s\n"

// Protocols that this side speaks.
const (
	protocolMin = 1
	protocolMax = 1
)

const (
	maxHello = 8 << 10
	maxWhy   = 1 << 10
)

// hello is what the client says first. After magic come its length (2 bytes,
// big endian) and its JSON. Fields may be added: the other side ignores what it
// does not know.
type hello struct {
	Min      int      `json:"min"` // protocols that the client speaks
	Max      int      `json:"max"`
	Version  string   `json:"version"`
	Token    string   `json:"token"`
	Features []string `json:"features,omitempty"`
	Window   int      `json:"window"` // initial window of each stream
	Replay   int      `json:"replay"`
	Session  string   `json:"session,omitempty"`  // to go on with
	Received uint64   `json:"received,omitempty"` // position up to which the client has everything
	// Move says that the session has a transport: this one takes its place when the
	// client, after a first answer, has sent a commit. Received is in that.
	Move bool `json:"move,omitempty"`
}

// commit is what a client that moves says last, in the form of a hello. The answer
// is a second welcome.
type commit struct {
	Received uint64 `json:"received"`
}

// welcome is the server's answer, in the same form.
type welcome struct {
	Protocol int      `json:"protocol,omitempty"`
	Version  string   `json:"version"`
	Features []string `json:"features,omitempty"`
	Window   int      `json:"window,omitempty"`
	Replay   int      `json:"replay,omitempty"`
	Session  string   `json:"session,omitempty"`
	Received uint64   `json:"received,omitempty"`

	rtt time.Duration // how long the answer took

	Refused string `json:"refused,omitempty"` // a Refusal
	Why     string `json:"why,omitempty"`     // in words, for a person
	Min     int    `json:"min,omitempty"`     // with a version refusal: what the server speaks
	Max     int    `json:"max,omitempty"`
}

// Refusal is why a server does not take a client.
type Refusal string

// Refusals.
const (
	RefusedToken   Refusal = "token"
	RefusedVersion Refusal = "version"
	RefusedBusy    Refusal = "busy"    // it has as many sessions as it takes
	refusedSession Refusal = "session" // it does not know the session
)

// RefusedError says why the server did not take the client, and what to do.
type RefusedError struct {
	Refusal Refusal
	Version string // the server's
	Text    string
}

func (e *RefusedError) Error() string { return e.Text }

// errGarbage says that the other side does not speak the protocol.
var errGarbage = errors.New("the other side does not speak the stream protocol")

// writeHello writes v in one piece.
func writeHello(w io.Writer, v any) error {
	b, err := encodeHello(v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func encodeHello(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(body) > maxHello {
		return nil, fmt.Errorf("hello of %d bytes is larger than %d", len(body), maxHello)
	}
	b := binary.BigEndian.AppendUint16([]byte(magic), uint16(len(body)))
	return append(b, body...), nil
}

// readHello reads into v and not a byte more. It gives up at the first byte
// that is wrong.
func readHello(r io.Reader, v any) error {
	var head [len(magic) + 2]byte
	for n := 0; n < len(head); {
		k, err := r.Read(head[n:])
		n += k
		if m := min(n, len(magic)); !bytes.Equal(head[:m], []byte(magic[:m])) {
			return errGarbage
		}
		if err != nil && n < len(head) {
			if err == io.EOF && n > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	size := int(binary.BigEndian.Uint16(head[len(magic):]))
	if size > maxHello {
		return errGarbage
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", errGarbage, err)
	}
	return nil
}

// guard closes c when ctx ends, for the duration of a handshake. The returned
// function ends that and reports whether c is still open.
func guard(ctx context.Context, c io.Closer) (release func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.Close() })
}

// greet is the client's half of the handshake.
func greet(ctx context.Context, conn io.ReadWriteCloser, h hello) (welcome, error) {
	return exchange(ctx, conn, h, h)
}

// exchange says something, which may be h itself, and takes the answer to a client
// that has said h.
func exchange(ctx context.Context, conn io.ReadWriteCloser, say any, h hello) (welcome, error) {
	var w welcome
	start := time.Now()
	release := guard(ctx, conn)
	err := writeHello(conn, say)
	if err == nil {
		err = readHello(conn, &w)
	}
	if !release() {
		return w, context.Cause(ctx)
	}
	switch {
	case err == io.EOF, err == io.ErrUnexpectedEOF, errors.Is(err, net.ErrClosed):
		return w, fmt.Errorf("the other side hung up during the handshake: %w", err)
	case err != nil:
		return w, err
	}
	w.rtt = time.Since(start)
	return w, checkWelcome(h, w)
}

// checkWelcome turns a refusal into an error and rejects an answer that makes
// no sense.
func checkWelcome(h hello, w welcome) error {
	switch {
	case Refusal(w.Refused) == refusedSession:
		return ErrSessionLost
	case w.Refused != "":
		return &RefusedError{Refusal: Refusal(w.Refused), Version: w.Version, Text: refusalText(h, w)}
	case w.Protocol < h.Min, w.Protocol > h.Max, len(w.Session) != sessionIDSize,
		h.Session != "" && w.Session != h.Session,
		w.Window <= 0, w.Window > maxCredit, w.Replay < minReplay:
		return protocolError("answer to the handshake makes no sense")
	}
	return nil
}

// refusalText says what a refusal means and what to do about it.
func refusalText(h hello, w welcome) string {
	if w.Why != "" {
		return "the agent in the pod refused the connection: " + printable(w.Why[:min(len(w.Why), maxWhy)])
	}
	switch Refusal(w.Refused) {
	case RefusedToken:
		return "the agent in the pod refused the session's token: the pod belongs to another session; deploy it anew"
	case RefusedBusy:
		return "the agent in the pod has as many sessions as it takes: end one of them first"
	case RefusedVersion:
		what := fmt.Sprintf("this program (%s) speaks protocol %s and the agent in the pod (%s) protocol %s",
			h.Version, span(h.Min, h.Max), w.Version, span(w.Min, w.Max))
		if w.Min > h.Max {
			return what + ": update bight on this machine"
		}
		return what + ": deploy the service anew so that its pod gets the present agent"
	}
	return fmt.Sprintf("the agent in the pod (%s) refused the connection: %s", w.Version, w.Refused)
}

// printable is a text of the other side without what a terminal would obey.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

func span(lo, hi int) string {
	if lo == hi {
		return fmt.Sprint(lo)
	}
	return fmt.Sprintf("%d to %d", lo, hi)
}

// negotiate decides which protocol to speak with a client, or refuses it.
func negotiate(h hello) (protocol int, refusal Refusal) {
	if h.Min > protocolMax || h.Max < protocolMin {
		return 0, RefusedVersion
	}
	return min(h.Max, protocolMax), ""
}

// sameToken compares in a time that tells nothing about either.
func sameToken(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// common returns the features that both sides have, sorted.
func common(a, b []string) []string {
	var c []string
	for _, f := range a {
		if slices.Contains(b, f) {
			c = append(c, f)
		}
	}
	slices.Sort(c)
	return slices.Compact(c)
}

const sessionIDSize = 32

func newSessionID() string {
	var b [sessionIDSize / 2]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
