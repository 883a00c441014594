package worker

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/app"
	"github.com/bightdev/bight/internal/image"
)

func TestTheTimelineSaysWhoHasBuiltWhat(t *testing.T) {
	make := func(service, by string, cached, present bool) *product {
		return &product{
			service: &app.Service{Name: service}, artifact: &image.Artifact{Service: service, By: by, Cached: cached},
			Pushed: image.Pushed{Present: present},
		}
	}
	taken := func(service, from string) *product { return &product{service: &app.Service{Name: service}, from: from} }
	for _, c := range []struct {
		name            string
		products        []*product
		message, cached string
	}{
		{"all built", []*product{make("cart", By, false, false), make("web", "", false, false)}, "built cart, web", ""},
		{"one built", []*product{make("cart", By, false, false), make("web", "", false, true)}, "built cart; 1 image as before", ""},
		{"compiled to what the registry has", []*product{make("cart", By, false, true)}, "built cart", ""},
		{
			"known here", []*product{make("cart", By, true, true), make("web", "", false, true)},
			"2 images as before", "what every service is built from is as in an earlier build",
		},
		{"known here, new in the registry", []*product{make("cart", By, true, false)}, "1 image as before", "what every service is built from is as in an earlier build"},
		{
			"by the inner loop", []*product{make("cart", "bight up", true, false), make("stock", "bight up", true, true)},
			"2 images as before", "same inputs as what bight up built",
		},
		{
			"by everybody", []*product{make("cart", "bight up", true, false), taken("stock", "change shop-1"), make("web", "", false, true)},
			"3 images as before", "same inputs as what bight up built and change shop-1 and an earlier build",
		},
	} {
		message, cached := summary(c.products)
		if diff := cmp.Diff([]string{c.message, c.cached}, []string{message, cached}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
