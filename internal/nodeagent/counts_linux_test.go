package nodeagent

import (
	"testing"
	"time"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/steer"
)

type listed []steer.Status

func (l listed) List() []steer.Status { return l }

// What has only counted on is told every few seconds; what a pod that has gone had
// counted is missing until it is told, and so is told at once.
func TestOnlyCountingOnCanWait(t *testing.T) {
	var c counts
	now := time.Unix(1000, 0)
	at := func(later time.Duration, requests, past int64) v1alpha1.PodStatus {
		s := steer.Status{State: steer.Active, Counters: steer.Counters{Requests: requests}, Past: steer.Counters{Requests: past, Mirrored: 1}}
		s.Rule.ID = "cart-1"
		return c.status(v1alpha1.PodStatus{Name: "cart-x"}, "cart-1", listed{s}, now.Add(later))
	}
	for _, tc := range []struct {
		later                       time.Duration
		requests, past              int64
		wantRequests, wantBeforeAll int64
	}{
		{0, 1, 0, 1, 1},
		{2 * time.Second, 5, 0, 1, 1},
		{4 * time.Second, 6, 7, 6, 8},
		{6 * time.Second, 9, 7, 6, 8},
		{9 * time.Second, 9, 7, 9, 8},
	} {
		got := at(tc.later, tc.requests, tc.past)
		if got.Requests != tc.wantRequests || got.EarlierRequests != tc.wantBeforeAll || got.State != "active" {
			t.Errorf("after %s: %+v, want %d requests and %d earlier", tc.later, got, tc.wantRequests, tc.wantBeforeAll)
		}
	}
}
