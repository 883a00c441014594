// Package direct leads a session of package stream past the port-forward that it
// began by: over TLS to the pod's own address.
//
// The main type is [Door], the agent's end. A laptop [Ask]s for it over a session,
// and dials what the [Offer] says with [Offer.Open]. There is nothing to configure
// and nobody to trust: the door's certificate is made for the process that offers it,
// and its hash, like the name to ask for, comes over the session. So it is as hard
// to pretend to be the agent here as it is on the way by which the session came.
// Behind the door only a session that there is can be gone on with, by its ID and its
// token. All methods are safe for concurrent use.
package direct

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/bightdev/bight/internal/stream"
)

// header begins that of a stream which asks for the door. The address of the pod,
// as the laptop knows it, follows.
const header = "direct "

// maxOffer is how long an answer may be.
const maxOffer = 4 << 10

// Offer says how a door is reached. It is what the agent answers.
type Offer struct {
	Port int    `json:"port,omitempty"`
	Name string `json:"name,omitempty"` // that the TLS handshake has to ask for
	Sum  []byte `json:"sum,omitempty"`  // SHA-256 of the door's certificate
	// Refused is why there is none.
	Refused string `json:"refused,omitempty"`
}

// Ask asks the agent at the other end of a session for its door at an address of the
// pod. An agent that has none gives an error that is stream.Permanent.
func Ask(ctx context.Context, sess *stream.Session, pod netip.Addr) (Offer, error) {
	st, err := sess.Open(ctx, []byte(header+pod.String()))
	if err != nil {
		return Offer{}, fmt.Errorf("ask the agent for a direct way: %w", err)
	}
	defer st.Close()
	stop := context.AfterFunc(ctx, func() { st.Reset(stream.CodeAborted) })
	defer stop()
	b, err := io.ReadAll(io.LimitReader(st, maxOffer))
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	var reset *stream.ResetError
	switch {
	case errors.As(err, &reset) && reset.Code == stream.CodeRefused:
		return Offer{}, stream.Permanent(errors.New("the agent in the pod knows no direct way: it is of an older release"))
	case err != nil:
		return Offer{}, fmt.Errorf("ask the agent for a direct way: %w", err)
	}
	return parseOffer(b)
}

// parseOffer reads and checks an answer.
func parseOffer(b []byte) (Offer, error) {
	var o Offer
	if err := json.Unmarshal(b, &o); err != nil {
		return Offer{}, stream.Permanent(fmt.Errorf("the agent's answer about a direct way is not understood: %w", err))
	}
	switch {
	case o.Refused != "":
		return Offer{}, fmt.Errorf("the agent opens no direct way: %s", printable(o.Refused))
	case o.Port < 1 || o.Port > 65535 || len(o.Sum) != sha256.Size || o.Name == "":
		return Offer{}, stream.Permanent(errors.New("the agent's answer about a direct way makes no sense"))
	}
	return o, nil
}

// printable is a text of the other side without what a terminal would obey.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

var errOther = errors.New("another program answers there: its certificate is not the agent's")

// Open makes of a TCP connection to the door a transport for the session. If it can't,
// it closes the connection.
func (o Offer) Open(ctx context.Context, raw net.Conn) (net.Conn, error) {
	p := &packer{Conn: raw}
	t := tls.Client(p, &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: o.Name, DynamicRecordSizingDisabled: true,
		// No authority vouches for the certificate: it has to be the very one.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			sum := sha256.Sum256(s.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(sum[:], o.Sum) != 1 {
				return errOther
			}
			return nil
		},
	})
	if err := t.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("open a direct way to %s: %w", raw.RemoteAddr(), err)
	}
	return &conn{Conn: t, packer: p}, nil
}
