package bearer

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// jwt is a token with claims, "EXP" of which is a moment after now.
func jwt(claims string, in time.Duration) string {
	claims = strings.ReplaceAll(claims, "EXP", fmt.Sprint(time.Now().Add(in).Unix()))
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".sig"
}

// cluster knows the tokens that are good.
type cluster struct {
	good  map[string]string
	down  bool
	asked int
}

func (c *cluster) whose(t *testing.T, b *Book[string], token, from string) string {
	t.Helper()
	user, good, err := b.Whose(t.Context(), token, from, func(context.Context) (string, bool, error) {
		if c.asked++; c.down {
			return "", false, errors.New("connection refused")
		}
		return c.good[token], c.good[token] != "", nil
	})
	switch {
	case errors.Is(err, ErrMany):
		return "too many"
	case err != nil:
		return "down"
	case !good:
		return "nobody"
	}
	return user
}

func TestAYesHoldsForAWhileAndNoLongerThanTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		short, long := jwt(`{"sub":"ann","exp":EXP}`, 20*time.Second), jwt(`{"sub":"bob","exp":EXP}`, time.Hour)
		c := &cluster{good: map[string]string{short: "ann", long: "bob"}}
		b := &Book[string]{}
		for _, step := range []struct {
			name, token string
			wait        time.Duration
			do          func()
			want        string
			asked       int
		}{
			{name: "first", token: short, want: "ann", asked: 1},
			{name: "again", token: short, want: "ann"},
			{name: "a lasting one", token: long, want: "bob", asked: 1},
			{name: "expired", token: short, wait: 21 * time.Second, do: func() { delete(c.good, short) }, want: "nobody", asked: 1},
			{name: "a no does not hold", token: short, want: "nobody", asked: 1},
			{name: "the lasting one", token: long, want: "bob"},
			{name: "after a minute", token: long, wait: time.Minute, want: "bob", asked: 1},
		} {
			time.Sleep(step.wait)
			if step.do != nil {
				step.do()
			}
			c.asked = 0
			if got := c.whose(t, b, step.token, "a"); got != step.want || c.asked != step.asked {
				t.Errorf("%s: %s after %d questions, want %s after %d", step.name, got, c.asked, step.want, step.asked)
			}
		}
	})
}

// The flood comes from everywhere, and takes all that there is for strangers.
func TestWhoIsKnownGoesOnInAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{good: map[string]string{"old": "agent", "new": "agent", "revoked": "agent", "first": "agent"}}
		b := &Book[string]{Limit: &Limit{Each: Rate{1, 2}, All: Rate{10, 20}}}
		flood := func() {
			for i := range 100 {
				for range 5 {
					c.whose(t, b, "forged", fmt.Sprint("stranger ", i))
				}
			}
		}
		if c.whose(t, b, "old", "node 1") != "agent" || c.whose(t, b, "revoked", "node 2") != "agent" {
			t.Fatal("a good token is not taken")
		}
		c.asked = 0
		flood()
		if c.asked > 20 {
			t.Errorf("%d questions about strangers at once", c.asked)
		}
		time.Sleep(2 * time.Minute)
		flood()
		delete(c.good, "revoked")
		c.down = true
		for _, step := range []struct{ name, token, from, want string }{
			{"nobody can tell now", "old", "node 1", "down"},
			{"that was not its fault", "old", "node 1", "down"},
		} {
			if got := c.whose(t, b, step.token, step.from); got != step.want {
				t.Errorf("%s: %s, want %s", step.name, got, step.want)
			}
		}
		c.down = false
		for _, step := range []struct{ name, token, from, want string }{
			{"asked about again", "old", "node 1", "agent"},
			{"renewed", "new", "node 1", "agent"},
			{"revoked", "revoked", "stranger 1", "nobody"},
			{"a stranger's now", "revoked", "stranger 1", "too many"},
			{"never seen", "first", "node 3", "too many"},
		} {
			if got := c.whose(t, b, step.token, step.from); got != step.want {
				t.Errorf("%s: %s, want %s", step.name, got, step.want)
			}
		}
		time.Sleep(time.Second) // it draws lots, but is not kept out
		if got := c.whose(t, b, "first", "node 3"); got != "agent" {
			t.Errorf("never seen, a second later: %s", got)
		}
	})
}

func TestWhatCannotBeGoodCostsNothing(t *testing.T) {
	fits := func(c Claims) bool { return c.Subject == "agents" && c.For("us") }
	for _, tt := range []struct {
		name, token string
		asked       int
	}{
		{"ours", jwt(`{"sub":"agents","aud":["them","us"]}`, 0), 1},
		{"one audience", jwt(`{"sub":"agents","aud":"us"}`, 0), 1},
		{"another audience", jwt(`{"sub":"agents","aud":["them"]}`, 0), 0},
		{"no audience", jwt(`{"sub":"agents"}`, 0), 0},
		{"somebody else", jwt(`{"sub":"ann","aud":["us"]}`, 0), 0},
		{"no JWT", "agents", 0},
		{"no JSON", "e30.bm8.sig", 0},
		{"no base64", "e30.!.sig", 0},
		{"a wrong type", jwt(`{"sub":"agents","aud":{"us":1}}`, 0), 0},
		{"too long", jwt(`{"sub":"agents","aud":["us"],"x":"`+strings.Repeat("x", longest)+`"}`, 0), 0},
	} {
		c := &cluster{}
		if got := c.whose(t, &Book[string]{Fits: fits, Limit: &Limit{Each: Rate{1, 1}, All: Rate{1, 1}}}, tt.token, "a"); got != "nobody" || c.asked != tt.asked {
			t.Errorf("%s: %s after %d questions, want nobody after %d", tt.name, got, c.asked, tt.asked)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	b := &Book[string]{Limit: &Limit{Each: Rate{1000, 1000}, All: Rate{1e9, 1e9}}}
	for i := range 2 * mostAddresses {
		ask := func(context.Context) (string, bool, error) { return "ann", true, nil }
		if _, good, err := b.Whose(t.Context(), fmt.Sprint(i), fmt.Sprint(i), ask); !good && i < mostAddresses {
			t.Fatalf("token %d: %v", i, err)
		}
		if len(b.all) > most || len(b.Limit.parts) > mostAddresses+1 {
			t.Fatalf("%d tokens of %d addresses are kept", len(b.all), len(b.Limit.parts))
		}
	}
}

// Addresses that have been quiet make room for others, but not one that took all of its part.
func TestAnAddressIsForgottenOnlyWhenThatChangesNothing(t *testing.T) {
	l := &Limit{Each: Rate{1, 2}, All: Rate{1e9, 1e9}}
	now := time.Now()
	for i := range mostAddresses - 1 {
		l.Take(fmt.Sprint(i), now)
	}
	now = now.Add(time.Second)
	l.Take("flood", now)
	l.Take("flood", now)
	if !l.Take("another", now) || l.Take("flood", now) || len(l.parts) != 2 {
		t.Errorf("%d addresses are left", len(l.parts))
	}
}

// Of many requests with one token, as an agent's are that has many pods, one asks.
func TestOneOfManyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Book[string]{Limit: &Limit{Each: Rate{PerSecond: 1, Burst: 1}, All: Rate{PerSecond: 1, Burst: 1}}}
		answer, asked := make(chan struct{}), 0
		var work sync.WaitGroup
		for range 50 {
			work.Go(func() {
				user, good, err := b.Whose(t.Context(), "t", "a", func(context.Context) (string, bool, error) {
					asked++ // one at a time, which the race detector sees
					<-answer
					return "ann", true, nil
				})
				if user != "ann" || !good || err != nil {
					t.Errorf("got %q, %v, %v", user, good, err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := b.Whose(ctx, "t", "a", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("who does not wait: %v", err)
		}
		close(answer)
		work.Wait()
		if asked != 1 {
			t.Errorf("%d have asked", asked)
		}
	})
}
