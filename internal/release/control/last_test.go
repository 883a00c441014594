package control

import (
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	kubetesting "k8s.io/client-go/testing"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

// An order that comes as the pods of before are about to go is either heard, or comes
// after everybody can see that it is too late.
func TestTheLastOrderIsHeardOrTooLate(t *testing.T) {
	tests := []struct {
		name  string
		given func(r *v1alpha1.Release) // what the API server has, and the controller has not seen
		patch func() error              // what it says to what is written
		late  bool                      // the pods of before go
		tries int                       // to write
	}{
		{"no order", func(*v1alpha1.Release) {}, func() error { return nil }, true, 1},
		{"an order that is not seen yet", func(r *v1alpha1.Release) { r.Generation++ }, func() error { return nil }, false, 0},
		{"an order that comes now", func(*v1alpha1.Release) {}, func() error {
			return apierrors.NewConflict(schema.GroupResource{}, "cart-two", nil)
		}, false, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			co := underWay(t)
			r := co.r
			r.Spec.Service, r.Spec.Deployment, r.Finalizers, r.Generation = "cart", "cart", []string{finalizer}, 7
			r.Status.Phase = string(release.Promoted)
			co.Judged = "by no policy"
			co.State.Phase, co.State.Started, co.State.Ended = release.Promoted, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
			co.State.Route = release.Route{Generation: 3, Weight: release.All}
			co.direct()
			co.saves(t)
			live := r.DeepCopy()
			live.ResourceVersion = "12"
			tt.given(live)
			c, client, _ := gatewayed(t, live)
			c.past.dir = t.TempDir()
			var written []string
			client.PrependReactor("patch", "releases", func(a kubetesting.Action) (bool, runtime.Object, error) {
				text := a.(kubetesting.PatchAction).GetPatch()
				u := &unstructured.Unstructured{}
				if err := u.UnmarshalJSON(append([]byte(`{"apiVersion":"bight.dev/v1alpha1","kind":"Release",`), text[1:]...)); err != nil {
					t.Error(err)
				}
				written = append(written, u.GetResourceVersion())
				retire, _, _ := unstructured.NestedBool(u.Object, "status", "route", "retire")
				// This process may not live to see what it writes here.
				if kept, err := c.past.attempts(r.Namespace, r.Name); err != nil || len(kept) != 1 || kept[0].Phase != string(release.Promoted) {
					t.Errorf("how it went is kept as %+v, %v", kept, err)
				}
				if !retire {
					t.Errorf("it does not say that it is too late: %s", text)
				}
				return true, u, tt.patch()
			})
			d := newDesk(c, types.NamespacedName{Namespace: r.Namespace, Name: "cart"})
			if _, err := d.proceed(t.Context(), co); err != nil {
				t.Fatal(err)
			}
			if co.State.Cleaned != tt.late || co.routing.Retire != tt.late || len(written) != tt.tries {
				t.Errorf("too late: %v, %v; written %d times", co.State.Cleaned, co.routing.Retire, len(written))
			}
			for _, version := range written {
				if version != "12" {
					t.Errorf("written over version %q, whatever that is", version)
				}
			}
		})
	}
}
