package controller

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

// gists are Releases as the cache has them.
func gists(t *testing.T, all []v1alpha1.Release) []v1alpha1.Release {
	t.Helper()
	var out []v1alpha1.Release
	for _, r := range all {
		r.Spec.Template.Raw = []byte(`{"metadata":{}}`)
		o, err := gist(&r)
		if err != nil {
			t.Fatal(err)
		}
		g := *o.(*v1alpha1.Release)
		if len(g.Spec.Template.Raw) > 0 {
			t.Error("the template is cached")
		}
		out = append(out, g)
	}
	return out
}

func TestChooseWhatIsLeftToReleases(t *testing.T) {
	rel := func(digest string, phase release.Phase, over bool, change string) v1alpha1.Release {
		r := v1alpha1.Release{}
		r.Name, r.Spec.Deployment, r.Spec.Change, r.Status.Phase = "cart-"+digest, "cart", change, string(phase)
		if !over {
			r.Status.Route = &v1alpha1.Routing{}
		}
		return r
	}
	convictedOf := func(digest string) v1alpha1.Release {
		r := rel(digest, release.Undone, true, "shop/a#0")
		r.Status.Convicted, r.Status.Message = true, "E = 5000"
		return r
	}
	convicted := convictedOf("new")
	stranger := rel("new", release.Progressing, false, "")
	stranger.Name, stranger.Spec.Deployment = "stock-new", "stock"
	plan := &v1alpha1.ReleasePlan{}
	by := func(change string) releasing { return releasing{plan: plan, make: &maker{change: change}} }
	heal := releasing{plan: plan}
	failed := releasing{plan: plan, undo: &failedChange{change: "shop/a#0"}}
	just := func(r v1alpha1.Release) v1alpha1.Release {
		r.Status.Route = &v1alpha1.Routing{}
		return r
	}
	tests := []struct {
		name string
		is   string // the digest that the Deployment was deployed with
		all  []v1alpha1.Release
		how  releasing
		want choice
		err  bool
	}{
		{"an environment without releases", "old", nil, releasing{}, choice{}, false},
		{"one where somebody has begun one by hand", "old", []v1alpha1.Release{rel("x", release.Held, false, "")}, releasing{}, choice{leave: true}, false},
		{"the same version", "new", nil, by("shop/a#0"), choice{}, false},
		{"the same version, while another is released", "new", []v1alpha1.Release{rel("x", release.Held, false, "")}, by("shop/a#0"), choice{leave: true, undo: &v1alpha1.Release{}}, false},
		{"putting back the same version, while another is released", "new", []v1alpha1.Release{rel("x", release.Held, false, "")}, heal, choice{leave: true}, false},
		{"a new version", "old", []v1alpha1.Release{stranger}, by("shop/a#0"), choice{leave: true, waits: "cart-new", make: true}, false},
		{"of a Deployment of before", "", nil, by("shop/a#0"), choice{leave: true, waits: "cart-new", make: true}, false},
		{"its release is under way", "old", []v1alpha1.Release{rel("new", release.Progressing, false, "shop/a#0")}, by("shop/a#0"), choice{leave: true, waits: "cart-new"}, false},
		{"of another change", "old", []v1alpha1.Release{rel("new", release.Progressing, false, "shop/a#0")}, by("shop/b#0"), choice{leave: true, waits: "cart-new"}, false},
		{"it is promoted and wound up", "old", []v1alpha1.Release{rel("new", release.Promoted, true, "shop/a#0")}, by("shop/a#0"), choice{}, false},
		{"it is promoted and not wound up", "old", []v1alpha1.Release{rel("new", release.Promoted, false, "shop/a#0")}, by("shop/a#0"), choice{leave: true, waits: "cart-new"}, false},
		{"it was undone, and is told so", "old", []v1alpha1.Release{rel("new", release.Undone, true, "shop/a#0")}, by("shop/a#0"), choice{leave: true, waits: "cart-new"}, false},
		{"it was undone, and is tried again", "old", []v1alpha1.Release{rel("new", release.Undone, true, "shop/a#0")}, by("shop/a#1"), choice{leave: true, waits: "cart-new", make: true}, false},
		{"a newer one took its place, which came to nothing", "old", []v1alpha1.Release{rel("new", release.Superseded, true, "shop/a#0"), convictedOf("newer")}, by("shop/a#0"), choice{leave: true, waits: "cart-new", make: true}, false},
		{"a newer one has taken its place", "old", []v1alpha1.Release{rel("new", release.Superseded, true, "shop/a#0"), rel("newer", release.Progressing, false, "")}, by("shop/a#0"), choice{leave: true, waits: "cart-new"}, false},
		{"it was released once, and something else since", "old", []v1alpha1.Release{rel("new", release.Promoted, true, "shop/a#0")}, by("shop/b#0"), choice{leave: true, waits: "cart-new", make: true}, false},
		{"it was undone just now, and is told so", "old", []v1alpha1.Release{rel("new", release.Undone, false, "shop/a#0")}, by("shop/a#0"), choice{leave: true, waits: "cart-new"}, false},
		{"it was undone just now, and is tried again", "old", []v1alpha1.Release{rel("new", release.Undone, false, "shop/a#0")}, by("shop/a#1"), choice{leave: true, ends: "cart-new"}, false},
		{"another was undone just now", "old", []v1alpha1.Release{rel("x", release.Undone, false, "shop/b#0")}, by("shop/a#0"), choice{leave: true, ends: "cart-x"}, false},
		{"the same version, and another was undone just now", "new", []v1alpha1.Release{rel("x", release.Undone, false, "shop/b#0")}, by("shop/a#0"), choice{leave: true, ends: "cart-x"}, false},
		{"a newer one took its place, which was undone just now", "old", []v1alpha1.Release{rel("new", release.Superseded, true, "shop/a#0"), rel("newer", release.Undone, false, "shop/b#0")}, by("shop/a#0"), choice{leave: true, ends: "cart-newer"}, false},
		{"it was convicted just now", "old", []v1alpha1.Release{just(convicted)}, by("shop/b#0"), choice{}, true},
		{"its change has failed", "new", []v1alpha1.Release{rel("x", release.Progressing, false, "shop/a#0")}, failed, choice{leave: true, undo: &v1alpha1.Release{}}, false},
		{"its change has failed after all requests were its own", "new", []v1alpha1.Release{rel("x", release.Promoted, false, "shop/a#0")}, failed, choice{leave: true, undo: &v1alpha1.Release{}}, false},
		{"its change has failed, and it is undone", "new", []v1alpha1.Release{rel("x", release.Undone, false, "shop/a#0")}, failed, choice{leave: true}, false},
		{"another change has failed", "new", []v1alpha1.Release{rel("x", release.Progressing, false, "shop/b#0")}, failed, choice{leave: true}, false},
		{"it was convicted", "old", []v1alpha1.Release{convicted}, by("shop/b#0"), choice{}, true},
		{"putting back a convicted version", "old", []v1alpha1.Release{convicted}, heal, choice{leave: true}, false},
		{"putting back before there is a release", "old", nil, heal, choice{leave: true}, false},
		{"putting back what is promoted", "old", []v1alpha1.Release{rel("new", release.Promoted, true, "shop/a#0")}, heal, choice{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			live := &appsv1.Deployment{}
			live.Name, live.Annotations = "cart", map[string]string{v1alpha1.TemplateAnnotation: tt.is}
			for name, all := range map[string][]v1alpha1.Release{"": tt.all, "as they are cached, ": gists(t, tt.all)} {
				got, err := choose(live, "new", all, tt.how)
				if got.old = nil; got.undo != nil {
					got.undo = &v1alpha1.Release{} // whichever
				}
				if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(choice{})); diff != "" || (err != nil) != tt.err {
					t.Errorf("%s%v (-want +got):\n%s", name, err, diff)
				}
				bad := (*convictedError)(nil)
				if tt.err && (!errors.As(err, &bad) || bad.why != "E = 5000") {
					t.Errorf("%sthe error is %v", name, err)
				}
			}
		})
	}
}

func TestEndedTellsOfEveryRelease(t *testing.T) {
	rel := func(phase release.Phase, over bool, message string) *v1alpha1.Release {
		r := &v1alpha1.Release{}
		r.Status.Phase, r.Status.Message = string(phase), message
		if !over {
			r.Status.Route = &v1alpha1.Routing{}
		}
		return r
	}
	waits := map[string]string{"cart": "cart-1", "stock": "stock-1"}
	tests := []struct {
		name        string
		cart, stock *v1alpha1.Release
		done        bool
		text        string
		err         string
	}{
		{"both under way", rel(release.Starting, false, "waits"), rel(release.Held, false, "held"), false, "cart: waits; stock: held", ""},
		{"one", rel(release.Promoted, true, ""), rel(release.Held, false, "held"), false, "stock: held", ""},
		{"promoted, but not wound up", rel(release.Promoted, true, ""), rel(release.Promoted, false, "it has all requests"), false, "stock: it has all requests", ""},
		{"both", rel(release.Promoted, true, ""), rel(release.Promoted, true, ""), true, "", ""},
		{"one undone", rel(release.Promoted, true, ""), rel(release.Undone, true, "E = 5000"), false, "", "release stock-1 of stock was undone: E = 5000"},
		{"one undone just now", rel(release.Held, false, "held"), rel(release.Undone, false, "E = 5000"), false, "", "release stock-1 of stock was undone: E = 5000"},
		{"one that is being undone", rel(release.Promoted, true, ""), rel(release.Undoing, false, "E = 5000"), false, "stock: E = 5000", ""},
		{"one deleted", rel(release.Promoted, true, ""), nil, false, "", "release stock-1 of stock was undone: somebody has deleted it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := map[string]*v1alpha1.Release{"cart-1": tt.cart, "stock-1": tt.stock}
			done, text, err := ended(held{waits: waits}, now)
			said := ""
			if err != nil {
				said = err.Error()
			}
			if done != tt.done || text != tt.text || said != tt.err {
				t.Errorf("ended = %v, %q, %q", done, text, said)
			}
		})
	}
}

func TestWhatIsUndoneIsWaitedFor(t *testing.T) {
	r := &v1alpha1.Release{}
	r.Status.Phase, r.Status.Message, r.Status.Route = string(release.Undoing), "by somebody", &v1alpha1.Routing{}
	h := held{ends: map[string]string{"cart": "cart-1"}}
	if done, text, err := ended(h, map[string]*v1alpha1.Release{"cart-1": r}); done || err != nil || text != "cart: by somebody" {
		t.Errorf("ended = %v, %q, %v", done, text, err)
	}
	r.Status.Phase, r.Status.Route = string(release.Undone), nil
	for _, now := range []map[string]*v1alpha1.Release{{"cart-1": r}, {}} {
		if done, _, err := ended(h, now); !done || err != nil {
			t.Errorf("ended = %v, %v", done, err)
		}
	}
}

func TestAReleaseIsToldOfOnce(t *testing.T) {
	first := arrived(nil, map[string]string{"stock": "stock-1", "cart": "cart-1"})
	if diff := cmp.Diff([]string{"cart", "stock"}, first); diff != "" {
		t.Error(diff)
	}
	if second := arrived(first, map[string]string{"stock": "stock-1"}); len(second) != 0 {
		t.Errorf("told of again: %q", second)
	}
}
