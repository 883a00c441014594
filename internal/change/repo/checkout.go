package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Source is where a working copy's commits come from: a URL or a directory.
type Source struct {
	URL      string
	Path     string // instead of a URL: a repository of this machine
	Username string
	Password string // or token
}

// CheckoutOptions limit a working copy. Zero values are the defaults.
type CheckoutOptions struct {
	With     []string // commits to have in Copy.Repository, too, to compare with
	MaxFile  int64    // larger files are reported; 0 is 100 MiB
	MaxTotal int64    // more bytes in all are refused; 0 is 8 GiB
	MaxFiles int      // more files are refused; 0 is a million
	// Doing, where it is not nil, is told what is done now, which may take long: "fetching".
	Doing func(text string)
}

// Copy is a working copy: the files of one commit, byte for byte, and nothing else.
type Copy struct {
	Dir        string      // has no .git
	Commit     string      // whose files are in Dir
	Repository *Repository // has Commit and CheckoutOptions.With, without their history
	Contents
}

// keptCommits is how many commits' objects stay for the next checkout to start from.
const keptCommits = 8

// checkoutRefs keep them.
const checkoutRefs = ownRefs + "checkouts/"

// Checkout makes a working copy of a commit below dir, which it has for itself: what an earlier one has
// left there is used as far as it is still the same, everything else goes, files that git ignores too. No program
// is run that a repository names, bytes are not converted, LFS pointers stay pointers and submodules empty
// directories; Copy tells of them. A commit with files that lead out of the tree is refused with an
// [UnsafeTreeError] before anything is written, one over a limit with a [TooLargeError].
//
// The directory is not a jail: code that runs in it with this user's rights can reach what lies beside it.
func Checkout(ctx context.Context, from Source, commit, dir string, options CheckoutOptions) (*Copy, error) {
	for _, hash := range append([]string{commit}, options.With...) {
		if !fullHash.MatchString(hash) {
			return nil, fmt.Errorf("check out: %q is no hash of a commit", hash)
		}
	}
	c := &checkout{from: from, commit: commit, options: options}
	return c.within(ctx, dir, func(dir string) { c.store = &Repository{Dir: filepath.Join(dir, "store.git")} })
}

// Another makes a further working copy below dir, as Checkout does, of a commit that the copy's repository has. It
// is made from that repository, and has the same: nothing is fetched, hashed or kept twice. So it is of use for as
// long as that one is, and neither may be checked out anew meanwhile.
func (c *Copy) Another(ctx context.Context, commit, dir string, doing func(text string)) (*Copy, error) {
	if !fullHash.MatchString(commit) {
		return nil, fmt.Errorf("check out: %q is no hash of a commit", commit)
	}
	d := &checkout{commit: commit, store: c.Repository, options: CheckoutOptions{Doing: doing}}
	return d.within(ctx, dir, func(dir string) { d.index = filepath.Join(dir, "index") })
}

// within makes the working copy in a directory that it has for itself; place says where else it keeps what.
func (c *checkout) within(ctx context.Context, dir string, place func(dir string)) (*Copy, error) {
	commit := c.commit
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("check out %.12s: %w", commit, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("check out %.12s: %w", commit, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("check out %.12s: %w", commit, err)
	}
	defer lock.Close()
	if err := claim(lock); err != nil {
		return nil, fmt.Errorf("check out %.12s: %s is in use by another checkout: use a directory for each (%w)", commit, dir, err)
	}
	c.tree = filepath.Join(dir, "tree")
	place(dir)
	made, err := c.run(ctx)
	if errors.Is(err, errStale) && ctx.Err() == nil {
		// Something of an earlier time is in the way: without it, it must work.
		own := c.store.Dir
		if c.index != "" {
			own = c.index
		}
		if err := errors.Join(removeAll(c.tree), removeAll(own)); err != nil {
			return nil, fmt.Errorf("check out %.12s: %w", commit, err)
		}
		made, err = c.run(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("check out %.12s: %w", commit, err)
	}
	return made, nil
}

// errStale marks errors that an earlier checkout's leftovers may have caused.
var errStale = errors.New("what an earlier checkout left is in the way")

func stale(err error) error { return fmt.Errorf("%w (%w)", err, errStale) }

// checkout is one call of Checkout.
type checkout struct {
	from    Source
	commit  string
	options CheckoutOptions
	tree    string
	store   *Repository
	index   string // of the tree, where the store is another copy's; "" for the store's own
}

func (c *checkout) run(ctx context.Context) (*Copy, error) {
	env, err := c.ready(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := c.store.entries(ctx, c.commit)
	if err != nil {
		return nil, stale(err)
	}
	contents, err := c.inspect(ctx, entries)
	if err != nil {
		return nil, err
	}
	if info, err := os.Lstat(c.tree); err == nil && !info.IsDir() {
		if err := os.Remove(c.tree); err != nil { // a link to a directory would be written through
			return nil, err
		}
	}
	if err := os.MkdirAll(c.tree, 0o755); err != nil {
		return nil, err
	}
	if err := sweep(ctx, c.tree, entries); err != nil {
		return nil, err
	}
	c.doing("checking out %d MiB in %d files", contents.Bytes>>20, contents.Files)
	// Git compares what it wrote last with what is there, by time of change and size, and writes what differs.
	args := []string{"--work-tree=" + c.tree, "-c", "core.bare=false", "read-tree", "--reset", "-u", "--no-recurse-submodules", c.commit}
	if _, err := run(ctx, call{dir: c.store.Dir, args: args, limit: limitWords, env: env}); err != nil {
		return nil, stale(fmt.Errorf("write files: %w", err))
	}
	if c.index == "" {
		if err := c.forget(ctx); err != nil {
			return nil, err
		}
	}
	return &Copy{Dir: c.tree, Commit: c.commit, Repository: c.store, Contents: contents}, nil
}

func (c *checkout) doing(format string, args ...any) {
	if c.options.Doing != nil {
		c.options.Doing(fmt.Sprintf(format, args...))
	}
}

// ready sees to it that the store has the commit, and returns what git needs to be told to find the index.
func (c *checkout) ready(ctx context.Context) (env []string, err error) {
	if c.index != "" {
		if err := os.Remove(c.index + ".lock"); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		return []string{"GIT_INDEX_FILE=" + c.index}, nil
	}
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	return nil, c.fetch(ctx)
}

// storeConfig is all the configuration that the store has; whatever else was there is gone with each checkout.
const storeConfig = "[core]\n\trepositoryFormatVersion = 0\n\tbare = true\n"

// storeAttributes stand above those that the commit has: bytes are left as they are.
const storeAttributes = "* -text -eol -ident -filter -working-tree-encoding\n"

// prepare makes the store, or makes an older one usable: locks of a git that was killed are removed, which
// is safe as no other runs.
func (c *checkout) prepare(ctx context.Context) error {
	dir := c.store.Dir
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); os.IsNotExist(err) {
		if err := removeAll(dir); err != nil {
			return err
		}
		if err := initialize(ctx, dir); err != nil {
			return err
		}
	}
	for _, name := range []string{"hooks", "objects/info/alternates", "objects/info/http-alternates", "commondir", "info/sparse-checkout", "config.worktree"} {
		if err := removeAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "info"), 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"config": storeConfig, "info/attributes": storeAttributes} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, pattern := range []string{"*.lock", "refs/*/*.lock", "refs/*/*/*.lock"} {
		locks, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, lock := range locks {
			if err := os.Remove(lock); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetch brings the commits that the store has not, without history, and only what of them it has not.
func (c *checkout) fetch(ctx context.Context) error {
	have, err := c.store.Refs(ctx, checkoutRefs)
	if err != nil {
		return stale(err)
	}
	var refspecs []string
	for _, hash := range append([]string{c.commit}, c.options.With...) {
		if have[checkoutRefs+hash] == "" {
			refspecs = append(refspecs, hash+":"+checkoutRefs+hash)
		}
	}
	if len(refspecs) == 0 {
		return nil
	}
	c.doing("fetching the commit")
	way := route{url: c.from.Path, config: [][2]string{{"protocol.file.allow", "always"}}}
	more := []string{"GIT_ALLOW_PROTOCOL=file"}
	if c.from.Path == "" {
		more = nil
		if way, err = (Remote{URL: c.from.URL, Username: c.from.Username, Password: c.from.Password}).resolve(); err != nil {
			return err
		}
	} else if way.url, err = filepath.Abs(c.from.Path); err != nil {
		return err
	}
	args := []string{"fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
		"--no-recurse-submodules", "--no-show-forced-updates", "--", way.url}
	// What comes stays the one file that it is: to unpack it is to compress each object once more.
	way.config = append(way.config, [2]string{"fetch.unpackLimit", "1"})
	_, err = run(ctx, call{dir: c.store.Dir, args: append(args, refspecs...), config: way.config, secrets: way.secrets, env: more})
	if err != nil {
		return way.explain(fmt.Errorf("fetch from %s: %w", way.url, err))
	}
	return nil
}

// forget lets go of the commits that were checked out longest ago and packs what has piled up.
func (c *checkout) forget(ctx context.Context) error {
	dir := filepath.Join(c.store.Dir, filepath.FromSlash(checkoutRefs))
	files, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if len(files) <= 2*keptCommits {
		return nil
	}
	type kept struct {
		name string
		when int64
	}
	var refs []kept
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			return err
		}
		if file.Name() != c.commit && !slices.Contains(c.options.With, file.Name()) {
			refs = append(refs, kept{file.Name(), info.ModTime().UnixNano()})
		}
	}
	slices.SortFunc(refs, func(a, b kept) int { return cmp.Compare(b.when, a.when) })
	for _, ref := range refs[min(keptCommits, len(refs)):] {
		if err := c.store.UpdateRef(ctx, checkoutRefs+ref.name, "", ref.name); err != nil {
			return err
		}
	}
	// Refs stay files: their times tell which are old. Nobody else is at the store, so what is let go can go.
	gc := []string{"-c", "gc.packRefs=false", "-c", "gc.pruneExpire=1.hour.ago", "gc", "--auto", "--quiet"}
	if _, err := c.store.git(ctx, gc...); err != nil {
		return fmt.Errorf("pack %s: %w", c.store.Dir, err)
	}
	return nil
}

// inspect tells what is in the commit, and refuses one that must not be written.
func (c *checkout) inspect(ctx context.Context, entries []Entry) (Contents, error) {
	limits := c.options
	limits.MaxFile = cmp.Or(limits.MaxFile, 100<<20)
	limits.MaxTotal = cmp.Or(limits.MaxTotal, 8<<30)
	limits.MaxFiles = cmp.Or(limits.MaxFiles, 1_000_000)
	contents, err := survey(entries, limits)
	if err != nil {
		return contents, err
	}
	texts, err := c.read(ctx, entries, func(e Entry) bool {
		return e.Size <= maxLink && (e.Mode == ModeSymlink || attributesFile(e.Path))
	})
	if err != nil {
		return contents, err
	}
	if causes := unsafe(entries, texts); len(causes) > 0 {
		return contents, &UnsafeTreeError{Commit: c.commit, Causes: causes}
	}
	if !usesLFS(texts) {
		return contents, nil
	}
	candidates, err := c.read(ctx, entries, func(e Entry) bool {
		return e.Size >= minPointer && e.Size <= maxPointer && (e.Mode == ModeFile || e.Mode == ModeExecutable)
	})
	if err != nil {
		return contents, err
	}
	for name, text := range candidates {
		if strings.HasPrefix(text, pointerStart) {
			contents.Pointers = append(contents.Pointers, name)
		}
	}
	slices.Sort(contents.Pointers)
	return contents, nil
}

// read returns the contents of the entries that are wanted, by path.
func (c *checkout) read(ctx context.Context, entries []Entry, wanted func(Entry) bool) (map[string]string, error) {
	var names, hashes []string
	for _, e := range entries {
		if wanted(e) {
			names, hashes = append(names, e.Path), append(hashes, e.Hash)
		}
	}
	bodies, err := c.store.readBatch(ctx, hashes, limitOutput)
	if err != nil {
		return nil, stale(err)
	}
	texts := make(map[string]string, len(names))
	for i, name := range names {
		texts[name] = string(bodies[i])
	}
	return texts, nil
}
