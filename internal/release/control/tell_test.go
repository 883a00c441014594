package control

import (
	"testing"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

func TestEventsAreSaidOnce(t *testing.T) {
	held := release.State{Phase: release.Held, Message: "5 % of the requests"}
	undoing := release.State{Phase: release.Undoing, Message: "E = 3400"}
	undone := release.State{Phase: release.Undone, Message: "E = 3400"}
	for _, tt := range []struct {
		was, is release.State
		want    string
	}{
		{release.State{}, held, "held: 5 % of the requests"},
		{held, undoing, "undoing: E = 3400"},
		{undoing, undone, "undone"},
		{held, undone, "undone: E = 3400"},
		{held, release.State{Phase: release.Promoting}, "promoting"},
	} {
		if got := turned(tt.was, tt.is); got != tt.want {
			t.Errorf("from %s to %s is said %q, want %q", tt.was.Phase, tt.is.Phase, got, tt.want)
		}
	}
	r := &v1alpha1.Release{}
	if got := begins(r); got != "it begins" {
		t.Errorf("of nobody's is said %q", got)
	}
	if r.Spec.Change = "shop/shop-1#0"; begins(r) != "change shop/shop-1#0 has begun it" {
		t.Errorf("of a change's is said %q", begins(r))
	}
	if r.Spec.Orders.By = "ada"; begins(r) != "ada has begun it" {
		t.Errorf("of Ada's is said %q", begins(r))
	}
}
