package deploy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"
)

// parallel is how many requests are under way at once.
const parallel = 16

// Applier makes namespaces equal to rendered objects. Its clients should have
// no rate limit of their own: a first deployment sends a burst.
type Applier struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	Log     *slog.Logger // nil discards

	// TakeOver overwrites fields that somebody else has set, and adopts objects
	// that are not the app's.
	TakeOver bool

	// Leave, if not nil, says which objects stay as they are if they are there, also those
	// that are wanted no more: somebody else is at them, or needs them.
	Leave func(Ref) bool

	// Note is told, in a sentence, of what takes long; nil is told nothing.
	Note func(string)
}

// Action is what was done to an object.
type Action string

// Actions of [Applier.Apply] and [Applier.Down].
const (
	Created    Action = "created"
	Configured Action = "configured"
	Unchanged  Action = "unchanged"
	Removed    Action = "removed"
	Kept       Action = "kept" // no longer in the app, but it holds data
)

// Done is one object and what was done to it.
type Done struct {
	Ref     Ref
	Service string
	Action  Action
}

// Result is what Apply did, sorted by kind and name.
type Result struct{ Objects []Done }

// Changed reports whether anything was written.
func (r *Result) Changed() bool {
	return slices.ContainsFunc(r.Objects, func(d Done) bool { return d.Action != Unchanged && d.Action != Kept })
}

func (a *Applier) log() *slog.Logger {
	if a.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return a.Log
}

func (a *Applier) note(format string, args ...any) {
	if a.Note != nil {
		a.Note(fmt.Sprintf(format, args...))
	}
}

// Token returns the token of the app's agents in a namespace: the one that is
// there, or a new random one, which the next Apply of objects rendered with it
// stores.
func (a *Applier) Token(ctx context.Context, namespace, appName string) (string, error) {
	s, err := a.Client.CoreV1().Secrets(namespace).Get(ctx, parentName(appName), metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return "", refusal(ctx, a.Client, namespace, Right{Verb: "get", Resource: "secrets"})
	case err != nil && !apierrors.IsNotFound(err):
		return "", fmt.Errorf("read the agents' token of app %s: %w", appName, err)
	case err == nil && len(s.Data[tokenKey]) > 0:
		return string(s.Data[tokenKey]), nil
	}
	return rand.Text(), nil
}

// Apply makes namespace equal to objs, which are all objects of the app: what
// differs is written, what the app no longer has is removed after everything
// else succeeded. Objects that are as Apply left them cost no request. Nothing
// is changed when a right is missing or an object is somebody else's.
func (a *Applier) Apply(ctx context.Context, appName, namespace string, objs []Object) (*Result, error) {
	r := &run{Applier: a, app: appName, namespace: namespace, done: map[Ref]Done{}}
	if err := r.read(ctx); err != nil {
		return nil, err
	}
	st := plan(objs, r.parent.record, r.there, r.Leave)
	for _, o := range st.unchanged {
		r.did(o.Ref, o.Service, Unchanged)
	}
	for _, e := range st.kept {
		r.did(e.Ref, "", Kept)
	}
	if len(st.apply) == 0 && len(st.prune) == 0 && r.parent.found {
		return r.result(), nil
	}
	if err := r.preflight(ctx, st.apply); err != nil {
		return nil, err
	}
	var refs []Ref
	for _, o := range objs {
		refs = append(refs, o.Ref)
	}
	for _, e := range st.kept {
		refs = append(refs, e.Ref)
	}
	if err := r.write(ctx, st, groupKinds(refs)); err != nil {
		return nil, err
	}
	return r.result(), r.remember(ctx, objs, groupKinds(refs))
}

// run is one call of Apply.
type run struct {
	*Applier
	app, namespace string

	parent parent
	there  map[string]existing // by memberKey; read only once filled

	mu   sync.Mutex
	done map[Ref]Done
	now  []existing // the applied objects as the server answered
}

func (r *run) did(ref Ref, service string, action Action) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done[ref] = Done{Ref: ref, Service: service, Action: action}
}

func (r *run) result() *Result {
	res := &Result{}
	for _, d := range r.done {
		res.Objects = append(res.Objects, d)
	}
	slices.SortFunc(res.Objects, func(x, y Done) int { return compareRefs(x.Ref, y.Ref) })
	return res
}

// read gets the parent and lists the members, all at once.
func (r *run) read(ctx context.Context) error {
	var g errgroup.Group // short reads: one that fails need not stop the others
	g.Go(func() error {
		p, err := r.readParent(ctx, r.namespace, r.app)
		r.parent = p
		return err
	})
	g.Go(func() error {
		there, err := r.members(ctx, r.namespace, r.app)
		r.there = there
		return err
	})
	if err := g.Wait(); err != nil {
		return r.explain(ctx, r.namespace, err)
	}
	if unknown := unknownKinds(r.parent.groupKinds); len(unknown) > 0 {
		return fmt.Errorf("app %s in namespace %s has objects of kinds that this version of Bight does not know (%s): a newer version deployed it; use that one",
			r.app, r.namespace, strings.Join(unknown, ", "))
	}
	return nil
}

func (a *Applier) readParent(ctx context.Context, namespace, appName string) (parent, error) {
	k, _ := kindOf(Ref{Kind: "ConfigMap"}.groupKind())
	u, err := a.Dynamic.Resource(k.gvr()).Namespace(namespace).Get(ctx, parentName(appName), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return parent{record: record{}}, nil
	}
	if err != nil {
		return parent{}, &accessError{Right{Verb: "get", Resource: k.resource}, err}
	}
	return readParent(u, appName)
}

// members lists the objects of every kind that are labelled as the app's.
func (a *Applier) members(ctx context.Context, namespace, appName string) (map[string]existing, error) {
	var mu sync.Mutex
	there := map[string]existing{}
	var g errgroup.Group
	for _, k := range kinds() {
		g.Go(func() error {
			l, err := a.Dynamic.Resource(k.gvr()).Namespace(namespace).List(ctx, metav1.ListOptions{
				LabelSelector: labelSetMember + "=" + setID(appName, namespace)})
			if err != nil {
				return &accessError{Right{Verb: "list", Group: k.Group, Resource: k.resource}, err}
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range l.Items {
				// Items of a list may come without their kind.
				l.Items[i].SetGroupVersionKind(k.GroupVersionKind)
				e := existingOf(&l.Items[i])
				there[memberKey(e.Ref)] = e
			}
			return nil
		})
	}
	err := g.Wait()
	return there, err
}

// accessError is an API server's refusal together with the right that the
// request needed.
type accessError struct {
	right Right
	err   error
}

func (e *accessError) Error() string { return e.right.String() + ": " + e.err.Error() }
func (e *accessError) Unwrap() error { return e.err }

// explain tells the two kinds of "forbidden" apart: a right that the user lacks,
// and an object that a quota or a policy refuses whoever writes it.
func (a *Applier) explain(ctx context.Context, namespace string, err error) error {
	var ae *accessError
	if !errors.As(err, &ae) || !apierrors.IsForbidden(ae.err) {
		return err
	}
	if lacksRight(ae.err) {
		return refusal(ctx, a.Client, namespace, ae.right)
	}
	return &RefusedError{Err: ae.err}
}

// preflight finds out before the first write whether the writes can work.
func (r *run) preflight(ctx context.Context, objs []Object) error {
	var lacking []Right
	var g errgroup.Group
	g.SetLimit(parallel)
	g.Go(func() (err error) {
		lacking, err = missing(ctx, r.Client, r.namespace, neededFor(objs))
		return err
	})
	for _, o := range objs {
		if _, ours := r.there[memberKey(o.Ref)]; !ours && !r.TakeOver {
			g.Go(func() error { return r.vacant(ctx, o) })
		}
	}
	err := g.Wait()
	if len(lacking) > 0 {
		return refusal(ctx, r.Client, r.namespace, lacking...)
	}
	return r.explain(ctx, r.namespace, err)
}

// vacant reports an object of o's name that is not the app's.
func (r *run) vacant(ctx context.Context, o Object) error {
	k, _ := kindOf(o.groupKind())
	u, err := r.Dynamic.Resource(k.gvr()).Namespace(r.namespace).Get(ctx, o.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return &accessError{Right{Verb: "get", Group: k.Group, Resource: k.resource}, err}
	}
	return &ForeignError{Ref: o.Ref, App: r.app, Owner: ownerOf(u)}
}

// write applies stage by stage, then prunes.
func (r *run) write(ctx context.Context, st steps, gks string) error {
	// The parent names every kind before an object of it exists, so that what an
	// interrupted apply leaves behind is found by the next.
	if all := unionGroupKinds(r.parent.groupKinds, gks); !r.parent.found || all != r.parent.groupKinds {
		r.parent.groupKinds = all
		if err := r.writeParent(ctx); err != nil {
			return err
		}
	}
	for stage := range 2 {
		if err := r.applyStage(ctx, st.apply, stage); err != nil {
			return err
		}
	}
	for _, e := range st.prune {
		r.log().Info("prune", "object", e.Ref.String(), "namespace", e.Namespace)
	}
	if err := r.remove(ctx, st.prune, metav1.DeletePropagationBackground); err != nil {
		return r.explain(ctx, r.namespace, err)
	}
	for _, e := range st.prune {
		r.did(e.Ref, "", Removed)
	}
	return nil
}

// applyStage applies the objects of one stage and reports every failure, not
// just the first.
func (r *run) applyStage(ctx context.Context, objs []Object, stage int) error {
	errs := make([]error, len(objs))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, o := range objs {
		if k, ok := kindOf(o.groupKind()); ok && k.stage == stage {
			g.Go(func() error {
				errs[i] = r.apply(ctx, o)
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return errors.Join(errs...)
}

func (r *run) apply(ctx context.Context, o Object) error {
	k, ok := kindOf(o.groupKind())
	if !ok {
		return fmt.Errorf("apply %s: kind %s is not one that Bight deploys", o.Ref, o.groupKind())
	}
	before, found := r.there[memberKey(o.Ref)]
	if found && before.deleting {
		r.note("%s is being deleted; waiting until it is gone", o.Ref)
		if err := r.gone(ctx, k, r.namespace, "", []existing{before}); err != nil {
			return err
		}
		found = false
	}
	u, err := o.unstructured()
	if err != nil {
		return err
	}
	labels := u.GetLabels()
	labels[labelSetMember] = setID(r.app, r.namespace)
	u.SetLabels(labels)
	got, err := r.patch(ctx, k, u, r.TakeOver)
	if c := conflictOf(o.Ref, err); c != nil {
		if !c.own() {
			return c
		}
		got, err = r.patch(ctx, k, u, true)
	}
	if err != nil {
		return r.explain(ctx, r.namespace, &accessError{Right{Verb: "patch", Group: k.Group, Resource: k.resource}, fmt.Errorf("apply %s: %w", o.Ref, err)})
	}
	action := Configured
	after := existingOf(got)
	switch {
	case !found:
		action = Created
	case before.uid != after.uid:
	case before.revision == after.revision,
		// The status alone moved, and what was applied is what was applied before.
		before.version == after.version && r.parent.record[memberKey(o.Ref)].Digest == o.digest():
		action = Unchanged
	}
	r.did(o.Ref, o.Service, action)
	r.mu.Lock()
	r.now = append(r.now, after)
	r.mu.Unlock()
	return nil
}

func (r *run) patch(ctx context.Context, k kind, u *unstructured.Unstructured, force bool) (*unstructured.Unstructured, error) {
	return r.Dynamic.Resource(k.gvr()).Namespace(r.namespace).Apply(ctx, u.GetName(), u,
		metav1.ApplyOptions{FieldManager: FieldManager, Force: force})
}

// remove deletes objects, each only if it is still the one that was looked at.
func (a *Applier) remove(ctx context.Context, objs []existing, how metav1.DeletionPropagation) error {
	errs := make([]error, len(objs))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, e := range objs {
		g.Go(func() error {
			k, _ := kindOf(e.groupKind())
			uid := types.UID(e.uid)
			err := a.Dynamic.Resource(k.gvr()).Namespace(e.Namespace).Delete(ctx, e.Name, metav1.DeleteOptions{
				Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &how,
			})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				errs[i] = &accessError{Right{Verb: "delete", Group: k.Group, Resource: k.resource}, fmt.Errorf("remove %s: %w", e.Ref, err)}
			}
			return nil
		})
	}
	return errors.Join(g.Wait(), errors.Join(errs...))
}

// remember writes down what was applied, so that the next Apply knows.
func (r *run) remember(ctx context.Context, objs []Object, gks string) error {
	now := map[string]existing{}
	for _, e := range r.now {
		now[memberKey(e.Ref)] = e
	}
	rec := record{}
	for _, o := range objs {
		key := memberKey(o.Ref)
		if e, ok := now[key]; ok {
			rec[key] = member{Digest: o.digest(), UID: e.uid, Version: e.version}
		} else if m, ok := r.parent.record[key]; ok {
			rec[key] = m
		}
	}
	r.parent.record, r.parent.groupKinds = rec, gks
	return r.writeParent(ctx)
}

func (r *run) writeParent(ctx context.Context) error {
	u, err := r.parent.object(r.app, r.namespace)
	if err != nil {
		return err
	}
	k, _ := kindOf(Ref{Kind: "ConfigMap"}.groupKind())
	if _, err := r.patch(ctx, k, u, true); err != nil {
		if apierrors.IsNotFound(err) {
			return &NamespaceError{Name: r.namespace, Reason: "it does not exist: create it, or choose another with -n"}
		}
		return r.explain(ctx, r.namespace, &accessError{Right{Verb: "patch", Resource: k.resource}, fmt.Errorf("record what is deployed of app %s: %w", r.app, err)})
	}
	return nil
}
