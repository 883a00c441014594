package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/bightdev/bight/internal/release/config"
)

// Config is what somebody wants to be in a ConfigMap, or a Secret, of the new version. Keys
// that are not among its own stay as they are.
type Config struct {
	config.Ref
	Text   map[string]string // none of a Secret
	Binary map[string][]byte
}

// present is a ConfigMap or a Secret as it is.
type present struct {
	content config.Content
	base    string // what it is a version of, "" for nothing
	kind    core.SecretType
}

// configs reads the ConfigMaps and Secrets that a wish is about: those that the Deployment
// refers to by the names of the wish, or to versions of these.
func (c *Client) configs(ctx context.Context, w Wish, s *scene) error {
	s.configs = map[config.Ref]present{}
	for _, r := range config.Refs(s.template()) {
		for _, want := range w.Configs {
			if r.Kind != want.Kind || r.Name != want.Name && config.Base(r.Name) != want.Name {
				continue
			}
			p, err := c.present(ctx, r)
			if apierrors.IsNotFound(err) {
				continue // it may be, if the reference is optional
			}
			if err != nil {
				return fmt.Errorf("read %s %s: %w", r.Kind, r.Name, c.cluster.Explain(err))
			}
			if r.Name == want.Name || p.base == want.Name {
				s.configs[r] = p
			}
		}
	}
	return nil
}

func (c *Client) present(ctx context.Context, r config.Ref) (present, error) {
	if r.Kind == config.Secret {
		o, err := c.typed.CoreV1().Secrets(c.namespace).Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil {
			return present{}, err
		}
		return present{config.Content{Binary: o.Data}, o.Annotations[config.Annotation], o.Type}, nil
	}
	o, err := c.typed.CoreV1().ConfigMaps(c.namespace).Get(ctx, r.Name, metav1.GetOptions{})
	if err != nil {
		return present{}, err
	}
	return present{config.Content{Text: o.Data, Binary: o.BinaryData}, o.Annotations[config.Annotation], ""}, nil
}

// made is a ConfigMap or a Secret of the new version.
type made struct {
	config.Ref
	base    string
	content config.Content
	kind    core.SecretType
}

// configure has a template refer to new versions of the ConfigMaps and Secrets that a wish
// is about, where these differ from what is there, and returns them, with their names as
// people know them.
func configure(w Wish, s *scene, template map[string]any) (all []made, names []string, err error) {
	by := map[config.Ref]string{}
	for _, want := range w.Configs {
		refs := slices.DeleteFunc(config.Refs(template), func(r config.Ref) bool {
			p, there := s.configs[r]
			return r.Kind != want.Kind || r.Name != want.Name && (!there || p.base != want.Name)
		})
		if len(refs) == 0 {
			return nil, nil, refuse("deployment %s refers to no %s %s: it refers to %s", w.Deployment, want.Kind, want.Name, referred(template, want.Kind))
		}
		// Of several it is the version, which is last in order.
		last := refs[len(refs)-1]
		was := s.configs[last]
		next := was.content.With(want.Text, want.Binary)
		if next.Equal(was.content) {
			continue
		}
		m := made{config.Ref{Kind: want.Kind, Name: config.Name(want.Name, next)}, want.Name, next, was.kind}
		for _, r := range refs {
			by[r] = m.Name
		}
		all, names = append(all, m), append(names, want.Name)
	}
	config.Replace(template, by)
	return all, names, nil
}

// referred names what a template refers to.
func referred(template map[string]any, kind string) string {
	var names []string
	for _, r := range config.Refs(template) {
		if r.Kind == kind {
			names = append(names, r.Name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return some(names)
}

// makeConfigs makes the ConfigMaps and Secrets of a version. What is there already is the
// same, by its name. What nothing comes to refer to is removed by the controller: here nobody
// knows whether another has begun a release with it meanwhile.
func (c *Client) makeConfigs(ctx context.Context, s *scene) error {
	for _, m := range s.made {
		head := metav1.ObjectMeta{
			Name: m.Name, Namespace: c.namespace, Labels: map[string]string{config.Label: s.deployment.Name},
			Annotations: map[string]string{config.Annotation: m.base},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment", Name: s.deployment.Name, UID: s.deployment.UID,
			}},
		}
		immutable := true
		var err error
		if m.Kind == config.Secret {
			_, err = c.typed.CoreV1().Secrets(c.namespace).Create(ctx,
				&core.Secret{ObjectMeta: head, Immutable: &immutable, Type: m.kind, Data: m.content.Binary}, metav1.CreateOptions{FieldManager: manager})
		} else {
			_, err = c.typed.CoreV1().ConfigMaps(c.namespace).Create(ctx,
				&core.ConfigMap{ObjectMeta: head, Immutable: &immutable, Data: m.content.Text, BinaryData: m.content.Binary}, metav1.CreateOptions{FieldManager: manager})
		}
		if apierrors.IsAlreadyExists(err) {
			err = c.wantAgain(ctx, m)
		}
		if err != nil {
			return fmt.Errorf("make %s %s: %w", m.Kind, m.Name, c.cluster.Explain(err))
		}
	}
	return nil
}

// wantAgain has the controller leave alone what is there from before until the release has begun.
func (c *Client) wantAgain(ctx context.Context, m made) (err error) {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, config.Wanted, time.Now().UTC().Format(time.RFC3339))
	how := metav1.PatchOptions{FieldManager: manager}
	if m.Kind == config.Secret {
		_, err = c.typed.CoreV1().Secrets(c.namespace).Patch(ctx, m.Name, types.MergePatchType, patch, how)
	} else {
		_, err = c.typed.CoreV1().ConfigMaps(c.namespace).Patch(ctx, m.Name, types.MergePatchType, patch, how)
	}
	return err
}

// remembered refuses a version whose configuration is gone, with the ReplicaSets that it was
// kept for.
func (c *Client) remembered(ctx context.Context, name string, template map[string]any) error {
	for _, r := range config.Refs(template) {
		if config.Base(r.Name) == "" {
			continue
		}
		if _, err := c.present(ctx, r); apierrors.IsNotFound(err) {
			return refuse("%s %s, which release %s refers to, is gone: nothing has referred to it for a while; begin it anew with bight release start", r.Kind, r.Name, name)
		}
	}
	return nil
}

// Merge adds to configs one more, which is about the same object as one of them maybe.
func Merge(all []Config, c Config) []Config {
	i := slices.IndexFunc(all, func(x Config) bool { return x.Ref == c.Ref })
	if i < 0 {
		return append(all, c)
	}
	maps.Copy(all[i].Text, c.Text)
	maps.Copy(all[i].Binary, c.Binary)
	return all
}
