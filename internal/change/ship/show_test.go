package ship

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube"
)

func TestAChangeIsShownWithAPhaseAndWithoutTheServersNotes(t *testing.T) {
	c := &v1alpha1.Change{}
	c.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "bight-controller"}}
	tidy(c)
	if c.ManagedFields != nil || c.Status.Phase != v1alpha1.Pending {
		t.Errorf("managed fields %v, phase %q", c.ManagedFields, c.Status.Phase)
	}
	c.Status.Phase = v1alpha1.Held
	if tidy(c); c.Status.Phase != v1alpha1.Held {
		t.Errorf("phase %q", c.Status.Phase)
	}
}

func TestACommitThatAMergeMadeIsOfThatChange(t *testing.T) {
	all := make([]v1alpha1.Change, 3)
	for i, name := range []string{"shop-3", "shop-2", "shop-1"} {
		all[i].Name = name
	}
	all[1].Status.Merged = "f6d062ee2556"
	if got := of(all, "shop-f6d", "f6d062ee2556"); got != "shop-2" {
		t.Errorf("the change of what it was merged as is %q", got)
	}
	if got := of(all, "shop-1", "f6d062ee2556"); got != "shop-1" {
		t.Errorf("a commit with a change of its own is of %q", got)
	}
	if got := of(all, "shop-abc", "abc"); got != "" {
		t.Errorf("a commit that no change knows is of %q", got)
	}
}

func TestAClusterWithoutBightIsToldSo(t *testing.T) {
	s := &Shipper{Cluster: &kube.Cluster{Context: "kind-dev"}}
	bare := &apierrors.StatusError{ErrStatus: metav1.Status{Reason: metav1.StatusReasonNotFound, Message: "the server could not find the requested resource"}}
	err := s.explain(bare)
	if !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), "bight install") || strings.Contains(err.Error(), "the server could not") {
		t.Errorf("told is %q", err)
	}
	missing := apierrors.NewNotFound(schema.GroupResource{Group: v1alpha1.Group, Resource: "changes"}, "shop-1")
	if unknownKind(missing) {
		t.Error("a change that is missing is taken for a cluster without Bight")
	}
}
