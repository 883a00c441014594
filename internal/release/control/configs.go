package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release/config"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
)

const (
	// pruneEvery is how often configuration that nobody refers to is looked for.
	pruneEvery = 15 * time.Second
	// fresh is for how long a new one may wait for the release that it is made for.
	fresh = 30 * time.Second
)

// prune removes configuration of versions that no pod can come to have any more, until ctx
// ends.
func (c *Controller) prune(ctx context.Context) {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for {
		if err := c.pruneOnce(ctx, time.Now()); err != nil && ctx.Err() == nil {
			c.Log.Warn("configuration of old versions is not removed", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (c *Controller) pruneOnce(ctx context.Context, now time.Time) error {
	// What is a moment old will do, and costs the API server little.
	which := metav1.ListOptions{LabelSelector: config.Label, ResourceVersion: "0"}
	maps, err := c.typed.CoreV1().ConfigMaps("").List(ctx, which)
	if err != nil {
		return err
	}
	secrets, err := c.typed.CoreV1().Secrets("").List(ctx, which)
	if err != nil {
		return err
	}
	found := map[string]map[config.Ref]metav1.ObjectMeta{}
	add := func(kind string, m metav1.ObjectMeta) {
		if found[m.Namespace] == nil {
			found[m.Namespace] = map[config.Ref]metav1.ObjectMeta{}
		}
		found[m.Namespace][config.Ref{Kind: kind, Name: m.Name}] = m
	}
	for _, m := range maps.Items {
		add(config.ConfigMap, m.ObjectMeta)
	}
	for _, s := range secrets.Items {
		add(config.Secret, s.ObjectMeta)
	}
	var errs []error
	for namespace, all := range found {
		templates, err := c.templates(ctx, namespace)
		if err != nil {
			return err
		}
		for _, r := range unused(all, templates, now) {
			errs = append(errs, c.removeConfig(ctx, namespace, r, all[r]))
		}
	}
	return errors.Join(errs...)
}

// unused are those of some ConfigMaps and Secrets that no template refers to, and that are
// not just made.
func unused(all map[config.Ref]metav1.ObjectMeta, templates []map[string]any, now time.Time) (out []config.Ref) {
	used := map[config.Ref]bool{}
	for _, t := range templates {
		for _, r := range config.Refs(t) {
			used[r] = true
		}
	}
	for r, m := range all {
		if !used[r] && m.DeletionTimestamp == nil && now.Sub(m.CreationTimestamp.Time) > fresh {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b config.Ref) int { return strings.Compare(a.Kind+a.Name, b.Kind+b.Name) })
	return out
}

// templates are all by which pods of a namespace may be made: those of ReplicaSets, which
// may come back as long as they are there, of Deployments, and of releases under way.
func (c *Controller) templates(ctx context.Context, namespace string) (out []map[string]any, err error) {
	sets, err := c.typed.AppsV1().ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	deployments, err := c.typed.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	list, err := c.dynamic.Resource(v1alpha1.Releases()).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, rs := range sets.Items {
		out = append(out, fieldsOf(&rs.Spec.Template))
	}
	for _, d := range deployments.Items {
		out = append(out, fieldsOf(&d.Spec.Template))
	}
	for _, u := range list.Items {
		r := &v1alpha1.Release{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, r); err != nil {
			return nil, fmt.Errorf("read Release %s: %w", u.GetName(), err)
		}
		if spec.Over(r) {
			continue
		}
		for _, at := range [][]string{{"spec", "template"}, {"status", "state", "before"}} { // and what it may go back to
			if template, ok, _ := unstructured.NestedMap(u.Object, at...); ok {
				out = append(out, template)
			}
		}
	}
	return out, nil
}

// fieldsOf is a template as JSON has it.
func fieldsOf(t *corev1.PodTemplateSpec) map[string]any {
	out, err := runtime.DefaultUnstructuredConverter.ToUnstructured(t)
	if err != nil {
		panic(err) // a type of the API
	}
	return out
}

func (c *Controller) removeConfig(ctx context.Context, namespace string, r config.Ref, m metav1.ObjectMeta) error {
	only := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &m.UID}}
	var err error
	if r.Kind == config.Secret {
		err = c.typed.CoreV1().Secrets(namespace).Delete(ctx, r.Name, only)
	} else {
		err = c.typed.CoreV1().ConfigMaps(namespace).Delete(ctx, r.Name, only)
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove %s %s/%s: %w", r.Kind, namespace, r.Name, err)
	}
	return nil
}

// configDiffers says what differs between the configuration of two versions, a line each:
// of ConfigMaps the lines, without what the rules hide; of Secrets, and where these keep no
// bodies, only the keys.
func (c *Controller) configDiffers(ctx context.Context, namespace string, stable, canary *appsv1.ReplicaSet, hide *evidence.Rules) (out []string) {
	was := map[config.Ref]string{} // by what it is a version of
	for _, r := range config.Refs(fieldsOf(&stable.Spec.Template)) {
		was[config.Ref{Kind: r.Kind, Name: baseOf(r.Name)}] = r.Name
	}
	for _, r := range config.Refs(fieldsOf(&canary.Spec.Template)) {
		old, has := was[config.Ref{Kind: r.Kind, Name: baseOf(r.Name)}]
		if !has || old == r.Name {
			continue
		}
		before, err := c.content(ctx, namespace, config.Ref{Kind: r.Kind, Name: old})
		now, wrong := c.content(ctx, namespace, r)
		var lines []string
		switch {
		case err != nil || wrong != nil: // it is known from the template that it differs
		case r.Kind == config.Secret || hide.NoBodies:
			lines = config.DiffersSecretly(before, now)
		default:
			lines = config.Differs(before, now, func(line string) string { return hideLine(hide, line) })
		}
		for _, l := range lines {
			out = append(out, r.Kind+" "+baseOf(r.Name)+": "+l)
		}
	}
	return out
}

// baseOf is what an object is a version of, or its own name.
func baseOf(name string) string {
	if base := config.Base(name); base != "" {
		return base
	}
	return name
}

// hideLine takes out of a line of a configuration what is secret by its name or its looks.
func hideLine(rules *evidence.Rules, line string) string {
	i := strings.IndexAny(line, ":=")
	if i > 0 && strings.TrimSpace(line[i+1:]) != "" && rules.Secret(strings.Trim(line[:i], " \t\"'-")) {
		return line[:i+1] + " " + evidence.Hidden
	}
	return evidence.Text(line)
}

// content is what is in a ConfigMap or a Secret.
func (c *Controller) content(ctx context.Context, namespace string, r config.Ref) (config.Content, error) {
	if r.Kind == config.Secret {
		s, err := c.typed.CoreV1().Secrets(namespace).Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil {
			return config.Content{}, err
		}
		return config.Content{Binary: s.Data}, nil
	}
	m, err := c.typed.CoreV1().ConfigMaps(namespace).Get(ctx, r.Name, metav1.GetOptions{})
	if err != nil {
		return config.Content{}, err
	}
	return config.Content{Text: m.Data, Binary: m.BinaryData}, nil
}
