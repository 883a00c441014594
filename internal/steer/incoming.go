package steer

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// incoming is a request, with what is kept of it.
type incoming struct {
	d     *Door
	r     *http.Request
	body  io.Reader
	close func() error
	kept  []byte
	keep  bool // kept is the whole body

	connected atomic.Bool // there is a connection that the request is sent on
	got       func()      // is told of it, unless it is nil
	heard     atomic.Bool // an interim answer was passed on
	carry     bool        // it goes to another door
	said      string      // what that has said with the answer
	came      time.Time   // when it came, if another door wants to know how long the app takes
	give      string      // the cookie that the client gets
	upload    *upload     // the body, if it is not kept; nil until it is sent
}

// repeatable says whether the request can be sent once more although its effect
// may have happened.
func (in *incoming) repeatable() bool {
	return idempotent(in.r.Method) && (in.keep || in.empty())
}

// again says whether the request can be sent to somebody else, after it was refused or has
// got no answer.
func (in *incoming) again(refused bool) bool {
	if refused {
		return in.keep || in.empty() || in.upload.again()
	}
	return !in.heard.Load() && in.repeatable()
}

// settle says that the request is not sent again.
func (in *incoming) settle() {
	if in.upload != nil {
		in.upload.settle()
	}
}

// empty says whether the request has no body.
func (in *incoming) empty() bool { return in.r.ContentLength == 0 }

// retain reads the body of a request that could be repeated, if it is small.
func (in *incoming) retain() error {
	r := in.r
	if in.keep || !idempotent(r.Method) || r.ContentLength <= 0 || r.ContentLength > maxKept || r.Header.Get("Expect") != "" {
		return nil
	}
	var err error
	if in.kept, err = io.ReadAll(in.body); err != nil {
		return err
	}
	in.keep = true
	return nil
}

// url returns where the request goes on, as a client has it.
func (in *incoming) url() *url.URL {
	u := *in.r.URL
	if u.Scheme, u.Host = "http", in.r.Host; u.Host == "" {
		u.Host = "app"
	}
	return &u
}

// outgoing makes the request that is sent on.
func (in *incoming) outgoing(ctx context.Context) (out *http.Request, err error) {
	out = in.r.WithContext(ctx)
	out.URL, out.RequestURI = in.url(), ""
	out.Header = in.r.Header.Clone()
	noAgent(out.Header)
	if in.carry {
		out.Header.Set(Carried, carriedAsks)
	}
	switch {
	case in.empty():
		out.Body = http.NoBody
	case in.keep:
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(in.kept)), nil }
		out.Body, _ = out.GetBody()
	default:
		if in.upload == nil {
			in.upload = newUpload(in)
		}
		out.GetBody = in.upload.attempt
		if out.Body, err = in.upload.attempt(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// noAgent keeps a User-Agent from being made up.
func noAgent(h http.Header) {
	if _, has := h["User-Agent"]; !has {
		h.Set("User-Agent", "")
	}
}

// copy makes a request like this one, but for the body.
func (in *incoming) copy(ctx context.Context) *http.Request {
	out := in.r.Clone(ctx)
	out.URL, out.RequestURI, out.Trailer = in.url(), "", nil
	noAgent(out.Header)
	return out
}
