package controller

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/bearer"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
	"github.com/bightdev/bight/internal/change/repo/access"
)

// gate knows who is there, by a ticket or by a token of the cluster, and what they
// may.
type gate struct {
	tickets *tickets
	tokens  *access.Kubernetes
}

var _ repo.Access = (*gate)(nil)

// admit makes what knows who is there. Anybody who reaches the port may send what nobody
// knows: the cluster is asked about so much of it. Laptops come through a port-forward, all
// from one address, and a whole team of them may come at once.
func (c *Controller) admit(typed kubernetes.Interface) {
	tokens := func(keep time.Duration, limit *bearer.Limit) *access.Kubernetes {
		return &access.Kubernetes{Tokens: typed.AuthenticationV1().TokenReviews(), Rights: typed.AuthorizationV1().SubjectAccessReviews(), Keep: keep, Limit: limit}
	}
	strangers := &bearer.Limit{Each: bearer.Rate{PerSecond: 10, Burst: 100}, All: bearer.Rate{PerSecond: 100, Burst: 1000}}
	c.tokens = tokens(believed, strangers)
	c.tickets.book.Keep, c.tickets.book.Limit = believed, strangers
	// Who scrapes comes again and again, and finds nothing worth a question each time.
	c.scrapers = tokens(5*time.Minute, &bearer.Limit{Each: bearer.Rate{PerSecond: 2, Burst: 10}, All: bearer.Rate{PerSecond: 20, Burst: 100}})
}

// Authenticate finds out who sent a request.
func (g *gate) Authenticate(ctx context.Context, r *http.Request) (repo.User, error) {
	if shown := credential(r); strings.HasPrefix(shown, change.TicketPrefix+".") {
		return g.tickets.user(ctx, shown, bearer.Address(r))
	}
	return g.tokens.Authenticate(ctx, r)
}

// Authorize asks the cluster.
func (g *gate) Authorize(ctx context.Context, u repo.User, namespace, app, verb string) error {
	return g.tokens.Authorize(ctx, u, namespace, app, verb)
}

// credential is the token or password that a request shows.
func credential(r *http.Request) string {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return token
	}
	_, password, _ := r.BasicAuth()
	return password
}

// tickets knows the owners of tickets. A ticket that was good is believed for a
// moment without being looked up.
type tickets struct {
	reader client.Reader
	book   bearer.Book[repo.User]
}

const believed = 5 * time.Second

// user finds the owner of a ticket that came from an address.
func (t *tickets) user(ctx context.Context, shown, from string) (repo.User, error) {
	parts := strings.SplitN(shown, ".", 4)
	if len(parts) != 4 {
		return repo.User{}, fmt.Errorf("%w: the ticket is damaged", repo.ErrUnauthenticated)
	}
	user, good, err := t.book.Whose(ctx, shown, from, func(ctx context.Context) (repo.User, bool, error) {
		return t.look(ctx, parts[1], parts[2], parts[3])
	})
	if err == nil && !good {
		err = fmt.Errorf("%w: the ticket is not, or no longer, good", repo.ErrUnauthenticated)
	}
	return user, err
}

// look looks a ticket up, and says whether a key is its.
func (t *tickets) look(ctx context.Context, namespace, name, key string) (user repo.User, good bool, err error) {
	var ticket v1alpha1.Ticket
	err = t.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &ticket)
	if client.IgnoreNotFound(err) != nil {
		return repo.User{}, false, fmt.Errorf("look the ticket up: %w", err)
	}
	hash := sha256.Sum256([]byte(key))
	if err != nil || subtle.ConstantTimeCompare([]byte(hex.EncodeToString(hash[:])), []byte(ticket.Spec.KeyHash)) != 1 ||
		time.Since(ticket.CreationTimestamp.Time) > v1alpha1.TicketSeconds*time.Second {
		return repo.User{}, false, nil
	}
	return repo.User{Name: ticket.Spec.Owner, Groups: ticket.Spec.Groups}, true, nil
}
