package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
)

const (
	// finalizer is on a Release as long as there is something to be put back.
	finalizer = "bight.dev/release"
	// manager is the field manager of what a release changes.
	manager = "bight-release"
	// turning is how long every node may take to hear that the Service selects others.
	turning = 3 * time.Second
	// longestBehind is how long what was written may take to be seen.
	longestBehind = 30 * time.Second
	// calm is the least time between writes that only tell of more evidence.
	calm = time.Second
)

// finalize puts the finalizer on a Release, or takes it off.
func (d *desk) finalize(ctx context.Context, r *v1alpha1.Release, on bool) error {
	all := slices.DeleteFunc(slices.Clone(r.Finalizers), func(f string) bool { return f == finalizer })
	if on {
		all = append(all, finalizer)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"finalizers": all, "resourceVersion": r.ResourceVersion}})
	if err != nil {
		return err
	}
	_, err = d.c.dynamic.Resource(v1alpha1.Releases()).Namespace(r.Namespace).Patch(ctx, r.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
	return expected(err)
}

// expected is an error that is none: of what has changed or gone meanwhile there will be
// news.
func expected(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// engage makes a Deployment one with a canary: from now on it is the release's.
func (d *desk) engage(ctx context.Context, co *course, plan release.Plan, template *corev1.PodTemplateSpec) error {
	s := co.scene
	b := settings(s.deployment)
	if other := beforeOf(s.deployment); other != nil {
		b = *other // of the release that this one takes the place of
	} else {
		b.Stable = s.setOf(&s.deployment.Spec.Template).Labels[hashLabel]
	}
	b.Release, b.Service, b.Template = co.r.UID, co.r.Spec.Service, ""
	old := s.setWith(b.Stable)
	if old == nil {
		return refuse("the ReplicaSet of the version before is gone")
	}
	all, err := ports(s.service, &old.Spec.Template, template)
	if err != nil {
		return refuse("%s", err)
	}
	if err := d.pin(ctx, s, b.Stable); err != nil {
		return err
	}
	first := plan.Steps[0]
	next := s.deployment.DeepCopy()
	next.Spec.Template = *template
	held(next, release.Need(s.want(), max(first.Weight, first.Mirror), first.Least(s.want())))
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, v1alpha1.ReleasedAnnotation, string(text))
	// The doors take no generation that is less than one they have had, of another release
	// maybe. The routing is written first: nobody may see the new pods before the doors know of
	// the release.
	co.routing = &v1alpha1.Routing{
		Generation: time.Now().UnixMilli(), Selector: s.deployment.Spec.Selector.MatchLabels, Stable: b.Stable, Ports: all, Judges: judges(s, old), ByRoutes: byRoutes(co.r),
	}
	co.State.Message, co.State.Started, co.Before = "makes the first pods", co.own(), plain(&old.Spec.Template)
	if err := d.write(ctx, co); err != nil {
		return err
	}
	made, err := d.update(ctx, next)
	if apierrors.IsInvalid(err) {
		return refuse("the API server refuses the template: %s", err)
	}
	if err != nil {
		return expected(err)
	}
	co.Template = digest(plain(&made.Spec.Template))
	if err := d.write(ctx, co); err != nil {
		return err
	}
	return d.sign(ctx, made, b, co.Template)
}

// sign notes at a Deployment by which template it is known to be a release's still, which is what the API server has made
// of it: for those who find it without the Release.
func (d *desk) sign(ctx context.Context, made *appsv1.Deployment, b before, template string) error {
	b.Template = template
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": made.ResourceVersion, "annotations": map[string]any{v1alpha1.ReleasedAnnotation: string(text)},
	}})
	if err != nil {
		return err
	}
	_, err = d.c.typed.AppsV1().Deployments(made.Namespace).Patch(ctx, made.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
	return expected(err) // without it the settings tell
}

// update writes a Deployment. Until that is seen, nothing is decided.
func (d *desk) update(ctx context.Context, next *appsv1.Deployment) (*appsv1.Deployment, error) {
	made, err := d.c.typed.AppsV1().Deployments(next.Namespace).Update(ctx, next, metav1.UpdateOptions{FieldManager: manager})
	if err == nil {
		d.wrote, d.wroteAt = made, time.Now()
	}
	return made, err
}

// behind reports whether a Deployment is as it was before the desk has written it last. Who
// decided by that would take the desk's own change for somebody's. What is not seen for so
// long never will be, as where a cluster was restored.
func (d *desk) behind(seen *appsv1.Deployment) bool {
	return seen != nil && d.wrote != nil && seen.UID == d.wrote.UID && seen.Generation < d.wrote.Generation &&
		time.Since(d.wroteAt) < longestBehind
}

// judges is how many node agents may come to judge alone: those that have pods of
// stable now, and as many again.
func judges(s scene, stable *appsv1.ReplicaSet) int32 {
	nodes := map[string]bool{}
	for _, p := range s.podsOf(stable) {
		nodes[p.Spec.NodeName] = true
	}
	return max(4, 2*int32(len(nodes)))
}

// pin has the Services that lead to the Deployment select the pods with a hash alone.
func (d *desk) pin(ctx context.Context, s scene, hash string) error {
	for _, service := range s.leading() {
		if err := d.c.selectHash(ctx, service, hash); err != nil {
			return err
		}
	}
	return nil
}

// unpin has the Services select the pods of any version again, unless the Deployment is
// another release's, and removes the preview.
func (d *desk) unpin(ctx context.Context, co *course) error {
	if err := d.unpreview(ctx, co); err != nil {
		return err
	}
	if s := co.scene; s.deployment != nil && beforeOf(s.deployment) != nil {
		return nil
	}
	var hashes []string
	if co.routing != nil {
		hashes = []string{co.routing.Stable, co.routing.Canary}
	}
	for _, service := range co.scene.pinned(hashes...) {
		if err := d.c.selectHash(ctx, service, ""); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) selectHash(ctx context.Context, service *corev1.Service, hash string) error {
	if service.Spec.Selector[hashLabel] == hash {
		return nil
	}
	var value any
	if hash != "" {
		value = hash
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"selector": map[string]any{hashLabel: value}}})
	if err != nil {
		return err
	}
	_, err = c.typed.CoreV1().Services(service.Namespace).Patch(ctx, service.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("have Service %s select the pods of one version: %w", service.Name, err)
	}
	return nil
}

// scale makes the canary's pods so many. More of them the Deployment's controller makes,
// fewer it does not.
func (d *desk) scale(ctx context.Context, co *course, pods int32) error {
	s := co.scene
	stable, canary := co.sets()
	next := s.deployment.DeepCopy()
	held(next, max(pods, 1))
	if was := s.deployment.Spec.Strategy.RollingUpdate; was == nil || was.MaxSurge == nil || was.MaxSurge.IntVal != max(pods, 1) || s.deployment.Spec.MinReadySeconds != never {
		_, err := d.update(ctx, next)
		return expected(err)
	}
	if canary == nil || canary == stable || stable == nil || canary.Spec.Replicas == nil || stable.Spec.Replicas == nil ||
		s.deployment.Status.ObservedGeneration < s.deployment.Generation {
		return nil
	}
	if *stable.Spec.Replicas < s.want() { // a scaler has wanted more, and the canary got some of them
		return d.resize(ctx, stable, s.want())
	}
	// A gateway hears late of a pod that ends: that waits until it leads there no more.
	if *canary.Spec.Replicas > max(pods, 1) && !byRoutes(co.r) {
		return d.resize(ctx, canary, max(pods, 1))
	}
	return nil
}

func (d *desk) resize(ctx context.Context, rs *appsv1.ReplicaSet, pods int32) error {
	_, err := d.c.typed.AppsV1().ReplicaSets(rs.Namespace).UpdateScale(ctx, rs.Name, &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: rs.Name, Namespace: rs.Namespace, ResourceVersion: rs.ResourceVersion},
		Spec:       autoscalingv1.ScaleSpec{Replicas: pods},
	}, metav1.UpdateOptions{FieldManager: manager})
	return expected(err)
}

// remake makes the ReplicaSet of stable anew, which somebody has deleted: as it was, so that
// the Deployment's own controller takes it for the same.
func (d *desk) remake(ctx context.Context, co *course) error {
	of, b := co.scene.deployment, beforeOf(co.scene.deployment)
	if b == nil || co.Before == nil {
		return nil
	}
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
		Name: of.Name + "-" + b.Stable, Namespace: of.Namespace, Labels: map[string]string{},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(of, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
	}}
	rs.Spec = appsv1.ReplicaSetSpec{Replicas: ptr.To(co.scene.want()), Selector: of.Spec.Selector.DeepCopy(), Template: *co.Before.DeepCopy()}
	if rs.Spec.Selector.MatchLabels == nil {
		rs.Spec.Selector.MatchLabels = map[string]string{}
	}
	if rs.Spec.Template.Labels == nil {
		rs.Spec.Template.Labels = map[string]string{}
	}
	maps.Copy(rs.Labels, rs.Spec.Template.Labels)
	for _, labels := range []map[string]string{rs.Labels, rs.Spec.Selector.MatchLabels, rs.Spec.Template.Labels} {
		labels[hashLabel] = b.Stable
	}
	_, err := d.c.typed.AppsV1().ReplicaSets(rs.Namespace).Create(ctx, rs, metav1.CreateOptions{FieldManager: manager})
	if apierrors.IsAlreadyExists(err) {
		return nil // there will be news of it
	}
	if err == nil {
		co.say("the version before was deleted: its pods are made anew")
	}
	return expected(err)
}

// release gives a Deployment its settings back, and a template if there is one.
func (d *desk) release(ctx context.Context, s scene, template *corev1.PodTemplateSpec) error {
	next := s.deployment.DeepCopy()
	beforeOf(s.deployment).restore(next)
	if template != nil {
		next.Spec.Template = *plain(template)
	}
	_, err := d.update(ctx, next)
	return expected(err)
}

// wind takes away what a release has put up, when it has ended: first what requests
// depend on least.
func (d *desk) wind(ctx context.Context, co *course) (time.Time, error) {
	s := co.scene
	if s.deployment == nil {
		return d.outside(ctx, co)
	}
	stable, canary := co.sets()
	if b := beforeOf(s.deployment); b != nil && b.Release == co.r.UID {
		switch {
		case byRoutes(co.r) && time.Since(co.State.Ended) < lagging:
			return co.State.Ended.Add(lagging), nil
		case byRoutes(co.r) && co.State.Phase != release.Promoted && !co.left:
			// As long as gateways lead to the canary's pods, these hand all requests back.
			done, err := d.putBack(ctx, co)
			co.left = done
			return time.Now().Add(lookBack), err
		case co.State.Phase != release.Promoted && stable != nil && co.Alone:
			// Stable's pods were made anew, and are ready: the others end after every node has
			// heard of it.
			if err := d.pin(ctx, s, co.routing.Stable); err != nil {
				return time.Time{}, err
			}
			co.Alone, co.Turned = false, time.Now()
			return co.Turned.Add(turning), d.write(ctx, co)
		case co.State.Phase != release.Promoted && stable != nil && time.Since(co.Turned) < turning:
			return co.Turned.Add(turning), nil
		case co.State.Phase != release.Promoted && stable != nil:
			return time.Time{}, d.release(ctx, s, &stable.Spec.Template)
		case co.State.Phase != release.Promoted:
			// The Deployment makes stable's pods anew, in its own way: both versions answer
			// meanwhile. Without a template there is nothing to go back to.
			if err := d.pin(ctx, s, ""); err != nil {
				return time.Time{}, err
			}
			return time.Time{}, d.release(ctx, s, co.Before)
		case co.State.Phase == release.Promoted && co.Turned.IsZero():
			// Requests that still come to the old pods are carried by their doors.
			if err := d.pin(ctx, s, co.routing.Canary); err != nil {
				return time.Time{}, err
			}
			co.Turned = time.Now()
			return co.Turned.Add(co.turning()), d.write(ctx, co)
		case co.State.Phase == release.Promoted && time.Since(co.Turned) < co.turning():
			return co.Turned.Add(co.turning()), nil
		case co.State.Phase == release.Promoted && co.carries(time.Now()):
			return co.longest(), nil // or sooner, when a node says that the last has ended
		}
		// The Service leads to the new pods, whoever leads there.
		if _, err := d.putBack(ctx, co); err != nil {
			return time.Time{}, err
		}
		return time.Time{}, d.release(ctx, s, nil)
	}
	gone := s.setWith(co.routing.Canary)
	if co.State.Phase == release.Promoted {
		gone = s.setWith(co.routing.Stable)
	}
	if gone != nil && gone != canary && len(s.pods[gone.UID]) > 0 {
		return time.Time{}, nil // they end
	}
	if err := d.unpin(ctx, co); err != nil {
		return time.Time{}, err
	}
	if done, err := d.putBack(ctx, co); err != nil || !done {
		return time.Now().Add(lookBack), err
	}
	co.pods[0], co.pods[1] = co.version(s.setWith(co.routing.Stable)), co.version(s.setWith(co.routing.Canary))
	co.routing, co.Before = nil, nil
	co.say("the other pods are gone")
	return time.Time{}, d.write(ctx, co)
}

// write writes down what is new. What only tells of more evidence waits for a moment.
func (d *desk) write(ctx context.Context, co *course) error { return d.writeOver(ctx, co, "") }

// writeOver is write, which fails with a conflict if the Release has changed since it had
// this resource version, "" for any.
func (d *desk) writeOver(ctx context.Context, co *course, version string) error {
	next, err := co.status()
	if err != nil {
		return err
	}
	was, is := *co.written, *next
	was.Doors = nil
	old, err := json.Marshal(was)
	if err != nil {
		return err
	}
	text, err := json.Marshal(is)
	if err != nil {
		return err
	}
	patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(old, text, old)
	if err != nil || string(patch) == "{}" {
		return err
	}
	key := co.essence(next)
	if key == co.told && time.Since(co.wrote) < calm {
		co.late = true
		return nil
	}
	if patch, err = co.dated(old, next); err != nil {
		return err
	}
	object := map[string]any{"status": json.RawMessage(patch)}
	if version != "" {
		object["metadata"] = map[string]string{"resourceVersion": version}
	}
	if text, err = json.Marshal(object); err != nil {
		return err
	}
	if release.Phase(next.Phase).Ended() { // this process may end, and the next of its name begin, before it has seen that
		ended := *co.r
		ended.Status = *next
		d.c.remember(&ended)
	}
	_, err = d.c.dynamic.Resource(v1alpha1.Releases()).Namespace(co.r.Namespace).Patch(ctx, co.r.Name, types.MergePatchType,
		text, metav1.PatchOptions{FieldManager: manager}, "status")
	if apierrors.IsNotFound(err) {
		err = nil // it was deleted
	}
	if err == nil {
		if next.Evidence != co.written.Evidence {
			co.bench.dirty, co.saved = false, time.Now()
			d.c.unsaved.saved(co.r.UID, co.bench.kept.Seqs, d.c.tasks.Go, func(err error) {
				d.log.Warn("batches of evidence stay, though they are written down", "err", err)
			})
		}
		co.written, co.told, co.wrote, co.late = next, key, time.Now(), false
	}
	return err
}

// dated is the patch that makes a status the next one, with the time at which it is written.
func (co *course) dated(old []byte, next *v1alpha1.ReleaseStatus) ([]byte, error) {
	co.At = time.Now().Round(0)
	raw, err := json.Marshal(co.memory)
	if err != nil {
		return nil, err
	}
	next.State.Raw = raw
	text, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	return jsonmergepatch.CreateThreeWayJSONMergePatch(old, text, old)
}

// essence is the same for statuses that differ in words and evidence only.
func (co *course) essence(s *v1alpha1.ReleaseStatus) string {
	m := co.memory
	m.State.Message, m.At = "", time.Time{}
	verdict := ""
	if s.Verdict != nil {
		verdict = s.Verdict.Is
	}
	return digest([]any{m, s.Phase, s.Route, s.Stable, s.Canary, s.Gateways, s.Events, s.Step, s.Steps, s.Convicted, verdict, s.Refused, co.r.Generation})
}

// setCondition tells kubectl wait whether a release has ended.
func setCondition(s *v1alpha1.ReleaseStatus, generation int64) {
	c := metav1.Condition{Type: "Ended", Status: metav1.ConditionFalse, Reason: s.Phase, Message: s.Message, ObservedGeneration: generation}
	if release.Phase(s.Phase).Ended() {
		c.Status = metav1.ConditionTrue
	}
	if c.Reason != "" {
		apimeta.SetStatusCondition(&s.Conditions, c)
	}
}

// digest is the same for what is the same.
func digest(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a value of the API
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
