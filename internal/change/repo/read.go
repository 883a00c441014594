package repo

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The modes that git knows.
const (
	ModeFile       = "100644"
	ModeExecutable = "100755"
	ModeSymlink    = "120000"
	ModeSubmodule  = "160000"
)

// Entry is one file of a commit: a regular file, a symlink or a submodule.
type Entry struct {
	Path string // slashes
	Mode string // of those above
	Hash string
	Size int64 // 0 for a submodule
}

// Changed is one file in which two commits differ.
type Changed struct {
	Path    string
	OldPath string // with Status R only
	Status  byte   // A added, M modified, D deleted, R renamed, T another type
	OldMode string // "" for added
	Mode    string // "" for deleted
	OldHash string
	Hash    string
}

// DiffOptions say how a difference is written.
type DiffOptions struct {
	Context int      // lines around a change; 0 is git's own 3
	Paths   []string // only these files and directories; none is all
	Limit   int64    // of bytes; 0 is 16 MiB
}

// parseCommit reads a commit object.
func parseCommit(body []byte) (Commit, error) {
	var c Commit
	head, message, _ := strings.Cut(string(body), "\n\n")
	c.Message = message
	for line := range strings.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch key {
		case "tree":
			c.Tree = value
		case "parent":
			c.Parents = append(c.Parents, value)
		case "author":
			c.Author = parseSignature(value)
		case "committer":
			c.Committer = parseSignature(value)
		}
	}
	if !fullHash.MatchString(c.Tree) {
		return Commit{}, errors.New("the commit names no tree")
	}
	return c, nil
}

// parseSignature reads "Name <email> 1700000000 +0100". What does not fit is left empty: old commits have all sorts.
func parseSignature(text string) Signature {
	var s Signature
	open, end := strings.Index(text, "<"), strings.LastIndex(text, ">")
	if open < 0 || end < open {
		s.Name = strings.TrimSpace(text)
		return s
	}
	s.Name, s.Email = strings.TrimSpace(text[:open]), text[open+1:end]
	seconds, zone, _ := strings.Cut(strings.TrimSpace(text[end+1:]), " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return s
	}
	s.When = time.Unix(unix, 0).UTC()
	if offset, err := strconv.Atoi(zone); err == nil && offset != 0 && offset > -2400 && offset < 2400 {
		s.When = s.When.In(time.FixedZone("", (offset/100*60+offset%100)*60))
	}
	return s
}

// emptyTree is the hash of a tree without files in a SHA-1 repository; git knows it without having it.
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

// pair resolves two revisions of which the first may be "", the empty tree.
func (r *Repository) pair(ctx context.Context, base, head string) (string, string, error) {
	to, err := r.Resolve(ctx, head)
	if err != nil {
		return "", "", err
	}
	if base == "" {
		return emptyTree, to, nil
	}
	from, err := r.Resolve(ctx, base)
	return from, to, err
}

// literal is how paths of callers are passed: as what they are, never as patterns.
var literal = []string{"GIT_LITERAL_PATHSPECS=1"}

// Diff returns the difference from base to head as git writes it, and whether that is the whole of it or the
// first options.Limit bytes. No base is the empty tree.
func (r *Repository) Diff(ctx context.Context, base, head string, options DiffOptions) (text []byte, whole bool, err error) {
	from, to, err := r.pair(ctx, base, head)
	if err != nil {
		return nil, false, err
	}
	args := []string{"diff", "--no-ext-diff", "--no-textconv", "--no-color", "--find-renames", "--full-index", "--submodule=short",
		"--src-prefix=a/", "--dst-prefix=b/", "--diff-algorithm=histogram", "--unified=" + strconv.Itoa(cmp.Or(max(options.Context, 0), 3)), from, to, "--"}
	limit := cmp.Or(options.Limit, 16<<20)
	text, err = run(ctx, call{dir: r.Dir, args: append(args, options.Paths...), env: literal, limit: limit})
	if errors.Is(err, errTruncated) {
		return text, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("compare %s with %s: %w", base, head, err)
	}
	return text, true, nil
}

// ChangedFiles returns the files in which head differs from base, sorted by path. No base is the empty tree.
func (r *Repository) ChangedFiles(ctx context.Context, base, head string) ([]Changed, error) {
	from, to, err := r.pair(ctx, base, head)
	if err != nil {
		return nil, err
	}
	out, err := r.git(ctx, "diff-tree", "-r", "-z", "--raw", "--no-abbrev", "--find-renames", "--no-ext-diff", "--no-textconv", from, to)
	if err != nil {
		return nil, fmt.Errorf("compare %s with %s: %w", base, head, err)
	}
	changed, err := parseRaw(out)
	if err != nil {
		return nil, fmt.Errorf("compare %s with %s: %w", base, head, err)
	}
	return changed, nil
}

// parseRaw reads what diff-tree -z --raw writes.
func parseRaw(out []byte) ([]Changed, error) {
	var changed []Changed
	fields := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	for i := 0; i < len(fields) && fields[i] != ""; {
		words := strings.Fields(strings.TrimPrefix(fields[i], ":"))
		if len(words) != 5 || words[4] == "" || i+1 >= len(fields) {
			return nil, fmt.Errorf("git's list of changed files is not as expected at %q", fields[i])
		}
		c := Changed{OldMode: words[0], Mode: words[1], OldHash: words[2], Hash: words[3], Status: words[4][0], Path: fields[i+1]}
		i += 2
		if c.Status == 'R' || c.Status == 'C' {
			if i >= len(fields) {
				return nil, errors.New("git's list of changed files ends early")
			}
			c.OldPath, c.Path = c.Path, fields[i]
			i++
		}
		if allZero(c.OldMode) {
			c.OldMode, c.OldHash = "", ""
		}
		if allZero(c.Mode) {
			c.Mode, c.Hash = "", ""
		}
		changed = append(changed, c)
	}
	slices.SortStableFunc(changed, func(a, b Changed) int { return strings.Compare(a.Path, b.Path) })
	return changed, nil
}

// Tree returns every file of the commit that rev names, sorted by path.
func (r *Repository) Tree(ctx context.Context, rev string) ([]Entry, error) {
	hash, err := r.Resolve(ctx, rev)
	if err != nil {
		return nil, err
	}
	return r.entries(ctx, hash)
}

// entries returns every file of a commit given by its hash.
func (r *Repository) entries(ctx context.Context, hash string) ([]Entry, error) {
	out, err := r.git(ctx, "ls-tree", "-r", "-l", "-z", "--full-tree", hash)
	if err != nil {
		return nil, fmt.Errorf("list files of %s: %w", hash, err)
	}
	entries, err := parseTree(out)
	if err != nil {
		return nil, fmt.Errorf("list files of %s: %w", hash, err)
	}
	return entries, nil
}

// parseTree reads what ls-tree -r -l -z writes: "MODE TYPE HASH SIZE\tPATH\0".
func parseTree(out []byte) ([]Entry, error) {
	var entries []Entry
	for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if line == "" {
			continue
		}
		meta, name, ok := strings.Cut(line, "\t")
		words := strings.Fields(meta)
		if !ok || len(words) != 4 || name == "" {
			return nil, fmt.Errorf("git's list of files is not as expected at %q", line)
		}
		e := Entry{Path: name, Mode: words[0], Hash: words[2]}
		if words[3] != "-" {
			size, err := strconv.ParseInt(words[3], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("git's list of files has a size %q", words[3])
			}
			e.Size = size
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return entries, nil
}

// ReadFile returns the content of one file of a commit: a [NotFoundError] where there is none, a
// [TooLargeError] where it has more than limit bytes. Of a symlink it is the target.
func (r *Repository) ReadFile(ctx context.Context, rev, name string, limit int64) ([]byte, error) {
	hash, err := r.Resolve(ctx, rev)
	if err != nil {
		return nil, err
	}
	missing := &NotFoundError{What: fmt.Sprintf("file %s in commit %.12s", printable(name), hash)}
	if err := checkPath(name); err != nil {
		return nil, missing
	}
	out, err := run(ctx, call{dir: r.Dir, args: []string{"ls-tree", "-l", "-z", "--full-tree", hash, "--", name}, env: literal})
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, rev, err)
	}
	entries, err := parseTree(out)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, rev, err)
	}
	if len(entries) != 1 || entries[0].Path != name || entries[0].Mode == ModeSubmodule || entries[0].Mode == "040000" {
		return nil, missing
	}
	if e := entries[0]; e.Size > limit {
		return nil, &TooLargeError{What: "file " + name, Size: e.Size, Limit: limit}
	}
	body, err := run(ctx, call{dir: r.Dir, args: []string{"cat-file", "blob", entries[0].Hash}, limit: limit})
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", name, rev, err)
	}
	return body, nil
}

// Files returns the contents of all files of a commit, by path: a [TooLargeError] where one has more than
// limit bytes.
func (r *Repository) Files(ctx context.Context, rev string, limit int64) (map[string][]byte, error) {
	hash, err := r.given(ctx, rev)
	if err != nil {
		return nil, err
	}
	entries, err := r.entries(ctx, hash)
	if err != nil {
		return nil, r.absent(ctx, err, hash)
	}
	var hashes []string
	total := int64(0)
	for _, e := range entries {
		if e.Size > limit {
			return nil, &TooLargeError{What: "file " + e.Path, Size: e.Size, Limit: limit}
		}
		if e.Mode == ModeSubmodule {
			return nil, fmt.Errorf("read the files of %s: %s is a submodule", hash, printable(e.Path))
		}
		hashes = append(hashes, e.Hash)
		total += e.Size
	}
	const heading = 128 // of each answer
	bodies, err := r.readBatch(ctx, hashes, total+int64(heading*(len(hashes)+1)))
	if err != nil {
		return nil, fmt.Errorf("read the files of %s: %w", hash, err)
	}
	files := map[string][]byte{}
	for i, e := range entries {
		files[e.Path] = bodies[i]
	}
	return files, nil
}

// readBatch returns the contents of objects in one go, in the order asked, at most limit bytes in all.
func (r *Repository) readBatch(ctx context.Context, hashes []string, limit int64) ([][]byte, error) {
	if len(hashes) == 0 {
		return nil, nil
	}
	questions := strings.NewReader(strings.Join(hashes, "\n") + "\n")
	out, err := run(ctx, call{dir: r.Dir, args: []string{"cat-file", "--batch"}, stdin: questions, limit: limit})
	if err != nil {
		return nil, err
	}
	answers := bufio.NewReader(bytes.NewReader(out))
	bodies := make([][]byte, 0, len(hashes))
	for _, hash := range hashes {
		line, err := answers.ReadString('\n')
		words := strings.Fields(line)
		if err != nil || len(words) != 3 {
			return nil, &NotFoundError{What: "object " + hash}
		}
		size, err := strconv.Atoi(words[2])
		if err != nil || size < 0 || size > len(out) {
			return nil, fmt.Errorf("object %s: git says it has size %q", hash, words[2])
		}
		body := make([]byte, size+1) // a newline ends each
		if _, err := io.ReadFull(answers, body); err != nil {
			return nil, fmt.Errorf("object %s: %w", hash, err)
		}
		bodies = append(bodies, body[:size])
	}
	return bodies, nil
}

// checkPath tells whether name may be a file of a commit, by the rules that git applies in a checkout.
func checkPath(name string) error {
	if name == "" || path.IsAbs(name) || path.Clean(name) != name || strings.ContainsAny(name, "\x00\\") {
		return fmt.Errorf("%q is no path inside of a repository", name)
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == ".." || element == "." || hidesGit(element) {
			return fmt.Errorf("%q has an element %q, which no file of a commit may have", name, element)
		}
	}
	return nil
}

// hidesGit tells whether some file system takes the name for ".git".
func hidesGit(element string) bool {
	plain := strings.Map(func(r rune) rune {
		if r >= 0x200b && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x206a && r <= 0x206f || r == 0xfeff {
			return -1 // HFS+ ignores them
		}
		return r
	}, element)
	plain, _, _ = strings.Cut(plain, ":") // NTFS streams
	plain = strings.TrimRight(strings.ToLower(plain), ". ")
	return plain == ".git" || plain == "git~1"
}
