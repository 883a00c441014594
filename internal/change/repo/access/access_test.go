package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/bightdev/bight/internal/bearer"
	"github.com/bightdev/bight/internal/change/repo"
)

// cluster is a fake of the two reviews: one token is ann's, who may what grants says.
type cluster struct {
	grants  map[string]bool // "verb namespace/app"
	down    bool
	reviews int
	asked   authorization.SubjectAccessReviewSpec
}

func (c *cluster) access(audiences ...string) *Kubernetes {
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(action kubetesting.Action) (bool, runtime.Object, error) {
		c.reviews++
		if c.down {
			return true, nil, errors.New("connection refused")
		}
		review := action.(kubetesting.CreateAction).GetObject().(*authentication.TokenReview).DeepCopy()
		if review.Spec.Token == "ann's" {
			review.Status.Authenticated = true
			review.Status.Audiences = []string{"https://kubernetes.default.svc"}
			review.Status.User = authentication.UserInfo{Username: "ann", UID: "7", Groups: []string{"team"},
				Extra: map[string]authentication.ExtraValue{"scopes": {"git"}}}
		}
		return true, review, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(action kubetesting.Action) (bool, runtime.Object, error) {
		c.reviews++
		if c.down {
			return true, nil, errors.New("connection refused")
		}
		review := action.(kubetesting.CreateAction).GetObject().(*authorization.SubjectAccessReview).DeepCopy()
		c.asked = review.Spec
		a := review.Spec.ResourceAttributes
		review.Status.Allowed = c.grants[a.Verb+" "+a.Namespace+"/"+a.Name]
		return true, review, nil
	})
	return &Kubernetes{Tokens: client.AuthenticationV1().TokenReviews(), Rights: client.AuthorizationV1().SubjectAccessReviews(), Audiences: audiences}
}

func request(set func(*http.Request)) *http.Request {
	r := httptest.NewRequest("GET", "/git/shop/web.git/info/refs", nil)
	set(r)
	return r
}

func basic(token string) *http.Request {
	return request(func(r *http.Request) { r.SetBasicAuth("anything", token) })
}

func TestTokensAreReadFromBothKindsOfHeaderAndReviewed(t *testing.T) {
	ann := repo.User{Name: "ann", UID: "7", Groups: []string{"team"}, Extra: map[string][]string{"scopes": {"git"}}}
	for _, test := range []struct {
		name     string
		request  *http.Request
		accepted bool
	}{
		{"password", basic("ann's"), true},
		{"bearer", request(func(r *http.Request) { r.Header.Set("Authorization", "bearer ann's") }), true},
		{"none", request(func(*http.Request) {}), false},
		{"empty password", basic(""), false},
		{"wrong token", basic("eve's"), false},
		{"another scheme", request(func(r *http.Request) { r.Header.Set("Authorization", "Digest ann's") }), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := (&cluster{}).access().Authenticate(t.Context(), test.request)
			if !test.accepted {
				if !errors.Is(err, repo.ErrUnauthenticated) {
					t.Fatalf("got %v, %v, want ErrUnauthenticated", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(ann, got); diff != "" {
				t.Errorf("user (-want +got):\n%s", diff)
			}
		})
	}
}

func TestATokenForSomebodyElseIsRefused(t *testing.T) {
	_, err := (&cluster{}).access("bight").Authenticate(t.Context(), basic("ann's"))
	if !errors.Is(err, repo.ErrUnauthenticated) {
		t.Errorf("got %v, want ErrUnauthenticated", err)
	}
	if _, err := (&cluster{}).access("bight", "https://kubernetes.default.svc").Authenticate(t.Context(), basic("ann's")); err != nil {
		t.Errorf("a token for us among others: %v", err)
	}
}

func TestAClusterThatIsDownIsNoRefusal(t *testing.T) {
	k := (&cluster{down: true}).access()
	if _, err := k.Authenticate(t.Context(), basic("ann's")); err == nil || errors.Is(err, repo.ErrUnauthenticated) {
		t.Errorf("Authenticate: %v", err)
	}
	err := k.Authorize(t.Context(), repo.User{Name: "ann"}, "shop", "web", repo.VerbFetch)
	if _, denied := errors.AsType[*repo.DeniedError](err); err == nil || denied {
		t.Errorf("Authorize: %v", err)
	}
}

func TestRightsAreAskedForOneAppAndTheRefusalNamesTheRule(t *testing.T) {
	c := &cluster{grants: map[string]bool{"get shop/web": true}}
	k := c.access()
	user := repo.User{Name: "ann", UID: "7", Groups: []string{"team"}, Extra: map[string][]string{"scopes": {"git"}}}
	if err := k.Authorize(t.Context(), user, "shop", "web", repo.VerbFetch); err != nil {
		t.Fatal(err)
	}
	want := authorization.SubjectAccessReviewSpec{User: "ann", UID: "7", Groups: []string{"team"}, Extra: map[string]authorization.ExtraValue{"scopes": {"git"}},
		ResourceAttributes: &authorization.ResourceAttributes{Namespace: "shop", Verb: "get", Group: "bight.dev", Resource: "apps", Name: "web"}}
	if diff := cmp.Diff(want, c.asked); diff != "" {
		t.Errorf("review (-want +got):\n%s", diff)
	}
	err := k.Authorize(t.Context(), user, "shop", "web", repo.VerbPush)
	if _, denied := errors.AsType[*repo.DeniedError](err); !denied {
		t.Fatalf("got %v, want a DeniedError", err)
	}
	for _, words := range []string{"ann", `"update" on apps.bight.dev`, "resources: [apps]", "namespace shop"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("%q does not say %q", err, words)
		}
	}
}

func TestAYesHoldsForAWhileAndANoDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{grants: map[string]bool{"get shop/web": true}}
		k := c.access()
		ask := func(token, verb string) {
			user, err := k.Authenticate(context.Background(), basic(token))
			if err == nil {
				_ = k.Authorize(context.Background(), user, "shop", "web", verb)
			}
		}
		for _, step := range []struct {
			name, token, verb string
			wait              time.Duration
			want              int
		}{
			{"first", "ann's", "get", 0, 2},
			{"again", "ann's", "get", 4 * time.Second, 0},
			{"another verb", "ann's", "update", 0, 1},
			{"a no is asked again", "ann's", "update", 0, 1},
			{"after a while", "ann's", "get", 2 * time.Second, 2},
			{"wrong token", "eve's", "get", 0, 1},
			{"wrong token again", "eve's", "get", 0, 1},
		} {
			time.Sleep(step.wait)
			c.reviews = 0
			ask(step.token, step.verb)
			if c.reviews != step.want {
				t.Errorf("%s: %d reviews, want %d", step.name, c.reviews, step.want)
			}
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	answers := map[[32]byte]known[bool]{}
	for i := range 3 * maxKept {
		keep(&answers, [32]byte{byte(i), byte(i >> 8)}, true, time.Hour)
		if len(answers) > maxKept {
			t.Fatalf("%d answers are kept", len(answers))
		}
	}
}

// Anybody can send tokens that nobody knows: the cluster is asked about so many of them, and
// those that are known go on.
func TestUnknownTokensAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{grants: map[string]bool{"get shop/web": true}}
		k := c.access()
		k.Keep, k.Limit = time.Minute, &bearer.Limit{Each: bearer.Rate{PerSecond: 1, Burst: 2}, All: bearer.Rate{PerSecond: 1, Burst: 100}}
		send := func(from, token string) error {
			r := basic(token)
			r.RemoteAddr = from + ":4711"
			_, err := k.Authenticate(t.Context(), r)
			return err
		}
		flood := func() {
			for i := range 1000 {
				_ = send("10.0.0.66", fmt.Sprint("eve's ", i))
			}
		}
		if flood(); c.reviews != 2 {
			t.Errorf("%d reviews for one address", c.reviews)
		}
		if err := send("10.0.0.66", "ann's"); !errors.Is(err, bearer.ErrMany) || errors.Is(err, repo.ErrUnauthenticated) {
			t.Errorf("one more: %v", err)
		}
		if err := send("10.0.1.1", "ann's"); err != nil {
			t.Fatal(err)
		}
		for range 5 { // from any address, after any flood
			flood()
			if err := send("10.0.0.66", "ann's"); err != nil {
				t.Errorf("one that was good a moment ago: %v", err)
			}
			time.Sleep(70 * time.Second)
		}
	})
}

// Who has no right is told so a few times, and then waits; who has one does not.
func TestQuestionsAboutTheRightsOfOneUserAreLimited(t *testing.T) {
	c := &cluster{grants: map[string]bool{"get shop/web": true}}
	k := c.access()
	k.Limit = &bearer.Limit{Each: bearer.Rate{PerSecond: 0.01, Burst: 2}, All: bearer.Rate{PerSecond: 1, Burst: 100}}
	denied := 0
	for range 100 {
		err := k.Authorize(t.Context(), repo.User{Name: "eve"}, "shop", "web", repo.VerbPush)
		if _, no := errors.AsType[*repo.DeniedError](err); no {
			denied++
		} else if err == nil {
			t.Fatal("eve may push")
		}
	}
	if denied != 2 || c.reviews != 2 {
		t.Errorf("told %d times, after %d reviews, want 2", denied, c.reviews)
	}
	if err := k.Authorize(t.Context(), repo.User{Name: "ann"}, "shop", "web", repo.VerbFetch); err != nil {
		t.Error(err)
	}
}
