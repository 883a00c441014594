package programs

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestCollectedProgramNeedsNothingElse starts a program from what was collected.
func TestCollectedProgramNeedsNothingElse(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test changes its root: run it as root, as make test does in CI")
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Collect(runtime.GOARCH, sh, git)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for name, e := range got {
		b, err := os.ReadFile(e.Local)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// git wants it, and a container has it.
	if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "dev/null"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	out, err := inRoot(root, sh, "-c", git+" --version")
	if err != nil || !strings.HasPrefix(out, "git version ") {
		t.Errorf("git in a root of what was collected: %v, %q", err, out)
	}
}

func TestWhatIsNoProgramIsRefused(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ arch, file, want string }{
		"missing":      {runtime.GOARCH, "/nowhere/git", "no such file"},
		"script":       {runtime.GOARCH, script, "script"},
		"architecture": {"mips", "/bin/sh", "not known"},
	} {
		if _, err := Collect(c.arch, c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, c.want)
		}
	}
}
