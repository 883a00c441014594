package controller

import (
	"context"
	"fmt"
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
	if p.New == "" || !strings.HasPrefix(p.Ref, "refs/heads/") {
		return nil, nil
	}
	r, err := c.store.Open(p.Namespace, p.App)
	if err != nil {
		return nil, err
	}
	commit, err := r.Commit(ctx, p.New)
	if err != nil {
		return nil, err
	}
	made, known, err := c.queue(ctx, a, r, v1alpha1.ChangeSpec{
		App: a.Name, Commit: p.New, Ref: p.Ref, Author: p.User.Name, Title: change.Title(commit.Message), Committed: when(commit),
	})
	if err != nil {
		return nil, err
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
	var all v1alpha1.ChangeList
	if err := c.client.List(ctx, &all, client.InNamespace(a.Namespace), client.MatchingLabels{v1alpha1.AppLabel: a.Name}); err != nil {
		return made, false, nil // it stands; an older one is done for nothing
	}
	for _, old := range all.Items {
		if old.Name == made.Name || change.Ended(&old) || old.Status.Merged != "" || old.Spec.Ref != spec.Ref || old.Spec.Request != spec.Request {
			continue
		}
		if pointless, err := replaces(ctx, a, r, spec, &old); err != nil || !pointless {
			continue // the older one goes its way, before this one
		}
		was := old.DeepCopy()
		old.Spec.ReplacedBy = made.Name
		if err := c.client.Patch(ctx, &old, client.MergeFrom(was)); err != nil {
			c.Log.Warn("an older change is not replaced", "change", old.Name, "err", err)
		}
	}
	return made, false, nil
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
	return slices.ContainsFunc(commits, func(c repo.Commit) bool {
		return c.Author.Name == was.Author.Name && c.Author.Email == was.Author.Email && c.Author.When.Equal(was.Author.When)
	}), nil
}

func ownedBy(a *v1alpha1.App) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(a, v1alpha1.GroupVersion().WithKind("App"))}
}

// versions is among how many commits an earlier version of a pushed one is looked for.
const versions = 100
