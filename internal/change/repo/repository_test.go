//go:build unix

package repo

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCommitsAreWrittenWithoutACheckout(t *testing.T) {
	r := newRepository(t)
	first := grow(t, r, "", "first\n\nwith a body\n", "a/b.txt", "1", "c", "2", `odd "name`, "3", "ä ö", "4")
	commit, err := r.Commit(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	want := Commit{Hash: first, Tree: commit.Tree, Author: ann, Committer: ann, Message: "first\n\nwith a body\n"}
	if diff := cmp.Diff(want, commit); diff != "" {
		t.Errorf("commit (-want +got):\n%s", diff)
	}
	next, err := r.WriteCommit(t.Context(), Writing{Parent: first, Files: map[string][]byte{"a": []byte("a file now")}, Delete: []string{"ä ö", "gone"}, Message: "second", Author: ann, Committer: bight})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "a file now", "c": "2", `odd "name`: "3"}, files(t, r, next)); diff != "" {
		t.Errorf("second (-want +got):\n%s", diff)
	}
	whole, err := r.WriteCommit(t.Context(), Writing{Parent: next, Whole: true, Files: map[string][]byte{"only": nil}, Message: "third", Author: ann})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"only": ""}, files(t, r, whole)); diff != "" {
		t.Errorf("third (-want +got):\n%s", diff)
	}
	log, err := r.Commits(t.Context(), first, whole, 10)
	if err != nil || len(log) != 2 || log[0].Hash != whole || log[1].Committer != bight {
		t.Errorf("commits: %+v, %v", log, err)
	}
	if refs, err := r.Refs(t.Context(), "refs/"); err != nil || len(refs) > 0 {
		t.Errorf("refs are left: %v, %v", refs, err)
	}
	if again := grow(t, r, "", "first\n\nwith a body\n", "a/b.txt", "1", "c", "2", `odd "name`, "3", "ä ö", "4"); again != first {
		t.Errorf("the same commit has hash %s and %s", first, again)
	}
}

func TestPathsThatNoCommitMayHave(t *testing.T) {
	r := newRepository(t)
	for _, name := range []string{"", "/etc/passwd", "../x", "a/../b", "a//b", ".git/config", "a/.GIT/hooks/x", "GIT~1", ".git./x", ".git::$INDEX_ALLOCATION/x", ".g\u200cit/x", `a\b`, "./a", "a\x00b"} {
		if _, err := r.WriteCommit(t.Context(), Writing{Files: map[string][]byte{name: nil}, Author: ann}); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	if _, err := r.WriteCommit(t.Context(), Writing{Files: map[string][]byte{"a": nil, "a/b": nil}, Author: ann}); err == nil {
		t.Error("a is a file and a directory")
	}
	if _, err := r.WriteCommit(t.Context(), Writing{Files: map[string][]byte{"a": nil}}); err == nil {
		t.Error("a commit without an author")
	}
}

func TestRefsMoveOnlyFromWhereTheyWereThoughtToBe(t *testing.T) {
	r := newRepository(t)
	one, two := grow(t, r, "", "1", "a", "1"), grow(t, r, "", "2", "a", "2")
	const ref = "refs/heads/main"
	for _, step := range []struct {
		new, old string
		have     string // where it is instead, when it must not move
		moved    bool
	}{
		{one, "", "", true},
		{two, "", one, false},
		{two, two, one, false},
		{"", two, one, false},
		{two, one, "", true},
		{"", two, "", true},
		{two, one, "", false},
	} {
		err := r.UpdateRef(t.Context(), ref, step.new, step.old)
		if step.moved {
			if err != nil {
				t.Fatalf("%+v: %v", step, err)
			}
			continue
		}
		want := &MovedError{Ref: ref, Want: step.old, Have: step.have}
		got, ok := errors.AsType[*MovedError](err)
		if !ok || *got != *want {
			t.Errorf("%+v: got %v, want %v", step, err, want)
		}
	}
	for _, ref := range []string{"main", "refs/heads/../../config", "refs/heads/-d", "refs/heads/a\nb"} {
		if err := r.UpdateRef(t.Context(), ref, one, ""); err == nil {
			t.Errorf("%q was made", ref)
		}
	}
	if err := r.UpdateRef(t.Context(), ref, strings.Repeat("1", 40), ""); err == nil {
		t.Error("a ref names what is not there")
	}
}

func TestMerging(t *testing.T) {
	r := newRepository(t)
	lines := "1\n2\n3\n4\n5\n6\n7\n8\n"
	root := grow(t, r, "", "root", "a", lines, "b", "b")
	base := grow(t, r, root, "base", "a", strings.Replace(lines, "1", "one", 1))
	topic1 := grow(t, r, root, "topic 1", "a", strings.Replace(lines, "8", "eight", 1))
	topic2 := grow(t, r, topic1, "topic 2", "c", "c")
	clash := grow(t, r, root, "clash", "a", strings.Replace(lines, "1", "eins", 1), "d", "d")
	clash2 := grow(t, r, clash, "clash 2", "e", "e")
	merged := map[string]string{"a": strings.Replace(strings.Replace(lines, "1", "one", 1), "8", "eight", 1), "b": "b", "c": "c"}
	how := func(s Strategy) Merging {
		return Merging{Strategy: s, Author: ann, Committer: bight, Message: "merged\n"}
	}
	for _, test := range []struct {
		strategy Strategy
		parents  []string // nil: not looked at
		message  string
	}{{MergeCommit, []string{base, topic2}, "merged\n"}, {Squash, []string{base}, "merged\n"}, {Rebase, nil, "topic 2"}} {
		commit, err := r.Merge(t.Context(), base, topic2, how(test.strategy))
		if err != nil {
			t.Fatalf("%s: %v", test.strategy, err)
		}
		if diff := cmp.Diff(merged, files(t, r, commit)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.strategy, diff)
		}
		c, err := r.Commit(t.Context(), commit)
		if err != nil {
			t.Fatal(err)
		}
		if test.parents != nil && !cmp.Equal(test.parents, c.Parents) || c.Message != test.message || c.Author != ann || c.Committer != bight {
			t.Errorf("%s: commit %+v", test.strategy, c)
		}
		if test.strategy == Rebase {
			log, err := r.Commits(t.Context(), base, commit, 10)
			if err != nil || len(log) != 2 || log[1].Message != "topic 1" || log[1].Parents[0] != base {
				t.Errorf("rebased: %+v, %v", log, err)
			}
		}
		again, err := r.Merge(t.Context(), base, topic2, how(test.strategy))
		if err != nil || again != commit {
			t.Errorf("%s: merged again it is %s, %v; want %s", test.strategy, again, err, commit)
		}
		_, err = r.Merge(t.Context(), base, clash2, how(test.strategy))
		conflict, ok := errors.AsType[*ConflictError](err)
		blamed := clash2
		if test.strategy == Rebase {
			blamed = clash
		}
		if !ok || !cmp.Equal(conflict, &ConflictError{Base: base, Commit: blamed, Files: []string{"a"}}) {
			t.Errorf("%s: got %v, want a conflict of %s in a", test.strategy, err, blamed)
		}
		if got, err := r.Merge(t.Context(), topic2, topic1, how(test.strategy)); err != nil || got != topic2 {
			t.Errorf("%s of what is there already: %s, %v", test.strategy, got, err)
		}
		_, err = r.Merge(t.Context(), base, grow(t, r, "", "alone", "z", "z"), how(test.strategy))
		if _, ok := errors.AsType[*UnrelatedError](err); !ok {
			t.Errorf("%s of an unrelated history: %v", test.strategy, err)
		}
		same := grow(t, r, root, "base again, by somebody else", "a", strings.Replace(lines, "1", "one", 1))
		if got, err := r.Merge(t.Context(), base, same, how(test.strategy)); err != nil || (got == base) == (test.strategy == MergeCommit) {
			t.Errorf("%s of changes that are there by another commit: %s, %v", test.strategy, got, err)
		}
		first, err := r.Merge(t.Context(), "", topic2, how(test.strategy))
		if err != nil || (first == topic2) == (test.strategy == Squash) {
			t.Errorf("%s without a base: %s, %v", test.strategy, first, err)
		}
	}
	if got, err := r.Merge(t.Context(), root, topic2, how(Rebase)); err != nil || got != topic2 {
		t.Errorf("rebase of what is on top: %s, %v; want it unchanged", got, err)
	}
	withMerge, err := r.Merge(t.Context(), topic2, base, how(MergeCommit))
	if err != nil {
		t.Fatal(err)
	}
	linear, err := r.Merge(t.Context(), root, withMerge, how(Rebase))
	if err != nil {
		t.Fatal(err)
	}
	if merges, err := r.list(t.Context(), root, linear, "--merges"); err != nil || len(merges) > 0 {
		t.Errorf("a rebased history has merges %v, %v", merges, err)
	}
	if diff := cmp.Diff(merged, files(t, r, linear)); diff != "" {
		t.Errorf("rebased merge (-want +got):\n%s", diff)
	}
	if _, err := r.Merge(t.Context(), root, topic2, Merging{Strategy: "octopus"}); err == nil {
		t.Error("an unknown strategy is taken")
	}
	whole(t, r)
}

func TestDifferences(t *testing.T) {
	r := newRepository(t)
	body := strings.Repeat("the same line\n", 20)
	base := grow(t, r, "", "base", "keep", "1", "old name", body, "gone", "x", ".gitattributes", "* diff=evil\n")
	w := Writing{Parent: base, Files: map[string][]byte{"new name": []byte(body), "keep": []byte("2"), "added": []byte("y")}, Delete: []string{"old name", "gone"}, Author: ann}
	head, err := r.WriteCommit(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := r.ChangedFiles(t.Context(), base, head)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changed {
		got = append(got, fmt.Sprintf("%c %s<%s", c.Status, c.Path, c.OldPath))
	}
	if diff := cmp.Diff([]string{"A added<", "D gone<", "M keep<", "R new name<old name"}, got); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
	// Neither what the repository says about drivers nor configuration beside it runs anything.
	if err := os.WriteFile(filepath.Join(r.Dir, "config"), []byte("[core]\n\tbare = true\n[diff \"evil\"]\n\tcommand = touch "+r.Dir+"/ran\n\ttextconv = touch "+r.Dir+"/ran\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	text, complete, err := r.Diff(t.Context(), base, head, DiffOptions{})
	if err != nil || !complete {
		t.Fatalf("diff: %v, whole %v", err, complete)
	}
	has(t, string(text), "rename from old name", "-1\n", "+2\n", "deleted file mode 100644")
	if _, err := os.Stat(filepath.Join(r.Dir, "ran")); err == nil {
		t.Error("a program of the repository was run")
	}
	text, complete, err = r.Diff(t.Context(), base, head, DiffOptions{Paths: []string{"keep", "*"}, Limit: 40})
	if err != nil || complete || len(text) != 40 {
		t.Errorf("limited diff: %d bytes, whole %v, %v", len(text), complete, err)
	}
	if text, _, err = r.Diff(t.Context(), "", base, DiffOptions{Paths: []string{"k*"}}); err != nil || len(text) > 0 {
		t.Errorf("a path is taken for a pattern: %s, %v", text, err)
	}
}

func TestWhatIsNotThereIsSaidToBeMissing(t *testing.T) {
	r := newRepository(t)
	commit := grow(t, r, "", "base", "a/b", "123456")
	missing := func(what string, err error) {
		t.Helper()
		if _, ok := errors.AsType[*NotFoundError](err); !ok {
			t.Errorf("%s: got %v, want a NotFoundError", what, err)
		}
	}
	for _, rev := range []string{"", "nope", "--all", "-h", "HEAD", strings.Repeat("0", 40), "a\nb", commit + "^", ":/base", "@{1}"} {
		if hash, err := r.Resolve(t.Context(), rev); rev != ":/base" || hash != "" {
			missing(fmt.Sprintf("revision %q", rev), err)
		}
	}
	for _, name := range []string{"", "a", "a/c", "../a/b", "a/b/", "a/*", ":(top)a/b", "-x"} {
		_, err := r.ReadFile(t.Context(), commit, name, 10)
		missing(fmt.Sprintf("file %q", name), err)
	}
	_, err := r.ReadFile(t.Context(), commit, "a/b", 5)
	if large, ok := errors.AsType[*TooLargeError](err); !ok || large.Size != 6 {
		t.Errorf("got %v, want a TooLargeError", err)
	}
	_, err = Open(t.TempDir())
	missing("repository", err)
	_, err = Store{Root: t.TempDir()}.Open("shop", "web")
	missing("app", err)
}

func TestRepositoriesAreMadeOnceAndRemoved(t *testing.T) {
	s := Store{Root: filepath.Join(t.TempDir(), "git")}
	for _, branch := range []string{"main", "main", "trunk"} {
		r, err := s.Create(t.Context(), "shop", "web", branch)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Branch(t.Context()); err != nil || got != branch {
			t.Errorf("branch %s, %v; want %s", got, err, branch)
		}
	}
	for _, name := range []string{"", "..", "A", "a/b", ".git", "a.b", strings.Repeat("a", 64)} {
		if _, err := s.Create(t.Context(), "shop", name, "main"); err == nil {
			t.Errorf("app %q was made", name)
		}
	}
	if _, err := s.Create(t.Context(), "shop", "web", "../x"); err == nil {
		t.Error("branch ../x was set")
	}
	alternates := filepath.Join(s.Root, "shop", "web.git", "objects", "info", "alternates")
	if err := os.MkdirAll(filepath.Dir(alternates), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(alternates, []byte("/elsewhere\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("shop", "web"); err == nil {
		t.Error("a repository that borrows objects is opened")
	}
	for range 2 {
		if err := s.Remove("shop", "web"); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(s.Root); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What a host sends may not fill the disk, neither as one large file nor as many small ones.
func TestFetchIsLimited(t *testing.T) {
	f := newForge(t, nil)
	noise := make([]byte, 1<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	large := newUser(t)
	large.commit("large", "a", string(noise))
	large.git("push", f.web("ann"), "HEAD:refs/heads/large")
	many := newUser(t)
	for i := range 50 {
		many.write(fmt.Sprint(i), string(noise[i*16384:][:16384]))
	}
	many.commit("many")
	many.git("push", f.web("ann"), "HEAD:refs/heads/many")
	r := newRepository(t)
	for _, branch := range []string{"large", "many"} {
		spec := "refs/heads/" + branch + ":refs/heads/" + branch
		remote := Remote{URL: f.http.URL + "/git/shop/web.git", Username: "x", Password: "ann", MaxFetch: 512 << 10}
		_, err := r.Fetch(t.Context(), remote, spec)
		if large, ok := errors.AsType[*TooLargeError](err); !ok || large.Limit != 512<<10 || !strings.Contains(err.Error(), spec) {
			t.Errorf("%s: %v", branch, err)
		}
		if left, err := filepath.Glob(filepath.Join(r.Dir, "objects", "pack", "tmp_*")); err != nil || len(left) > 0 {
			t.Errorf("%s: left: %v, %v", branch, left, err)
		}
		remote.MaxFetch = 4 << 20
		if changes, err := r.Fetch(t.Context(), remote, spec); err != nil || len(changes) != 1 {
			t.Errorf("%s, within the limit: %v, %v", branch, changes, err)
		}
	}
}

func TestFetchTellsWhatMovedAndHow(t *testing.T) {
	f := newForge(t, nil)
	r := newRepository(t)
	remote := Remote{URL: f.http.URL + "/git/shop/web.git", Username: "x", Password: "ann"}
	fetch := func() []RefChange {
		t.Helper()
		changes, err := r.Fetch(t.Context(), remote, "+refs/heads/*:refs/bight/upstream/*")
		if err != nil {
			t.Fatal(err)
		}
		return changes
	}
	u := newUser(t)
	one := u.commit("one", "a", "1")
	u.git("push", f.web("ann"), "HEAD:refs/heads/x", "HEAD:refs/heads/y")
	if diff := cmp.Diff([]RefChange{{Ref: "refs/bight/upstream/x", New: one}, {Ref: "refs/bight/upstream/y", New: one}}, fetch()); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	if got := fetch(); len(got) > 0 {
		t.Errorf("nothing has moved: %v", got)
	}
	two := u.commit("two", "a", "2")
	u.git("push", f.web("ann"), "HEAD:refs/heads/x", ":refs/heads/y")
	if diff := cmp.Diff([]RefChange{{Ref: "refs/bight/upstream/x", Old: one, New: two}, {Ref: "refs/bight/upstream/y", Old: one}}, fetch()); diff != "" {
		t.Errorf("second (-want +got):\n%s", diff)
	}
	u.git("reset", "--hard", "--quiet", one)
	three := u.commit("three", "a", "3")
	u.git("push", "--force", f.web("ann"), "HEAD:refs/heads/x")
	if diff := cmp.Diff([]RefChange{{Ref: "refs/bight/upstream/x", Old: two, New: three, Forced: true}}, fetch()); diff != "" {
		t.Errorf("third (-want +got):\n%s", diff)
	}
}

func TestPushToAHostHasALease(t *testing.T) {
	f := newForge(t, nil)
	r := newRepository(t)
	one := grow(t, r, "", "1", "a", "1")
	two := grow(t, r, one, "2", "a", "2")
	other := grow(t, r, "", "3", "a", "3")
	remote := Remote{URL: f.web("ann")} // credentials in the URL are taken out of it
	const ref = "refs/heads/topic"
	push := func(commit, expect string) error {
		return r.Push(t.Context(), remote, Pushing{Commit: commit, Ref: ref, Expect: expect})
	}
	for _, step := range []Pushing{{Commit: one}, {Commit: two, Expect: one}, {Commit: other, Expect: two}} {
		if err := push(step.Commit, step.Expect); err != nil {
			t.Fatal(err)
		}
		mustRef(t, f.Repository, ref, step.Commit)
	}
	got, ok := errors.AsType[*MovedError](push(one, two))
	if !ok || *got != (MovedError{Ref: ref, Want: two, Have: other}) {
		t.Errorf("got %v, want a MovedError", got)
	}
	f.refuse = func(Push) error { return errors.New("protected branch") }
	rejected, ok := errors.AsType[*RejectedError](push(one, other))
	if !ok || !strings.Contains(rejected.Reason, "protected branch") {
		t.Errorf("got %v, want a RejectedError", rejected)
	}
	mustRef(t, f.Repository, ref, other)
	f.refuse = nil
	if err := push("", other); err != nil {
		t.Error(err)
	}
	mustRef(t, f.Repository, ref, "")
}

func TestCredentialsAreInNoErrorAndGoNowhereElse(t *testing.T) {
	var elsewhere []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		elsewhere = append(elsewhere, r.Header.Get("Authorization"))
	}))
	defer other.Close()
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/moved"):
			http.Redirect(w, r, other.URL+r.URL.Path+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
		case strings.HasPrefix(r.URL.Path, "/echo"):
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintln(w, "you sent", r.Header.Get("Authorization"), "s3cret")
		default:
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer host.Close()
	r := newRepository(t)
	for path, words := range map[string]string{"/denied": "renew the token", "/echo": "no right", "/moved": "not followed"} {
		_, err := r.Fetch(t.Context(), Remote{URL: host.URL + path, Username: "bot", Password: "s3cret"}, "refs/heads/main:refs/heads/main")
		if err == nil {
			t.Errorf("%s: fetched", path)
			continue
		}
		has(t, err.Error(), words)
		if text := err.Error(); strings.Contains(text, "s3cret") || strings.Contains(text, "Ym90OnMzY3JldA==") {
			t.Errorf("%s: the error has the secret: %v", path, err)
		}
	}
	if len(elsewhere) > 0 {
		t.Errorf("another host was asked with %q", elsewhere)
	}
	for _, url := range []string{"ext::sh -c id", "file:///etc", "/etc", "ssh://host/x", "--upload-pack=id", "http://", "git://host/x", "http://a b/"} {
		if _, err := r.Fetch(t.Context(), Remote{URL: url}, "refs/heads/main:refs/heads/main"); err == nil {
			t.Errorf("%q was fetched from", url)
		}
	}
	for _, spec := range []string{"", "main", "--upload-pack=id", "refs/heads/*:refs/heads/x", "refs/heads/a:../x", "-x:refs/heads/a"} {
		if _, err := r.Fetch(t.Context(), Remote{URL: host.URL}, spec); err == nil || strings.Contains(err.Error(), "git fetch") {
			t.Errorf("refspec %q: %v", spec, err)
		}
	}
}

func TestVersionsOfGit(t *testing.T) {
	for text, want := range map[string][2]int{"git version 2.39.5\n": {2, 39}, "git version 2.50.1 (Apple Git-155)": {2, 50}} {
		if got, err := parseVersion(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"git version 3-rc1", "git version x.y", "git", ""} {
		if got, err := parseVersion(text); err == nil {
			t.Errorf("%q is version %v", text, got)
		}
	}
	if err := CheckGit(t.Context()); err != nil {
		t.Error(err)
	}
}

func FuzzWhatGitSays(f *testing.F) {
	f.Add([]byte("tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@b> 1 +0100\n\nmessage"))
	f.Add([]byte(":100644 100755 aaaa bbbb M\x00path\x00:100644 100644 a b R100\x00old\x00new\x00"))
	f.Add([]byte("100644 blob abcd 12\tname\x00160000 commit abcd -\tsub\x00"))
	f.Add([]byte("000dversion=10000"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _ = parseCommit(text)
		if changed, err := parseRaw(text); err == nil {
			for _, c := range changed {
				if c.Status == 0 {
					t.Errorf("no status: %+v", c)
				}
			}
		}
		_, _ = parseTree(text)
		_, _ = parseUpdate(string(text))
		_, _ = readList(strings.NewReader(string(text)), 1<<16)
		_, _ = parsePush(string(text))
		_ = parseSignature(string(text))
		if err := CheckRef(string(text)); err == nil && strings.ContainsAny(string(text), "\x00\n ") {
			t.Errorf("%q may be a ref", text)
		}
		if err := checkPath(string(text)); err == nil && strings.Contains("/"+string(text)+"/", "/../") {
			t.Errorf("%q may be a path", text)
		}
	})
}

func TestHashesAreTakenAtTheirWordAndMissingOnesNamed(t *testing.T) {
	r := newRepository(t)
	first := grow(t, r, "", "first", "a/b.txt", "1", "c", "")
	got, err := r.Files(t.Context(), first, 10)
	if diff := cmp.Diff(map[string][]byte{"a/b.txt": []byte("1"), "c": {}}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := r.Files(t.Context(), first, 0); !errors.As(err, new(*TooLargeError)) {
		t.Errorf("over the limit: %v", err)
	}
	gone := strings.Repeat("12", 20)
	_, commit := r.Commit(t.Context(), gone)
	_, base := r.MergeBase(t.Context(), first, gone)
	_, within := r.IsAncestor(t.Context(), gone, first)
	_, all := r.Files(t.Context(), gone, 10)
	for what, err := range map[string]error{"commit": commit, "merge base": base, "ancestor": within, "files": all} {
		if !errors.As(err, new(*NotFoundError)) {
			t.Errorf("%s of a commit that is not there: %v", what, err)
		}
	}
	if err := r.UpdateRef(t.Context(), "refs/heads/main", first, ""); err != nil {
		t.Fatal(err)
	}
	for _, packed := range []bool{false, true} {
		if packed {
			if _, err := r.git(t.Context(), "pack-refs", "--all"); err != nil {
				t.Fatal(err)
			}
		}
		if hash, err := r.Resolve(t.Context(), "refs/heads/main"); err != nil || hash != first {
			t.Errorf("main is at %s, %v; packed: %t", hash, err, packed)
		}
	}
}

func TestLocksOfTheKilledAreRemoved(t *testing.T) {
	s := Store{Root: t.TempDir()}
	r, err := s.Create(t.Context(), "shop", "shop", "main")
	if err != nil {
		t.Fatal(err)
	}
	first := grow(t, r, "", "first", "a", "1")
	old, young := filepath.Join(r.Dir, "refs", "heads", "main.lock"), filepath.Join(r.Dir, "packed-refs.lock")
	for _, lock := range []string{old, young} {
		if err := os.WriteFile(lock, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	if err := os.Chtimes(old, now, now.Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := r.UpdateRef(t.Context(), "refs/heads/main", first, ""); err == nil {
		t.Error("git does not mind the lock")
	}
	if err := s.Unlock(now.Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := r.UpdateRef(t.Context(), "refs/heads/main", first, ""); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("a lock that is in use is gone: %v", err)
	}
}
