package supervisor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// RotateLogs makes the directory of the logs. Those of the last run are kept, in
// files that end in ".1"; older ones are not.
func RotateLogs(c *spec.Cluster) error {
	if err := os.MkdirAll(c.Logs(), 0o700); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(c.Logs(), "*.log"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := os.Rename(file, file+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keep the last run's logs: %w", err)
		}
	}
	return nil
}

// What a line of a log looks like that says why a program ended, and one that
// says that something went wrong. Kubernetes' components start a line with a
// letter and the date, containerd has a level in it.
var (
	lastWords = regexp.MustCompile(`^panic: |^fatal error: |^F\d{4} |level=(fatal|panic)|"level":"(fatal|panic)"|"command failed"|(?i)^error: `)
	complaint = regexp.MustCompile(`^E\d{4} |level=error|"level":"error"|(?i)\berror\b`)
)

// lastWord returns the line at the end of a log that best says why its program
// ended.
func lastWord(file string) string {
	const enough = 64 << 10
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > enough {
		if _, err := f.Seek(-enough, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, enough))
	if err != nil {
		return err.Error()
	}
	return pickLastWord(string(b))
}

func pickLastWord(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	slices.Reverse(lines)
	for _, pattern := range []*regexp.Regexp{lastWords, complaint, regexp.MustCompile(`\S`)} {
		if i := slices.IndexFunc(lines, pattern.MatchString); i >= 0 {
			return strings.TrimSpace(lines[i])
		}
	}
	return "nothing was logged"
}

// remedies are what to do about the causes that a machine most often has.
var remedies = []struct{ cause, remedy string }{
	{"inotify_init: too many open files", "this machine's limit of inotify instances is used up: raise it with sysctl fs.inotify.max_user_instances=1024, or end programs that watch files"},
	{"inotify_add_watch: no space left", "this machine's limit of watched files is used up: raise it with sysctl fs.inotify.max_user_watches=1048576"},
	{"no space left on device", "the disk is full: make room, or set BIGHT_STATE_DIR to a directory on another"},
	{"too many open files", "the limit of open files is used up: raise it with ulimit -n 1048576 before the start"},
	{"cannot allocate memory", "the memory is used up: end other programs, or start with fewer nodes"},
}

// remedy returns what to do about a last word, where that is known, as the rest of
// a sentence.
func remedy(word string) string {
	for _, r := range remedies {
		if strings.Contains(strings.ToLower(word), r.cause) {
			return "; " + r.remedy
		}
	}
	return ""
}
