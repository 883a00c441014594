package controller

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change/attest"
	"github.com/bightdev/bight/internal/kube"
)

func TestAnImageIsLookedAtWherePodsReachIt(t *testing.T) {
	local := &kube.Registry{Host: "localhost:41234", HostFromContainerRuntime: "localhost:5000", HostFromClusterNetwork: "10.41.0.11:5000"}
	for _, c := range []struct {
		ref       string
		announced *kube.Registry
		want      string // "" is an error
		plain     bool
	}{
		{"localhost:5000/shop/cart@sha256:1", local, "10.41.0.11:5000/shop/cart@sha256:1", true},
		{"localhost:41234/shop/cart@sha256:1", local, "10.41.0.11:5000/shop/cart@sha256:1", true},
		{"localhost:50001/shop/cart@sha256:1", local, "", false},
		{"registry.example.com/shop/cart@sha256:1", local, "registry.example.com/shop/cart@sha256:1", false},
		{"registry.example.com/shop/cart@sha256:1", nil, "registry.example.com/shop/cart@sha256:1", false},
		{"localhost:5000/shop/cart@sha256:1", nil, "", false},
		{"localhost:5000/shop/cart@sha256:1", &kube.Registry{Host: "localhost:5000"}, "", false},
		{"registry.local:5000/cart@sha256:1", &kube.Registry{Host: "registry.local:5000"}, "registry.local:5000/cart@sha256:1", false},
		{"[::1]:5000/cart@sha256:1", nil, "", false},
	} {
		got, plain, err := fromPod(c.ref, c.announced)
		if got != c.want || plain != c.plain || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %q, %t, %v; want %q, %t", c.ref, got, plain, err, c.want, c.plain)
		}
		if err != nil && !strings.Contains(err.Error(), "hostFromClusterNetwork") {
			t.Errorf("%s: it does not say what to do: %v", c.ref, err)
		}
	}
}

func TestAKeyThatIsNoneDeploysNothing(t *testing.T) {
	v := &verifier{registry: func(context.Context) (*kube.Registry, error) { return nil, nil }}
	policy := &v1alpha1.Verification{Keys: []string{"ours"}, Builders: []string{v1alpha1.WorkerBuilder}}
	err := v.verify(t.Context(), policy, map[string]string{"cart": "registry.example.com/cart@sha256:1"})
	var rejected *attest.Rejection
	if err == nil || errors.As(err, &rejected) || !strings.Contains(err.Error(), "policy.verify.keys[0]") {
		t.Errorf("got %v", err)
	}
	if err := v.verify(t.Context(), nil, map[string]string{"cart": "x"}); err != nil {
		t.Errorf("without a policy: %v", err)
	}
}
