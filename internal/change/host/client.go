package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	callTimeout   = 30 * time.Second
	maxResponse   = 16 << 20
	attempts      = 4
	maxPages      = 100
	maxPause      = 2 * time.Minute // a longer rate limit is told, not waited for
	firstPause    = 500 * time.Millisecond
	maxRedirects  = 3
	statusTooMany = http.StatusTooManyRequests
)

// Connection is how a host is reached.
type Connection struct {
	// URL of the API: https://api.github.com, https://gitlab.com/api/v4, https://git.example.org/api/v1.
	URL   string
	Token string
	// Repository is OWNER/NAME, with GitLab also GROUP/SUBGROUP/NAME.
	Repository string
	// HTTP sends requests; nil is one of its own. Its redirects are not used.
	HTTP *http.Client
	// Wait pauses between attempts; nil is real time.
	Wait func(ctx context.Context, d time.Duration) error
}

// APIError is a host's refusal.
type APIError struct {
	Method  string
	Path    string
	Status  int
	Message string // the host's own words
}

func (e *APIError) Error() string {
	text := fmt.Sprintf("%s %s: %d %s", e.Method, e.Path, e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		text += ": " + e.Message
	}
	switch e.Status {
	case http.StatusUnauthorized:
		text += ": the host does not accept the token: make a new one"
	case http.StatusForbidden:
		text += ": the token has not the right to do this: it needs statuses, and comments on requests"
	case http.StatusNotFound:
		text += ": there is no such thing, or the token may not see it"
	}
	return text
}

// RateLimitError tells that the host takes no requests for a while.
type RateLimitError struct{ Until time.Time }

func (e *RateLimitError) Error() string {
	return "the host's rate limit is used up: it takes requests again at " + e.Until.UTC().Format(time.RFC3339)
}

// client makes the calls of one host's API.
type client struct {
	Connection
	authorize func(http.Header)
}

// call makes one call; in and out may be nil. It is tried again after a rate limit, for which the host has
// done nothing yet, and when it is of a kind that may be done twice, after a failure of the network or the host.
func (c client) call(ctx context.Context, method, path string, in, out any) (http.Header, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	pause := firstPause
	for attempt := 1; ; attempt++ {
		header, err := c.once(ctx, method, path, body, out)
		if err == nil || ctx.Err() != nil {
			return header, err
		}
		wait := pause
		apiErr, answered := errors.AsType[*APIError](err)
		limit, limited := errors.AsType[*RateLimitError](err)
		switch {
		case attempt == attempts:
			return header, err
		case limited:
			if wait = max(time.Until(limit.Until), 0); wait > maxPause {
				return header, err
			}
		case !idempotent(method), answered && apiErr.Status < 500, errors.Is(err, errBadAnswer):
			return header, err
		}
		if err := c.pause(ctx, wait); err != nil {
			return header, err
		}
		pause *= 2
	}
}

func idempotent(method string) bool {
	return method == http.MethodGet || method == http.MethodPut || method == http.MethodDelete
}

func (c client) pause(ctx context.Context, d time.Duration) error {
	if c.Wait != nil {
		return c.Wait(ctx, d)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errBadAnswer tells that the host answered what can't be understood; asking again brings the same.
var errBadAnswer = errors.New("the host's answer is not as its API is documented")

// once makes one attempt.
func (c client) once(ctx context.Context, method, path string, body []byte, out any) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: the host's URL can't be used", method, path)
	}
	r.Header.Set("User-Agent", "bight")
	r.Header.Set("Accept", "application/json")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	c.authorize(r.Header)
	sender := http.Client{CheckRedirect: sameHost}
	if c.HTTP != nil {
		sender.Transport = c.HTTP.Transport
	}
	response, err := sender.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, hideToken(err, c.Token))
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxResponse+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if until, ok := rateLimit(response, time.Now()); ok {
		return response.Header, fmt.Errorf("%s %s: %w", method, path, &RateLimitError{Until: until})
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return response.Header, &APIError{Method: method, Path: path, Status: response.StatusCode, Message: strings.ReplaceAll(message(text), tokenOr(c.Token), "***")}
	}
	if len(text) > maxResponse {
		return response.Header, fmt.Errorf("%s %s: more than %d bytes: %w", method, path, maxResponse, errBadAnswer)
	}
	if out == nil || response.StatusCode == http.StatusNoContent {
		return response.Header, nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return response.Header, fmt.Errorf("%s %s: %w (%v)", method, path, errBadAnswer, err)
	}
	return response.Header, nil
}

// tokenOr returns the token, or what no text has.
func tokenOr(token string) string {
	if token == "" {
		return "\x00"
	}
	return token
}

func hideToken(err error, token string) error {
	if token == "" || !strings.Contains(err.Error(), token) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), token, "***"))
}

// sameHost follows redirects of a renamed repository, and none to elsewhere: the token would go along.
func sameHost(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	if r.URL.Scheme != first.Scheme || r.URL.Host != first.Host || len(via) > maxRedirects {
		return http.ErrUseLastResponse
	}
	return nil
}

// rateLimit tells whether a response says to come back later, and when.
func rateLimit(r *http.Response, now time.Time) (time.Time, bool) {
	if r.StatusCode != statusTooMany && r.StatusCode != http.StatusForbidden && r.StatusCode != http.StatusServiceUnavailable {
		return time.Time{}, false
	}
	if after := r.Header.Get("Retry-After"); after != "" {
		if seconds, err := strconv.Atoi(after); err == nil && seconds >= 0 {
			return now.Add(time.Duration(seconds) * time.Second), true
		}
		if at, err := http.ParseTime(after); err == nil {
			return at, true
		}
	}
	for _, prefix := range []string{"X-RateLimit-", "RateLimit-"} {
		if r.StatusCode == http.StatusForbidden && r.Header.Get(prefix+"Remaining") != "0" {
			continue // a 403 that has nothing to do with the rate
		}
		if reset, err := strconv.ParseInt(r.Header.Get(prefix+"Reset"), 10, 64); err == nil {
			return time.Unix(reset, 0), true
		}
	}
	return now.Add(firstPause), r.StatusCode == statusTooMany
}

// message finds a host's own words in an error's body: {"message": ...} or {"error": ...}, of any kind.
func message(body []byte) string {
	var fields struct {
		Message json.RawMessage `json:"message"`
		Error   json.RawMessage `json:"error"`
		Errors  json.RawMessage `json:"errors"`
	}
	if json.Unmarshal(body, &fields) != nil {
		return ""
	}
	var parts []string
	for _, raw := range []json.RawMessage{fields.Message, fields.Error, fields.Errors} {
		var text string
		switch {
		case len(raw) == 0 || string(raw) == "null":
			continue
		case json.Unmarshal(raw, &text) != nil:
			text = string(raw)
		}
		parts = append(parts, text)
	}
	return cut(strings.Join(strings.Fields(strings.Join(parts, " ")), " "), 500)
}

// pages gets all pages of a list. The next page is the one that the response's Link header names.
func pages[T any](ctx context.Context, c client, path string) ([]T, error) {
	var all []T
	for range maxPages {
		var page []T
		header, err := c.call(ctx, http.MethodGet, path, nil, &page)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		next := nextPage(header, path)
		if next == "" {
			return all, nil
		}
		path = next
	}
	return nil, fmt.Errorf("GET %s: more than %d pages: %w", path, maxPages, errBadAnswer)
}

// nextPage returns the path of the next page, "" for none. Of the link only its query is used: where the list
// is, we know ourselves, also behind a proxy that the host knows nothing of.
func nextPage(header http.Header, path string) string {
	for _, value := range header.Values("Link") {
		for link := range strings.SplitSeq(value, ",") {
			address, params, ok := strings.Cut(link, ";")
			if !ok || !strings.Contains(params, `rel="next"`) {
				continue
			}
			u, err := url.Parse(strings.Trim(strings.TrimSpace(address), "<>"))
			if err != nil {
				continue
			}
			base, _, _ := strings.Cut(path, "?")
			return base + "?" + u.RawQuery
		}
	}
	return ""
}
