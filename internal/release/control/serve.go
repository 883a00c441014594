package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/bearer"
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
	if err := c.unsaved.add(b); err != nil {
		c.Log.Warn("a batch of evidence is lost if this process is killed now", "release", b.Namespace+"/"+b.Release, "err", err)
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
	c.meet.Do(func() {
		c.known.Fits = func(says bearer.Claims) bool { return says.Subject == c.Agents && says.For(v1alpha1.EvidenceAudience) }
		// A node's agent has one token; after a change of the leader all agents of a large cluster come at once.
		c.known.Limit = &bearer.Limit{Each: bearer.Rate{PerSecond: 2, Burst: 10}, All: bearer.Rate{PerSecond: 100, Burst: 1000}}
	})
	user, good, err := c.known.Whose(r.Context(), token, bearer.Address(r), func(ctx context.Context) (string, bool, error) {
		c.mu.Lock()
		typed := c.typed
		c.mu.Unlock()
		if typed == nil {
			return "", false, errors.New("this controller does not act yet")
		}
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{v1alpha1.EvidenceAudience}}}
		answer, err := typed.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return "", false, err
		}
		return answer.Status.User.Username, answer.Status.Authenticated && slices.Contains(answer.Status.Audiences, v1alpha1.EvidenceAudience), nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("ask who that is: %w", err)
	case !good || user != c.Agents:
		return errStranger
	}
	return nil
}
