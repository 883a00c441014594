package control

import (
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

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/spec"
)

// maxBatch is more than a batch has.
const maxBatch = 1 << 20

// ServeHTTP takes evidence from node agents: see [spec.EvidencePath].
func (c *Controller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !c.fromAgent(w, r) {
		return
	}
	var b spec.Batch
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBatch)).Decode(&b); err != nil || b.Seq < 1 || b.Boot == "" || b.Node == "" {
		http.Error(w, fmt.Sprintf("that is no batch of evidence: %v", err), http.StatusBadRequest)
		return
	}
	judged, known := c.give(b)
	switch {
	case !known:
		http.Error(w, "the releases are not known yet", http.StatusServiceUnavailable)
		return
	case !judged:
		http.Error(w, "the release is not judged", http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// fromAgent says whether a request is from a node agent, and answers it if it is not.
func (c *Controller) fromAgent(w http.ResponseWriter, r *http.Request) bool {
	err := c.agent(r)
	switch {
	case errors.Is(err, errStranger):
		http.Error(w, err.Error(), http.StatusForbidden)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
	return err == nil
}

// give brings a batch to the desk that has its release. known is false as long as not all
// releases were seen.
func (c *Controller) give(b spec.Batch) (judged, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, d := range c.desks {
		if key.Namespace == b.Namespace && d.give(b) {
			return true, true
		}
	}
	return false, c.seen
}

var errStranger = errors.New("evidence is taken from node agents only")

// agent says why a request is not from a node agent.
func (c *Controller) agent(r *http.Request) error {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return errStranger
	}
	user, err := c.known.user(r.Context(), token, func(ctx context.Context) (string, error) {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{v1alpha1.EvidenceAudience}}}
		answer, err := c.typed.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil || !answer.Status.Authenticated || !slices.Contains(answer.Status.Audiences, v1alpha1.EvidenceAudience) {
			return "", err
		}
		return answer.Status.User.Username, nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("ask who that is: %w", err)
	case user != c.Agents:
		return errStranger
	}
	return nil
}

// tokens remembers for a while whose tokens are.
type tokens struct {
	mu  sync.Mutex
	all map[[sha256.Size]byte]bearer
	// unknown limits how often others are asked about: anybody can send some. All agents of
	// a large cluster come at once, and come again.
	unknown flowcontrol.PassiveRateLimiter
}

type bearer struct {
	user  string
	until time.Time
}

// remembered is how long a token that was good is believed.
const remembered = time.Minute

func (t *tokens) user(ctx context.Context, token string, ask func(context.Context) (string, error)) (string, error) {
	sum := sha256.Sum256([]byte(token))
	t.mu.Lock()
	known := t.all[sum]
	t.mu.Unlock()
	if time.Now().Before(known.until) {
		return known.user, nil
	}
	t.mu.Lock()
	if t.unknown == nil {
		t.unknown = flowcontrol.NewTokenBucketPassiveRateLimiter(50, 100)
	}
	may := t.unknown.TryAccept()
	t.mu.Unlock()
	if !may {
		return "", errors.New("too many tokens that are not known came at once: try again in a moment")
	}
	user, err := ask(ctx)
	if err != nil || user == "" {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil || len(t.all) > 10_000 {
		t.all = map[[sha256.Size]byte]bearer{}
	}
	t.all[sum] = bearer{user, time.Now().Add(remembered)}
	return user, nil
}
