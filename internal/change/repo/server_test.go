//go:build unix

package repo

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// has fails unless text has all of the words.
func has(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in:\n%s", word, text)
		}
	}
}

func mustRef(t *testing.T, r *Repository, ref, want string) {
	t.Helper()
	got, err := r.ref(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("%s is at %q, want %q", ref, got, want)
	}
}

func TestAPushToTheAppsBranchBecomesAChange(t *testing.T) {
	f := newForge(t, nil)
	u := newUser(t)
	commit := u.commit("first", "main.go", "package main\n")
	out := u.git("push", "-o", "fast", "-o", "note=a b", f.web("ann"), "main")
	has(t, out, "remote: change "+commit[:12]+" queued", "refs/bight/changes/"+commit)
	want := []Push{{Namespace: "shop", App: "web", User: User{Name: "ann"}, Ref: "refs/heads/main", New: commit,
		Kept: ChangeRef(commit), Change: true, Options: []string{"fast", "note=a b"}}}
	if diff := cmp.Diff(want, f.seen()); diff != "" {
		t.Errorf("pushes (-want +got):\n%s", diff)
	}
	mustRef(t, f.Repository, "refs/heads/main", "")
	mustRef(t, f.Repository, ChangeRef(commit), commit)

	// The change is merged; the next push is told from where.
	if err := f.UpdateRef(t.Context(), "refs/heads/main", commit, ""); err != nil {
		t.Fatal(err)
	}
	next := u.commit("second", "main.go", "package main // two\n")
	u.git("push", f.web("ann"), "main")
	mustRef(t, f.Repository, "refs/heads/main", commit)
	if got := f.seen(); len(got) != 1 || got[0].Old != commit || got[0].New != next || got[0].Forced {
		t.Errorf("second push: %+v", got)
	}

	// Somebody else gets the branch, without what is not merged yet.
	clone := newUser(t)
	clone.git("clone", "--quiet", f.web("bob"), "copy")
	if got := clone.git("-C", "copy", "rev-parse", "HEAD"); got != commit {
		t.Errorf("clone is at %s, want %s", got, commit)
	}
	if refs := clone.git("ls-remote", f.web("bob")); strings.Contains(refs, "refs/bight/") {
		t.Errorf("our own refs are shown:\n%s", refs)
	}
	clone.git("-C", "copy", "fetch", "--quiet", "origin", next) // a worker asks by hash
}

func TestOtherBranchesAndTagsMoveAndAreTold(t *testing.T) {
	f := newForge(t, nil)
	u := newUser(t)
	first := u.commit("first", "a", "1")
	u.git("tag", "-a", "-m", "one", "v1")
	tag := u.git("rev-parse", "v1")
	u.git("push", f.web("ann"), "HEAD:refs/heads/topic/ä-1", "v1")
	second := u.commit("second", "a", "2")
	u.git("push", f.web("ann"), "HEAD:refs/heads/topic/ä-1")
	u.git("reset", "--hard", "--quiet", first)
	third := u.commit("third", "a", "3")
	if out, err := u.try("push", f.web("ann"), "HEAD:refs/heads/topic/ä-1"); err == nil {
		t.Errorf("rewritten history was taken without force:\n%s", out)
	}
	out := u.git("push", "--force", f.web("ann"), "HEAD:refs/heads/topic/ä-1")
	has(t, out, "forced update")
	u.git("push", f.web("ann"), ":refs/heads/topic/ä-1")

	push := Push{Namespace: "shop", App: "web", User: User{Name: "ann"}, Ref: "refs/heads/topic/ä-1"}
	one, two, three, four, tagged := push, push, push, push, push
	one.New, one.Kept = first, ChangeRef(first)
	two.Old, two.New, two.Kept = first, second, ChangeRef(second)
	three.Old, three.New, three.Kept, three.Forced = second, third, ChangeRef(third), true
	four.Old = third
	tagged.Ref, tagged.New = "refs/tags/v1", tag
	if diff := cmp.Diff([]Push{one, tagged, two, three, four}, f.seen()); diff != "" {
		t.Errorf("pushes (-want +got):\n%s", diff)
	}
	mustRef(t, f.Repository, "refs/heads/topic/ä-1", "")
	mustRef(t, f.Repository, "refs/tags/v1", tag)
	mustRef(t, f.Repository, ChangeRef(second), second) // also what nobody names any more
}

func TestARefusalIsShownAndUndoesEverything(t *testing.T) {
	f := newForge(t, nil)
	f.refuse = func(p Push) error {
		if p.Ref == "refs/heads/good" {
			return nil
		}
		return errors.New("the app is frozen until Monday:\nask the release team")
	}
	u := newUser(t)
	base := u.commit("base", "a", "1")
	u.git("branch", "good")
	commit := u.commit("first", "a", "2")
	out, err := u.try("push", f.web("ann"), "main", "HEAD:refs/heads/topic", "good")
	if err == nil {
		t.Error("the push succeeded")
	}
	has(t, out, "remote: refs/heads/main: the app is frozen until Monday:", "remote: ask the release team", "! [remote rejected] main -> main (the app is frozen until Monday:)",
		"* [new branch]      good -> good")
	mustRef(t, f.Repository, "refs/heads/topic", "")
	mustRef(t, f.Repository, ChangeRef(commit), "")
	mustRef(t, f.Repository, "refs/heads/good", base)
	mustRef(t, f.Repository, ChangeRef(base), base)
}

func TestAFullVolumeTakesNoPushesAndServesFetches(t *testing.T) {
	f := newForge(t, func(s *Server) { s.MinFree = math.MaxInt64 })
	u := newUser(t)
	first := u.commit("first", "a", "1")
	u.git("push", f.Repository.Dir, "HEAD:refs/heads/topic") // past the server
	u.commit("second", "a", "2")
	out, err := u.try("push", f.web("ann"), "HEAD:refs/heads/topic")
	if err == nil {
		t.Error("the push succeeded")
	}
	has(t, out, "remote: the controller's volume has", "left, so it takes no pushes: make its PersistentVolumeClaim larger")
	mustRef(t, f.Repository, "refs/heads/topic", first)
	u.git("fetch", f.web("ann"), "topic")
}

func TestRefsThatUsersMayNotPush(t *testing.T) {
	f := newForge(t, nil)
	u := newUser(t)
	commit := u.commit("first", "a", "1")
	u.git("tag", "-a", "-m", "a tag", "v1")
	for _, test := range []struct{ ref, why string }{
		{"refs/bight/changes/x", "written by Bight alone"},
		{"refs/heads/bight/prod", "written by Bight alone"},
		{"refs/heads/bight", "written by Bight alone"},
		{"refs/notes/commits", "only branches"},
		{"refs/heads/" + strings.Repeat("x", 220), "the limit is 200"},
		{"refs/heads/a;rm", ""},
		{"refs/heads/$(id)", ""},
		{"refs/heads/-x", "no element may be"},
		{"refs/heads/x\xff", "not UTF-8"},
		{"refs/heads/a/HEAD", "no element may be"},
	} {
		out, err := u.try("push", f.web("ann"), commit+":"+test.ref)
		if test.why == "" {
			if err != nil {
				t.Errorf("%s: %v\n%s", test.ref, err, out)
			}
			mustRef(t, f.Repository, test.ref, commit)
			continue
		}
		if err == nil {
			t.Errorf("%s was taken", test.ref)
		}
		has(t, out, test.why)
		mustRef(t, f.Repository, test.ref, "")
	}
	if out, err := u.try("push", f.web("ann"), "v1:refs/heads/tagged"); err == nil {
		t.Errorf("a branch may name a tag:\n%s", out)
	}
	if err := f.UpdateRef(t.Context(), "refs/heads/main", commit, ""); err != nil {
		t.Fatal(err)
	}
	out, err := u.try("push", f.web("ann"), ":main")
	if err == nil {
		t.Error("the app's branch was deleted")
	}
	has(t, out, "can't be deleted")
	mustRef(t, f.Repository, "refs/heads/main", commit)
}

func TestWhoMayDoWhat(t *testing.T) {
	f := newForge(t, nil)
	u := newUser(t)
	u.commit("first", "a", "1")
	for _, test := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"no such token", []string{"ls-remote", f.web("eve")}, []string{"remote: a Kubernetes token is needed", "Authentication failed"}},
		{"no token", []string{"ls-remote", f.http.URL + "/git/shop/web.git"}, []string{"could not read Username"}},
		{"no right to push", []string{"push", f.web("bob"), "main"}, []string{"remote: bob may not push to the app web in namespace shop", `"update" on apps.bight.dev`, "verbs: [update]", "403"}},
		{"no right to fetch", []string{"ls-remote", f.url("bob", "shop/none.git")}, []string{"bob may not fetch from", "403"}},
		{"unknown app", []string{"ls-remote", f.url("ann", "shop/none.git")}, []string{"remote: there is no app none in namespace shop", "bight ship"}},
		{"odd address", []string{"ls-remote", f.url("ann", "shop/Web.git")}, []string{"no repository at this address"}},
		{"traversal", []string{"ls-remote", f.url("ann", "shop/..%2f..%2fetc.git")}, []string{"no repository at this address"}},
		{"cluster away", []string{"ls-remote", f.web("broken")}, []string{"could not be asked who you are", "503"}},
		{"a flood of strangers", []string{"ls-remote", f.web("many")}, []string{"remote: too many questions came at once", "503"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := u.try(test.args...)
			if err == nil {
				t.Errorf("it succeeded:\n%s", out)
			}
			has(t, out, test.words...)
		})
	}
	if got := f.seen(); len(got) > 0 {
		t.Errorf("pushes were told: %+v", got)
	}
}
