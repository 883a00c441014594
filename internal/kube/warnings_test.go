package kube

import (
	"slices"
	"testing"
)

func TestEachWarningIsToldOnce(t *testing.T) {
	var got []string
	w := &warnings{tell: func(text string) { got = append(got, text) }, told: map[string]bool{}}
	w.HandleWarningHeader(299, "", "v1 Endpoints is deprecated")
	w.HandleWarningHeader(299, "", "v1 Endpoints is deprecated")
	w.HandleWarningHeader(299, "", "")
	w.HandleWarningHeader(199, "", "from a proxy on the way")
	w.HandleWarningHeader(299, "", "would violate PodSecurity")
	if want := []string{"v1 Endpoints is deprecated", "would violate PodSecurity"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}
