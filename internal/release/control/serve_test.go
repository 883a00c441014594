package control

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/bightdev/bight/api/v1alpha1"
)

// An agent is known by a token that is made for the controller: its own one for the API
// server, which who overhears it could use there, is not taken.
func TestATokenForTheAPIServerIsNoAgents(t *testing.T) {
	made := map[string]string{"its own": v1alpha1.EvidenceAudience, "for the API server": "https://kubernetes.default.svc"}
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(action kubetesting.Action) (bool, runtime.Object, error) {
		r := action.(kubetesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		if audience, known := made[r.Spec.Token]; known {
			if len(r.Spec.Audiences) == 0 { // then it is the API server's own that counts
				r.Spec.Audiences = []string{"https://kubernetes.default.svc"}
			}
			if slices.Contains(r.Spec.Audiences, audience) {
				r.Status.Authenticated, r.Status.Audiences, r.Status.User.Username = true, []string{audience}, "agents"
			}
		}
		return true, r, nil
	})
	c := &Controller{Agents: "agents", typed: client}
	for token, want := range map[string]bool{"its own": true, "for the API server": false, "nobody's": false} {
		r := httptest.NewRequest(http.MethodPost, "/evidence", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		if got := c.fromAgent(w, r); got != want {
			t.Errorf("%s: taken %v, status %d", token, got, w.Code)
		}
	}
}
