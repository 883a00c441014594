package permit

import (
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestTakenOrExpired(t *testing.T) {
	gone := apierrors.NewNotFound(schema.GroupResource{Resource: "intercepts"}, "x")
	t0 := time.Unix(1000, 0)
	for _, tc := range []struct {
		name  string
		err   error
		after time.Duration // of the last renewal
		want  bool
	}{
		{"renewed just now, and gone", gone, 3 * time.Second, true},
		{"renewed long ago, and gone", gone, 10 * time.Second, false},
		{"after a night's sleep", gone, 8 * time.Hour, false},
		{"a clock that was set back", gone, -time.Hour, false},
		{"there", nil, 3 * time.Second, false},
		{"out of reach", errors.New("connection refused"), 3 * time.Second, false},
	} {
		if got := taken(tc.err, t0, t0.Add(tc.after)); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
