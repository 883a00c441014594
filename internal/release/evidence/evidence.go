// Package evidence is what is kept of the requests of a release: to show people what
// convicted a version, and to ask their code the same things again.
//
// A [Pair] is a request and its answer. Node agents [Redact] each as soon as they have
// it, keep the newest in a [Ring], and hand those out when the version is shut out. With
// what the controller knows of the release they make a [Bundle].
//
// The package is pure. Nothing here is safe for concurrent use.
package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Class is what a request is worth keeping for.
type Class string

// Classes. Each ring has room for each of them.
const (
	Failed Class = "failed"
	Slow   Class = "slow"
	Sample Class = "sample" // nothing was wrong with it
)

// Pair is a request and its answer, without what is secret.
type Pair struct {
	ID      string        `json:"id"` // the door's name and the request's number there
	Class   Class         `json:"class"`
	Why     string        `json:"why,omitempty"` // of one that failed, or was slow
	Version string        `json:"version"`       // canary or stable
	Pod     string        `json:"pod,omitempty"`
	Node    string        `json:"node,omitempty"`
	Time    time.Time     `json:"time"`
	Elapsed time.Duration `json:"elapsedNs"` // to the head of the answer
	Request Request       `json:"request"`
	Answer  *Answer       `json:"answer,omitempty"` // nil: none came
	// Stable is what stable has answered to the same request, asked again: twice, so that
	// what differs between the two is known to tell nothing.
	Stable []Answer `json:"stable,omitempty"`
}

// Request is what a client has sent.
type Request struct {
	Method string              `json:"method"`
	Target string              `json:"target"` // the path and the query
	Host   string              `json:"host,omitempty"`
	HTTP2  bool                `json:"http2,omitempty"`
	Header map[string][]string `json:"header,omitempty"`
	Body   Body                `json:"body,omitzero"`
	// Hidden are the names of headers, parameters and fields whose values were not kept.
	Hidden []string `json:"hidden,omitempty"`
	Port   int      `json:"port,omitempty"` // of the app
}

// Answer is what came of it.
type Answer struct {
	Status  int                 `json:"status"`
	Header  map[string][]string `json:"header,omitempty"`
	Body    Body                `json:"body,omitzero"`
	Trailer map[string][]string `json:"trailer,omitempty"`
}

// GRPC is the status of a call; ok is false if the answer is none to a call.
func (a *Answer) GRPC() (status string, ok bool) {
	for _, h := range []map[string][]string{a.Trailer, a.Header} {
		if v := h["Grpc-Status"]; len(v) > 0 {
			return v[0], true
		}
	}
	return "", false
}

// Body is what was kept of a body. In JSON it is a text where it is one.
type Body struct {
	Bytes []byte
	Cut   bool // there was more of it
	// Changed says that values were hidden in it, or its encoding was taken off: its
	// length is another now.
	Changed bool
}

// Empty says that there was no body.
func (b Body) Empty() bool { return len(b.Bytes) == 0 && !b.Cut }

type bodyJSON struct {
	Text    string `json:"text,omitempty"`
	Base64  []byte `json:"base64,omitempty"`
	Cut     bool   `json:"cut,omitempty"`
	Changed bool   `json:"changed,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (b Body) MarshalJSON() ([]byte, error) {
	out := bodyJSON{Cut: b.Cut, Changed: b.Changed}
	if utf8.Valid(b.Bytes) {
		out.Text = string(b.Bytes)
	} else {
		out.Base64 = b.Bytes
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements json.Unmarshaler.
func (b *Body) UnmarshalJSON(p []byte) error {
	var in bodyJSON
	if err := json.Unmarshal(p, &in); err != nil {
		return err
	}
	*b = Body{Bytes: in.Base64, Cut: in.Cut, Changed: in.Changed}
	if in.Text != "" {
		b.Bytes = []byte(in.Text)
	}
	return nil
}

// IsZero leaves out a body that is none.
func (b Body) IsZero() bool { return b.Empty() && !b.Changed }

// Name is how people call a request: "GET /cart?id=7".
func (p *Pair) Name() string { return p.Request.Method + " " + p.Request.Target }

// Size is about how many bytes a pair takes.
func (p *Pair) Size() int {
	n := 512 + len(p.Request.Target) + len(p.Request.Body.Bytes) + headerSize(p.Request.Header)
	if p.Answer != nil {
		n += p.Answer.size()
	}
	for i := range p.Stable {
		n += p.Stable[i].size()
	}
	return n
}

func (a *Answer) size() int {
	return 64 + len(a.Body.Bytes) + headerSize(a.Header) + headerSize(a.Trailer)
}

func headerSize(h map[string][]string) (n int) {
	for name, values := range h {
		n += len(name)
		for _, v := range values {
			n += len(v)
		}
	}
	return n
}

// Bundle is all that there is to say of a version that was shut out.
type Bundle struct {
	Format     int       `json:"format"` // 1
	Release    string    `json:"release"`
	Namespace  string    `json:"namespace"`
	UID        string    `json:"uid"`
	Deployment string    `json:"deployment"`
	Service    string    `json:"service"`
	Version    string    `json:"version,omitempty"`
	Change     string    `json:"change,omitempty"` // NAMESPACE/NAME
	Time       time.Time `json:"time"`             // when it was shut out
	Why        string    `json:"why"`
	// Convicted says that the evidence has decided, not a person.
	Convicted bool    `json:"convicted,omitempty"`
	E         string  `json:"e,omitempty"`
	AbortAt   string  `json:"abortAt,omitempty"`
	Path      []Point `json:"path,omitempty"`
	Stable    Version `json:"stable,omitzero"`
	Canary    Version `json:"canary,omitzero"`
	// Differs is what of the pod template differs between the versions.
	Differs []string   `json:"differs,omitempty"`
	Pods    []PodFacts `json:"pods,omitempty"`
	// Moved are the IDs of the requests that moved E.
	Moved []string `json:"moved,omitempty"`
	Pairs []Pair   `json:"pairs"`
}

// Format is that of the bundles that this package reads and writes.
const Format = 1

// Point is what E was at a time.
type Point struct {
	Time     time.Time `json:"time"`
	E        float64   `json:"e"`
	Requests int64     `json:"requests"` // to the canary, so far
	Errors   int64     `json:"errors"`
}

// Version is one of the two.
type Version struct {
	Hash   string `json:"hash,omitempty"`
	Image  string `json:"image,omitempty"`
	Commit string `json:"commit,omitempty"`
}

// PodFacts is what is known of a pod of the canary.
type PodFacts struct {
	Name     string   `json:"name"`
	Node     string   `json:"node,omitempty"`
	Ready    bool     `json:"ready,omitempty"`
	Restarts int32    `json:"restarts,omitempty"`
	Last     string   `json:"last,omitempty"` // how its container ended last
	Events   []string `json:"events,omitempty"`
	Log      string   `json:"log,omitempty"` // the end of it
}

// Read reads a bundle.
func Read(p []byte) (*Bundle, error) {
	var b Bundle
	if err := json.Unmarshal(p, &b); err != nil {
		return nil, fmt.Errorf("that is no evidence of a release: %w", err)
	}
	if b.Format != Format {
		return nil, fmt.Errorf("that is evidence of format %d, and this program reads format %d: take another version of bight", b.Format, Format)
	}
	if b.Release == "" || strings.ContainsAny(b.Release, `/\`) {
		return nil, fmt.Errorf("release %q is no name of one", b.Release)
	}
	// What can't be asked is left out: what else there is counts.
	b.Pairs = slices.DeleteFunc(b.Pairs, func(p Pair) bool {
		return p.Request.Method == "" || !strings.HasPrefix(p.Request.Target, "/") && p.Request.Target != "*"
	})
	return &b, nil
}

// ErrNone says that nothing was kept of a release.
var ErrNone = errors.New("there is no evidence of that release")

// Sort brings pairs into the order in which they are of interest: those that moved E,
// those that failed, those that were slow, and the rest; of each the oldest first.
func (b *Bundle) Sort() {
	rank := map[Class]int{Failed: 1, Slow: 2, Sample: 3}
	of := func(p *Pair) int {
		if slices.Contains(b.Moved, p.ID) {
			return 0
		}
		n := 2 * rank[p.Class]
		if p.Version != "canary" {
			n += 10
		}
		return n
	}
	slices.SortStableFunc(b.Pairs, func(x, y Pair) int {
		if d := of(&x) - of(&y); d != 0 {
			return d
		}
		return x.Time.Compare(y.Time)
	})
}
