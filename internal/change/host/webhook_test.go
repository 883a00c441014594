package host

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const secret = "wh3n"

var zeros = strings.Repeat("0", 40)

// What the hosts send, cut down to some of their fields.
const (
	pullPush    = `{"ref":"refs/heads/main","before":"%s","after":"` + commit + `","forced":false,"repository":{"id":1,"full_name":"acme/shop"},"commits":[]}`
	pullRequest = `{"action":"synchronize","number":7,"pull_request":{"number":7,"title":"Fix","html_url":"https://x/7","user":{"login":"eve"},
		"head":{"ref":"topic","sha":"` + commit + `","repo":{"full_name":"eve/shop"}},"base":{"ref":"main","repo":{"full_name":"acme/shop"}}},"repository":{"full_name":"acme/shop"}}`
	mergePush    = `{"object_kind":"push","ref":"refs/heads/main","before":"%s","after":"` + commit + `","project":{"id":1,"path_with_namespace":"acme/shop"}}`
	mergeRequest = `{"object_kind":"merge_request","user":{"username":"eve"},"project":{"path_with_namespace":"acme/shop"},"object_attributes":{"iid":7,"action":"synchronize",
		"title":"Fix","url":"https://x/7","source_branch":"topic","target_branch":"main","source_project_id":2,"target_project_id":1,"last_commit":{"id":"` + commit + `"}}}`
)

// hook is a webhook of a kind of host, signed with the secret.
func hook(kind, event, body string) *http.Request {
	r := httptest.NewRequest("POST", "/webhook", strings.NewReader(body))
	mac := hex.EncodeToString(sign([]byte(secret), body))
	switch kind {
	case "github":
		r.Header.Set("X-GitHub-Event", event)
		r.Header.Set("X-GitHub-Delivery", "d1")
		r.Header.Set("X-Hub-Signature-256", "sha256="+mac)
	case "gitea":
		r.Header.Set("X-Gitea-Event", event)
		r.Header.Set("X-Gitea-Delivery", "d1")
		r.Header.Set("X-Gitea-Signature", mac)
	case "gitlab":
		r.Header.Set("X-Gitlab-Event", event)
		r.Header.Set("X-Gitlab-Event-UUID", "d1")
		r.Header.Set("X-Gitlab-Token", secret)
	}
	return r
}

func TestWebhooks(t *testing.T) {
	each(t, func(t *testing.T, kind string, _ *fake, h Host, _ *Connection) {
		push, request := pullPush, pullRequest
		if kind == "gitlab" {
			push, request = mergePush, mergeRequest
		}
		for _, test := range []struct {
			name, event, body string
			want              Event
		}{
			{"a new branch", "push", fmt.Sprintf(push, zeros), Event{Kind: Pushed, Delivery: "d1", Repository: home, Ref: "refs/heads/main", New: commit}},
			{"a request", "pull_request", request, Event{Kind: Requested, Delivery: "d1", Repository: home, Number: 7, Action: "synchronize", Request: Request{
				Number: 7, Title: "Fix", HeadCommit: commit, HeadBranch: "topic", BaseBranch: "main", Author: "eve", URL: "https://x/7", Fork: true}}},
			{"another", "ping", `{"zen":"Keep it logically awesome.","object_kind":"build","user":"x"}`, Event{Kind: Other, Delivery: "d1"}},
		} {
			got, err := h.Parse(hook(kind, test.event, test.body), secret)
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
				continue
			}
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreUnexported(Event{})); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.name, diff)
			}
		}

		good := fmt.Sprintf(push, zeros)
		forged := map[string]*http.Request{"another secret": hook(kind, "push", good), "no signature": httptest.NewRequest("POST", "/", strings.NewReader(good))}
		for name, r := range forged {
			other := "other"
			if name == "no signature" {
				other = secret
			}
			if _, err := h.Parse(r, other); !errors.Is(err, ErrForged) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := h.Parse(hook(kind, "push", good), ""); !errors.Is(err, ErrForged) {
			t.Errorf("an app without a secret: %v", err)
		}
		if kind != "gitlab" { // whose secret token signs nothing
			r := hook(kind, "push", good)
			r.Body = http.NoBody
			if _, err := h.Parse(r, secret); !errors.Is(err, ErrForged) {
				t.Errorf("another body: %v", err)
			}
		}
		if _, err := h.Parse(hook(kind, "push", `{"object_kind":"push",`), secret); err == nil {
			t.Error("a body that ends early is read")
		}
		large := httptest.NewRequest("POST", "/", bytes.NewReader(make([]byte, maxWebhook+1)))
		if _, err := h.Parse(large, secret); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a large body: %v", err)
		}
		if _, err := h.Parse(httptest.NewRequest("GET", "/", nil), secret); err == nil {
			t.Error("a GET is read")
		}
	})
}

func TestGitLabsSigningTokens(t *testing.T) {
	body := fmt.Sprintf(mergePush, zeros)
	key := bytes.Repeat([]byte{7}, 32)
	signing := standardSecret + base64.StdEncoding.EncodeToString(key)
	signed := func(id string, at time.Time) *http.Request {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		stamp := fmt.Sprint(at.Unix())
		r.Header.Set("webhook-id", id)
		r.Header.Set("webhook-timestamp", stamp)
		r.Header.Set("webhook-signature", "v1,b2xk v1,"+base64.StdEncoding.EncodeToString(sign(key, id, ".", stamp, ".", body)))
		return r
	}
	g := &GitLab{}
	if e, err := g.Parse(signed("1", time.Now()), signing); err != nil || e.New != commit {
		t.Errorf("got %+v, %v", e, err)
	}
	another := signed("1", time.Now())
	another.Header.Set("webhook-id", "2")
	unsigned := httptest.NewRequest("POST", "/", strings.NewReader(body))
	unsigned.Header.Set("X-Gitlab-Token", signing) // the plain token is no way around the signature
	for name, r := range map[string]*http.Request{"old": signed("1", time.Now().Add(-time.Hour)), "of the future": signed("1", time.Now().Add(time.Hour)),
		"another delivery": another, "not signed": unsigned} {
		if _, err := g.Parse(r, signing); !errors.Is(err, ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAWebhookCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parse := func(delivery, body string) Event {
			r := hook("github", "push", body)
			r.Header.Set("X-GitHub-Delivery", delivery)
			e, err := (&GitHub{}).Parse(r, secret)
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		one, two := fmt.Sprintf(pullPush, zeros), fmt.Sprintf(pullPush, strings.Repeat("3", 40))
		d := &Deliveries{Limit: 3}
		for _, step := range []struct {
			name           string
			delivery, body string
			wait           time.Duration
			forget         bool
			want           error
		}{
			{"first", "1", one, 0, false, nil},
			{"again under another name", "2", one, time.Minute, false, ErrReplayed},
			{"again", "1", one, time.Hour, false, ErrReplayed},
			{"a branch that has been elsewhere meanwhile", "4", one, 0, false, nil},
			{"another", "3", two, 0, true, nil},
			{"tried again by the host, as it was not worked on", "3", two, 0, false, nil},
			{"and again", "3", two, 0, false, ErrReplayed},
			{"after the window", "1", one, 24 * time.Hour, false, nil},
		} {
			time.Sleep(step.wait)
			e := parse(step.delivery, step.body)
			if err := d.Check(e); !errors.Is(err, step.want) {
				t.Errorf("%s: %v, want %v", step.name, err, step.want)
			}
			if step.forget {
				d.Forget(e)
			}
		}
		for i := range 100 {
			if err := d.Check(parse(fmt.Sprint("n", i), fmt.Sprintf(`{"ref":"%d"}`, i))); err != nil {
				t.Fatal(err)
			}
			if len(d.seen) > 2*d.Limit || len(d.order) > 2*d.Limit {
				t.Fatalf("%d and %d names are remembered", len(d.seen), len(d.order))
			}
		}
	})
}

func FuzzWebhook(f *testing.F) {
	f.Add([]byte(pullRequest))
	f.Add([]byte(mergeRequest))
	f.Add([]byte(mergePush))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, event := range []string{"push", "pull_request", "x"} {
			if e, err := parsePull(event, "1", body); err == nil && e.Kind == "" {
				t.Error("an event of no kind")
			}
		}
		if e, err := parseMerge("1", body); err == nil && e.Kind == "" {
			t.Error("an event of no kind")
		}
		if m := marked(string(body)); strings.ContainsAny(m, "<> \n") {
			t.Errorf("mark %q", m)
		}
		_ = message(body)
	})
}
