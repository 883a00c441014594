package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// limitOutput is how many bytes of one git command's answer are kept where the caller has set no
// limit of its own: a list of a million files has a tenth of that.
const limitOutput = 1 << 30

// limitWords is how much of what git says on stderr is kept: the last of it has the cause.
const limitWords = 8 << 10

// settings hold for every git process. They come through the environment, so that they also hold for the
// processes which git starts, and so that a repository made by an older Bight has today's.
var settings = [][2]string{
	{"safe.directory", "*"},
	{"core.hooksPath", os.DevNull},
	{"core.fsmonitor", "false"},
	{"core.untrackedCache", "false"},
	{"core.attributesFile", os.DevNull},
	{"core.excludesFile", os.DevNull},
	{"core.autocrlf", "false"},
	{"core.symlinks", "true"},
	{"core.protectHFS", "true"},
	{"core.protectNTFS", "true"},
	{"core.quotePath", "false"},
	{"core.bigFileThreshold", "8m"}, // larger files are streamed, never held in memory
	{"pack.windowMemory", "64m"},
	{"pack.threads", "2"},
	{"gc.autoDetach", "false"},
	{"maintenance.autoDetach", "false"},
	{"transfer.fsckObjects", "true"},
	{"fetch.fsckObjects", "true"},
	{"receive.fsckObjects", "true"},
	{"transfer.bundleURI", "false"},
	{"protocol.allow", "never"},
	{"protocol.http.allow", "always"},
	{"protocol.https.allow", "always"},
	{"http.followRedirects", "false"}, // credentials and requests go where the user said, nowhere else
	{"http.lowSpeedLimit", "1"},
	{"http.lowSpeedTime", "60"},
	{"credential.helper", ""},
	{"submodule.recurse", "false"},
	{"fetch.recurseSubmodules", "false"},
	{"commit.gpgSign", "false"},
	{"diff.external", ""},
	{"diff.renames", "true"},
	{"merge.renames", "true"},
	{"advice.detachedHead", "false"},
}

// forgiven are flaws of objects that old repositories are full of and that do no harm.
var forgiven = []string{"zeroPaddedFilemode", "badTimezone", "missingNameBeforeEmail", "missingSpaceBeforeEmail", "missingSpaceBeforeDate"}

// environment returns the whole environment of a git process: nothing of the caller's is passed on but
// where programs and certificates are found.
func environment(extra [][2]string, more ...string) []string {
	env := []string{
		"HOME=" + os.DevNull,
		"LC_ALL=C",
		"TZ=UTC",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_NO_REPLACE_OBJECTS=1",
		"GIT_NO_LAZY_FETCH=1",
		"GIT_OPTIONAL_LOCKS=0",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_ASKPASS=",
		"GIT_ALLOW_PROTOCOL=http:https",
		"GIT_PAGER=cat",
	}
	for _, name := range []string{"PATH", "TMPDIR", "SystemRoot", "TEMP", "TMP", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
		"http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	count := 0
	for _, list := range [][][2]string{settings, extra} {
		for _, s := range list {
			n := strconv.Itoa(count)
			env = append(env, "GIT_CONFIG_KEY_"+n+"="+s[0], "GIT_CONFIG_VALUE_"+n+"="+s[1])
			count++
		}
	}
	for _, flaw := range forgiven {
		for _, way := range []string{"receive", "fetch"} {
			n := strconv.Itoa(count)
			env = append(env, "GIT_CONFIG_KEY_"+n+"="+way+".fsck."+flaw, "GIT_CONFIG_VALUE_"+n+"=ignore")
			count++
		}
	}
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(count))
	return append(env, more...)
}

// call is one run of git.
type call struct {
	dir     string      // the git directory, "" for none
	args    []string    // the command and its arguments
	stdin   io.Reader   // nil for none
	stdout  io.Writer   // nil: kept and returned
	limit   int64       // of what is kept; 0 is limitOutput
	files   int64       // how large a file it may write, 0 for any size
	config  [][2]string // settings beside the common ones
	env     []string
	secrets []string // never to be seen in an error
}

// failure tells that git ran and did not succeed.
type failure struct {
	command string
	code    int
	words   string // git's own last lines
}

func (f *failure) Error() string {
	if f.words == "" {
		return fmt.Sprintf("git %s ended with code %d", f.command, f.code)
	}
	return fmt.Sprintf("git %s: %s", f.command, f.words)
}

// exitCode returns the code with which git ended, or -1 when it didn't run to its end.
func exitCode(err error) int {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code
	}
	return -1
}

// errTruncated is what a capped buffer says when it is full; git is ended then.
var errTruncated = errors.New("more output than allowed")

// capped keeps up to limit bytes.
type capped struct {
	buffer bytes.Buffer // not embedded: its ReadFrom would go past the limit
	limit  int64
	full   bool
}

func (c *capped) Write(p []byte) (int, error) {
	if room := c.limit - int64(c.buffer.Len()); int64(len(p)) > room {
		c.full = true
		c.buffer.Write(p[:max(room, 0)])
		return int(max(room, 0)), errTruncated
	}
	return c.buffer.Write(p)
}

// tail keeps the last limit bytes.
type tail struct {
	kept  []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - t.limit; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

// run runs git and returns its answer. With errTruncated in the error the answer is its beginning.
func run(ctx context.Context, c call) ([]byte, error) {
	args := c.args
	if c.dir != "" {
		args = append([]string{"--git-dir=" + c.dir}, args...)
	}
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = environment(c.config, c.env...)
	cmd.Dir = c.dir
	cmd.Stdin = c.stdin
	limit := c.limit
	if limit == 0 {
		limit = limitOutput
	}
	kept := &capped{limit: limit}
	cmd.Stdout = kept
	if c.stdout != nil {
		cmd.Stdout = c.stdout
	}
	words := &tail{limit: limitWords}
	cmd.Stderr = words
	ownGroup(cmd)
	if c.files > 0 {
		limitFiles(cmd, c.files)
	}
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("git %s: %w", c.args[0], context.Cause(ctx))
	case kept.full:
		return kept.buffer.Bytes(), fmt.Errorf("git %s: %w", c.args[0], errTruncated)
	case err == nil:
		return kept.buffer.Bytes(), nil
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return nil, fmt.Errorf("run git: %w", err)
	}
	return kept.buffer.Bytes(), &failure{command: c.args[0], code: exit.ExitCode(), words: mask(lastLines(words.kept), c.secrets)}
}

// ownGroup makes cmd the leader of a process group which ends as a whole with the command's context.
func ownGroup(cmd *exec.Cmd) {
	separate(cmd)
	cmd.Cancel = func() error { return endGroup(cmd) }
	cmd.WaitDelay = 5 * time.Second // for a pipe that a grandchild keeps open
}

// lastLines returns the end of what git said as one line without git's own prefixes.
func lastLines(words []byte) string {
	var lines []string
	for line := range strings.FieldsFuncSeq(string(words), func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimSpace(line)
		for _, prefix := range []string{"fatal: ", "error: "} {
			line = strings.TrimPrefix(line, prefix)
		}
		if line == "" || strings.HasPrefix(line, "hint: ") {
			continue
		}
		lines = append(lines, line)
	}
	if len(lines) > 4 {
		lines = lines[len(lines)-4:]
	}
	return printable(strings.Join(lines, "; "))
}

// printable returns text without what could steer a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

var userInURL = regexp.MustCompile(`(?i)([a-z][a-z0-9+.-]*://)[^/\s@]*@`)

// mask returns text without the secrets and without the user part of any URL.
func mask(text string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	return userInURL.ReplaceAllString(text, "$1")
}

// oldest is the first git that computes merges without a checkout.
var oldest = [2]int{2, 38}

// CheckGit tells whether this machine's git can do what this package needs, and if not, what to do.
func CheckGit(ctx context.Context) error {
	if _, err := exec.LookPath("git"); err != nil {
		return errors.New("no git on PATH: install git 2.38 or newer")
	}
	out, err := run(ctx, call{args: []string{"version"}})
	if err != nil {
		return err
	}
	version, err := parseVersion(string(out))
	if err != nil {
		return err
	}
	if version[0] < oldest[0] || version[0] == oldest[0] && version[1] < oldest[1] {
		return fmt.Errorf("git is %d.%d, which can't merge without a checkout: install git %d.%d or newer", version[0], version[1], oldest[0], oldest[1])
	}
	if _, err := backendProgram(ctx); err != nil {
		return err
	}
	return nil
}

// backendProgram returns the path of git's own server side of smart HTTP.
func backendProgram(ctx context.Context) (string, error) {
	out, err := run(ctx, call{args: []string{"--exec-path"}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("git has no http-backend, which serves repositories (%w): install the whole git package", err)
	}
	return path, nil
}

// parseVersion reads "git version 2.39.5 (Apple Git-154)".
func parseVersion(text string) (version [2]int, err error) {
	fields := strings.Fields(text)
	if len(fields) < 3 {
		return version, fmt.Errorf("git version: %q is no version", text)
	}
	parts := strings.SplitN(fields[2], ".", 3)
	if len(parts) < 2 {
		return version, fmt.Errorf("git version: %q is no version", text)
	}
	for i := range version {
		if version[i], err = strconv.Atoi(parts[i]); err != nil {
			return version, fmt.Errorf("git version: %q is no version", text)
		}
	}
	return version, nil
}
