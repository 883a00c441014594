// Package access decides by the cluster who may use a git repository: a user is who their token says by
// TokenReview, and may what RBAC grants them on apps.bight.dev by SubjectAccessReview. There is no list of users
// here. The main type is [Kubernetes], which may be used by many goroutines.
package access

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"

	"github.com/bightdev/bight/internal/bearer"
	"github.com/bightdev/bight/internal/change/repo"
)

const (
	defaultKeep = 5 * time.Second
	maxKept     = 4096 // answers in memory
)

// Kubernetes is a [repo.Access] that asks the cluster.
type Kubernetes struct {
	Tokens authenticationclient.TokenReviewInterface
	Rights authorizationclient.SubjectAccessReviewInterface
	// Audiences are whom a token must be made for; none is the API server's own.
	Audiences []string
	// Keep is for how long a yes holds; one git command makes several requests. 0 is 5 s. A no is never kept:
	// who has just been given a right tries at once.
	Keep time.Duration
	// Limit, if not nil, limits how often the cluster is asked about tokens that are not known here, and about the
	// rights of one user who has none: anybody can send tokens, and has one of their pod.
	Limit *bearer.Limit

	once  sync.Once
	users bearer.Book[repo.User]

	mu  sync.Mutex
	may map[[sha256.Size]byte]known[bool] // by the hash of user and question
}

// known is an answer that holds until a time.
type known[T any] struct {
	value T
	until time.Time
}

// Authenticate returns whose token the request has: as a bearer token, or as the password of any user name,
// which is how git sends one.
func (k *Kubernetes) Authenticate(ctx context.Context, r *http.Request) (repo.User, error) {
	token := tokenOf(r)
	if token == "" {
		return repo.User{}, repo.ErrUnauthenticated
	}
	k.once.Do(func() { k.users.Keep, k.users.Limit = cmp.Or(k.Keep, defaultKeep), k.Limit })
	var no error
	user, good, err := k.users.Whose(ctx, token, bearer.Address(r), func(ctx context.Context) (user repo.User, good bool, err error) {
		user, no, err = k.review(ctx, token)
		return user, no == nil, err
	})
	if err == nil && !good {
		err = cmp.Or(no, repo.ErrUnauthenticated)
	}
	return user, err
}

// review asks whose a token is. no is why it is nobody's.
func (k *Kubernetes) review(ctx context.Context, token string) (user repo.User, no, err error) {
	review := &authentication.TokenReview{Spec: authentication.TokenReviewSpec{Token: token, Audiences: k.Audiences}}
	review, err = k.Tokens.Create(ctx, review, meta.CreateOptions{})
	if err != nil {
		return repo.User{}, nil, fmt.Errorf("review token: %w", err)
	}
	if !review.Status.Authenticated {
		return repo.User{}, fmt.Errorf("%w: the cluster does not accept the token", repo.ErrUnauthenticated), nil
	}
	forUs := func(audience string) bool { return slices.Contains(k.Audiences, audience) }
	if len(k.Audiences) > 0 && !slices.ContainsFunc(review.Status.Audiences, forUs) {
		return repo.User{}, fmt.Errorf("%w: the token is for somebody else", repo.ErrUnauthenticated), nil
	}
	found := review.Status.User
	user = repo.User{Name: found.Username, UID: found.UID, Groups: found.Groups}
	if len(found.Extra) > 0 {
		user.Extra = make(map[string][]string, len(found.Extra))
		for name, values := range found.Extra {
			user.Extra[name] = values
		}
	}
	return user, nil, nil
}

// tokenOf returns the token that a request carries, "" for none.
func tokenOf(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// Authorize asks whether RBAC lets the user do verb on the app.
func (k *Kubernetes) Authorize(ctx context.Context, user repo.User, namespace, app, verb string) error {
	reason, err := k.ask(ctx, user, authorization.SubjectAccessReviewSpec{
		ResourceAttributes: &authorization.ResourceAttributes{Namespace: namespace, Verb: verb, Group: "bight.dev", Resource: "apps", Name: app},
	})
	if errors.Is(err, ErrDenied) {
		return &repo.DeniedError{User: user.Name, Verb: verb, Namespace: namespace, App: app, Reason: reason}
	}
	return err
}

// ErrDenied tells that the user lacks the right.
var ErrDenied = errors.New("RBAC does not grant that")

// MayList asks whether RBAC lets the user list the objects of a resource of ours in a
// namespace, or with "" in all. A no is an [ErrDenied].
func (k *Kubernetes) MayList(ctx context.Context, user repo.User, resource, namespace string) error {
	_, err := k.ask(ctx, user, authorization.SubjectAccessReviewSpec{
		ResourceAttributes: &authorization.ResourceAttributes{Namespace: namespace, Verb: "list", Group: "bight.dev", Resource: resource},
	})
	return err
}

// MayRead asks whether RBAC lets the user get a subresource of an object of ours. A no is
// an [ErrDenied].
func (k *Kubernetes) MayRead(ctx context.Context, user repo.User, resource, subresource, namespace, name string) error {
	_, err := k.ask(ctx, user, authorization.SubjectAccessReviewSpec{
		ResourceAttributes: &authorization.ResourceAttributes{
			Namespace: namespace, Verb: "get", Group: "bight.dev", Resource: resource, Subresource: subresource, Name: name,
		},
	})
	return err
}

// MayGet asks whether RBAC lets the user get a path that is no resource. A no is an
// [ErrDenied].
func (k *Kubernetes) MayGet(ctx context.Context, user repo.User, path string) error {
	_, err := k.ask(ctx, user, authorization.SubjectAccessReviewSpec{
		NonResourceAttributes: &authorization.NonResourceAttributes{Path: path, Verb: "get"},
	})
	return err
}

// ask asks whether the user has the right that spec says, and returns the reason of an
// [ErrDenied].
func (k *Kubernetes) ask(ctx context.Context, user repo.User, spec authorization.SubjectAccessReviewSpec) (reason string, err error) {
	spec.User, spec.Groups, spec.UID = user.Name, user.Groups, user.UID
	if len(user.Extra) > 0 {
		spec.Extra = make(map[string]authorization.ExtraValue, len(user.Extra))
		for name, values := range user.Extra {
			spec.Extra[name] = values
		}
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("review access: %w", err)
	}
	key := sha256.Sum256(text)
	k.mu.Lock()
	_, ok := recall(k.may, key)
	k.mu.Unlock()
	if ok {
		return "", nil
	}
	who := "user " + user.Name // which is no address
	if k.Limit != nil && !k.Limit.Take(who, time.Now()) {
		return "", fmt.Errorf("what user %s may do: %w", user.Name, bearer.ErrMany)
	}
	review, err := k.Rights.Create(ctx, &authorization.SubjectAccessReview{Spec: spec}, meta.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("review access: %w", err)
	}
	if !review.Status.Allowed || review.Status.Denied {
		return review.Status.Reason, ErrDenied
	}
	if k.Limit != nil {
		k.Limit.Good(who, time.Now())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	keep(&k.may, key, true, cmp.Or(k.Keep, defaultKeep))
	return "", nil
}

// recall returns an answer that still holds.
func recall[T any](answers map[[sha256.Size]byte]known[T], key [sha256.Size]byte) (T, bool) {
	have, ok := answers[key]
	if !ok || !time.Now().Before(have.until) {
		var none T
		return none, false
	}
	return have.value, true
}

// keep remembers an answer and, when there are many, forgets those that hold no longer.
func keep[T any](answers *map[[sha256.Size]byte]known[T], key [sha256.Size]byte, value T, during time.Duration) {
	now := time.Now()
	if *answers == nil || len(*answers) >= maxKept {
		fresh := map[[sha256.Size]byte]known[T]{}
		for k, have := range *answers {
			if now.Before(have.until) && len(fresh) < maxKept/2 {
				fresh[k] = have
			}
		}
		*answers = fresh
	}
	(*answers)[key] = known[T]{value, now.Add(during)}
}
