package controller

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
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

// Authenticate finds out who sent a request.
func (g *gate) Authenticate(ctx context.Context, r *http.Request) (repo.User, error) {
	if shown := credential(r); strings.HasPrefix(shown, change.TicketPrefix+".") {
		return g.tickets.user(ctx, shown)
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

	mu   sync.Mutex
	good map[[sha256.Size]byte]known
}

type known struct {
	user  repo.User
	until time.Time
}

const believed = 5 * time.Second

func (t *tickets) user(ctx context.Context, shown string) (repo.User, error) {
	sum := sha256.Sum256([]byte(shown))
	t.mu.Lock()
	k, ok := t.good[sum]
	t.mu.Unlock()
	if ok && time.Now().Before(k.until) {
		return k.user, nil
	}
	parts := strings.SplitN(shown, ".", 4)
	if len(parts) != 4 {
		return repo.User{}, fmt.Errorf("%w: the ticket is damaged", repo.ErrUnauthenticated)
	}
	var ticket v1alpha1.Ticket
	err := t.reader.Get(ctx, client.ObjectKey{Namespace: parts[1], Name: parts[2]}, &ticket)
	if client.IgnoreNotFound(err) != nil {
		return repo.User{}, fmt.Errorf("look the ticket up: %w", err)
	}
	hash := sha256.Sum256([]byte(parts[3]))
	if err != nil || subtle.ConstantTimeCompare([]byte(hex.EncodeToString(hash[:])), []byte(ticket.Spec.KeyHash)) != 1 ||
		time.Since(ticket.CreationTimestamp.Time) > v1alpha1.TicketSeconds*time.Second {
		return repo.User{}, fmt.Errorf("%w: the ticket is not, or no longer, good", repo.ErrUnauthenticated)
	}
	user := repo.User{Name: ticket.Spec.Owner, Groups: ticket.Spec.Groups}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.good == nil || len(t.good) > 1000 {
		t.good = map[[sha256.Size]byte]known{}
	}
	t.good[sum] = known{user, time.Now().Add(believed)}
	return user, nil
}
