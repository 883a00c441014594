package control

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/bearer"
	"github.com/bightdev/bight/internal/release/spec"
)

// token is one that says of itself that it is somebody's; it is confirmed if it is signed as "good".
func token(user, audience, signature string) string {
	claims := fmt.Sprintf(`{"sub":%q,"aud":[%q]}`, user, audience)
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + signature
}

var (
	agentToken    = token("agents", v1alpha1.EvidenceAudience, "good")
	strangerToken = token("ada", v1alpha1.EvidenceAudience, "good")
)

// reviewer is a cluster that counts what it is asked about tokens, and takes them for the API server where nobody says for
// whom.
func reviewer(asked *int) *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(action kubetesting.Action) (bool, runtime.Object, error) {
		*asked++
		r := action.(kubetesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		claims, _ := bearer.Read(r.Spec.Token)
		wanted := r.Spec.Audiences
		if len(wanted) == 0 {
			wanted = []string{"https://kubernetes.default.svc"}
		}
		if strings.HasSuffix(r.Spec.Token, ".good") && slices.Contains(wanted, claims.Audiences[0]) {
			r.Status.Authenticated, r.Status.Audiences, r.Status.User.Username = true, claims.Audiences, claims.Subject
		}
		return true, r, nil
	})
	return client
}

// Agents may come before the controller acts.
func TestNobodyIsKnownBeforeTheControllerActs(t *testing.T) {
	c, w := &Controller{Agents: "agents"}, httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, spec.EvidencePath, nil)
	r.Header.Set("Authorization", "Bearer "+agentToken)
	c.ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "does not act yet") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

// An agent is known by a token that is made for the controller: its own one for the API
// server, which who overhears it could use there, is not taken. What can't be an agent's costs no question.
func TestATokenForTheAPIServerIsNoAgents(t *testing.T) {
	for _, tt := range []struct {
		name, token string
		taken       bool
		asked       int
	}{
		{"its own", agentToken, true, 1},
		{"for the API server", token("agents", "https://kubernetes.default.svc", "good"), false, 0},
		{"somebody else's", strangerToken, false, 0},
		{"forged", token("agents", v1alpha1.EvidenceAudience, "mine"), false, 1},
		{"nobody's", "nobody's", false, 0},
	} {
		asked := 0
		c := &Controller{Agents: "agents", typed: reviewer(&asked)}
		r := httptest.NewRequest(http.MethodPost, "/evidence", nil)
		r.Header.Set("Authorization", "Bearer "+tt.token)
		w := httptest.NewRecorder()
		if got := c.fromAgent(w, r); got != tt.taken || asked != tt.asked {
			t.Errorf("%s: taken %v, status %d, after %d questions, want %v after %d", tt.name, got, w.Code, asked, tt.taken, tt.asked)
		}
	}
}

// Forged tokens are asked about so many times, and keep no agent of another address out.
func TestAFloodOfForgedTokensKeepsNoAgentOut(t *testing.T) {
	asked := 0
	c := &Controller{Agents: "agents", typed: reviewer(&asked)}
	send := func(from, token string) int {
		r := httptest.NewRequest(http.MethodPost, "/evidence", nil)
		r.RemoteAddr = from + ":4711"
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		c.fromAgent(w, r)
		return w.Code
	}
	for i := range 10_000 {
		send("10.0.0.66", token("agents", v1alpha1.EvidenceAudience, fmt.Sprint(i)))
	}
	if asked < 10 || asked > 100 {
		t.Errorf("of 10000 tokens %d were asked about", asked)
	}
	if code := send("10.0.0.66", agentToken); code != http.StatusServiceUnavailable {
		t.Errorf("where the flood comes from: %d", code)
	}
	if code := send("10.0.1.2", agentToken); code != http.StatusOK {
		t.Errorf("an agent: %d", code)
	}
}
