package host

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStatuses(t *testing.T) {
	each(t, func(t *testing.T, kind string, f *fake, h Host, _ *Connection) {
		words := map[string]map[State]string{
			"github": {Pending: "pending", Running: "pending", Success: "success", Failure: "failure", Broken: "error"},
			"gitea":  {Pending: "pending", Running: "pending", Success: "success", Failure: "failure", Broken: "error"},
			"gitlab": {Pending: "pending", Running: "running", Success: "success", Failure: "failed", Broken: "failed"},
		}
		for state, want := range words[kind] {
			s := Status{Context: "bight/review", State: state, URL: "https://bight.example.org/c/1", Description: strings.Repeat("ä", 300)}
			if err := h.SetStatus(t.Context(), commit, s); err != nil {
				t.Fatal(err)
			}
			got := f.statuses["bight/review"]
			if got["state"] != want || got["target_url"] != s.URL {
				t.Errorf("%s: the host has %v", state, got)
			}
			if text := got["description"].(string); len(text) > 255 || !strings.HasSuffix(text, "ä…") {
				t.Errorf("description %q", text)
			}
		}
		if err := h.SetStatus(t.Context(), strings.Repeat("2", 40), Status{Context: "x", State: Success}); err == nil || !strings.Contains(err.Error(), "No commit found") {
			t.Errorf("an unknown commit: %v", err)
		}
	})
}

func TestAStatusThatGitLabHasAlreadyIsSet(t *testing.T) {
	each(t, func(t *testing.T, kind string, f *fake, h Host, _ *Connection) {
		if kind != "gitlab" {
			return // the others take the same state again
		}
		f.before = func(w http.ResponseWriter, _ *http.Request) bool {
			respond(w, 400, map[string]any{"message": "Cannot transition status via :run from :running (Reason(s): Status cannot transition via \"run\")"})
			return true
		}
		if err := h.SetStatus(t.Context(), commit, Status{Context: "x", State: Running}); err != nil {
			t.Error(err)
		}
		if err := h.SetStatus(t.Context(), commit, Status{Context: "x", State: Success}); err == nil {
			t.Error("another transition that is refused is said to be done")
		}
	})
}

func TestOpenRequestsOfAllPages(t *testing.T) {
	each(t, func(t *testing.T, _ string, f *fake, h Host, _ *Connection) {
		for i := range 230 {
			q := Request{Number: i + 1, Title: "Fix", HeadCommit: fmt.Sprintf("%040d", i), HeadBranch: "topic", BaseBranch: "main", Author: "ann", URL: "https://x.example.org/1"}
			if i == 3 {
				q.Author, q.Fork = "eve", true
			}
			if i == 5 {
				q.Author, q.Fork = "ghost", true
			}
			f.requests = append(f.requests, q)
		}
		got, err := h.Requests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(f.requests, got); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
}

// bodies returns what stands as "PATH:LINE TEXT", without our marks.
func (f *fake) bodies() []string {
	var all []string
	for _, s := range f.stands {
		text := strings.ReplaceAll(s.body, "\r\n", "\n")
		if marked(text) != "" {
			_, text, _ = strings.Cut(text, markEnd)
		}
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s:%d %s", s.path, s.line, text)))
	}
	slices.Sort(all)
	return all
}

func TestCommentsAreKeptEqualToTheReview(t *testing.T) {
	each(t, func(t *testing.T, kind string, f *fake, h Host, _ *Connection) {
		f.add(stand{body: "I like it"})
		f.add(stand{path: "main.go", line: 2, body: "> " + mark("0123") + "no"})
		others := []string{":0 I like it", "main.go:2 > " + mark("0123") + "no"}
		comment := func(summary string, remarks ...Remark) {
			t.Helper()
			if err := Comment(t.Context(), h, 7, Review{Commit: commit, Summary: summary, Remarks: remarks}); err != nil {
				t.Fatal(err)
			}
		}
		stands := func(want ...string) {
			t.Helper()
			want = append(want, others...)
			slices.Sort(want)
			if diff := cmp.Diff(want, f.bodies()); diff != "" {
				t.Errorf("comments (-want +got):\n%s", diff)
			}
		}
		a := Remark{Fingerprint: "a", Path: "main.go", Line: 3, Body: "unchecked error"}
		b := Remark{Fingerprint: "b <!-- --> \n", Path: "main.go", Line: 5, Body: "secret"}
		far := Remark{Fingerprint: "c", Path: "other.go", Line: 99, Body: "far\naway"}
		comment("2 findings", a, b, b, far)
		stands("main.go:3 unchecked error", "main.go:5 secret", ":0 2 findings\n\nOutside of the changed lines:\n- `other.go:99`: far away")

		f.calls = nil
		comment("2 findings", a, b, far)
		for _, call := range f.calls {
			if !strings.HasPrefix(call, "GET ") && !strings.HasSuffix(call, "/pulls/7/comments") && !strings.HasSuffix(call, "/discussions") && !strings.HasSuffix(call, "/reviews") {
				t.Errorf("nothing has changed, and the host is asked to %s", call)
			}
		}
		ids := func() (all []int64) {
			for _, s := range f.stands {
				all = append(all, s.id)
			}
			return all
		}
		before := ids()
		a.Body = "unchecked error, still"
		comment("still 2", a, b)
		stands("main.go:3 unchecked error, still", "main.go:5 secret", ":0 still 2")
		if diff := cmp.Diff(before, ids()); diff != "" {
			t.Errorf("comments were not edited in place (-want +got):\n%s", diff)
		}
		comment("1 left", a)
		stands("main.go:3 unchecked error, still", ":0 1 left")

		// One that others have answered stays, as done, and is opened again when it is back.
		for _, s := range f.stands {
			if s.path == "main.go" && s.line == 3 {
				s.replies = 1
			}
		}
		comment("")
		stands("main.go:3 *No longer found.*")
		f.calls = nil
		comment("")
		if i := slices.IndexFunc(f.calls, func(c string) bool { return !strings.HasPrefix(c, "GET ") }); i >= 0 {
			t.Errorf("what is done is done again: %s", f.calls[i])
		}
		if kind == "gitlab" && !slices.ContainsFunc(f.stands, func(s *stand) bool { return s.resolved }) {
			t.Error("the discussion is not resolved")
		}
		comment("", a)
		stands("main.go:3 unchecked error, still")
		if slices.ContainsFunc(f.stands, func(s *stand) bool { return s.resolved }) {
			t.Error("the discussion is not opened again")
		}
	})
}

func TestManyCommentsAreAllFound(t *testing.T) {
	each(t, func(t *testing.T, kind string, f *fake, h Host, _ *Connection) {
		var remarks []Remark
		for i := range 130 {
			remarks = append(remarks, Remark{Fingerprint: strconv.Itoa(i), Path: "main.go", Line: i%10 + 1, Body: "x"})
		}
		for range 2 {
			if err := Comment(t.Context(), h, 7, Review{Commit: commit, Remarks: remarks}); err != nil {
				t.Fatal(err)
			}
			if len(f.stands) != len(remarks) {
				t.Fatalf("%d comments stand, want %d", len(f.stands), len(remarks))
			}
		}
	})
}

func TestRefusalsSayWhatToDoAndHideTheToken(t *testing.T) {
	each(t, func(t *testing.T, kind string, f *fake, _ Host, c *Connection) {
		c.Token = "wr0ng"
		_, err := kinds[kind].open(*c).Requests(t.Context())
		if err == nil || !strings.Contains(err.Error(), "make a new one") || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("wrong token: %v", err)
		}
		c.Token, c.Repository = token, "acme/none"
		_, err = kinds[kind].open(*c).Requests(t.Context())
		if e, ok := errors.AsType[*APIError](err); !ok || e.Status != http.StatusNotFound {
			t.Errorf("unknown repository: %v", err)
		}
		f.before = func(w http.ResponseWriter, _ *http.Request) bool {
			fmt.Fprint(w, "<html>")
			return true
		}
		if _, err = kinds[kind].open(*c).Requests(t.Context()); !errors.Is(err, errBadAnswer) {
			t.Errorf("an answer that is no JSON: %v", err)
		}
	})
}

func TestRateLimitsAndFailures(t *testing.T) {
	each(t, func(t *testing.T, kind string, f *fake, _ Host, c *Connection) {
		var waits []time.Duration
		c.Wait = func(_ context.Context, d time.Duration) error {
			waits = append(waits, d)
			return nil
		}
		h := kinds[kind].open(*c)
		script := func(answers ...func(http.ResponseWriter)) {
			waits, f.calls = nil, nil
			f.before = func(w http.ResponseWriter, _ *http.Request) bool {
				if len(answers) == 0 {
					return false
				}
				answers[0](w)
				answers = answers[1:]
				return true
			}
		}
		fail := func(status int, headers ...string) func(http.ResponseWriter) {
			return func(w http.ResponseWriter) {
				for i := 0; i < len(headers); i += 2 {
					w.Header().Set(headers[i], headers[i+1])
				}
				respond(w, status, map[string]any{"message": "later"})
			}
		}
		status := func() error { return h.SetStatus(t.Context(), commit, Status{Context: "x", State: Success}) }
		list := func() error { _, err := h.Requests(t.Context()); return err }
		soon := strconv.FormatInt(time.Now().Add(20*time.Second).Unix(), 10)
		late := strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)
		for _, test := range []struct {
			name    string
			answers []func(http.ResponseWriter)
			do      func() error
			calls   int
			ok      bool
		}{
			{"a POST after Retry-After", []func(http.ResponseWriter){fail(429, "Retry-After", "7")}, status, 2, true},
			{"a POST after the rate is used up", []func(http.ResponseWriter){fail(403, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", soon)}, status, 2, true},
			{"a rate that is used up for long", []func(http.ResponseWriter){fail(403, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", late)}, status, 1, false},
			{"GitLab's headers", []func(http.ResponseWriter){fail(429, "RateLimit-Remaining", "0", "RateLimit-Reset", soon)}, status, 2, true},
			{"a GET after two failures", []func(http.ResponseWriter){fail(502), fail(503)}, list, 3, true},
			{"a GET that goes on failing", []func(http.ResponseWriter){fail(500), fail(500), fail(500), fail(500), fail(500)}, list, 4, false},
			{"a POST after a failure", []func(http.ResponseWriter){fail(502)}, status, 1, false},
			{"no right", []func(http.ResponseWriter){fail(403, "X-RateLimit-Remaining", "12", "X-RateLimit-Reset", soon)}, list, 1, false},
		} {
			script(test.answers...)
			err := test.do()
			if (err == nil) != test.ok || len(f.calls) != test.calls {
				t.Errorf("%s: %d calls, %v; want %d", test.name, len(f.calls), err, test.calls)
			}
			if len(waits) != test.calls-1 {
				t.Errorf("%s: waits %v", test.name, waits)
			}
			if test.name == "a POST after Retry-After" && len(waits) == 1 && (waits[0] < 6*time.Second || waits[0] > 7*time.Second) {
				t.Errorf("it waits %v, not the 7 s that the host said", waits[0])
			}
			if test.name == "a rate that is used up for long" {
				if _, ok := errors.AsType[*RateLimitError](err); !ok {
					t.Errorf("%s: %v", test.name, err)
				}
			}
		}
	})
}

func TestRedirectsLeadNowhereElse(t *testing.T) {
	each(t, func(t *testing.T, kind string, f *fake, h Host, _ *Connection) {
		other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			t.Errorf("another host was asked with %v", r.Header)
		}))
		defer other.Close()
		f.before = func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusMovedPermanently)
			return true
		}
		if _, err := h.Requests(t.Context()); err == nil {
			t.Error("it succeeded")
		}
		moved := false
		f.before = func(w http.ResponseWriter, r *http.Request) bool {
			if moved {
				return false
			}
			moved = true
			http.Redirect(w, r, r.URL.RequestURI(), http.StatusMovedPermanently)
			return true
		}
		if _, err := h.Requests(t.Context()); err != nil {
			t.Errorf("a redirect on the same host: %v", err)
		}
	})
}

func TestACallEndsWithItsContext(t *testing.T) {
	each(t, func(t *testing.T, kind string, f *fake, h Host, _ *Connection) {
		ctx, cancel := context.WithCancel(t.Context())
		f.before = func(w http.ResponseWriter, r *http.Request) bool {
			cancel()
			<-r.Context().Done()
			return true
		}
		if _, err := h.Requests(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
