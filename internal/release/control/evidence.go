package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

const (
	// maxPairs is more than a node sends at once.
	maxPairs = 16 << 20
	// keepBundles is for how long evidence is kept, and sweepEvery how often it is looked
	// for what is older, or too much.
	keepBundles, sweepEvery = 7 * 24 * time.Hour, 10 * time.Minute
	// eachBundles is what that of a namespace may take, and mostBundles what all may; what is
	// fresher than this stays in any case.
	eachBundles, mostBundles, freshBundles = 256 << 20, 1 << 30, 10 * time.Minute
	// logLines and logBytes are what is kept of a pod's log.
	logLines, logBytes = 200, 64 << 10
	// factPods is of how many pods more is kept than that they were there.
	factPods = 5
)

// TakePairs takes what node agents have kept of requests: see [spec.PairsPath].
func (c *Controller) TakePairs(w http.ResponseWriter, r *http.Request) {
	if !c.fromAgent(w, r) {
		return
	}
	// Every node comes at the same moment, and comes again.
	if !c.taking.TryLock() {
		http.Error(w, "the evidence of another node is being taken", http.StatusServiceUnavailable)
		return
	}
	defer c.taking.Unlock()
	var p spec.Pairs
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPairs)).Decode(&p); err != nil {
		http.Error(w, fmt.Sprintf("that is no evidence: %v", err), http.StatusBadRequest)
		return
	}
	release, known := c.wants(p.Namespace, p.UID)
	if release == "" && known { // it is over, which it was not when the node set out
		if uid, err := c.uidOf(r.Context(), p.Namespace, p.Release); err == nil && uid == p.UID {
			release = p.Release
		}
	}
	switch {
	case !known:
		http.Error(w, "the releases are not known yet", http.StatusServiceUnavailable)
		return
	case release == "":
		http.Error(w, "there is no such release under way", http.StatusNotFound)
		return
	}
	p.Release = release
	err := c.shelf().keepNode(&p)
	if p.Record = nil; err == nil && len(p.Pairs) > 0 {
		err = c.shelf().put(r.Context(), p.Namespace, p.Release, p.UID, nodeFile(p.Node), p)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// wants names a release that has something left to do here, "" if it has not.
func (c *Controller) wants(namespace string, uid types.UID) (release string, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, d := range c.desks {
		if key.Namespace == namespace {
			if name := d.named(uid); name != "" {
				return name, true
			}
		}
	}
	return "", c.seen
}

func (d *desk) named(uid types.UID) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.releases[uid]; r != nil {
		return r.Name
	}
	return ""
}

// GiveBundle serves the evidence of a release: see [spec.BundlePath].
func (c *Controller) GiveBundle(w http.ResponseWriter, r *http.Request) {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")
	uid, err := c.uidOf(r.Context(), namespace, name)
	var b *evidence.Bundle
	if err == nil {
		b, err = c.shelf().bundle(namespace, name, uid)
	}
	switch {
	case errors.Is(err, evidence.ErrNone):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(b) // who asked is gone if it fails
}

// uidOf is that of a Release, or evidence.ErrNone: of one that is no more, nobody may know
// anything. The namespace may be somebody else's by now.
func (c *Controller) uidOf(ctx context.Context, namespace, name string) (types.UID, error) {
	u, err := c.dynamic.Resource(v1alpha1.Releases()).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", evidence.ErrNone
	}
	if err != nil {
		return "", err
	}
	return u.GetUID(), nil
}

func (c *Controller) shelf() *shelf { return &shelf{dir: c.Dir, hide: c.hide} }

// hide takes out of a JSON text what looks like a secret: each string in it is searched by
// itself, and one whose secret can't be found again goes as a whole. What can't be searched
// is not kept.
func (c *Controller) hide(ctx context.Context, text []byte) ([]byte, error) {
	if c.Secrets == nil {
		return text, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	v, err := c.hideIn(ctx, "", v)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func (c *Controller) hideIn(ctx context.Context, name string, v any) (_ any, err error) {
	switch v := v.(type) {
	case map[string]any:
		for name, of := range v {
			if v[name], err = c.hideIn(ctx, name, of); err != nil {
				return nil, err
			}
		}
		return v, nil
	case []any:
		for i, of := range v {
			if v[i], err = c.hideIn(ctx, name, of); err != nil {
				return nil, err
			}
		}
		return v, nil
	case string:
		return c.hideText(ctx, name, v)
	}
	return v, nil
}

// shortest is a text in which there is room for a secret.
const shortest = 12

func (c *Controller) hideText(ctx context.Context, name, text string) (string, error) {
	if len(text) < shortest {
		return text, nil
	}
	found, err := c.Secrets(ctx, text)
	if err != nil {
		return "", err
	}
	for _, s := range found {
		switch {
		case strings.Contains(evidence.Hidden, s):
		case name == "base64":
			return "", nil // of bytes nothing can be replaced
		case !strings.Contains(text, s):
			return evidence.Hidden, nil // it was decoded
		default:
			text = strings.ReplaceAll(text, s, evidence.Hidden)
		}
	}
	return text, nil
}

// sweep removes old evidence, until ctx ends.
func (c *Controller) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		if err := c.shelf().sweep(time.Now().Add(-keepBundles), time.Now().Add(-freshBundles), eachBundles, mostBundles); err != nil {
			c.Log.Warn("old evidence is not removed", "err", err)
		}
		if err := c.unsaved.sweep(time.Now().Add(-keepBundles)); err != nil {
			c.Log.Warn("old batches of evidence are not removed", "err", err)
		}
		if err := c.past.sweep(time.Now().Add(-keepPast)); err != nil {
			c.Log.Warn("what is kept of old releases is not removed", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// shelve keeps, in the background, what is known of a release whose version was just
// shut out: its pods are there for a moment more.
func (d *desk) shelve(ctx context.Context, co *course) {
	if !co.State.Route.Shut || co.r.Spec.Plan.Evidence.Off {
		return
	}
	if co.shelved {
		d.shelvePath(co)
		return
	}
	co.shelved = true
	r := co.r
	if d.c.shelf().has(r.Namespace, r.Name, r.UID, factsFile) {
		return
	}
	facts := co.facts()
	co.known = len(facts.Path) + len(facts.Moved)
	pods := slices.Clone(co.canaryPods())
	stable, canary := co.sets()
	d.c.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		for i := range facts.Pods[:min(len(pods), factPods)] {
			d.c.tellOfPod(ctx, &facts.Pods[i], pods[i])
		}
		if stable != nil && canary != nil && stable != canary {
			facts.Differs = append(facts.Differs, d.c.configDiffers(ctx, r.Namespace, stable, canary, spec.Evidence(r.Spec.Plan.Evidence))...)
		}
		facts.Canary.Commit = d.c.commitOf(ctx, r.Spec.Change)
		facts.Stable.Commit = d.c.commitOf(ctx, d.c.before(ctx, r))
		if err := d.c.shelf().put(ctx, r.Namespace, r.Name, r.UID, factsFile, facts); err != nil {
			d.log.Warn("what is known of a release is not kept", "release", r.Name, "err", err)
		}
	})
}

// shelvePath keeps what the judge was told after a version was shut out: a node that has
// convicted it is heard at once, and what it has counted a moment later.
func (d *desk) shelvePath(co *course) {
	path, moved := co.path()
	if n := len(path) + len(moved); n > co.known {
		co.known = n
		text, err := json.Marshal(heardLater{path, moved})
		if err == nil {
			err = d.c.shelf().write(co.r.Namespace, co.r.Name, co.r.UID, pathFile, text)
		}
		if err != nil {
			d.log.Warn("how a verdict came about is not kept", "release", co.r.Name, "err", err)
		}
	}
}

// path is what E has come to, and which requests have moved it.
func (co *course) path() (path []evidence.Point, moved []string) {
	if co.bench == nil {
		return nil, nil
	}
	for _, m := range co.bench.judge.Verdict(co.bench.state).Moved {
		moved = append(moved, m.ID)
	}
	return slices.Clone(co.bench.kept.Path), moved
}

// before is the change that made what is stable: that of the release which was promoted
// last, or else, where the first version came without one, what the App's environment has.
func (c *Controller) before(ctx context.Context, r *v1alpha1.Release) string {
	var all v1alpha1.ReleaseList
	list, err := c.dynamic.Resource(v1alpha1.Releases()).Namespace(r.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: v1alpha1.ServiceLabel + "=" + r.Labels[v1alpha1.ServiceLabel],
	})
	if err != nil || runtime.DefaultUnstructuredConverter.FromUnstructured(list.UnstructuredContent(), &all) != nil {
		return ""
	}
	slices.SortFunc(all.Items, func(a, b v1alpha1.Release) int { return -spec.Compare(&a, &b) })
	for i := range all.Items {
		if o := &all.Items[i]; release.Phase(o.Status.Phase) == release.Promoted && spec.Compare(o, r) < 0 {
			return o.Spec.Change
		}
	}
	return c.deployed(ctx, r)
}

// deployed is the change that the environment has which a release of a change is in, "" if
// that is not known.
func (c *Controller) deployed(ctx context.Context, r *v1alpha1.Release) string {
	change, _, _ := strings.Cut(r.Spec.Change, "#")
	namespace, name, ok := strings.Cut(change, "/")
	if !ok {
		return ""
	}
	var m v1alpha1.Change
	var a v1alpha1.App
	u, err := c.dynamic.Resource(v1alpha1.Changes()).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil || runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &m) != nil {
		return ""
	}
	u, err = c.dynamic.Resource(v1alpha1.Apps()).Namespace(namespace).Get(ctx, m.Spec.App, metav1.GetOptions{})
	if err != nil || runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &a) != nil {
		return ""
	}
	for _, e := range a.Status.Environments {
		if e.Namespace == r.Namespace && e.Change != "" && e.Change != name {
			return namespace + "/" + e.Change
		}
	}
	return ""
}

// commitOf is the commit that came of a change, NAMESPACE/NAME#ATTEMPT, "" if that is not
// known.
func (c *Controller) commitOf(ctx context.Context, change string) string {
	change, _, _ = strings.Cut(change, "#")
	namespace, name, ok := strings.Cut(change, "/")
	if !ok {
		return ""
	}
	u, err := c.dynamic.Resource(v1alpha1.Changes()).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	var m v1alpha1.Change
	if err != nil || runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &m) != nil {
		return ""
	}
	return cmp.Or(m.Status.Merged, m.Spec.Commit)
}

func (co *course) canaryPods() []*corev1.Pod {
	stable, canary := co.sets()
	if canary == nil || canary == stable {
		return nil
	}
	return co.scene.podsOf(canary)
}

// facts are what is known of a release now.
func (co *course) facts() *evidence.Bundle {
	r := co.r
	stable, canary := co.sets()
	b := &evidence.Bundle{
		Format: evidence.Format, Release: r.Name, Namespace: r.Namespace, UID: string(r.UID), Deployment: r.Spec.Deployment,
		Service: r.Spec.Service, Version: r.Spec.Version, Change: r.Spec.Change, Time: time.Now().Truncate(time.Millisecond),
		Why: co.State.Message, Convicted: co.State.Convicted,
		Stable: evidence.Version{Hash: co.pods[0].Hash, Image: co.pods[0].Image}, Canary: evidence.Version{Hash: co.pods[1].Hash, Image: co.pods[1].Image},
	}
	if v := co.verdict; v != nil {
		b.E, b.AbortAt = v.E, v.AbortAt
		if co.State.Convicted && v.Why != "" {
			b.Why = v.Why
		}
	}
	b.Path, b.Moved = co.path()
	if stable != nil && canary != nil && stable != canary {
		b.Differs = differs(&stable.Spec.Template, &canary.Spec.Template)
	}
	for _, p := range co.canaryPods() {
		f := evidence.PodFacts{Name: p.Name, Node: p.Spec.NodeName, Ready: isReady(p)}
		for _, c := range p.Status.ContainerStatuses {
			f.Restarts += c.RestartCount
			if t := c.LastTerminationState.Terminated; t != nil {
				f.Last = fmt.Sprintf("%s: %s, exit code %d", c.Name, t.Reason, t.ExitCode)
			}
		}
		b.Pods = append(b.Pods, f)
	}
	return b
}

// tellOfPod adds a pod's events and the end of its log.
func (c *Controller) tellOfPod(ctx context.Context, f *evidence.PodFacts, p *corev1.Pod) {
	events, err := c.typed.CoreV1().Events(p.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(p.UID)})
	if err == nil {
		slices.SortFunc(events.Items, func(a, b corev1.Event) int { return happened(a).Compare(happened(b)) })
		for _, e := range events.Items {
			f.Events = append(f.Events, evidence.Text(fmt.Sprintf("%s %s: %s", happened(e).UTC().Format(time.RFC3339), e.Reason, e.Message)))
		}
	}
	for _, container := range p.Spec.Containers {
		for _, previous := range []bool{f.Restarts > 0, false} { // how it ended tells more
			text := c.logOf(ctx, p, container.Name, previous)
			if text == "" {
				continue
			}
			if len(p.Spec.Containers) > 1 {
				f.Log += "== " + container.Name + "\n"
			}
			f.Log += evidence.Text(text)
			break
		}
	}
}

// happened is when an event was last seen, which those who make events say in three ways.
func happened(e corev1.Event) time.Time {
	for _, at := range []time.Time{e.LastTimestamp.Time, e.EventTime.Time} {
		if !at.IsZero() {
			return at
		}
	}
	return e.CreationTimestamp.Time
}

func (c *Controller) logOf(ctx context.Context, p *corev1.Pod, container string, previous bool) string {
	r, err := c.typed.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, TailLines: ptr.To[int64](logLines), LimitBytes: ptr.To[int64](logBytes),
	}).Stream(ctx)
	if err != nil {
		return "" // there is none
	}
	defer r.Close()
	text, _ := io.ReadAll(r) // what came before an error tells something too
	return string(text)
}

// mostPoints is how many points of E's path are kept.
const mostPoints = 64

// trace keeps what E has come to. When there are many points, every other is dropped.
func (b *bench) trace(v verdict.Verdict, at time.Time) {
	s := status(v)
	p := evidence.Point{Time: at.Truncate(time.Millisecond), E: v.E, Requests: s.Requests, Errors: s.Errors}
	if n := len(b.kept.Path); n > 0 {
		last := b.kept.Path[n-1]
		if last.Errors == p.Errors && last.E == p.E && (p.Requests == last.Requests || p.Time.Sub(last.Time) < 5*time.Second) {
			return
		}
	}
	if b.kept.Path = append(b.kept.Path, p); len(b.kept.Path) > mostPoints {
		kept := b.kept.Path[:0]
		for i, p := range b.kept.Path {
			if i%2 == 0 {
				kept = append(kept, p)
			}
		}
		b.kept.Path = kept
	}
}
