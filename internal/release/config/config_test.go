package config

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const template = `{"spec": {
  "imagePullSecrets": [{"name": "pull"}],
  "volumes": [
    {"name": "a", "configMap": {"name": "cart"}}, {"name": "b", "secret": {"secretName": "keys"}},
    {"name": "c", "projected": {"sources": [{"configMap": {"name": "cart"}}, {"secret": {"name": "keys"}}, {"downwardAPI": {}}]}},
    {"name": "d", "emptyDir": {}}],
  "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "cart"}}]}],
  "containers": [{"name": "c",
    "env": [{"name": "A", "value": "cart"}, {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "cart", "key": "b"}}},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "other", "key": "c"}}}],
    "envFrom": [{"secretRef": {"name": "keys"}}]}]}}`

func read(t *testing.T) map[string]any {
	t.Helper()
	out := map[string]any{}
	if err := json.Unmarshal([]byte(template), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRefs(t *testing.T) {
	want := []Ref{{ConfigMap, "cart"}, {Secret, "keys"}, {Secret, "other"}}
	if diff := cmp.Diff(want, Refs(read(t))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := Refs(map[string]any{"spec": "none"}); len(got) > 0 {
		t.Errorf("of what is no template, %v", got)
	}
}

func TestReplace(t *testing.T) {
	got := read(t)
	if n := Replace(got, map[Ref]string{{ConfigMap, "cart"}: "cart-2", {Secret, "keys"}: "keys-2"}); n != 7 {
		t.Errorf("%d places", n)
	}
	text := strings.NewReplacer(`"name": "cart"`, `"name": "cart-2"`, `"keys"`, `"keys-2"`).Replace(template)
	want := map[string]any{}
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNames(t *testing.T) {
	one := Content{Text: map[string]string{"a": "1"}}
	name := Name("cart", one)
	if Base(name) != "cart" || name != Name("cart", Content{Text: map[string]string{"a": "1"}}) || name == Name("cart", one.With(map[string]string{"a": "2"}, nil)) {
		t.Errorf("%s", name)
	}
	if long := Name(strings.Repeat("x", 253), one); len(long) != 253 || Base(long) == "" {
		t.Errorf("%d characters", len(long))
	}
	for _, other := range []string{"cart", "cart-2", "-0123456789", "cart-0123456789a"} {
		if Base(other) != "" {
			t.Errorf("%s is a version of %s", other, Base(other))
		}
	}
}

func TestWith(t *testing.T) {
	was := Content{Text: map[string]string{"a": "1", "b": "2"}, Binary: map[string][]byte{"c": {3}}}
	got := was.With(map[string]string{"c": "text"}, map[string][]byte{"b": {0xff}})
	if !got.Equal(Content{Text: map[string]string{"a": "1", "c": "text"}, Binary: map[string][]byte{"b": {0xff}}}) {
		t.Errorf("%v", got)
	}
	if !was.With(nil, nil).Equal(was) || was.Equal(got) {
		t.Error("nothing changed is something")
	}
}

func TestDiffers(t *testing.T) {
	before := Content{Text: map[string]string{"same": "x", "gone": "x", "app.yaml": "a: 1\nb: 2\ntoken: abc\n"}, Binary: map[string][]byte{"logo": {1}}}
	now := Content{Text: map[string]string{"same": "x", "new": "y", "app.yaml": "a: 1\nb: 3\ntoken: def\n"}, Binary: map[string][]byte{"logo": {2}}}
	hide := func(l string) string {
		if strings.HasPrefix(l, "token") {
			return "token: …"
		}
		return l
	}
	want := []string{"app.yaml: -b: 2", "app.yaml: -token: …", "app.yaml: +b: 3", "app.yaml: +token: …", "gone: gone", "logo: other bytes", "new: +y"}
	if diff := cmp.Diff(want, Differs(before, now, hide)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	long := Content{Text: map[string]string{"a": strings.Repeat("x\n", 30)}}
	if got := Differs(Content{}, long, hide); len(got) != mostLines+1 || got[mostLines] != "a: and 20 lines more" {
		t.Errorf("%q", got)
	}
	if got := Differs(long, long, hide); len(got) > 0 {
		t.Errorf("%q", got)
	}
	order := Differs(Content{Text: map[string]string{"a": "1\n2\n"}}, Content{Text: map[string]string{"a": "2\n1\n"}}, hide)
	if len(order) != 1 || !strings.Contains(order[0], "another order") {
		t.Errorf("%q", order)
	}
}

func TestOfSecretsOnlyTheKeysAreTold(t *testing.T) {
	before := Content{Binary: map[string][]byte{"same": []byte("s1"), "other": []byte("s2"), "gone": []byte("s3")}}
	now := Content{Binary: map[string][]byte{"same": []byte("s1"), "other": []byte("s4"), "new": []byte("s5")}}
	if diff := cmp.Diff([]string{"gone: gone", "new: new", "other: another"}, DiffersSecretly(before, now)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
