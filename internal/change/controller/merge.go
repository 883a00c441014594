package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
)

// keyed remembers what git has answered: commits never change, so neither do the
// answers. It is safe for concurrent use.
type keyed struct {
	mu     sync.Mutex
	trees  map[string]string
	bases  map[[2]string]string
	merges map[merging]merged
	clash  map[pair]bool
}

// owner is the App whose repository an answer has left something in. Another App's has it
// not, nor has that of one which was made anew under the same name.
type owner struct {
	key client.ObjectKey
	uid types.UID
}

func (s *subject) owner() owner { return owner{client.ObjectKeyFromObject(s.app), s.app.UID} }

// merging is one change brought onto a commit.
type merging struct {
	owner
	base, head, policy string
}

// pair are the heads of two changes, the one ahead first.
type pair struct {
	owner
	ahead, head string
}

type merged struct {
	commit   string
	conflict error // see unmergeable
}

// unmergeable reports whether an error says that commits can't be merged, which is
// their author's business.
func unmergeable(err error) bool {
	return errors.As(err, new(*repo.ConflictError)) || errors.As(err, new(*repo.UnrelatedError))
}

// remembered is how many answers of a kind are kept.
const remembered = 10_000

func remember[K comparable, V any](mu *sync.Mutex, m *map[K]V, key K, ask func() (V, error)) (V, error) {
	mu.Lock()
	v, ok := (*m)[key]
	mu.Unlock()
	if ok {
		return v, nil
	}
	v, err := ask()
	if err != nil {
		return v, err
	}
	mu.Lock()
	defer mu.Unlock()
	if *m == nil || len(*m) > remembered {
		*m = map[K]V{}
	}
	(*m)[key] = v
	return v, nil
}

// forget drops what is remembered of Apps of that name.
func (k *keyed) forget(key client.ObjectKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.merges, func(m merging, _ merged) bool { return m.key == key })
	maps.DeleteFunc(k.clash, func(p pair, _ bool) bool { return p.key == key })
}

func (k *keyed) tree(ctx context.Context, r *repo.Repository, commit string) (string, error) {
	return remember(&k.mu, &k.trees, commit, func() (string, error) {
		c, err := r.Commit(ctx, commit)
		return c.Tree, err
	})
}

func (k *keyed) mergeBase(ctx context.Context, r *repo.Repository, a, b string) (string, error) {
	if a == b {
		return a, nil
	}
	return remember(&k.mu, &k.bases, [2]string{min(a, b), max(a, b)}, func() (string, error) { return r.MergeBase(ctx, a, b) })
}

// isAncestor tells whether a commit's history has another: then that is what the two
// have in common.
func (k *keyed) isAncestor(ctx context.Context, r *repo.Repository, ancestor, descendant string) (bool, error) {
	base, err := k.mergeBase(ctx, r, ancestor, descendant)
	return err == nil && base == ancestor, err
}

// onto merges a change into a commit, or says what came of that before. What it made then
// may be gone from the repository: git drops what nothing refers to, after two weeks.
func (k *keyed) onto(ctx context.Context, s *subject, base string, m *v1alpha1.Change) (merged, error) {
	return remember(&k.mu, &k.merges, mergingOf(s, base, m), func() (merged, error) {
		commit, err := k.mergeOne(ctx, s, base, m)
		if unmergeable(err) {
			return merged{conflict: err}, nil
		}
		return merged{commit: commit}, err
	})
}

func mergingOf(s *subject, base string, m *v1alpha1.Change) merging {
	return merging{s.owner(), base, m.Spec.Commit, s.app.Spec.Policy.Merge}
}

// made is onto, and has the commit made anew if it is gone.
func (k *keyed) made(ctx context.Context, s *subject, base string, m *v1alpha1.Change) (merged, error) {
	got, err := k.onto(ctx, s, base, m)
	if err != nil || got.conflict != nil {
		return got, err
	}
	_, err = s.repo.Commit(ctx, got.commit)
	if _, gone := errors.AsType[*repo.NotFoundError](err); !gone {
		return got, err
	}
	k.mu.Lock()
	delete(k.merges, mergingOf(s, base, m))
	k.mu.Unlock()
	return k.onto(ctx, s, base, m)
}

// applies tells whether a change can be merged into the branch. Unlike combine, it does not
// ask git about what is known: it is asked of every change, whenever an app is looked at.
func (k *keyed) applies(ctx context.Context, s *subject, m *v1alpha1.Change) error {
	got, err := k.onto(ctx, s, s.tip, m)
	return cmp.Or(err, got.conflict)
}

// combine merges changes into the branch, one after the other, and returns the commit
// after each. The error is unmergeable when that can't be. Nothing refers to what
// it makes.
func (k *keyed) combine(ctx context.Context, s *subject, members []*v1alpha1.Change) ([]string, error) {
	var out []string
	base := s.tip
	for i, m := range members {
		got, err := k.made(ctx, s, base, m)
		switch {
		case err != nil:
			return nil, err
		case got.conflict != nil:
			if err := k.noteClash(ctx, s, members[:i], m); err != nil {
				return nil, err
			}
			return nil, got.conflict
		}
		base = got.commit
		out = append(out, base)
	}
	return out, nil
}

// noteClash notes with which of those ahead of it a change can't be merged: those with
// which it can't be alone, or all where it takes several. One that is noted for nothing
// would be refused when the other is merged.
func (k *keyed) noteClash(ctx context.Context, s *subject, ahead []*v1alpha1.Change, m *v1alpha1.Change) error {
	var with []*v1alpha1.Change
	for _, other := range ahead {
		alone, err := k.made(ctx, s, s.tip, other)
		if err != nil {
			return err
		}
		if alone.conflict != nil {
			continue
		}
		both, err := k.onto(ctx, s, alone.commit, m)
		if err != nil {
			return err
		}
		if both.conflict != nil {
			with = append(with, other)
		}
	}
	if len(with) == 0 {
		with = ahead
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clash == nil {
		k.clash = map[pair]bool{}
	}
	for _, other := range with {
		k.clash[pair{s.owner(), other.Spec.Commit, m.Spec.Commit}] = true
	}
	return nil
}

// conflicts are the pairs of changes of which it has turned out that they can't be
// merged together.
func (k *keyed) conflicts(s *subject) map[string][]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string][]string{}
	if len(k.clash) == 0 {
		return out
	}
	for _, a := range s.view.Changes {
		for _, b := range s.view.Changes {
			if k.clash[pair{s.owner(), a.Spec.Commit, b.Spec.Commit}] && !change.Ended(a) && !change.Ended(b) {
				out[b.Name] = append(out[b.Name], a.Name)
			}
		}
	}
	return out
}

// mergeOne merges a change into a commit by the app's policy. The same arguments give
// the same commit.
func (k *keyed) mergeOne(ctx context.Context, s *subject, base string, m *v1alpha1.Change) (string, error) {
	policy := s.app.Spec.Policy.Merge
	if policy == "Rebase" || policy == "" {
		if base == "" {
			return m.Spec.Commit, nil
		}
		if ahead, err := k.isAncestor(ctx, s.repo, base, m.Spec.Commit); err != nil || ahead {
			return m.Spec.Commit, err
		}
	}
	c, err := s.repo.Commit(ctx, m.Spec.Commit)
	if err != nil {
		return "", err
	}
	how := repo.Merging{Strategy: repo.Rebase, Author: c.Author, Committer: repo.Signature{Name: "Bight", Email: "bight@bight.dev", When: c.Committer.When}, Message: c.Message}
	switch policy {
	case "Squash":
		how.Strategy = repo.Squash
	case "Merge":
		how.Strategy, how.Message = repo.MergeCommit, fmt.Sprintf("Merge change %s\n\n%s", m.Name, c.Message)
	}
	return s.repo.Merge(ctx, base, m.Spec.Commit, how)
}

// merge moves the branch to what a run has tested, and notes it with every change of
// it. It says whether it has written anything.
func (c *Controller) merge(ctx context.Context, s *subject, a change.Action) (bool, error) {
	lead := s.change(a.Change)
	run := lead.Status.Runs[a.Run]
	var members []*v1alpha1.Change
	for _, name := range run.Changes {
		members = append(members, s.change(name))
	}
	commits, err := c.apps.combine(ctx, s, members)
	if err != nil {
		return false, err
	}
	last := commits[len(commits)-1]
	tested, err := c.apps.tree(ctx, s.repo, run.Commit)
	if err != nil {
		return false, err
	}
	tree, err := c.apps.tree(ctx, s.repo, last)
	if err != nil {
		return false, err
	}
	if tree != tested {
		return false, fmt.Errorf("the result of merging has tree %s, and %s was tested", short(tree), short(tested))
	}
	if err := c.publish(ctx, s, last); err != nil {
		return c.unpublished(ctx, s, members, err)
	}
	landing := landing{at: time.Now(), onto: run.Base, message: fmt.Sprintf("%s is at %%s", s.app.Spec.Branch)}
	return true, c.noteMerged(ctx, s, lead, run, members, commits, landing)
}

// publish moves the branch, at the outside host first where there is one.
func (c *Controller) publish(ctx context.Context, s *subject, commit string) error {
	ref := "refs/heads/" + s.app.Spec.Branch
	if s.app.Spec.Source != nil && commit != s.tip {
		if err := c.publishOutside(s, commit); err != nil {
			return err
		}
	}
	var moved *repo.MovedError
	err := s.repo.UpdateRef(ctx, ref, commit, s.tip)
	if errors.As(err, &moved) && moved.Have == commit {
		return nil // fetched from the host meanwhile
	}
	if errors.As(err, &moved) {
		c.wakeApp(s.app.Namespace, s.app.Name) // somebody was faster: decided anew
	}
	return err
}

// landing is how changes came to the branch: when, onto which tree, and what is said of
// it, with %s for the commit.
type landing struct {
	at            time.Time
	onto, message string
	along         bool // with another change, before this was noted
}

func (c *Controller) noteMerged(ctx context.Context, s *subject, lead *v1alpha1.Change, run v1alpha1.Run, members []*v1alpha1.Change, commits []string, how landing) error {
	for i, m := range members {
		_, err := c.update(ctx, c.key(s, m.Name), func(now *v1alpha1.Change) error {
			if now.Status.Merged != "" {
				return errUnchanged
			}
			t := metav1.NewMicroTime(how.at.Add(time.Duration(i) * time.Microsecond))
			st := &now.Status
			st.Merged, st.MergedAt, st.MergedOnto, st.MergedBy, st.Images = commits[i], &t, how.onto, lead.Name, run.Images
			started, ended := t, *ptrNow()
			if how.along {
				ended = t
			}
			st.Steps = change.SetStep(st.Steps, v1alpha1.Step{
				Name: v1alpha1.MergeStep, State: v1alpha1.StepPassed, Commit: commits[i], Started: &started, Ended: &ended,
				Message: strings.Replace(how.message, "%s", short(commits[i]), 1),
			})
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// landed says how what a run has tested came to the branch, which has it. Where it is
// in what another change brought, such as one that was made on top of it, it came just
// before that one: to an environment that has the later, the earlier is no news. Where
// the newest that was merged is not on the branch any more, that was set back, and what it
// has now is news.
func (c *Controller) landed(ctx context.Context, s *subject, run v1alpha1.Run, members int) landing {
	how := landing{at: time.Now(), onto: run.Base, message: fmt.Sprintf("%s is at %%s", s.app.Spec.Branch)}
	has := func(commit, ancestor string) bool {
		is, err := c.apps.isAncestor(ctx, s.repo, ancestor, commit)
		return err == nil && is // a repository that was made anew has not everything
	}
	var merged []*v1alpha1.Change
	for _, m := range s.view.Changes {
		if m.Status.Merged != "" && m.Status.MergedAt != nil {
			merged = append(merged, m)
		}
	}
	slices.SortFunc(merged, func(a, b *v1alpha1.Change) int { return a.Status.MergedAt.Compare(b.Status.MergedAt.Time) })
	if len(merged) == 0 || !has(s.tip, merged[len(merged)-1].Status.Merged) {
		return how
	}
	for _, m := range merged {
		if has(m.Status.Merged, run.Commit) {
			how.at = m.Status.MergedAt.Add(-time.Duration(members) * time.Microsecond)
			how.onto, how.along = m.Status.MergedOnto, true
			how.message = fmt.Sprintf("%s has %%s since %s", s.app.Spec.Branch, m.Name)
			break
		}
	}
	return how
}

// completeMerges notes merges that a controller has made and not lived to note, and
// those of changes that others have brought along.
func (c *Controller) completeMerges(ctx context.Context, s *subject) error {
	for _, lead := range s.view.Changes {
		for _, run := range lead.Status.Runs {
			if run.State != v1alpha1.RunPassed || lead.Status.Merged != "" || change.Ended(lead) || s.tip == "" {
				continue
			}
			if there, err := c.apps.isAncestor(ctx, s.repo, run.Commit, s.tip); err != nil || !there {
				continue
			}
			var members []*v1alpha1.Change
			var commits []string
			for _, name := range run.Changes {
				if m := s.change(name); m != nil {
					members, commits = append(members, m), append(commits, run.Commit)
				}
			}
			if slices.ContainsFunc(members, func(m *v1alpha1.Change) bool {
				return !change.Done(change.State(m.Status.Steps, v1alpha1.ReviewStep))
			}) {
				continue // it was no merge of ours: others have put it there
			}
			how := c.landed(ctx, s, run, len(members))
			if err := c.noteMerged(ctx, s, lead, run, members, commits, how); err != nil {
				return err
			}
			c.wakeApp(s.app.Namespace, s.app.Name)
		}
	}
	return nil
}
