package controller

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
		return nil, fmt.Errorf("the repository of app %s is at %s: push there", a.Name, a.Spec.Source.URL)
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
		App: a.Name, Commit: p.New, Ref: p.Ref, Author: p.User.Name, Title: change.Title(commit.Message),
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
	}
	return append(lines, fmt.Sprintf("follow it with: bight change show %s -n %s --follow", made.Name, made.Namespace)), nil
}

func phaseOf(c *v1alpha1.Change) string {
	if c.Status.Phase == "" {
		return strings.ToLower(v1alpha1.Pending)
	}
	return strings.TrimSuffix(strings.ToLower(c.Status.Phase)+", "+c.Status.Message, ", ")
}

// queue makes the Change, unless it is there, and replaces those that it makes
// pointless.
func (c *Controller) queue(ctx context.Context, a *v1alpha1.App, r *repo.Repository, spec v1alpha1.ChangeSpec) (made *v1alpha1.Change, known bool, err error) {
	made = &v1alpha1.Change{Spec: spec}
	made.Namespace, made.Name = a.Namespace, change.Name(a.Name, spec.Commit)
	made.Labels = map[string]string{v1alpha1.AppLabel: a.Name}
	made.OwnerReferences = ownedBy(a)
	made.Spec.Order = time.Now().UnixNano()
	err = c.client.Create(ctx, made)
	if apierrors.IsAlreadyExists(err) {
		return made, true, c.live.Get(ctx, client.ObjectKeyFromObject(made), made)
	}
	if err != nil {
		return nil, false, err
	}
	var all v1alpha1.ChangeList
	if err := c.client.List(ctx, &all, client.InNamespace(a.Namespace), client.MatchingLabels{v1alpha1.AppLabel: a.Name}); err != nil {
		return made, false, nil // it stands; an older one is done for nothing
	}
	for _, old := range all.Items {
		if old.Name == made.Name || change.Ended(&old) || old.Status.Merged != "" || old.Spec.Author != spec.Author || old.Spec.Ref != spec.Ref {
			continue
		}
		contained, err := r.IsAncestor(ctx, old.Spec.Commit, spec.Commit)
		if err != nil || contained && spec.Ref == "refs/heads/"+a.Spec.Branch {
			continue // the older one goes first, and this one after it
		}
		was := old.DeepCopy()
		old.Spec.ReplacedBy = made.Name
		if err := c.client.Patch(ctx, &old, client.MergeFrom(was)); err != nil {
			c.Log.Warn("an older change is not replaced", "change", old.Name, "err", err)
		}
	}
	return made, false, nil
}
