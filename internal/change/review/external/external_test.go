//go:build unix

package external

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bightdev/bight/internal/change/review"
	"github.com/bightdev/bight/internal/change/review/reviewtest"
)

func sh(script string) []string { return []string{"sh", "-c", script, "lint", Files} }

func doc(results string) string {
	return `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[` + results + `]}]}`
}

func result(file string, line int) string {
	return fmt.Sprintf(`{"ruleId":"r","message":{"text":"m"},"properties":{"bightWhy":"because"},"locations":[{"physicalLocation":{"artifactLocation":{"uri":%q},"region":{"startLine":%d}}}]}`, file, line)
}

func change(t *testing.T) *review.Input {
	return reviewtest.Change(t, map[string]string{"a.js": "one\ntwo\n", "b.py": "one\n"}, map[string]string{
		"a.js": "one\ntwo\nthree\n", "b.py": "one\ntwo\n", "dir/-c d.js": "x\n", "-e.js": "x\n", "vendor/v.js": "x\n", "bin.js": "\x00\x01",
	})
}

func TestFindingsAreThoseOfChangedLines(t *testing.T) {
	in := change(t)
	c := &Checker{Tool: "lint", Patterns: []string{"**/*.js"}, Command: sh("cat <<'EOF'\n" + doc(strings.Join([]string{
		result("a.js", 3), result("a.js", 1), result("b.py", 1), result("../x", 1), result("file://"+in.Dir+"/dir/-c%20d.js", 1)}, ",")) + "\nEOF\nexit 1")}
	rep, err := (&review.Reviewer{Checkers: []review.Checker{c}}).Review(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range rep.Findings {
		got = append(got, fmt.Sprintf("%s %s %s:%d", f.Tool, f.Rule, f.File, f.Line))
	}
	want := []string{"lint r a.js:3", "lint r dir/-c d.js:1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestFilesAreThoseThatTheLinterIsFor(t *testing.T) {
	in := change(t)
	in.Diff.Files = append(in.Diff.Files, &review.FileDiff{Path: "../outside.js"}, &review.FileDiff{Path: "sub.js", NewMode: "160000"})
	got, notes, err := (&Checker{Patterns: []string{"**/*.js", "!a.js"}}).files(in)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"./-e.js", "dir/-c d.js"}, got); diff != "" || notes != nil {
		t.Errorf("files (-want +got):\n%s\nnotes %v", diff, notes)
	}
}

func TestOutputToAFile(t *testing.T) {
	c := &Checker{Tool: "lint", Command: []string{"sh", "-c", "echo chatter; printf '%s' '" + doc(result("a.js", 3)) + `' > "${1#--out=}"`, "lint", "--out=" + Output}}
	res, err := c.Check(t.Context(), change(t))
	if err != nil || len(res.Findings) != 1 {
		t.Errorf("result %+v, error %v", res, err)
	}
}

func TestFailuresSayWhy(t *testing.T) {
	for name, tt := range map[string]struct {
		c    Checker
		want string
	}{
		"not installed": {Checker{Tool: "lint", Command: []string{"no-such-linter"}}, "lint: the program no-such-linter is not installed here"},
		"no document":   {Checker{Tool: "lint", Command: sh("echo 'no config' >&2; exit 2")}, "lint: exit status 2: no config"},
		"silence":       {Checker{Tool: "lint", Command: sh("true")}, "lint: it wrote no SARIF"},
		"no file":       {Checker{Tool: "lint", Command: []string{"true", Output}}, "lint: it wrote no file of results"},
		"not SARIF":     {Checker{Tool: "lint", Command: sh("echo no config; exit 3")}, "lint: read SARIF: invalid character 'o' in literal null (expecting 'u'); it wrote: no config"},
		"no command":    {Checker{Tool: "lint"}, "lint has no command"},
		"bad pattern":   {Checker{Tool: "lint", Patterns: []string{"[a"}}, "patterns of lint"},
		"endless":       {Checker{Tool: "lint", Command: []string{"yes", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}}, "lint wrote more than 64 MiB and was ended"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tt.c.Check(t.Context(), change(t))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %s", err, tt.want)
			}
		})
	}
}

func TestTimeoutEndsTheWholeProcessGroup(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	c := &Checker{Tool: "lint", Timeout: 300 * time.Millisecond, Command: sh("sh -c 'echo $$ > " + pid + "; exec tail -f /dev/null' & wait")}
	_, err := c.Check(t.Context(), change(t))
	if err == nil || !strings.Contains(err.Error(), "took longer than 300ms") {
		t.Fatalf("error is %v", err)
	}
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); alive(n); {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", n)
		}
	}
}

// alive reports whether a process runs; one that nobody has waited for does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}
