package client

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/bightdev/bight/internal/release/config"
)

// configured is a Deployment that refers to a ConfigMap and a Secret.
func configured(d *appsv1.Deployment) {
	d.Spec.Template.Spec.Containers[0].EnvFrom = []core.EnvFromSource{
		{ConfigMapRef: &core.ConfigMapEnvSource{LocalObjectReference: core.LocalObjectReference{Name: "settings"}}},
		{SecretRef: &core.SecretEnvSource{LocalObjectReference: core.LocalObjectReference{Name: "keys"}}},
	}
}

func settings(text map[string]string) Config {
	return Config{Ref: config.Ref{Kind: config.ConfigMap, Name: "settings"}, Text: text}
}

// wishing prepares a wish, and returns the template.
func wishing(t *testing.T, s *scene, all ...Config) (string, string, error) {
	t.Helper()
	r, _, err := prepare(Wish{Deployment: "cart", Configs: all}, s)
	if err != nil {
		return "", "", err
	}
	return string(r.Spec.Template.Raw), r.Spec.Version, nil
}

func TestAnotherConfigurationIsAnotherVersion(t *testing.T) {
	s := sceneOf(t, deployed(configured), []core.Service{service("carts", nil)})
	was := config.Content{Text: map[string]string{"A": "1", "B": "2"}}
	s.configs = map[config.Ref]present{{Kind: config.ConfigMap, Name: "settings"}: {content: was}}
	template, version, err := wishing(t, s, settings(map[string]string{"B": "3"}))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Content{Text: map[string]string{"A": "1", "B": "3"}, Binary: map[string][]byte{}}
	if len(s.made) != 1 || s.made[0].base != "settings" || s.made[0].Name != config.Name("settings", want) || !s.made[0].content.Equal(want) {
		t.Errorf("made %+v", s.made)
	}
	if version != "cart:v1 with settings" || !strings.Contains(template, `"name":"`+s.made[0].Name+`"`) || strings.Contains(template, `"name":"settings"`) || !strings.Contains(template, `"name":"keys"`) {
		t.Errorf("version %q, template %s", version, template)
	}
}

func TestAVersionOfAConfigurationHasTheNextInItsPlace(t *testing.T) {
	first := config.Name("settings", config.Content{Text: map[string]string{"A": "1"}})
	d := deployed(configured)
	d.Spec.Template.Spec.Containers[0].EnvFrom[0].ConfigMapRef.Name = first
	s := sceneOf(t, d, []core.Service{service("carts", nil)})
	s.configs = map[config.Ref]present{{Kind: config.ConfigMap, Name: first}: {content: config.Content{Text: map[string]string{"A": "1"}}, base: "settings"}}
	template, _, err := wishing(t, s, settings(map[string]string{"A": "2"}))
	if err != nil || len(s.made) != 1 || strings.Contains(template, first) || config.Base(s.made[0].Name) != "settings" {
		t.Errorf("made %+v, template %s, %v", s.made, template, err)
	}
}

func TestTheSameConfigurationIsNoVersion(t *testing.T) {
	s := sceneOf(t, deployed(configured), []core.Service{service("carts", nil)})
	s.configs = map[config.Ref]present{{Kind: config.ConfigMap, Name: "settings"}: {content: config.Content{Text: map[string]string{"A": "1"}}}}
	if _, _, err := wishing(t, s, settings(map[string]string{"A": "1"})); err == nil || !strings.Contains(err.Error(), "runs exactly this already") || len(s.made) > 0 {
		t.Errorf("made %+v, %v", s.made, err)
	}
	other := Config{Ref: config.Ref{Kind: config.ConfigMap, Name: "others"}}
	if _, _, err := wishing(t, s, other); err == nil || !strings.Contains(err.Error(), "refers to no ConfigMap others: it refers to settings") {
		t.Errorf("%v", err)
	}
}

func TestStartMakesTheConfigurationFirst(t *testing.T) {
	s, c := shop(t)
	s.others["/apis/apps/v1/namespaces/shop/deployments/cart"] = deployed(configured)
	s.others["/api/v1/namespaces/shop/secrets/keys"] = map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "example.com/keys", "metadata": map[string]any{"name": "keys", "namespace": "shop"}, "data": map[string]any{"K": "b2xk"},
	}
	w := Wish{Deployment: "cart", Configs: []Config{{Ref: config.Ref{Kind: config.Secret, Name: "keys"}, Binary: map[string][]byte{"K": []byte("new")}}}}
	r, err := c.Start(t.Context(), w, silent)
	if err != nil {
		t.Fatal(err)
	}
	posts := s.posted("/api/v1/namespaces/shop/secrets")
	if len(posts) != 1 {
		t.Fatalf("posted %q", posts)
	}
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(posts[0]), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	made := o.(*core.Secret)
	if string(made.Data["K"]) != "new" || made.Immutable == nil || !*made.Immutable || made.Type != "example.com/keys" || made.Labels[config.Label] != "cart" || made.Annotations[config.Annotation] != "keys" || len(made.OwnerReferences) != 1 {
		t.Errorf("made %+v", made)
	}
	if !strings.Contains(string(r.Spec.Template.Raw), made.Name) || r.Spec.Version != "cart:v1 with keys" {
		t.Errorf("version %s, template %s", r.Spec.Version, r.Spec.Template.Raw)
	}
}

func TestRetryNeedsTheConfiguration(t *testing.T) {
	_, c := shop(t)
	template := map[string]any{"spec": map[string]any{"volumes": []any{map[string]any{"configMap": map[string]any{"name": "settings-0123456789"}}}}}
	if err := c.remembered(t.Context(), "cart-1", template); err == nil || !strings.Contains(err.Error(), "settings-0123456789, which release cart-1 refers to, is gone") {
		t.Errorf("%v", err)
	}
	if err := c.remembered(t.Context(), "cart-1", map[string]any{}); err != nil {
		t.Error(err)
	}
}

func TestMerge(t *testing.T) {
	all := Merge(nil, settings(map[string]string{"a": "1"}))
	all = Merge(all, Config{Ref: config.Ref{Kind: config.Secret, Name: "settings"}})
	all = Merge(all, settings(map[string]string{"b": "2"}))
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "2"}, all[0].Text); len(all) != 2 || diff != "" {
		t.Errorf("%+v\n%s", all, diff)
	}
}
