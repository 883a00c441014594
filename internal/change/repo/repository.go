package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Repository is a git repository without a checkout. Its methods may be called at the same time, also
// by several processes.
type Repository struct {
	Dir string
}

// Signature says who wrote or committed something and when.
type Signature struct {
	Name  string
	Email string
	When  time.Time
}

// Commit is one commit as git has it.
type Commit struct {
	Hash      string
	Tree      string
	Parents   []string
	Author    Signature
	Committer Signature
	Message   string
}

// fullHash is a whole SHA-1 or SHA-256 name.
var fullHash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// allZero says in git's answers and questions that there is no object.
func allZero(hash string) bool { return strings.Trim(hash, "0") == "" }

// Create returns the repository in dir, which is made if need be, with branch as the one that HEAD names.
func Create(ctx context.Context, dir, branch string) (*Repository, error) {
	if err := CheckRef("refs/heads/" + branch); err != nil {
		return nil, fmt.Errorf("create repository: branch %q: %w", branch, err)
	}
	r, err := Open(dir)
	if _, missing := errors.AsType[*NotFoundError](err); missing {
		err = initialize(ctx, dir)
		r = &Repository{Dir: dir}
	}
	if err != nil {
		return nil, err
	}
	if have, err := r.Branch(ctx); err == nil && have == branch {
		return r, nil
	}
	if _, err := r.git(ctx, "symbolic-ref", "HEAD", "refs/heads/"+branch); err != nil {
		return nil, fmt.Errorf("set branch of %s: %w", dir, err)
	}
	return r, nil
}

// initialize makes an empty repository beside dir and renames it, so that nobody finds half of one.
func initialize(ctx context.Context, dir string) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("create repository: %w", err)
	}
	temporary, err := os.MkdirTemp(parent, ".new-*")
	if err != nil {
		return fmt.Errorf("create repository: %w", err)
	}
	defer os.RemoveAll(temporary)
	made := filepath.Join(temporary, "git")
	if _, err := run(ctx, call{args: []string{"init", "--quiet", "--bare", "--template=", "--initial-branch=main", "--", made}}); err != nil {
		return fmt.Errorf("create repository: %w", err)
	}
	if err := os.Rename(made, dir); err != nil {
		if _, opened := Open(dir); opened == nil {
			return nil // somebody else was first
		}
		return fmt.Errorf("create repository: %w", err)
	}
	return nil
}

// Open returns the repository in dir, or a [NotFoundError]. One that borrows objects from outside of
// dir is refused.
func Open(dir string) (*Repository, error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	if _, err := os.Stat(filepath.Join(absolute, "HEAD")); err != nil {
		if os.IsNotExist(err) {
			return nil, &NotFoundError{What: "repository " + dir}
		}
		return nil, fmt.Errorf("open repository: %w", err)
	}
	for _, name := range []string{"objects/info/alternates", "objects/info/http-alternates", "commondir"} {
		if _, err := os.Lstat(filepath.Join(absolute, name)); err == nil {
			return nil, fmt.Errorf("open repository %s: it has a file %s, so its objects are elsewhere: repack it with 'git repack -ad' and remove that file", dir, name)
		}
	}
	return &Repository{Dir: absolute}, nil
}

// git runs git in the repository.
func (r *Repository) git(ctx context.Context, args ...string) ([]byte, error) {
	return run(ctx, call{dir: r.Dir, args: args})
}

// Branch returns the App's branch.
func (r *Repository) Branch(ctx context.Context) (string, error) {
	text, err := os.ReadFile(filepath.Join(r.Dir, "HEAD"))
	if err != nil {
		return "", fmt.Errorf("read branch: %w", err)
	}
	branch, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "ref: refs/heads/")
	if !ok {
		return "", fmt.Errorf("read branch of %s: HEAD names no branch", r.Dir)
	}
	return branch, nil
}

// Resolve returns the hash of the commit that rev names, or a [NotFoundError].
func (r *Repository) Resolve(ctx context.Context, rev string) (string, error) {
	if rev == "" || strings.ContainsAny(rev, "\x00\n") {
		return "", &NotFoundError{What: fmt.Sprintf("revision %q", rev)}
	}
	if hash, ok := r.loose(rev); ok {
		return hash, nil
	}
	out, err := r.git(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
	if code := exitCode(err); code == 1 || code == 128 {
		return "", &NotFoundError{What: fmt.Sprintf("revision %q", printable(rev))}
	}
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", rev, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// loose returns where a branch is that has a file of its own, as those have that moved lately: to ask
// git would take a process.
func (r *Repository) loose(ref string) (hash string, ok bool) {
	if !strings.HasPrefix(ref, "refs/heads/") || CheckRef(ref) != nil {
		return "", false
	}
	text, err := os.ReadFile(filepath.Join(r.Dir, filepath.FromSlash(ref)))
	hash = strings.TrimSpace(string(text))
	return hash, err == nil && fullHash.MatchString(hash) && !allZero(hash)
}

// given returns the hash of a commit that is to be looked at: rev itself where that is one. What asks
// git about it calls absent when that fails.
func (r *Repository) given(ctx context.Context, rev string) (string, error) {
	if fullHash.MatchString(rev) {
		return rev, nil
	}
	return r.Resolve(ctx, rev)
}

// absent says that one of some hashes names no commit, where that is why git failed.
func (r *Repository) absent(ctx context.Context, err error, hashes ...string) error {
	if exitCode(err) <= 0 {
		return err
	}
	for _, hash := range hashes {
		if _, missing := r.Resolve(ctx, hash); missing != nil {
			return missing
		}
	}
	return err
}

// Commit returns the commit that rev names.
func (r *Repository) Commit(ctx context.Context, rev string) (Commit, error) {
	hash, err := r.given(ctx, rev)
	if err != nil {
		return Commit{}, err
	}
	out, err := r.git(ctx, "cat-file", "commit", hash)
	if err != nil {
		return Commit{}, fmt.Errorf("read commit %s: %w", hash, r.absent(ctx, err, hash))
	}
	c, err := parseCommit(out)
	if err != nil {
		return Commit{}, fmt.Errorf("read commit %s: %w", hash, err)
	}
	c.Hash = hash
	return c, nil
}

// Commits returns the commits that head has and base has not, the newest first, at most limit of them.
// With no base it is all of head's.
func (r *Repository) Commits(ctx context.Context, base, head string, limit int) ([]Commit, error) {
	hashes, err := r.list(ctx, base, head, "--topo-order", fmt.Sprintf("--max-count=%d", limit))
	if err != nil {
		return nil, err
	}
	commits := make([]Commit, 0, len(hashes))
	batch, err := r.readBatch(ctx, hashes, limitOutput)
	if err != nil {
		return nil, fmt.Errorf("list commits of %s: %w", head, err)
	}
	for i, body := range batch {
		c, err := parseCommit(body)
		if err != nil {
			return nil, fmt.Errorf("read commit %s: %w", hashes[i], err)
		}
		c.Hash = hashes[i]
		commits = append(commits, c)
	}
	return commits, nil
}

// list returns the hashes of base..head in the order that the options say.
func (r *Repository) list(ctx context.Context, base, head string, options ...string) ([]string, error) {
	tip, err := r.Resolve(ctx, head)
	if err != nil {
		return nil, err
	}
	args := append([]string{"rev-list"}, options...)
	args = append(args, tip)
	if base != "" {
		bottom, err := r.Resolve(ctx, base)
		if err != nil {
			return nil, err
		}
		args = append(args, "^"+bottom)
	}
	out, err := r.git(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("list commits of %s: %w", head, err)
	}
	return strings.Fields(string(out)), nil
}

// Refs returns where the refs are whose names begin with prefix, which is whole path elements.
func (r *Repository) Refs(ctx context.Context, prefix string) (map[string]string, error) {
	if strings.HasPrefix(prefix, "-") {
		return nil, fmt.Errorf("list refs: %q is no prefix of a ref", prefix)
	}
	out, err := r.git(ctx, "for-each-ref", "--format=%(objectname) %(refname)", "--", prefix)
	if err != nil {
		return nil, fmt.Errorf("list refs %s: %w", prefix, err)
	}
	refs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if hash, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			refs[name] = hash
		}
	}
	return refs, nil
}

// ref returns where one ref is, "" if it does not exist.
func (r *Repository) ref(ctx context.Context, name string) (string, error) {
	refs, err := r.Refs(ctx, name)
	return refs[name], err
}

// MergeBase returns the best commit that a and b have in common, "" if there is none.
func (r *Repository) MergeBase(ctx context.Context, a, b string) (string, error) {
	x, err := r.given(ctx, a)
	if err != nil {
		return "", err
	}
	y, err := r.given(ctx, b)
	if err != nil {
		return "", err
	}
	out, err := r.git(ctx, "merge-base", x, y)
	if exitCode(err) == 1 {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("merge base of %s and %s: %w", a, b, r.absent(ctx, err, x, y))
	}
	return strings.TrimSpace(string(out)), nil
}

// IsAncestor tells whether descendant's history has ancestor. A commit is its own ancestor.
func (r *Repository) IsAncestor(ctx context.Context, ancestor, descendant string) (bool, error) {
	x, err := r.given(ctx, ancestor)
	if err != nil {
		return false, err
	}
	y, err := r.given(ctx, descendant)
	if err != nil {
		return false, err
	}
	_, err = r.git(ctx, "merge-base", "--is-ancestor", x, y)
	if exitCode(err) == 1 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("is %s an ancestor of %s: %w", ancestor, descendant, r.absent(ctx, err, x, y))
	}
	return true, nil
}

// UpdateRef moves ref from old to new, or changes nothing and returns a [MovedError]. With no old the ref
// must not exist; with no new it is deleted.
func (r *Repository) UpdateRef(ctx context.Context, ref, new, old string) error {
	if err := CheckRef(ref); err != nil {
		return fmt.Errorf("update %q: %w", ref, err)
	}
	for _, hash := range []string{new, old} {
		if hash != "" && (!fullHash.MatchString(hash) || allZero(hash)) {
			return fmt.Errorf("update %s: %q is no hash", ref, hash)
		}
	}
	if new == "" && old == "" {
		return nil
	}
	var command bytes.Buffer
	switch {
	case old == "":
		fmt.Fprintf(&command, "create %s\x00%s\x00", ref, new)
	case new == "":
		fmt.Fprintf(&command, "delete %s\x00%s\x00", ref, old)
	default:
		fmt.Fprintf(&command, "update %s\x00%s\x00%s\x00", ref, new, old)
	}
	_, err := run(ctx, call{dir: r.Dir, args: []string{"update-ref", "-z", "--no-deref", "--stdin"}, stdin: &command})
	if err == nil {
		return nil
	}
	if exitCode(err) > 0 {
		// Git says in words why; whether the ref is where it was thought to be says it exactly.
		if have, readErr := r.ref(ctx, ref); readErr == nil && have != old {
			return &MovedError{Ref: ref, Want: old, Have: have}
		}
	}
	return fmt.Errorf("update %s: %w", ref, err)
}

// Maintain packs what many pushes have left in many files, if it is time.
func (r *Repository) Maintain(ctx context.Context) error {
	if _, err := r.git(ctx, "gc", "--auto", "--quiet"); err != nil {
		return fmt.Errorf("maintain repository %s: %w", r.Dir, err)
	}
	return nil
}
