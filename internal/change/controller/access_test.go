package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	authentication "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	fakeclient "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/bearer"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
)

// counting counts what is read.
type counting struct {
	client.Reader
	reads int
}

func (c *counting) Get(ctx context.Context, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
	c.reads++
	return c.Reader.Get(ctx, key, o, options...)
}

// Anybody who reaches the port may send tokens and tickets that nobody knows: the cluster is asked
// about so many of them, and who is known goes on.
func TestStrangersAtGitAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hash := sha256.Sum256([]byte("key"))
		ticket := &v1alpha1.Ticket{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "anns", CreationTimestamp: metav1.Now()},
			Spec:       v1alpha1.TicketSpec{Owner: "ann", KeyHash: hex.EncodeToString(hash[:])},
		}
		scheme, err := Scheme()
		if err != nil {
			t.Fatal(err)
		}
		tickets := &counting{Reader: fakeclient.NewClientBuilder().WithScheme(scheme).WithObjects(ticket).Build()}
		reviews := 0
		typed := fake.NewClientset()
		typed.PrependReactor("create", "tokenreviews", func(action kubetesting.Action) (bool, runtime.Object, error) {
			reviews++
			review := action.(kubetesting.CreateAction).GetObject().(*authentication.TokenReview).DeepCopy()
			review.Status.Authenticated = review.Spec.Token == "bobs"
			review.Status.User.Username = "bob"
			return true, review, nil
		})
		c := &Controller{}
		c.tickets.reader = tickets
		c.admit(typed)
		g := &gate{tickets: &c.tickets, tokens: c.tokens}
		send := func(from, password string) error {
			r := httptest.NewRequest(http.MethodGet, "/git/shop/web.git/info/refs", nil)
			r.SetBasicAuth("x", password)
			r.RemoteAddr = from + ":4711"
			_, err := g.Authenticate(t.Context(), r)
			return err
		}
		ann, bob := change.TicketPrefix+".shop.anns.key", "bobs"
		if err := errors.Join(send("10.0.0.1", ann), send("10.0.0.2", bob)); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			reviews, tickets.reads = 0, 0
			for i := range 5000 {
				if err := send("10.0.0.66", fmt.Sprint("forged ", i)); !errors.Is(err, repo.ErrUnauthenticated) && !errors.Is(err, bearer.ErrMany) {
					t.Fatal(err)
				}
				if err := send("10.0.0.67", fmt.Sprintf("%s.shop.anns.%d", change.TicketPrefix, i)); !errors.Is(err, repo.ErrUnauthenticated) && !errors.Is(err, bearer.ErrMany) {
					t.Fatal(err)
				}
			}
			if reviews == 0 || reviews > 100 || tickets.reads == 0 || tickets.reads > 100 {
				t.Errorf("5000 forged tokens and 5000 forged tickets made %d and %d questions", reviews, tickets.reads)
			}
			if err := send("10.0.0.66", bob); err != nil {
				t.Errorf("a token that was good a moment ago: %v", err)
			}
			if err := send("10.0.0.67", ann); err != nil {
				t.Errorf("a ticket that was good a moment ago: %v", err)
			}
			time.Sleep(10 * time.Second)
		}
		if err := send("10.0.0.66", change.TicketPrefix+".x"); !errors.Is(err, repo.ErrUnauthenticated) {
			t.Errorf("a damaged ticket: %v", err)
		}
	})
}
