// Package calls is what a program has asked of other services while requests were
// replayed to it, such that it can be answered from that the next time.
//
// A [Recorder] makes a [Recording] of calls and their answers, and [Answers] finds in it
// what is the answer to a call. What is secret is hidden in both by the rules of
// [evidence.Rules], before a call is written and before it is looked for: so calls are
// the same that differ in what was hidden only, and the order in which they came tells
// them apart.
//
// The package is pure. Nothing here is safe for concurrent use.
package calls

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bightdev/bight/internal/release/evidence"
)

const (
	// Format is that of the recordings that this package reads and writes.
	Format = 1
	// MostBody is how long a body may be, MostAll how long all of a recording are together.
	MostBody, MostAll = 1 << 20, 64 << 20
)

// Recording is what a command has asked, and what it was answered.
type Recording struct {
	Format    int    `json:"recording"` // not "format": no evidence is to be taken for one
	Release   string `json:"release"`
	Namespace string `json:"namespace,omitempty"` // in which names of hosts are short
	// Hides are the fields and parameters that were hidden besides the usual ones. Calls
	// are looked for without these, too.
	Hides []string `json:"hides,omitempty"`
	Calls []Call   `json:"calls"` // in the order in which they were made
}

// Call is one that a command has made.
type Call struct {
	// For is the replayed request that has caused it, "" for none: its ID in the evidence.
	For    string `json:"for,omitempty"`
	Method string `json:"method"`
	URL    string `json:"url"` // http://HOST:PORT/PATH?QUERY
	HTTP2  bool   `json:"http2,omitempty"`
	Body   Body   `json:"body,omitzero"`
	// Unread says that nothing is known of the body: it was too long, or in a format in
	// which secrets can't be found.
	Unread bool `json:"unread,omitempty"`
	// Answer is nil if there is none that could be given; Lacks says why.
	Answer *Answer `json:"answer,omitempty"`
	Lacks  string  `json:"lacks,omitempty"`
}

// Answer is what a call was answered.
type Answer struct {
	Status  int                 `json:"status"`
	Header  map[string][]string `json:"header,omitempty"`
	Body    Body                `json:"body,omitzero"`
	Trailer map[string][]string `json:"trailer,omitempty"`
	// Hidden says that values were hidden in the body.
	Hidden bool `json:"hidden,omitempty"`
}

// Name is how people call it: "GET http://stock:7000/x".
func (c *Call) Name() string { return c.Method + " " + c.URL }

// Body is a body. It is written such that people can read it where that is possible: as
// JSON, or else as a text.
type Body []byte

type bodyJSON struct {
	JSON   json.RawMessage `json:"json,omitempty"`
	Line   bool            `json:"line,omitempty"` // the JSON ends with a line feed
	Text   string          `json:"text,omitempty"`
	Base64 []byte          `json:"base64,omitempty"`
}

// MarshalJSON implements json.Marshaler. No byte is lost.
func (b Body) MarshalJSON() ([]byte, error) {
	var out bodyJSON
	text, line := bytes.CutSuffix(b, []byte("\n"))
	var compact bytes.Buffer
	switch {
	case !utf8.Valid(b):
		out.Base64 = b
	case json.Compact(&compact, text) == nil && bytes.Equal(compact.Bytes(), text):
		out.JSON, out.Line = text, line
	default:
		out.Text = string(b)
	}
	return encode(out, "")
}

// UnmarshalJSON implements json.Unmarshaler.
func (b *Body) UnmarshalJSON(p []byte) error {
	var in bodyJSON
	if err := json.Unmarshal(p, &in); err != nil {
		return err
	}
	switch {
	case len(in.JSON) > 0:
		var compact bytes.Buffer
		if err := json.Compact(&compact, in.JSON); err != nil {
			return err
		}
		if in.Line {
			compact.WriteByte('\n')
		}
		*b = compact.Bytes()
	case in.Text != "":
		*b = Body(in.Text)
	default:
		*b = in.Base64
	}
	return nil
}

// encode writes JSON in which <, > and & are themselves.
func encode(v any, indent string) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Write returns the text of a file with the recording.
func (r *Recording) Write() ([]byte, error) {
	out := *r
	out.Format = Format
	if out.Calls == nil {
		out.Calls = []Call{}
	}
	return encode(&out, "  ")
}

// Read reads a recording.
func Read(p []byte) (*Recording, error) {
	var r Recording
	if err := json.Unmarshal(p, &r); err != nil {
		return nil, fmt.Errorf("that is no recording of calls: %w", err)
	}
	switch {
	case r.Format == 0:
		return nil, errors.New("that is no recording of calls: bight replay --record writes one")
	case r.Format != Format:
		return nil, fmt.Errorf("that is a recording of format %d, and this program reads format %d: record it again", r.Format, Format)
	}
	for i, c := range r.Calls {
		if u, err := url.Parse(c.URL); err != nil || u.Scheme != "http" || u.Host == "" || c.Method == "" {
			return nil, fmt.Errorf("call %d of the recording, %q, is none: record it again", i+1, c.Name())
		}
		if c.Answer != nil && (c.Answer.Status < 200 || c.Answer.Status > 999) {
			return nil, fmt.Errorf("call %d of the recording, %s, has an answer with status %d: record it again", i+1, c.Name(), c.Answer.Status)
		}
	}
	return &r, nil
}

// Lacking says of which calls there is no answer, and why, a line each.
func (r *Recording) Lacking() []string {
	var out []string
	n := map[string]int{}
	for i := range r.Calls {
		if c := &r.Calls[i]; c.Answer == nil {
			text := c.Name() + ": " + cmp.Or(c.Lacks, "nobody knows why")
			if n[text]++; n[text] == 1 {
				out = append(out, text)
			}
		}
	}
	for i, text := range out {
		if n[text] > 1 {
			out[i] = fmt.Sprintf("%s (%d times)", text, n[text])
		}
	}
	return out
}

// Places are the HOST:PORT that were called, each once.
func (r *Recording) Places() []string {
	var out []string
	for _, c := range r.Calls {
		if u, err := url.Parse(c.URL); err == nil {
			out = append(out, place(u.Hostname(), cmp.Or(u.Port(), "80")))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// again are rules for what a program is to be answered from.
func again(rules evidence.Rules) *evidence.Rules {
	rules.Again = true
	return &rules
}

// hide is a request as it is kept: without its headers, since none of them is looked at
// again.
func hide(rules evidence.Rules, q evidence.Request) evidence.Request {
	p := evidence.Pair{Request: q}
	again(rules).Redact(&p)
	p.Request.Header = nil
	return p.Request
}

// called is the call that a request is, q as it was sent. Its Host is a place.
func called(rules evidence.Rules, q evidence.Request) Call {
	q = hide(rules, q)
	c := Call{
		Method: q.Method, HTTP2: q.HTTP2, Unread: q.Body.Cut,
		URL: "http://" + strings.TrimSuffix(q.Host, ":80") + q.Target,
	}
	if !c.Unread {
		c.Body = q.Body.Bytes
	}
	return c
}
