package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The hooks that git calls in a push.
const (
	preReceive  = "pre-receive"
	procReceive = "proc-receive"
)

// What a hook finds in its environment.
const (
	envSocket  = "BIGHT_GIT_HOOK_SOCKET"
	envToken   = "BIGHT_GIT_HOOK_TOKEN"
	envMaxFile = "BIGHT_GIT_HOOK_MAX_FILE"
)

// question is what a hook asks of the server: one JSON object, answered by one.
type question struct {
	Token   string
	Hook    string
	Updates []update
	Options []string
}

// update is what a user wants of one ref. "" is no object.
type update struct {
	Ref string
	Old string
	New string
}

// answer is what the server says to a hook.
type answer struct {
	Refused string    // why nothing of the push is taken, "" for go on
	Lines   []string  // to show to the user
	Results []outcome // of proc-receive, one for each update
}

// outcome is what became of one ref.
type outcome struct {
	Ref     string
	Refused string // why, "" for done
	Kept    string // the ref that was made instead, with Ref unmoved
	Forced  bool
}

// Hook is one of the server's git hooks, which git runs as a program of its own. It returns an error if the
// push is not to be taken; what the user should read is on stderr by then.
func Hook(ctx context.Context, name string, stdin io.Reader, stdout, stderr io.Writer, env []string) error {
	h := &hook{name: name, stdin: stdin, stdout: stdout, stderr: stderr, env: map[string]string{}}
	for _, pair := range env {
		key, value, _ := strings.Cut(pair, "=")
		h.env[key] = value
	}
	if h.env[envSocket] == "" {
		return fmt.Errorf("git hook %s: not called by Bight's git server", name)
	}
	var err error
	switch name {
	case preReceive:
		err = h.preReceive(ctx)
	case procReceive:
		err = h.procReceive(ctx)
	default:
		err = fmt.Errorf("there is no hook %q", name)
	}
	if err != nil {
		fmt.Fprintln(stderr, printable(err.Error()))
		return fmt.Errorf("git hook %s: %w", name, err)
	}
	return nil
}

// hook is one run of a hook.
type hook struct {
	name           string
	stdin          io.Reader
	stdout, stderr io.Writer
	env            map[string]string
}

// preReceive looks at a push before anything of it is kept.
func (h *hook) preReceive(ctx context.Context) error {
	text, err := io.ReadAll(io.LimitReader(h.stdin, 4*maxCommands))
	if err != nil {
		return err
	}
	q := question{Options: h.pushOptions()}
	for line := range strings.Lines(string(text)) {
		u, err := parseUpdate(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return err
		}
		q.Updates = append(q.Updates, u)
	}
	a, err := h.ask(ctx, q)
	if err != nil {
		return err
	}
	h.show(a.Lines)
	if a.Refused != "" {
		return errors.New(a.Refused)
	}
	return h.checkSizes(ctx, q.Updates)
}

// parseUpdate reads "OLD NEW REF".
func parseUpdate(line string) (update, error) {
	words := strings.SplitN(line, " ", 3)
	if len(words) != 3 || !fullHash.MatchString(words[0]) || !fullHash.MatchString(words[1]) || words[2] == "" {
		return update{}, fmt.Errorf("git's description of a push is not as expected at %q", line)
	}
	if !utf8.ValidString(words[2]) {
		return update{}, fmt.Errorf("the name of ref %q is not UTF-8: give it another name", words[2])
	}
	u := update{Old: words[0], New: words[1], Ref: words[2]}
	if allZero(u.Old) {
		u.Old = ""
	}
	if allZero(u.New) {
		u.New = ""
	}
	return u, nil
}

// pushOptions reads what was given by git push -o.
func (h *hook) pushOptions() []string {
	count, err := strconv.Atoi(h.env["GIT_PUSH_OPTION_COUNT"])
	if err != nil {
		return nil
	}
	var options []string
	for i := range min(count, 1000) {
		options = append(options, h.env["GIT_PUSH_OPTION_"+strconv.Itoa(i)])
	}
	return options
}

// checkSizes refuses a push with a file over the limit. What was received is still apart from the repository,
// in git's quarantine, and goes with the refusal.
func (h *hook) checkSizes(ctx context.Context, updates []update) error {
	limit, err := strconv.ParseInt(h.env[envMaxFile], 10, 64)
	quarantine := h.env["GIT_QUARANTINE_PATH"]
	if err != nil || quarantine == "" {
		return nil // nothing but deletions, or objects that are known
	}
	dir, err := filepath.Abs(h.env["GIT_DIR"])
	if err != nil {
		return err
	}
	found := &largest{limit: limit}
	c := call{dir: dir, stdout: found, env: []string{"GIT_OBJECT_DIRECTORY=" + quarantine},
		args: []string{"cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectsize) %(objectname)"}}
	if _, err := run(ctx, c); err != nil {
		return fmt.Errorf("look at the sizes of files: %w", err)
	}
	if found.hash == "" {
		return nil
	}
	what := "object " + found.hash
	if name := h.nameOf(ctx, dir, found.hash, updates); name != "" {
		what = "file " + name
	}
	return &TooLargeError{What: what, Size: found.size, Limit: limit}
}

// nameOf finds the path of a pushed object, "" if that can't be told.
func (h *hook) nameOf(ctx context.Context, dir, hash string, updates []update) string {
	args := []string{"rev-list", "--objects"}
	for _, u := range updates {
		if u.New != "" {
			args = append(args, u.New)
		}
	}
	args = append(args, "--not", "--all")
	env := []string{"GIT_OBJECT_DIRECTORY=" + h.env["GIT_OBJECT_DIRECTORY"], "GIT_ALTERNATE_OBJECT_DIRECTORIES=" + h.env["GIT_ALTERNATE_OBJECT_DIRECTORIES"]}
	out, err := run(ctx, call{dir: dir, args: args, env: env, limit: 64 << 20})
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), hash+" "); ok {
			return name
		}
	}
	return ""
}

// largest finds the largest object over a limit in lines of "SIZE HASH".
type largest struct {
	limit int64
	size  int64
	hash  string
	rest  []byte
}

func (l *largest) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.rest = rest
		text, hash, _ := strings.Cut(string(line), " ")
		if size, err := strconv.ParseInt(text, 10, 64); err == nil && size > l.limit && size > l.size {
			l.size, l.hash = size, hash
		}
	}
}

// procReceive does in git's stead what is to be done with each ref.
func (h *hook) procReceive(ctx context.Context) error {
	greeting, err := readList(h.stdin, maxCommands)
	if err != nil || len(greeting) == 0 || !strings.HasPrefix(greeting[0], "version=1") {
		return fmt.Errorf("git's protocol for proc-receive is not known (%q): %w", greeting, errors.Join(err, errors.ErrUnsupported))
	}
	options := hasCapability(greeting[0], "push-options")
	hello := "version=1\n"
	if options {
		hello = "version=1\x00push-options\n"
	}
	if err := errors.Join(writePacket(h.stdout, hello), writeFlush(h.stdout)); err != nil {
		return err
	}
	lines, err := readList(h.stdin, 4*maxCommands)
	if err != nil {
		return err
	}
	var q question
	for _, line := range lines {
		u, err := parseUpdate(line)
		if err != nil {
			return err
		}
		q.Updates = append(q.Updates, u)
	}
	if options {
		if q.Options, err = readList(h.stdin, 4*maxCommands); err != nil {
			return err
		}
	}
	a, err := h.ask(ctx, q)
	if err != nil {
		return err
	}
	h.show(a.Lines)
	if a.Refused != "" {
		return errors.New(a.Refused)
	}
	for _, result := range a.Results {
		if err := report(h.stdout, result); err != nil {
			return err
		}
	}
	return writeFlush(h.stdout)
}

// report tells git what became of a ref.
func report(w io.Writer, o outcome) error {
	if o.Refused != "" {
		return writePacket(w, "ng "+o.Ref+" "+firstLine(o.Refused))
	}
	err := writePacket(w, "ok "+o.Ref)
	if o.Kept != "" {
		err = errors.Join(err, writePacket(w, "option refname "+o.Kept), writePacket(w, "option old-oid "+strings.Repeat("0", 40)))
	}
	if o.Forced && o.Kept == "" {
		err = errors.Join(err, writePacket(w, "option forced-update"))
	}
	return err
}

// firstLine returns what fits on one line of git's report.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line = printable(line)
	return strings.ToValidUTF8(line[:min(len(line), 500)], "")
}

// show writes lines for the user; git puts "remote: " before each.
func (h *hook) show(lines []string) {
	for _, line := range lines {
		fmt.Fprintln(h.stderr, printable(line))
	}
}

// ask brings a question to the server.
func (h *hook) ask(ctx context.Context, q question) (answer, error) {
	q.Hook, q.Token = h.name, h.env[envToken]
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", h.env[envSocket])
	if err != nil {
		return answer{}, fmt.Errorf("the git server can't be reached, try again: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return answer{}, fmt.Errorf("ask the git server: %w", err)
	}
	var a answer
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			return answer{}, errors.New("the git server ended while it looked at the push: push again")
		}
		return answer{}, fmt.Errorf("ask the git server: %w", err)
	}
	return a, nil
}
