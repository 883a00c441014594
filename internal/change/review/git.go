package review

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// LargeFile is how many bytes a file may have at most for a diff to say what its lines
// are; a larger one counts as binary. GitHub takes no larger ones either, but a dump of
// a database, which may well have a secret, is often below that.
const LargeFile = 100 << 20

// GitDiff runs the user's git to tell what head changes over base. Settings of
// the user or of the repository that alter a diff's form have no say.
func GitDiff(ctx context.Context, dir, base, head string) (*Diff, error) {
	cmd := gitCommand(ctx, dir,
		"diff", "--no-color", "--no-ext-diff", "--no-textconv", "--find-renames", "-l2000", "--full-index",
		"--no-relative", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--ignore-submodules=none",
		"--unified=0", "--inter-hunk-context=0", "--end-of-options", base, head, "--")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("run git diff: %w", err)
	}
	said := &opening{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run git diff: %w", err)
	}
	d, parseErr := ParseDiff(out)
	if parseErr != nil {
		_, _ = io.Copy(io.Discard, out) // so that git ends by itself
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("git diff %s %s in %s: %w%s", base, head, dir, because(ctx, err), said)
	}
	return d, parseErr
}

// GitBase returns an [Input.BaseFile] that reads from the repository in dir.
func GitBase(dir, commit string) func(ctx context.Context, path string) ([]byte, error) {
	return func(ctx context.Context, path string) ([]byte, error) {
		size, err := gitOutput(ctx, dir, "cat-file", "-s", commit+":"+path)
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) && ctx.Err() == nil {
				return nil, fmt.Errorf("%s at %s: %w", path, commit, fs.ErrNotExist)
			}
			return nil, err
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(size)), 10, 64); err != nil || n > maxFileBytes {
			return nil, fmt.Errorf("%s at %s is larger than %d MiB", path, commit, maxFileBytes>>20)
		}
		return gitOutput(ctx, dir, "cat-file", "blob", commit+":"+path)
	}
}

// GitChurn counts for each path how many of the commits before commit changed it,
// looking at no more than the last 500 of the given time.
func GitChurn(ctx context.Context, dir, commit string, since time.Duration) (map[string]int, error) {
	out, err := gitOutput(ctx, dir, "log", "--no-merges", "--no-renames", "--name-only", "-z", "--format=", "-n", "500",
		fmt.Sprintf("--since=%d seconds ago", int64(since.Seconds())), "--end-of-options", commit, "--")
	if err != nil {
		return nil, err
	}
	churn := map[string]int{}
	for name := range bytes.SplitSeq(out, []byte{0}) {
		if name := strings.TrimPrefix(string(name), "\n"); name != "" {
			churn[name]++
		}
	}
	return churn, nil
}

func gitOutput(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := gitCommand(ctx, dir, args...)
	said := &opening{}
	cmd.Stderr = said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git %s in %s: %w%s", args[0], dir, because(ctx, err), said)
	}
	return out, nil
}

func gitCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append([]string{"--no-pager", "-C", dir, "-c", fmt.Sprintf("core.bigFileThreshold=%d", LargeFile)}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "GIT_LITERAL_PATHSPECS=1")
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// because prefers the reason that ctx ended to what became of the process for it.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// opening keeps the beginning of what a program says, for an error's text.
type opening struct{ b []byte }

func (t *opening) Write(p []byte) (int, error) {
	t.b = append(t.b, p[:min(len(p), 1<<10-len(t.b))]...)
	return len(p), nil
}

func (t *opening) String() string {
	if s := strings.TrimSpace(string(t.b)); s != "" {
		return ": " + s
	}
	return ""
}
