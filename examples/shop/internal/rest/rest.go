// Package rest is JSON over HTTP, both sides: [Handle] makes a handler of a
// function, [Do] calls one. An [Error] keeps its status on the way. Everything
// is safe for concurrent use.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Error is a refusal: an HTTP status and a sentence for people.
type Error struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
}

func (e *Error) Error() string { return e.Message }

// Errorf returns an [Error].
func Errorf(status int, format string, args ...any) error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

// Handle serves what f returns as JSON. Errors other than *Error become 502: in
// this shop they come from a service further down.
func Handle(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		code := http.StatusOK
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok {
				e = &Error{Status: http.StatusBadGateway, Message: err.Error()}
			}
			v, code = e, e.Status
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(v) // the client is gone if this fails
	})
}

// Read decodes a request's body.
func Read(r *http.Request, v any) error {
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20)).Decode(v); err != nil {
		return Errorf(http.StatusBadRequest, "cannot read the request: %v", err)
	}
	return nil
}

// Do sends in (nil for nothing) and decodes the answer into out (nil to drop
// it). It gives the other side three seconds.
func Do(ctx context.Context, method, url string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		e := &Error{Status: resp.StatusCode}
		if json.NewDecoder(resp.Body).Decode(e) != nil || e.Message == "" {
			e.Message = fmt.Sprintf("%s %s: %s", method, url, resp.Status)
		}
		return e
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	return nil
}
