package controller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/host"
	"github.com/bightdev/bight/internal/change/repo"
)

// Refs of an app's repository that people do not see. What is below hostRefs is at the
// host, what is below seenRefs was acted upon, so that whoever dies in between goes on
// where it was.
const (
	hostRefs = "refs/bight/host/"
	seenRefs = "refs/bight/seen/"
	// baseRefs say what commits of the app's branch that others have merged are to be
	// compared with.
	baseRefs = "refs/bight/bases/"
)

// sourceMark is the file of a repository that says which URL was looked at last.
const sourceMark = "bight-source"

// look brings what is to be merged to the host, fetches what is new there, and makes
// changes of it.
func (f *follower) look(ctx context.Context, a *v1alpha1.App, conn connection) error {
	r, err := f.c.store.Open(f.key.Namespace, f.key.Name)
	if err != nil {
		return err
	}
	if err := f.publish(ctx, a, r, conn); err != nil {
		return err
	}
	first, err := f.begin(ctx, r, conn)
	if err != nil {
		return err
	}
	o, requestsErr, err := f.fetch(ctx, a, r, conn)
	if err != nil {
		return err
	}
	o.first = first
	if first && requestsErr != nil {
		return requestsErr // which branches are asked for is not known yet
	}
	head := o.heads[a.Spec.Branch]
	if head == "" {
		return &sourceError{"NoBranch", fmt.Sprintf("%s has no branch %s, which changes are merged into: push it, or set spec.branch", conn.where, a.Spec.Branch)}
	}
	if err := f.advance(ctx, a, r, head, first); err != nil {
		return err
	}
	f.doubt = ""
	f.fetched()
	n := compare(o)
	for _, d := range n.gone {
		if err := f.leave(ctx, a, r, d, head); err != nil {
			return err
		}
	}
	for _, arrived := range n.come {
		if err := f.arrive(ctx, a, r, arrived, o.seen[arrived.seen], head); err != nil {
			return fmt.Errorf("make a change of %s: %w", arrived.ref, err)
		}
	}
	if err := f.number(ctx, a, r, o, head); err != nil {
		return err
	}
	if first {
		if err := os.WriteFile(filepath.Join(r.Dir, sourceMark), []byte(conn.where), 0o600); err != nil {
			return err
		}
	}
	if first || len(n.come) > 0 {
		if err := r.Maintain(ctx); err != nil {
			f.c.Log.Warn("a repository is not packed", "app", f.key.Name, "err", err)
		}
	}
	return requestsErr
}

// begin tells whether a repository is looked at for the first time, and forgets what
// is known of another.
func (f *follower) begin(ctx context.Context, r *repo.Repository, conn connection) (first bool, err error) {
	was, err := os.ReadFile(filepath.Join(r.Dir, sourceMark))
	switch {
	case err == nil && string(was) == conn.where:
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	}
	for _, prefix := range []string{hostRefs, seenRefs} {
		refs, err := r.Refs(ctx, prefix)
		if err != nil {
			return false, err
		}
		for ref, commit := range refs {
			if err := r.UpdateRef(ctx, ref, "", commit); err != nil {
				return false, err
			}
		}
	}
	return true, os.Remove(filepath.Join(r.Dir, sourceMark))
}

// fetch gets what is at the host. Where its requests can't be listed, requests says
// why, and they are as they were.
func (f *follower) fetch(ctx context.Context, a *v1alpha1.App, r *repo.Repository, conn connection) (o outside, requests, err error) {
	o = outside{branch: a.Spec.Branch, requestRef: conn.requests, forks: map[int]string{}, seen: map[string]string{}, heads: map[string]string{}}
	if _, err := r.Fetch(ctx, conn.remote, "+refs/heads/*:"+hostRefs+"heads/*"); err != nil {
		return o, nil, &hostError{err}
	}
	// After the branches: so one that a request is about never seems to have none.
	if conn.host != nil {
		var all []host.Request
		if all, requests = conn.host.Requests(ctx); requests == nil {
			for _, q := range all {
				if q.BaseBranch == a.Spec.Branch {
					o.requests = append(o.requests, q)
				}
			}
		}
	}
	if requests == nil {
		requests = f.fetchForks(ctx, r, conn, o.requests)
	}
	have, err := r.Refs(ctx, hostRefs)
	if err != nil {
		return o, nil, err
	}
	for ref, commit := range have {
		if branch, ok := strings.CutPrefix(ref, hostRefs+"heads/"); ok {
			o.heads[branch] = commit
		}
		if number, err := strconv.Atoi(strings.TrimPrefix(ref, hostRefs+"requests/")); err == nil {
			o.forks[number] = commit
		}
	}
	seen, err := r.Refs(ctx, seenRefs)
	if err != nil {
		return o, nil, err
	}
	for ref, commit := range seen {
		if key := strings.TrimPrefix(ref, seenRefs); requests == nil || !strings.HasPrefix(key, "requests/") {
			o.seen[key] = commit
		}
	}
	if requests != nil {
		requests = &hostError{fmt.Errorf("see the requests at the host: %w", requests)}
	}
	return o, requests, nil
}

// fetchForks gets the heads of requests from forks, and forgets those of others. Anybody can open a request: one that is
// too large is left out, in the way of no other, and is not fetched again before it has another head.
func (f *follower) fetchForks(ctx context.Context, r *repo.Repository, conn connection, requests []host.Request) error {
	have, err := r.Refs(ctx, hostRefs+"requests/")
	if err != nil {
		return err
	}
	var together, apart []host.Request
	open := map[string]bool{}
	large := map[int]largeRequest{}
	for _, q := range requests {
		if !q.Fork {
			continue
		}
		ref := requestRef(q)
		open[ref] = true
		was, known := f.large[q.Number]
		switch {
		case have[ref] == q.HeadCommit:
		case known && was.commit == q.HeadCommit:
			large[q.Number] = was
		case known:
			apart = append(apart, q)
		default:
			together = append(together, q)
		}
	}
	f.large = large
	for _, ref := range slices.Sorted(maps.Keys(have)) {
		if !open[ref] {
			if err := r.UpdateRef(ctx, ref, "", have[ref]); err != nil {
				return err
			}
		}
	}
	var errs []error
	if len(together) > 0 {
		err := f.fetchHeads(ctx, r, conn, together)
		if err != nil && len(together) > 1 {
			apart, err = append(together, apart...), nil // one that is gone meanwhile is in the way of no other
		}
		errs = append(errs, err)
	}
	for _, q := range apart {
		errs = append(errs, f.fetchHeads(ctx, r, conn, []host.Request{q}))
	}
	return errors.Join(errs...)
}

// largeRequest is a head of a request that is too large, and why.
type largeRequest struct {
	commit string
	why    repo.TooLargeError
}

func requestRef(q host.Request) string { return fmt.Sprintf("%srequests/%d", hostRefs, q.Number) }

// fetchHeads gets the heads of requests. That a single one is too large is noted, and is no error.
func (f *follower) fetchHeads(ctx context.Context, r *repo.Repository, conn connection, requests []host.Request) error {
	var specs []string
	for _, q := range requests {
		specs = append(specs, "+"+fmt.Sprintf(conn.requests, q.Number)+":"+requestRef(q))
	}
	_, err := r.Fetch(ctx, conn.remote, specs...)
	if large, ok := errors.AsType[*repo.TooLargeError](err); ok && len(requests) == 1 {
		q := requests[0]
		why := repo.TooLargeError{What: "what it would bring", Size: large.Size, Limit: large.Limit}
		f.large[q.Number] = largeRequest{q.HeadCommit, why}
		f.c.Log.Warn("a request is too large, and left out until it has another head", "app", f.key.Name, "namespace", f.key.Namespace,
			"request", q.Number, "commit", q.HeadCommit, "limit", large.Limit)
		return nil
	}
	return err
}

// mostLeftOut is how many requests are named.
const mostLeftOut = 5

// leftOut says which requests are, as the end of what is told of the host.
func (f *follower) leftOut() (text string) {
	for i, number := range slices.Sorted(maps.Keys(f.large)) {
		if i == mostLeftOut {
			return text + fmt.Sprintf("; and %d more", len(f.large)-i)
		}
		l := f.large[number]
		text += fmt.Sprintf("; request %d is left out until it has another head than %.12s: %s", number, l.commit, &l.why)
	}
	return text
}

// advance moves the app's branch to where the host has it. What others have merged
// there becomes a change, that is on the branch already.
func (f *follower) advance(ctx context.Context, a *v1alpha1.App, r *repo.Repository, head string, first bool) error {
	ref := "refs/heads/" + a.Spec.Branch
	tip, err := resolve(ctx, r, ref)
	if err != nil || tip == head {
		return err
	}
	for _, commit := range []string{tip, head} { // also what is rewritten stays: changes were merged as it
		if err := keep(ctx, r, commit); err != nil {
			return err
		}
	}
	back := false // to what was on the branch before, and is to be deployed again
	if tip != "" {
		if back, err = r.IsAncestor(ctx, head, tip); err != nil {
			return err
		}
	}
	if back && f.doubts(head) {
		return errDoubt
	}
	ours, err := f.ours(ctx, head)
	if err != nil {
		return err
	}
	if back || !ours {
		if tip != "" && !first {
			if err := setRef(ctx, r, baseRefs+head, tip); err != nil {
				return err
			}
		}
		if err := f.make(ctx, a, r, v1alpha1.ChangeSpec{Ref: ref, Commit: head}, back); err != nil {
			return fmt.Errorf("make a change of %s: %w", ref, err)
		}
		if err := f.want(ctx, r, head); err != nil {
			return err
		}
	}
	err = r.UpdateRef(ctx, ref, head, tip)
	f.c.wakeApp(f.key.Namespace, f.key.Name)
	if _, moved := errors.AsType[*repo.MovedError](err); moved {
		f.kick() // by a merge of ours; the next look finds both the same
		return nil
	}
	return err
}

// want has the changes merged that others have merged at the host.
func (f *follower) want(ctx context.Context, r *repo.Repository, head string) error {
	all, err := f.changes(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Spec.Merge || m.Spec.Untrusted || change.Ended(m) {
			continue
		}
		if merged, err := r.IsAncestor(ctx, m.Spec.Commit, head); err != nil || !merged {
			continue // not there any more, or not merged
		}
		now := m.DeepCopy()
		now.Spec.Merge = true
		if err := f.c.client.Patch(ctx, now, client.MergeFrom(m)); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// errDoubt says that the host has its branch where it was before: somebody has set it
// back, or one of the host's machines has not heard of the last push yet.
var errDoubt = errors.New("the branch may be set back")

// doubtTime is how long a branch is set back before that is believed.
const doubtTime = 5 * time.Second

// doubts reports whether it is too early to believe that the branch is set back.
func (f *follower) doubts(head string) bool {
	if f.doubt != head {
		f.doubt, f.doubted = head, time.Now()
	}
	return time.Since(f.doubted) < doubtTime
}

// ours tells whether a commit is the result of a merge that was decided here.
func (f *follower) ours(ctx context.Context, commit string) (bool, error) {
	all, err := f.changes(ctx)
	if err != nil {
		return false, err
	}
	for _, m := range all {
		if m.Status.Merged == commit {
			return true, nil
		}
		for _, run := range m.Status.Runs {
			if run.Commit == commit && run.State == v1alpha1.RunPassed && !change.Ended(m) {
				return true, nil
			}
		}
	}
	return false, nil
}

// changes returns those of the app.
func (f *follower) changes(ctx context.Context) ([]*v1alpha1.Change, error) {
	var list v1alpha1.ChangeList
	if err := f.c.client.List(ctx, &list, client.InNamespace(f.key.Namespace), client.MatchingLabels{v1alpha1.AppLabel: f.key.Name}); err != nil {
		return nil, err
	}
	var all []*v1alpha1.Change
	for i := range list.Items {
		all = append(all, f.c.newest.of(&list.Items[i]))
	}
	return all, nil
}

// arrive makes a change of a head, unless the app's branch has it already.
func (f *follower) arrive(ctx context.Context, a *v1alpha1.App, r *repo.Repository, n arrival, was, head string) error {
	merged, err := r.IsAncestor(ctx, n.commit, head)
	if err != nil {
		return err
	}
	switch {
	case merged:
		err = f.cancelOthers(ctx, r, n.ref, head, "its branch was set to what "+a.Spec.Branch+" has")
	case !n.known:
		spec := v1alpha1.ChangeSpec{Ref: n.ref, Commit: n.commit}
		if n.request != nil {
			spec.Request, spec.Author, spec.Untrusted = int64(n.request.Number), n.request.Author, n.request.Fork
		}
		err = f.make(ctx, a, r, spec, false)
	}
	if err != nil {
		return err
	}
	return r.UpdateRef(ctx, seenRefs+n.seen, n.commit, was)
}

// leave ends the changes of a head that is gone, unless they are on the branch.
func (f *follower) leave(ctx context.Context, a *v1alpha1.App, r *repo.Repository, d departure, head string) error {
	if err := f.cancelOthers(ctx, r, d.ref, head, d.why); err != nil {
		return fmt.Errorf("cancel the changes of %s: %w", d.ref, err)
	}
	return r.UpdateRef(ctx, seenRefs+d.seen, "", d.commit)
}

// cancelOthers ends the changes of a ref that are not merged, here or at the host.
func (f *follower) cancelOthers(ctx context.Context, r *repo.Repository, ref, head, why string) error {
	all, err := f.changes(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		why := why
		if m.Spec.Ref != ref || change.Ended(m) || m.Status.Merged != "" || m.Spec.Cancel {
			continue
		}
		merged, err := r.IsAncestor(ctx, m.Spec.Commit, head)
		if err != nil {
			return err
		}
		if merged && !m.Spec.Untrusted {
			continue
		}
		now := m.DeepCopy()
		now.Spec.Cancel = true
		if merged {
			why += ": it was merged there"
		}
		metav1.SetMetaDataAnnotation(&now.ObjectMeta, v1alpha1.ReasonAnnotation, why)
		if err := f.c.client.Patch(ctx, now, client.MergeFrom(m)); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// make makes the change of a commit, in place of the others of its ref. One that has
// ended begins anew if back, or if it was given up.
func (f *follower) make(ctx context.Context, a *v1alpha1.App, r *repo.Repository, spec v1alpha1.ChangeSpec, back bool) error {
	if err := keep(ctx, r, spec.Commit); err != nil {
		return err
	}
	commit, err := r.Commit(ctx, spec.Commit)
	if err != nil {
		return err
	}
	spec.App, spec.Title, spec.Committed = a.Name, change.Title(commit.Message), when(commit)
	if spec.Author == "" {
		spec.Author = commit.Author.Name
	}
	if spec.Author = change.Title(spec.Author); spec.Author == "" {
		spec.Author = "unknown"
	}
	made, known, err := f.c.queue(ctx, a, r, spec)
	if err != nil {
		return err
	}
	if known && (again(made, spec) || back && change.Ended(made)) {
		// It begins anew: what was a stranger's is wanted by somebody who may push, or
		// what was given up is back.
		if err := f.c.client.Delete(ctx, made, client.Preconditions{UID: &made.UID}); client.IgnoreNotFound(err) != nil {
			return err
		}
		if err := f.c.files.remove(made.Namespace, made.Name); err != nil {
			return err
		}
		if made, known, err = f.c.queue(ctx, a, r, spec); err != nil {
			return err
		}
	}
	if !known {
		f.c.Log.Info("the host has a new head", "app", a.Name, "ref", spec.Ref, "change", made.Name, "untrusted", spec.Untrusted)
	}
	return f.replaceOthers(ctx, a, r, made, spec)
}

// again tells whether a change that is there already has to be made anew for a head.
func again(m *v1alpha1.Change, spec v1alpha1.ChangeSpec) bool {
	if m.Spec.Untrusted {
		return !spec.Untrusted
	}
	return m.Status.Merged == "" && (m.Status.Phase == v1alpha1.Cancelled || m.Status.Phase == v1alpha1.Superseded || m.Spec.ReplacedBy != "")
}

// replaceOthers ends what a ref had before. What the app's branch still has goes its
// way.
func (f *follower) replaceOthers(ctx context.Context, a *v1alpha1.App, r *repo.Repository, made *v1alpha1.Change, spec v1alpha1.ChangeSpec) error {
	all, err := f.changes(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Name == made.Name || m.Spec.Ref != spec.Ref || change.Ended(m) || m.Status.Merged != "" || m.Spec.ReplacedBy != "" {
			continue
		}
		if spec.Ref == "refs/heads/"+a.Spec.Branch {
			if contained, err := r.IsAncestor(ctx, m.Spec.Commit, spec.Commit); err != nil || contained {
				continue
			}
		}
		now := m.DeepCopy()
		now.Spec.ReplacedBy = made.Name
		if err := f.c.client.Patch(ctx, now, client.MergeFrom(m)); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// number notes with changes which requests ask for them, and makes those of branches
// that were there before the App.
func (f *follower) number(ctx context.Context, a *v1alpha1.App, r *repo.Repository, o outside, head string) error {
	for _, q := range o.requests {
		commit := o.heads[q.HeadBranch]
		if q.Fork || commit == "" || q.HeadBranch == a.Spec.Branch {
			continue
		}
		m := &v1alpha1.Change{}
		err := f.c.client.Get(ctx, client.ObjectKey{Namespace: a.Namespace, Name: change.Name(a.Name, commit)}, m)
		switch {
		case apierrors.IsNotFound(err):
			merged, asked := r.IsAncestor(ctx, commit, head)
			if asked != nil || merged {
				continue
			}
			err = f.make(ctx, a, r, v1alpha1.ChangeSpec{Ref: "refs/heads/" + q.HeadBranch, Commit: commit, Request: int64(q.Number), Author: q.Author}, false)
		case err == nil && m.Spec.Request != int64(q.Number) && !m.Spec.Untrusted:
			now := m.DeepCopy()
			now.Spec.Request = int64(q.Number)
			err = client.IgnoreNotFound(f.c.client.Patch(ctx, now, client.MergeFrom(m)))
		}
		if err != nil {
			return fmt.Errorf("request %d: %w", q.Number, err)
		}
	}
	return nil
}

// reviewBase is what a change is compared with: another than base for one that was on
// the branch before it was a change.
func reviewBase(ctx context.Context, s *subject, m *v1alpha1.Change, base string) string {
	if s.app.Spec.Source == nil || m.Spec.Ref != "refs/heads/"+s.app.Spec.Branch {
		return base
	}
	if before, err := resolve(ctx, s.repo, baseRefs+m.Spec.Commit); err == nil && before != "" {
		return before
	}
	return base
}

// resolve returns where a ref is, "" for nowhere.
func resolve(ctx context.Context, r *repo.Repository, ref string) (string, error) {
	commit, err := r.Resolve(ctx, ref)
	if _, none := errors.AsType[*repo.NotFoundError](err); none {
		return "", nil
	}
	return commit, err
}

// keep sees to it that a commit stays whatever becomes of its branch.
func keep(ctx context.Context, r *repo.Repository, commit string) error {
	if commit == "" {
		return nil
	}
	return setRef(ctx, r, repo.ChangeRef(commit), commit)
}

// setRef makes a ref, or leaves it where it is.
func setRef(ctx context.Context, r *repo.Repository, ref, commit string) error {
	err := r.UpdateRef(ctx, ref, commit, "")
	if _, there := errors.AsType[*repo.MovedError](err); there {
		return nil
	}
	return err
}
