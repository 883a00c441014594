package gate

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/bightdev/bight/internal/steer"
)

// Grant lets the owner of one token in.
type Grant struct {
	ID    string `json:"id"`    // the intercept's name
	Owner string `json:"owner"` // who made it
	// TokenHash is the SHA-256 of the token, in hexadecimal. Of two grants with one
	// token the first counts.
	TokenHash string `json:"tokenHash"`
	// Rule is the only one that may be joined with the token, nil for none. Its ID
	// and Owner are the grant's, whatever it says.
	Rule *steer.Rule `json:"rule,omitempty"`
	// Container is the one whose process Environment is about, as Options.Process
	// knows it.
	Container string `json:"container,omitempty"`
	// Environment allows to read the environment and the files of the process, and
	// to connect and resolve from the pod. Without it the rule is all there is.
	Environment bool `json:"environment,omitempty"`
}

// who is the grant's name to the stream server: another one if anything of the grant
// is another.
func (g Grant) who() string {
	g.TokenHash = strings.ToLower(g.TokenHash)
	if g.Rule != nil {
		r := g.rule()
		g.Rule = &r
	}
	b, err := json.Marshal(g)
	if err != nil {
		panic(err) // there is nothing in it that JSON does not have
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// rule is the rule that may be joined, in its canonical form.
func (g Grant) rule() steer.Rule {
	r := canonical(*g.Rule)
	r.ID, r.Owner = g.ID, g.Owner
	return r
}

// canonical writes a rule in the one way among those that mean the same.
func canonical(r steer.Rule) steer.Rule {
	r.Match.Path = strings.TrimRight(r.Match.Path, "/")
	r.Match.Headers = slices.Clone(r.Match.Headers)
	for i := range r.Match.Headers {
		r.Match.Headers[i].Name = strings.ToLower(r.Match.Headers[i].Name)
	}
	slices.SortFunc(r.Match.Headers, func(a, b steer.HeaderMatch) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Value, b.Value))
	})
	return r
}

// allows says why a rule may not be joined with the grant.
func (g Grant) allows(r steer.Rule) error {
	if g.Rule == nil {
		return fmt.Errorf("intercept %s has no rule, it is for the environment and the network of the pod alone: make one for the requests", g.ID)
	}
	want := g.rule()
	switch {
	case r.ID != want.ID:
		return fmt.Errorf("the rule has the id %q, and the token is that of intercept %s: join that one, or use the token of the other", r.ID, want.ID)
	case r.Owner != want.Owner:
		return fmt.Errorf("the rule is said to be of %q, and intercept %s was made by %s: nobody can act for somebody else", r.Owner, want.ID, want.Owner)
	}
	other, err := differences(want, canonical(r))
	if err != nil {
		return err
	}
	if len(other) > 0 {
		return fmt.Errorf("the rule is not the one that intercept %s allows: %s; change the intercept, or make another one", want.ID, strings.Join(other, ", "))
	}
	return nil
}

// differences tells, for a person, which fields of a rule are not as wanted.
func differences(want, got steer.Rule) ([]string, error) {
	w, err := fields(want)
	if err != nil {
		return nil, err
	}
	g, err := fields(got)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(w)
	maps.Copy(all, g)
	var found []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !bytes.Equal(w[name], g[name]) {
			found = append(found, fmt.Sprintf("its %s is %s instead of %s", name, orNone(g[name]), orNone(w[name])))
		}
	}
	return found, nil
}

func orNone(b []byte) string {
	if len(b) == 0 {
		return "none"
	}
	return string(b)
}

// fields are all that a rule has, by their names in JSON.
func fields(r steer.Rule) (map[string]json.RawMessage, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	return all, json.Unmarshal(b, &all)
}

// maxOver is how many grants that are over are remembered, to tell their owners.
const maxOver = 256

// book has the present grants.
type book struct {
	service string

	mu      sync.Mutex
	present []Grant
	byWho   map[string]Grant
	over    []ended // oldest first
	closed  bool
}

// ended is a token that is not taken any more.
type ended struct{ hash, why string }

var errClosing = errors.New("the agent of this node is ending: connect again in a moment")

// set replaces the grants.
func (b *book) set(grants []Grant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	byWho, hashes, ids := map[string]Grant{}, map[string]bool{}, map[string]bool{}
	for _, g := range grants {
		byWho[g.who()] = g
		hashes[strings.ToLower(g.TokenHash)] = true
		ids[g.ID] = true
	}
	for _, g := range b.present {
		hash := strings.ToLower(g.TokenHash)
		why := fmt.Sprintf("intercept %s of %s is over: it was deleted or has expired; make it again", g.ID, g.Owner)
		if ids[g.ID] {
			why = fmt.Sprintf("intercept %s of %s has another token now: it was made again", g.ID, g.Owner)
		}
		if !hashes[hash] {
			b.over = append(b.over, ended{hash, why})
		}
	}
	b.over = slices.DeleteFunc(b.over, func(e ended) bool { return hashes[e.hash] })
	b.over = b.over[max(0, len(b.over)-maxOver):]
	b.present, b.byWho = slices.Clone(grants), byWho
}

func (b *book) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

func (b *book) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// admit finds the grant of a token, by its hash.
func (b *book) admit(token string) (who string, err error) {
	sum := sha256.Sum256([]byte(token))
	hash := []byte(hex.EncodeToString(sum[:]))
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return "", errClosing
	}
	for _, g := range b.present {
		if subtle.ConstantTimeCompare(hash, []byte(strings.ToLower(g.TokenHash))) == 1 && who == "" {
			who = g.who()
		}
	}
	if who != "" {
		return who, nil
	}
	for _, e := range slices.Backward(b.over) {
		if subtle.ConstantTimeCompare(hash, []byte(e.hash)) == 1 {
			return "", errors.New(e.why)
		}
	}
	return "", fmt.Errorf("no intercept of %s has this token: it may not have reached the agent of this node yet, or be over since long", b.service)
}

// grant returns whom the stream server knows by a name.
func (b *book) grant(who string) (Grant, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g, ok := b.byWho[who]
	return g, ok
}
