package controller

import (
	"testing"

	"github.com/bightdev/bight/api/v1alpha1"
)

// TestAPushReplacesAnEarlierVersionOfItself pushes two commits to the app's branch, none of
// which contains the other.
func TestAPushReplacesAnEarlierVersionOfItself(t *testing.T) {
	r := newHistory(t)
	base := r.write("", "begin", "go.mod", "module shop\n", 1)
	write := func(message, file, text string, second int64) string {
		return r.write(base, message, file, text, second)
	}
	was := write("cart: add", "cart.go", "package cart\n", 2)
	app := &v1alpha1.App{Spec: v1alpha1.AppSpec{Branch: "main"}}
	for name, tt := range map[string]struct {
		now, by string
		want    bool
	}{
		"amended":                     {write("cart: add", "cart.go", "package cart // better\n", 2), "ada", true},
		"reworded":                    {write("cart: add it", "cart.go", "package cart\n", 2), "ada", true},
		"in another file":             {write("cart: add", "add.go", "package cart\n", 2), "ada", true},
		"pushed by somebody else":     {write("cart: add!", "cart.go", "package cart\n", 2), "ben", false},
		"another one, in that second": {write("web: a page", "web.go", "package web\n", 2), "ada", false},
		"a later one":                 {write("cart: add", "cart.go", "package cart // later\n", 3), "ada", false},
	} {
		old := &v1alpha1.Change{Spec: v1alpha1.ChangeSpec{Commit: was, Author: "ada"}}
		now := v1alpha1.ChangeSpec{Commit: tt.now, Author: tt.by, Ref: "refs/heads/main"}
		if got, err := replaces(t.Context(), app, r.Repository, now, old); err != nil || got != tt.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
