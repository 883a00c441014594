package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/deploy"
	"github.com/bightdev/bight/internal/kube/follow"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/spec"
)

// releasing says how new versions come to an environment.
type releasing struct {
	// plan is that of its Releases, nil where there are none.
	plan *v1alpha1.ReleasePlan
	// make, if not nil, is how a Release is called that is to be made: by whom, and what
	// people call its version. Without it none is made: who puts an environment back makes
	// no new version of it.
	make *maker
	// undo, if not nil, is the change whose releases that are under way are to be undone,
	// because it has failed.
	undo *failedChange
}

type failedChange struct{ change, why string }

type maker struct {
	change, version string
	risk            *int32
}

// held are the objects of an environment that releases are at, and those Releases that a
// desired state waits for.
type held struct {
	refs     map[deploy.Ref]bool
	services map[string]bool   // whose Deployments are held
	waits    map[string]string // Releases, by Deployment
	ends     map[string]string // those that are undone, whatever comes of them
}

func (h held) leave(r deploy.Ref) bool { return h.refs[r] }

// convictedError says that a version may not come back.
type convictedError struct{ service, release, why string }

func (e *convictedError) Error() string {
	return fmt.Sprintf("this version of %s was convicted, by release %s: %s", e.service, e.release, e.why)
}

// hold finds out which objects of a desired state are to be left to releases, and makes
// the Releases that it takes. The objects come back with what tells their versions apart,
// and with a configuration for each. What ReplicaSets refer to besides is not
// removed.
func (e *environments) hold(ctx context.Context, namespace string, objs []deploy.Object, how releasing) ([]deploy.Object, held, error) {
	h := held{refs: map[deploy.Ref]bool{}, services: map[string]bool{}, waits: map[string]string{}, ends: map[string]string{}}
	var all v1alpha1.ReleaseList
	reader := client.Reader(e.client)
	if how.make != nil || how.undo != nil {
		reader = e.live // what has just ended has
	}
	if err := reader.List(ctx, &all, client.InNamespace(namespace)); err != nil {
		return nil, h, err
	}
	if how.plan == nil && len(all.Items) == 0 {
		return objs, h, nil
	}
	if how.plan != nil {
		var err error
		if objs, err = versioned(objs); err != nil {
			return nil, h, err
		}
	}
	referred, err := e.referred(ctx, namespace)
	if err != nil {
		return nil, h, err
	}
	for _, o := range objs { // what is wanted is as it is wanted
		delete(referred, o.Ref)
	}
	maps.Copy(h.refs, referred)
	out := slices.Clone(objs)
	for i, o := range objs {
		if o.Kind != "Deployment" {
			continue
		}
		template, stamped, err := stamp(o)
		if err != nil {
			return nil, h, err
		}
		if how.plan != nil {
			out[i] = stamped
		}
		live, err := e.typed.AppsV1().Deployments(namespace).Get(ctx, o.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue // a first version has nothing to take over from
		}
		if err != nil {
			return nil, h, err
		}
		if !stepwise(o, objs, live) {
			continue
		}
		c, err := choose(live, digestOf(template), all.Items, how)
		if err == nil && c.make {
			err = e.release(ctx, namespace, o.Name, template, c.old, how)
		}
		if err != nil {
			return nil, h, err
		}
		if err == nil && c.undo != nil {
			err = e.undo(ctx, c.undo, how.undo)
			h.ends[o.Name] = c.undo.Name
		}
		if err != nil {
			return nil, h, err
		}
		if c.ends != "" {
			h.ends[o.Name] = c.ends
		}
		if c.waits != "" {
			h.waits[o.Name] = c.waits
		}
		if c.leave {
			h.refs[o.Ref], h.services[o.Service] = true, true
			for _, s := range objs {
				if s.Kind == "Service" && s.Service == o.Service {
					h.refs[s.Ref] = true
				}
			}
		}
	}
	return out, h, nil
}

// stepwise reports whether new versions of a Deployment can take over step by step: not if
// two must not run at once, nor if nobody asks it by a Service, nor if it has no pods.
func stepwise(o deploy.Object, objs []deploy.Object, live *appsv1.Deployment) bool {
	asked := slices.ContainsFunc(objs, func(s deploy.Object) bool { return s.Kind == "Service" && s.Service == o.Service })
	d := &appsv1.Deployment{}
	return o.Decode(d) == nil && asked && d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType &&
		live.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType && (live.Spec.Replicas == nil || *live.Spec.Replicas > 0)
}

// undo orders that a release be undone: because its change has failed, or else because
// another puts back what was there before.
func (e *environments) undo(ctx context.Context, r *v1alpha1.Release, failed *failedChange) error {
	if r.Spec.Orders.Undo {
		return nil
	}
	me, err := e.typed.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("ask who this is: %w", err)
	}
	was := r.DeepCopy()
	why := "a change puts back what was there before"
	if failed != nil {
		why = failed.why
		metav1.SetMetaDataAnnotation(&r.ObjectMeta, v1alpha1.WithAnnotation, failed.change)
	}
	r.Spec.Orders.Undo, r.Spec.Orders.Why, r.Spec.Orders.By = true, why, me.Status.UserInfo.Username
	r.Spec.Orders.Groups, r.Spec.Orders.Asked = nil, "" // they were somebody else's
	if err := e.client.Patch(ctx, r, client.MergeFrom(was)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("undo release %s: %w", r.Name, err)
	}
	return nil
}

// stamp notes on a Deployment which template it has.
func stamp(o deploy.Object) (template []byte, out deploy.Object, err error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(o.JSON); err != nil {
		return nil, o, err
	}
	t, _, _ := unstructured.NestedMap(u.Object, "spec", "template")
	if template, err = json.Marshal(t); err != nil {
		return nil, o, err
	}
	all := u.GetAnnotations()
	if all == nil {
		all = map[string]string{}
	}
	all[v1alpha1.TemplateAnnotation] = digestOf(template)
	u.SetAnnotations(all)
	out = o
	out.JSON, err = json.Marshal(u.Object)
	return template, out, err
}

func digestOf(template []byte) string {
	sum := sha256.Sum256(template)
	return hex.EncodeToString(sum[:5])
}

// choice is what becomes of one Deployment.
type choice struct {
	leave bool              // it is left to releases
	waits string            // the Release that the desired state waits for, "" for none
	make  bool              // that is to be made
	undo  *v1alpha1.Release // that is to be undone, and waited for
	ends  string            // the Release that is undone, and waited for before anything else, "" for none
	old   *v1alpha1.Release // in whose place
}

// choose decides what becomes of a Deployment whose template is to have a digest. all are
// the Releases of its namespace.
func choose(live *appsv1.Deployment, digest string, all []v1alpha1.Release, how releasing) (choice, error) {
	var under, this *v1alpha1.Release
	name := releaseName(live.Name, digest)
	for i, r := range all {
		if r.Spec.Deployment != live.Name {
			continue
		}
		if !spec.Over(&r) && (under == nil || spec.Compare(under, &r) < 0) {
			under = &all[i]
		}
		if r.Name == name {
			this = &all[i]
		}
	}
	if how.undo != nil && under != nil && under.Spec.Change == how.undo.change && !undone(under) {
		return choice{leave: true, undo: under}, nil
	}
	if how.plan == nil || live.Annotations[v1alpha1.TemplateAnnotation] == digest {
		if how.make != nil && under != nil && under.Name != name {
			if undone(under) {
				return choice{leave: true, ends: under.Name}, nil
			}
			return choice{leave: true, undo: under}, nil // what is wanted is what was there before
		}
		return choice{leave: under != nil}, nil
	}
	mine := this != nil && how.make != nil && this.Spec.Change == how.make.change
	switch {
	case how.make == nil:
		// Who puts back what was deployed finds another version here only if the release of
		// what was deployed is under way, or came to nothing.
		return choice{leave: this == nil || !promoted(this) || under != nil}, nil
	case mine && promoted(this):
		return choice{}, nil
	case mine && undone(this):
		return choice{leave: true, waits: name}, nil
	case this != nil && !mine && this.Status.Convicted:
		return choice{}, &convictedError{live.Name, name, this.Status.Message}
	case under != nil && undone(under):
		// Its pods answer what they were asked; until then nothing else can begin.
		return choice{leave: true, ends: under.Name}, nil
	case mine && under == nil && this.Status.Phase == string(release.Superseded):
		// A newer change has taken its place, and has come to nothing: it is this one's turn again.
	case mine, this != nil && !spec.Over(this):
		return choice{leave: true, waits: name}, nil
	}
	return choice{leave: true, waits: name, make: true, old: this}, nil
}

// promoted says that a release has ended well, and nothing of it is left.
func promoted(r *v1alpha1.Release) bool {
	return r.Status.Phase == string(release.Promoted) && spec.Over(r)
}

// undone says that no request is a version's any more, though its pods may be there still.
func undone(r *v1alpha1.Release) bool { return r.Status.Phase == string(release.Undone) }

// releaseName is how the Release of a template is called.
func releaseName(deployment, digest string) string {
	if len(deployment) > 240 {
		deployment = deployment[:240]
	}
	return deployment + "-" + digest
}

// release makes a Release, in place of one that has come to nothing before.
func (e *environments) release(ctx context.Context, namespace, name string, template []byte, old *v1alpha1.Release, how releasing) error {
	if old != nil {
		if err := client.IgnoreNotFound(e.client.Delete(ctx, old, client.Preconditions{UID: &old.UID})); err != nil {
			return fmt.Errorf("remove the release that came to nothing: %w", err)
		}
	}
	r := &v1alpha1.Release{}
	r.Name, r.Namespace = releaseName(name, digestOf(template)), namespace
	r.Labels = map[string]string{v1alpha1.ServiceLabel: name}
	r.Spec = v1alpha1.ReleaseSpec{
		Deployment: name, Service: name, Template: runtime.RawExtension{Raw: template},
		Version: how.make.version, Change: how.make.change, Plan: spec.ByRisk(*how.plan, how.make.risk),
	}
	if _, err := spec.Plan(r.Spec.Plan); err != nil {
		return fmt.Errorf("the release plan of the environment: %w", err)
	}
	for tries := 0; ; tries++ {
		err := e.client.Create(ctx, r)
		if err == nil {
			return nil
		}
		if !apierrors.IsAlreadyExists(err) || tries >= 50 || ctx.Err() != nil {
			return fmt.Errorf("make release %s: %w", r.Name, err)
		}
		select { // the old one is about to go
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// undoneError says that a release came to nothing.
type undoneError struct{ service, release, why string }

func (e *undoneError) Error() string {
	return fmt.Sprintf("release %s of %s was undone: %s", e.release, e.service, e.why)
}

// released waits until Releases have ended, and tells how they are. The error is an
// [undoneError] if one came to nothing, as soon as no request is its version's: what is
// left to be wound up then needs nobody.
func (e *environments) released(ctx context.Context, namespace string, h held, tell func(string)) error {
	now := map[string]*v1alpha1.Release{}
	over := errors.New("all have ended")
	source := follow.Of(e.dynamic.Resource(v1alpha1.Releases()).Namespace(namespace), metav1.ListOptions{})
	err := source.Changes(ctx, "", func(c follow.Change) error {
		if c.Event == "" {
			clear(now)
		}
		for _, o := range append(c.All, c.Object) {
			if u, ok := o.(*unstructured.Unstructured); ok {
				r := &v1alpha1.Release{}
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, r); err != nil {
					return err
				}
				if now[r.Name] = r; c.Event == watch.Deleted {
					delete(now, r.Name)
				}
			}
		}
		done, text, err := ended(h, now)
		tell(text)
		if err != nil {
			return err
		}
		if done {
			return over
		}
		return nil
	})
	if errors.Is(err, over) {
		return nil
	}
	return err
}

// ended says whether all Releases have, and what there is to tell of those that have not.
func ended(h held, now map[string]*v1alpha1.Release) (done bool, text string, err error) {
	var texts []string
	done = true
	for service, name := range h.ends {
		if r := now[name]; r != nil && !spec.Over(r) {
			done = false
			texts = append(texts, service+": "+leaving(r))
		}
	}
	for service, name := range h.waits {
		r := now[name]
		switch {
		case r == nil:
			return false, "", &undoneError{service, name, "somebody has deleted it"}
		case !spec.Over(r) && !undone(r):
			done = false
			texts = append(texts, service+": "+r.Status.Message)
		case r.Status.Phase != string(release.Promoted):
			return false, "", &undoneError{service, name, r.Status.Message}
		}
	}
	slices.Sort(texts)
	return done, strings.Join(texts, "; "), nil
}

// leaving says what a release that is to be undone, or is, is waited for.
func leaving(r *v1alpha1.Release) string {
	if undone(r) {
		return fmt.Sprintf("release %s is undone: what comes next begins when its pods have answered what they were asked", r.Name)
	}
	return r.Status.Message
}
