package cli

import (
	"slices"
	"testing"

	"github.com/bightdev/bight/internal/bridge"
)

func TestCompletionGivesTheInterceptsThatOneMayLeave(t *testing.T) {
	all := []bridge.Intercept{
		{ID: "cart-1-aaaaa", Owner: "ada@laptop", Service: "cart", Port: 8080, Match: "all requests"},
		{ID: "cart-2-aaaaa", Owner: "bob@laptop", Service: "cart", Port: 8080},
		{ID: "till-1-x", Owner: "ada (ada@elsewhere)", Service: "deployment/till", Port: 80, Match: "header x-dev=ada"},
		{ID: "till-2-x", Owner: "adam (ada@laptop)", Service: "deployment/till"},
		{ID: "till-3-x", Owner: "ada", Service: "deployment/till", Port: 80},
		{ID: "till-4-x", Owner: "ada@laptop", Service: "deployment/till"}, // another user, whom the cluster calls so
	}
	want := []string{"cart-1-aaaaa\tcart:8080, all requests", "till-1-x\tdeployment/till:80, header x-dev=ada", "till-3-x\tdeployment/till:80, "}
	if got := ownIntercepts(all, "ada@laptop", "ada"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := ownIntercepts(all, "ada@laptop", ""); !slices.Equal(got, want[:1]) {
		t.Errorf("not known to the cluster: got %q, want %q", got, want[:1])
	}
}
