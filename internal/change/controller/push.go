package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/repo"
)

// pushed makes a change of what was pushed to the served repository. Its lines are
// shown to who pushed.
func (c *Controller) pushed(ctx context.Context, p repo.Push) ([]string, error) {
	a := &v1alpha1.App{}
	if err := c.client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.App}, a); err != nil {
		return nil, err
	}
	if a.Spec.Source != nil {
		return nil, fmt.Errorf("the repository of app %s is at %s: push there", a.Name, whereIs(a.Spec.Source))
	}
	if !strings.HasPrefix(p.Ref, "refs/heads/") {
		return nil, nil
	}
	r, err := c.store.Open(p.Namespace, p.App)
	if err != nil {
		return nil, err
	}
	if p.New == "" {
		return c.deleted(ctx, a, r, p.Ref)
	}
	commit, err := r.Commit(ctx, p.New)
	if err != nil {
		return nil, err
	}
	spec := v1alpha1.ChangeSpec{
		App: a.Name, Commit: p.New, Ref: p.Ref, Author: p.User.Name, Title: change.Title(commit.Message), Committed: when(commit),
	}
	made, known, err := c.queue(ctx, a, r, spec)
	if err != nil {
		return nil, err
	}
	if known && !p.Change { // the branch was moved to what it was at before, or another is
		c.replaceOthers(ctx, a, r, made.Name, spec)
	}
	if known && givenUp(made) {
		was, phase := made.DeepCopy(), strings.ToLower(made.Status.Phase)
		made.Spec.ReplacedBy, made.Spec.Cancel, made.Spec.Attempt = "", false, made.Spec.Attempt+1
		delete(made.Annotations, v1alpha1.ReasonAnnotation)
		if err := c.client.Patch(ctx, made, client.MergeFrom(was)); err != nil {
			return nil, err
		}
		return []string{fmt.Sprintf("change %s has this commit and was %s: it is done again", made.Name, phase)}, nil
	}
	if known {
		return []string{fmt.Sprintf("change %s has this commit already: %s", made.Name, phaseOf(made))}, nil
	}
	lines := []string{fmt.Sprintf("change %s: %s", made.Name, made.Spec.Title)}
	if p.Change {
		lines = append(lines, fmt.Sprintf("%s gets it when it is reviewed, built and tested", strings.TrimPrefix(p.Ref, "refs/heads/")))
	} else {
		lines = append(lines, fmt.Sprintf("it is reviewed, built and tested; to have it in %s, push it there", a.Spec.Branch))
	}
	return append(lines, fmt.Sprintf("follow it with: bight change show %s -n %s --follow", made.Name, made.Namespace)), nil
}

// givenUp reports whether a change has ended because its branch moved on or went, and
// not by anybody's word: who pushes its commit again wants it again.
func givenUp(m *v1alpha1.Change) bool {
	return m.Status.Phase == v1alpha1.Superseded && m.Spec.ReplacedBy != "" ||
		m.Status.Phase == v1alpha1.Cancelled && m.Annotations[v1alpha1.ReasonAnnotation] != ""
}

// deleted ends the changes of a branch that is no more, but for those that are to be
// merged all the same, and those whose commit another branch is at.
func (c *Controller) deleted(ctx context.Context, a *v1alpha1.App, r *repo.Repository, ref string) (lines []string, err error) {
	refs, err := r.Refs(ctx, "refs/heads/")
	if err != nil {
		return nil, err
	}
	delete(refs, ref)
	var all v1alpha1.ChangeList
	if err := c.client.List(ctx, &all, client.InNamespace(a.Namespace), client.MatchingLabels{v1alpha1.AppLabel: a.Name}); err != nil {
		return nil, err
	}
	for i := range all.Items {
		m := &all.Items[i]
		if m.Spec.Ref != ref || m.Spec.Merge || m.Spec.Cancel || m.Status.Merged != "" || change.Ended(m) ||
			slices.Contains(slices.Collect(maps.Values(refs)), m.Spec.Commit) {
			continue
		}
		was := m.DeepCopy()
		metav1.SetMetaDataAnnotation(&m.ObjectMeta, v1alpha1.ReasonAnnotation, "branch "+strings.TrimPrefix(ref, "refs/heads/")+" was deleted")
		m.Spec.Cancel = true
		if err := c.client.Patch(ctx, m, client.MergeFrom(was)); err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("change %s ends with its branch: %s", m.Name, m.Spec.Title))
	}
	return lines, nil
}

// when is when a commit was made. What its committer's clock says may be in the future,
// and that it was not.
func when(c repo.Commit) *metav1.Time {
	at := c.Committer.When
	if now := time.Now(); at.After(now) {
		at = now
	}
	return &metav1.Time{Time: at.Truncate(time.Second)}
}

func phaseOf(c *v1alpha1.Change) string {
	if c.Status.Phase == "" {
		return strings.ToLower(v1alpha1.Pending)
	}
	return strings.TrimSuffix(strings.ToLower(c.Status.Phase)+", "+c.Status.Message, ", ")
}

// queue makes the Change, unless it is there, and replaces those that it makes
// pointless. What is on its way to the app's branch is to be merged, anything else when
// somebody says so.
func (c *Controller) queue(ctx context.Context, a *v1alpha1.App, r *repo.Repository, spec v1alpha1.ChangeSpec) (made *v1alpha1.Change, known bool, err error) {
	made = &v1alpha1.Change{Spec: spec}
	made.Namespace, made.Name = a.Namespace, change.Name(a.Name, spec.Commit)
	made.Labels = map[string]string{v1alpha1.AppLabel: a.Name}
	made.OwnerReferences = ownedBy(a)
	made.Spec.Order = time.Now().UnixNano()
	made.Spec.Merge = spec.Ref == "refs/heads/"+a.Spec.Branch
	err = c.client.Create(ctx, made)
	if apierrors.IsAlreadyExists(err) {
		wanted := made.Spec.Merge
		if err := c.live.Get(ctx, client.ObjectKeyFromObject(made), made); err != nil || !wanted || made.Spec.Merge {
			return made, true, err
		}
		// It was pushed to another branch before, and now to this one.
		was := made.DeepCopy()
		made.Spec.Merge = true
		return made, true, c.client.Patch(ctx, made, client.MergeFrom(was))
	}
	if err != nil {
		return nil, false, err
	}
	c.replaceOthers(ctx, a, r, made.Name, spec)
	return made, false, nil
}

// replaceOthers puts a change in the place of those of its branch that it makes
// pointless. It stands without that, too; then an older one is done for nothing.
func (c *Controller) replaceOthers(ctx context.Context, a *v1alpha1.App, r *repo.Repository, name string, spec v1alpha1.ChangeSpec) {
	var all v1alpha1.ChangeList
	if err := c.client.List(ctx, &all, client.InNamespace(a.Namespace), client.MatchingLabels{v1alpha1.AppLabel: a.Name}); err != nil {
		c.Log.Warn("no older change is replaced", "change", name, "err", err)
		return
	}
	for _, old := range all.Items {
		if old.Name == name || change.Ended(&old) || old.Status.Merged != "" || old.Spec.Ref != spec.Ref || old.Spec.Request != spec.Request {
			continue
		}
		if pointless, err := replaces(ctx, a, r, spec, &old); err != nil || !pointless {
			continue // the older one goes its way, before this one
		}
		was := old.DeepCopy()
		old.Spec.ReplacedBy = name
		if err := c.client.Patch(ctx, &old, client.MergeFrom(was)); err != nil {
			c.Log.Warn("an older change is not replaced", "change", old.Name, "err", err)
		}
	}
}

// replaces reports whether what is pushed now takes the place of an older change of
// the same branch. A branch has moved, and with it what is wanted of it. The app's own
// branch moves by merges alone, so what is pushed there replaces only an earlier
// version of itself: git keeps author and time when a commit is amended or rebased.
func replaces(ctx context.Context, a *v1alpha1.App, r *repo.Repository, now v1alpha1.ChangeSpec, old *v1alpha1.Change) (bool, error) {
	branch := "refs/heads/" + a.Spec.Branch
	if now.Ref != branch {
		return true, nil
	}
	if contained, err := r.IsAncestor(ctx, old.Spec.Commit, now.Commit); err != nil || contained || old.Spec.Author != now.Author {
		return false, err
	}
	was, err := r.Commit(ctx, old.Spec.Commit)
	if err != nil {
		return false, err
	}
	base, err := r.MergeBase(ctx, old.Spec.Commit, now.Commit)
	if err != nil {
		return false, err
	}
	commits, err := r.Commits(ctx, base, now.Commit, versions)
	if err != nil {
		return false, err
	}
	for _, c := range commits {
		if same, err := versionOf(ctx, r, c, was); err != nil || same {
			return same, err
		}
	}
	return false, nil
}

// versionOf reports whether c is was, amended. Git counts seconds, in which a program makes
// many commits: one that says something else about other files is none of them.
func versionOf(ctx context.Context, r *repo.Repository, c, was repo.Commit) (bool, error) {
	if c.Author.Name != was.Author.Name || c.Author.Email != was.Author.Email || !c.Author.When.Equal(was.Author.When) {
		return false, nil
	}
	if c.Message == was.Message {
		return true, nil
	}
	files, err := filesOf(ctx, r, c)
	if err != nil {
		return false, err
	}
	before, err := filesOf(ctx, r, was)
	return slices.ContainsFunc(files, func(name string) bool { return slices.Contains(before, name) }), err
}

// filesOf are the files that a commit changes.
func filesOf(ctx context.Context, r *repo.Repository, c repo.Commit) ([]string, error) {
	parent := ""
	if len(c.Parents) > 0 {
		parent = c.Parents[0]
	}
	changed, err := r.ChangedFiles(ctx, parent, c.Hash)
	var names []string
	for _, f := range changed {
		if names = append(names, f.Path); f.OldPath != "" {
			names = append(names, f.OldPath)
		}
	}
	return names, err
}

func ownedBy(a *v1alpha1.App) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(a, v1alpha1.GroupVersion().WithKind("App"))}
}

// versions is among how many commits an earlier version of a pushed one is looked for.
const versions = 100
