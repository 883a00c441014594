package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Strategy says how a head gets onto a base.
type Strategy string

// The strategies.
const (
	MergeCommit Strategy = "merge"  // one commit with two parents
	Squash      Strategy = "squash" // one commit with the whole difference
	Rebase      Strategy = "rebase" // each commit again on top of the base
)

// Merging is how to merge.
type Merging struct {
	Strategy  Strategy
	Author    Signature // of the commit that MergeCommit and Squash make; Rebase keeps each commit's own
	Committer Signature
	Message   string // of MergeCommit and Squash
}

// Merge returns the commit that has head's changes on top of base. Nothing but objects is written: let
// [Repository.UpdateRef] move a ref to it. If base has head already, or with Squash and Rebase its changes by other
// commits, it is base; if there is no base, which is
// an app's first change, or if Rebase finds head on top of base in one line, it is head itself. What does not
// apply is told by a [ConflictError].
func (r *Repository) Merge(ctx context.Context, base, head string, how Merging) (string, error) {
	switch how.Strategy {
	case MergeCommit, Squash, Rebase:
	default:
		return "", fmt.Errorf("merge %s: %q is no strategy: merge, squash or rebase", head, how.Strategy)
	}
	tip, err := r.Resolve(ctx, head)
	if err != nil {
		return "", err
	}
	if base == "" {
		if how.Strategy != Squash {
			return tip, nil
		}
		return r.commitTree(ctx, tip+"^{tree}", nil, how.Author, how.Committer, how.Message)
	}
	onto, err := r.Resolve(ctx, base)
	if err != nil {
		return "", err
	}
	common, err := r.MergeBase(ctx, onto, tip)
	switch {
	case err != nil:
		return "", err
	case common == "":
		return "", &UnrelatedError{Base: onto, Head: tip}
	case common == tip:
		return onto, nil
	case how.Strategy == Rebase:
		return r.rebase(ctx, onto, tip, common, how)
	}
	tree, err := r.mergeTree(ctx, onto, tip, tip)
	if err != nil {
		return "", err
	}
	parents := []string{onto}
	if how.Strategy == MergeCommit {
		parents = append(parents, tip)
	} else if at, err := r.Commit(ctx, onto); err != nil || at.Tree == tree {
		return onto, err // its changes are there, by other commits
	}
	return r.commitTree(ctx, tree, parents, how.Author, how.Committer, how.Message)
}

// rebase puts each commit of onto..tip on top of onto, the oldest first. Merges are left out: what they
// brought is among the commits. A commit whose changes are there already is left out, too.
func (r *Repository) rebase(ctx context.Context, onto, tip, common string, how Merging) (string, error) {
	merges, err := r.list(ctx, onto, tip, "--merges", "--max-count=1")
	if err != nil {
		return "", err
	}
	if common == onto && len(merges) == 0 {
		return tip, nil
	}
	hashes, err := r.list(ctx, onto, tip, "--reverse", "--topo-order", "--no-merges")
	if err != nil {
		return "", err
	}
	at, err := r.Commit(ctx, onto)
	if err != nil {
		return "", err
	}
	for _, hash := range hashes {
		if at, err = r.pick(ctx, at, hash, how); err != nil {
			return "", err
		}
	}
	return at.Hash, nil
}

// pick puts the change of one commit on top of at.
func (r *Repository) pick(ctx context.Context, at Commit, hash string, how Merging) (Commit, error) {
	c, err := r.Commit(ctx, hash)
	if err != nil {
		return at, err
	}
	if len(c.Parents) == 0 {
		return at, &UnrelatedError{Base: at.Hash, Head: hash}
	}
	// A commit with at's files and c's parent: merging it with c has that parent as the base, which makes the
	// merge a pick. (merge-tree takes a base by option only since git 2.40.)
	nobody := Signature{Name: "Bight", Email: "bight@localhost", When: c.Committer.When}
	standIn, err := r.commitTree(ctx, at.Tree, c.Parents[:1], nobody, nobody, "")
	if err != nil {
		return at, err
	}
	tree, err := r.mergeTree(ctx, standIn, hash, hash)
	if conflict, ok := errors.AsType[*ConflictError](err); ok {
		conflict.Base = at.Hash
	}
	if err != nil {
		return at, err
	}
	if tree == at.Tree {
		return at, nil
	}
	made, err := r.commitTree(ctx, tree, []string{at.Hash}, c.Author, how.Committer, c.Message)
	if err != nil {
		return at, err
	}
	return Commit{Hash: made, Tree: tree}, nil
}

// mergeTree returns the tree of ours and theirs merged; a conflict is blamed on the commit given.
func (r *Repository) mergeTree(ctx context.Context, ours, theirs, blamed string) (string, error) {
	out, err := r.git(ctx, "merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", ours, theirs)
	if err != nil && exitCode(err) != 1 {
		return "", fmt.Errorf("merge %.12s with %.12s: %w", theirs, ours, err)
	}
	fields := strings.Split(strings.Trim(string(out), "\x00"), "\x00")
	if !fullHash.MatchString(fields[0]) {
		return "", fmt.Errorf("merge %.12s with %.12s: git did not name a tree", theirs, ours)
	}
	if err == nil {
		return fields[0], nil
	}
	files := slices.Clone(fields[1:])
	slices.Sort(files)
	return "", &ConflictError{Base: ours, Commit: blamed, Files: slices.Compact(files)}
}

// commitTree makes a commit object of a tree.
func (r *Repository) commitTree(ctx context.Context, tree string, parents []string, author, committer Signature, message string) (string, error) {
	args := []string{"commit-tree"}
	for _, parent := range parents {
		args = append(args, "-p", parent)
	}
	args = append(args, "-F", "-", tree)
	env, err := signers(author, committer)
	if err != nil {
		return "", fmt.Errorf("make commit: %w", err)
	}
	out, err := run(ctx, call{dir: r.Dir, args: args, stdin: strings.NewReader(message), env: env})
	if err != nil {
		return "", fmt.Errorf("make commit: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// signers returns the environment by which git learns who makes a commit. Git itself takes out of
// names what would break the format.
func signers(author, committer Signature) ([]string, error) {
	var env []string
	for _, who := range []struct {
		role string
		Signature
	}{{"AUTHOR", author}, {"COMMITTER", committer}} {
		name := cleanIdent(who.Name)
		if name == "" {
			return nil, fmt.Errorf("the %s has no name", strings.ToLower(who.role))
		}
		env = append(env, "GIT_"+who.role+"_NAME="+name, "GIT_"+who.role+"_EMAIL="+cleanIdent(who.Email),
			"GIT_"+who.role+"_DATE=@"+stamp(who.When))
	}
	return env, nil
}

// cleanIdent returns a name or an address without what a commit's header can't have.
func cleanIdent(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == '<' || r == '>' {
			return -1
		}
		return r
	}, printable(text))
	return strings.Trim(text, " .,:;\"\\'")
}

// stamp writes a time as git does. The zero time is now.
func stamp(t time.Time) string {
	if t.IsZero() {
		t = time.Now().UTC()
	}
	return fmt.Sprintf("%d %s", t.Unix(), t.Format("-0700"))
}
