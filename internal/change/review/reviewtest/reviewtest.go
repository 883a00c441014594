// Package reviewtest makes changes for tests: two commits in a real repository.
// Its main function is [Load], which reads them from a txtar archive.
//
// Its functions are for one test's goroutine.
package reviewtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/bightdev/bight/internal/change/review"
)

// Load makes a change of an archive. Files below base/ are the base commit's,
// those below head/ are changed or added by the head commit, and a file
// head/PATH that has only the word DELETED is removed by it.
func Load(t testing.TB, archive string) *review.Input {
	t.Helper()
	a, err := txtar.ParseFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	base, head := map[string]string{}, map[string]string{}
	for _, f := range a.Files {
		switch {
		case strings.HasPrefix(f.Name, "base/"):
			base[strings.TrimPrefix(f.Name, "base/")] = string(f.Data)
		case strings.HasPrefix(f.Name, "head/"):
			head[strings.TrimPrefix(f.Name, "head/")] = string(f.Data)
		default:
			t.Fatalf("%s: %s is neither below base/ nor below head/", archive, f.Name)
		}
	}
	return Change(t, base, head)
}

// Change makes a change of two sets of files, as [Load] does.
func Change(t testing.TB, base, head map[string]string) *review.Input {
	t.Helper()
	dir := t.TempDir()
	Git(t, dir, "init", "--quiet", "--initial-branch=main")
	write(t, dir, base)
	b := commit(t, dir, "base")
	write(t, dir, head)
	h := commit(t, dir, "head")
	return Between(t, dir, b, h)
}

// Between returns the change from one commit to another; the second is checked out.
func Between(t testing.TB, dir, base, head string) *review.Input {
	t.Helper()
	d, err := review.GitDiff(t.Context(), dir, base, head)
	if err != nil {
		t.Fatal(err)
	}
	return &review.Input{Dir: dir, Diff: d, Base: base, Head: head, BaseFile: review.GitBase(dir, base)}
}

// Git runs git and returns what it prints.
func Git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func commit(t testing.TB, dir, message string) string {
	t.Helper()
	Git(t, dir, "add", "--all", "--force")
	Git(t, dir, "commit", "--quiet", "--allow-empty", "-m", message)
	return Git(t, dir, "rev-parse", "HEAD")
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		name = filepath.Join(dir, filepath.FromSlash(name))
		if strings.TrimSpace(data) == "DELETED" {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}
