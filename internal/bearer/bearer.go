// Package bearer remembers whose tokens are, and limits what tokens of strangers cost: to ask the cluster about one is a
// call of the API server, and anybody who reaches the port can send some. The main types are [Book], which remembers, and
// [Limit], which counts; both may be used by many goroutines.
package bearer

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// ErrMany tells that something is not known here, and that too many such came to ask about it now.
var ErrMany = errors.New("too many questions came at once that only the cluster can answer: try again in a moment")

const (
	defaultKeep = time.Minute
	// free is for how long after a token was found good the question whether it still is costs nothing.
	free = time.Hour
	most = 10_000 // tokens in memory
)

// Book knows tokens that were good a moment ago. The zero value asks about all others, and believes the answer for a minute.
//
// What somebody in the cluster may try, and what comes of it:
//   - tokens that can't be right, of other audiences or accounts, cost nothing but to read them (Fits);
//   - forged ones from one address cost as much as Limit.Each, and nobody else waits for that;
//   - forged ones from many addresses, of many pods, cost as much as Limit.All together. Who is known goes on: a token that
//     was good within an hour is asked about again without any limit, which is once in Keep, and a new one from an address
//     that a good one has come from takes from its own address's part alone. Only who was never seen has to draw lots
//     with the strangers, of which each gets no more than Limit.Each;
//   - a token that was good and is not any more is asked about once without limit, and is a stranger's then.
//
// A network that hides where connections come from makes all of them one address: who is known goes on even then, and
// whoever has a new token waits until the flood is over.
type Book[User any] struct {
	// Keep is for how long a yes holds, at most until the token expires; 0 is a minute. A no is never kept: who has just
	// been given a right tries at once.
	Keep time.Duration
	// Fits, if not nil, tells by what a token says of itself, which nobody has confirmed, whether it can be a good one.
	// One that can't is refused without a question.
	Fits func(Claims) bool
	// Limit, if not nil, is for tokens that are not known.
	Limit *Limit

	mu     sync.Mutex
	all    map[[sha256.Size]byte]entry[User]
	asking map[[sha256.Size]byte]chan struct{} // closed when the answer about a token is there
}

type entry[User any] struct {
	user User
	// It holds until then; as long as it is free, no question about it is limited.
	until, free time.Time
}

// Whose returns whose a token is that came from an address. It asks, if it has to, by a function that says whether the
// token is good. An error says that nobody could tell.
func (b *Book[User]) Whose(ctx context.Context, token, from string, ask func(context.Context) (User, bool, error)) (user User, good bool, err error) {
	sum := sha256.Sum256([]byte(token))
	was, other, err := b.recall(sum, token, from)
	for ; other != nil; was, other, err = b.recall(sum, token, from) {
		select { // of many requests with one token only one asks, and pays
		case <-other:
		case <-ctx.Done():
			return user, false, ctx.Err()
		}
	}
	switch {
	case errors.Is(err, errFits):
		return user, false, nil
	case err != nil:
		return user, false, err
	case time.Now().Before(was.until):
		return was.user, true, nil
	}
	user, good, err = ask(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.asking[sum])
	delete(b.asking, sum)
	switch {
	case err != nil:
		if !was.free.IsZero() {
			b.all[sum] = was // it is not its fault
		}
		return user, false, err
	case !good:
		return user, false, nil
	}
	b.keep(sum, user, token)
	if b.Limit != nil {
		b.Limit.Good(from, time.Now())
	}
	return user, true, nil
}

var errFits = errors.New("the token can't be a good one")

// recall returns what is known of a token. Where that does not hold any more the token has paid for the question: by having been
// good, which it can do once, or by its address's part, and whoever is told so has to ask. other, if not nil, is closed
// when somebody else has asked.
func (b *Book[User]) recall(sum [sha256.Size]byte, token, from string) (was entry[User], other <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	was = b.all[sum]
	if now.Before(was.until) {
		return was, nil, nil
	}
	if asking := b.asking[sum]; asking != nil {
		return was, asking, nil
	}
	delete(b.all, sum)
	if !now.Before(was.free) {
		was = entry[User]{}
		if b.Fits != nil {
			if claims, ok := Read(token); !ok || !b.Fits(claims) {
				return was, nil, errFits
			}
		}
		if b.Limit != nil && !b.Limit.Take(from, now) {
			return was, nil, ErrMany
		}
	}
	if b.asking == nil {
		b.asking = map[[sha256.Size]byte]chan struct{}{}
	}
	b.asking[sum] = make(chan struct{})
	return was, nil, nil
}

// keep remembers a token. Of too many it forgets those that hold no longer, and then any. The lock is held.
func (b *Book[User]) keep(sum [sha256.Size]byte, user User, token string) {
	now, during := time.Now(), b.Keep
	if during == 0 {
		during = defaultKeep
	}
	e := entry[User]{user, now.Add(during), now.Add(max(during, free))}
	if claims, ok := Read(token); ok && claims.Expires > 0 {
		if end := time.Unix(claims.Expires, 0); end.Before(e.until) {
			e.until = end
		}
	}
	if b.all == nil || len(b.all) >= most {
		fresh := map[[sha256.Size]byte]entry[User]{}
		for s, have := range b.all {
			if now.Before(have.until) && len(fresh) < most/2 {
				fresh[s] = have
			}
		}
		b.all = fresh
	}
	b.all[sum] = e
}

// Address is where a request comes from, without the port.
func Address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
