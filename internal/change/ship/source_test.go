package ship

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// run calls git in a directory, as nobody in particular.
func run(t *testing.T, dir string, args ...string) {
	t.Helper()
	env := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=ada", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=ada", "GIT_COMMITTER_EMAIL=ada@example.com"}
	if _, err := git(t.Context(), dir, env, args...); err != nil {
		t.Fatal(err)
	}
}

// commit writes a file and commits it.
func commit(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "add", ".")
	run(t, dir, "commit", "--quiet", "-m", text)
}

func TestARepositoryOfSHA256IsRefusedBeforeAnythingIsMade(t *testing.T) {
	dir := t.TempDir()
	run(t, dir, "init", "--quiet", "--object-format=sha256")
	commit(t, dir, "one")
	_, err := ReadSource(t.Context(), dir)
	if err == nil || !strings.Contains(err.Error(), "SHA-256") || !strings.Contains(err.Error(), "git fast-import") {
		t.Errorf("got %v, want why it can't be shipped and what to do", err)
	}
}

func TestAShallowCloneIsPushedWhereItsHistoryIsKnown(t *testing.T) {
	full, clone, empty := t.TempDir(), filepath.Join(t.TempDir(), "clone"), t.TempDir()
	run(t, full, "init", "--quiet", "--initial-branch=main")
	commit(t, full, "one")
	commit(t, full, "two")
	run(t, full, "clone", "--quiet", "--depth=1", "file://"+full, clone)
	run(t, empty, "init", "--quiet", "--bare")
	commit(t, clone, "three")
	src, err := ReadSource(t.Context(), clone)
	if err != nil {
		t.Fatal(err)
	}
	if err := src.push(t.Context(), nil, full, "other"); err != nil {
		t.Errorf("push to where the rest is: %v", err)
	}
	err = src.push(t.Context(), nil, empty, "main")
	if err == nil || !strings.Contains(err.Error(), "git fetch --unshallow") {
		t.Fatalf("push to an empty repository: %v, want what to do", err)
	}
	run(t, clone, "fetch", "--quiet", "--unshallow")
	if err := src.push(t.Context(), nil, empty, "main"); err != nil {
		t.Errorf("push after that: %v", err)
	}
}

func TestACommitIsBehindWhatItCanBeRebasedOnto(t *testing.T) {
	dir := t.TempDir()
	run(t, dir, "init", "--quiet", "--initial-branch=main")
	commit(t, dir, "one")
	run(t, dir, "tag", "first")
	commit(t, dir, "two")
	run(t, dir, "checkout", "--quiet", "-b", "other", "first")
	commit(t, dir, "three")
	run(t, dir, "checkout", "--quiet", "--orphan", "apart")
	commit(t, dir, "four")
	run(t, dir, "checkout", "--quiet", "main")
	src, err := ReadSource(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]bool{"first": false, "main": false, "other": true, "apart": false, "absent": false} {
		if got := src.Behind(t.Context(), ref); got != want {
			t.Errorf("behind %s: %t, want %t", ref, got, want)
		}
	}
}
