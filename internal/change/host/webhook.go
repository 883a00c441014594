package host

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What is wrong with a webhook.
var (
	ErrForged   = errors.New("the webhook is not signed with the app's secret: set the same secret at the host and in the app")
	ErrReplayed = errors.New("the webhook was received before")
	ErrTooLarge = errors.New("the webhook is larger than 25 MiB")
)

const (
	maxWebhook = 25 << 20 // GitHub's own limit; the others have lower ones
	clockSkew  = 5 * time.Minute
)

// Kind is what a webhook is about.
type Kind string

// The kinds. A webhook of any other is Other: it is well signed, and nothing follows from it.
const (
	Pushed    Kind = "push"    // a branch or tag has moved
	Requested Kind = "request" // a request was opened, changed or closed
	Other     Kind = "other"
)

// Event is what a webhook says. It is a hint to look: what counts is what the host answers when asked.
type Event struct {
	Kind       Kind
	Delivery   string // the host's name for it, may be empty
	Repository string // OWNER/NAME
	Ref        string // Pushed: refs/heads/...
	Old        string // Pushed: "" if it is new
	New        string // Pushed: "" if it is deleted
	Number     int    // Requested
	Action     string // Requested: as the host says it
	Request    Request

	digest [sha256.Size]byte // of the body
}

// bodyOf reads a webhook's body.
func bodyOf(r *http.Request) ([]byte, error) {
	if r.Method != http.MethodPost {
		return nil, errors.New("a webhook is a POST")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxWebhook+1))
	if err != nil {
		return nil, fmt.Errorf("read webhook: %w", err)
	}
	if len(body) > maxWebhook {
		return nil, ErrTooLarge
	}
	return body, nil
}

// sign returns the HMAC-SHA256 of the parts.
func sign(key []byte, parts ...string) []byte {
	mac := hmac.New(sha256.New, key)
	for _, part := range parts {
		io.WriteString(mac, part)
	}
	return mac.Sum(nil)
}

// signedHex tells in constant time whether signature is the body's in hexadecimal. No secret signs nothing.
func signedHex(signature, secret string, body []byte) bool {
	given, err := hex.DecodeString(signature)
	return err == nil && secret != "" && hmac.Equal(given, sign([]byte(secret), string(body)))
}

// signedStandard checks a signature by the Standard Webhooks specification, which GitLab's signing tokens
// ("whsec_...") follow: of id, time and body, with a time that is near.
func signedStandard(h http.Header, secret string, body []byte, now time.Time) bool {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, standardSecret))
	if err != nil || len(key) == 0 {
		return false
	}
	id, stamp := h.Get("webhook-id"), h.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > clockSkew {
		return false
	}
	want := sign(key, id, ".", stamp, ".", string(body))
	good := false
	for word := range strings.FieldsSeq(h.Get("webhook-signature")) { // several while a secret is replaced
		text, ok := strings.CutPrefix(word, "v1,")
		given, err := base64.StdEncoding.DecodeString(text)
		good = good || ok && err == nil && hmac.Equal(given, want)
	}
	return good
}

const standardSecret = "whsec_"

// sameSecret compares in constant time, whatever the lengths.
func sameSecret(given, want string) bool {
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want))
	return want != "" && hmac.Equal(a[:], b[:])
}

// hash returns a commit's hash as this package has it: "" for zeros.
func hash(text string) string {
	if strings.Trim(text, "0") == "" {
		return ""
	}
	return text
}

// pullEvent is what GitHub and Gitea send for pushes and pull requests.
type pullEvent struct {
	Ref        string     `json:"ref"`
	Before     string     `json:"before"`
	After      string     `json:"after"`
	Action     string     `json:"action"`
	Number     int        `json:"number"`
	Pull       pull       `json:"pull_request"`
	Repository repository `json:"repository"`
}

// parsePull reads an event of GitHub or Gitea.
func parsePull(kind, delivery string, body []byte) (Event, error) {
	e := Event{Kind: Other, Delivery: delivery, digest: sha256.Sum256(body)}
	if kind != "push" && kind != "pull_request" && kind != "pull_request_sync" {
		return e, nil
	}
	var p pullEvent
	if err := json.Unmarshal(body, &p); err != nil {
		return Event{}, fmt.Errorf("read webhook: %w", err)
	}
	e.Repository = p.Repository.FullName
	if kind == "push" {
		e.Kind, e.Ref, e.Old, e.New = Pushed, p.Ref, hash(p.Before), hash(p.After)
		return e, nil
	}
	e.Kind, e.Number, e.Action, e.Request = Requested, p.Number, p.Action, p.Pull.request(p.Repository.FullName)
	return e, nil
}

// Deliveries remembers webhooks to find those that come again. The zero value is ready.
type Deliveries struct {
	Window time.Duration // for how long a delivery's name is remembered; 0 is a day
	Limit  int           // how many at most, the oldest are forgotten; 0 is 10,000

	mu    sync.Mutex
	seen  map[string]time.Time // until when
	order []string             // oldest first
}

// sameBody is for how long a body may not come again under another name. The name is not signed by most hosts,
// so who replays can change it; but a branch that goes to and fro brings the same body again, too, and must be heard.
const sameBody = 5 * time.Minute

// Check returns [ErrReplayed] for an event that was checked before. If the event could not be worked on,
// [Deliveries.Forget] it, and the host's next attempt counts.
func (d *Deliveries) Check(e Event) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen == nil {
		d.seen = map[string]time.Time{}
	}
	now := time.Now()
	names := d.names(e)
	for name := range names {
		if now.Before(d.seen[name]) {
			return ErrReplayed
		}
	}
	for name, during := range names {
		if _, ok := d.seen[name]; !ok {
			d.order = append(d.order, name)
		}
		d.seen[name] = now.Add(during)
	}
	limit := 2 * cmp.Or(d.Limit, 10_000) // two names for each
	for len(d.order) > 0 && (len(d.order) > limit || !now.Before(d.seen[d.order[0]])) {
		delete(d.seen, d.order[0])
		d.order = d.order[1:]
	}
	return nil
}

// Forget lets an event be received again.
func (d *Deliveries) Forget(e Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.names(e) {
		if _, ok := d.seen[name]; ok {
			d.seen[name] = time.Time{} // stays in order, where its turn to go comes
		}
	}
}

// names returns by what an event is remembered, and for how long.
func (d *Deliveries) names(e Event) map[string]time.Duration {
	window := cmp.Or(d.Window, 24*time.Hour)
	if e.Delivery == "" {
		return map[string]time.Duration{"body " + string(e.digest[:]): window}
	}
	return map[string]time.Duration{"body " + string(e.digest[:]): min(sameBody, window), "id " + e.Delivery: window}
}
