package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/fake"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/evidence"
	"github.com/bightdev/bight/internal/release/spec"
	"github.com/bightdev/bight/internal/release/verdict"
)

func pairsOf(node string, ids ...string) spec.Pairs {
	p := spec.Pairs{Namespace: "shop", Release: "cart-2", UID: "u", Node: node}
	for _, id := range ids {
		p.Pairs = append(p.Pairs, evidence.Pair{ID: id, Class: evidence.Failed, Version: "canary", Request: evidence.Request{Method: "GET", Target: "/" + id}})
	}
	return p
}

func TestEvidenceIsKept(t *testing.T) {
	s := &shelf{dir: t.TempDir()}
	if _, err := s.bundle("shop", "cart-2", "u"); !errors.Is(err, evidence.ErrNone) {
		t.Errorf("before there is any: %v", err)
	}
	put := func(release, file string, uid types.UID, what any) {
		t.Helper()
		if err := s.put(t.Context(), "shop", release, uid, file, what); err != nil {
			t.Fatal(err)
		}
	}
	put("cart-2", nodeFile("a"), "u", pairsOf("a", "1", "2"))
	put("cart-2", nodeFile("a"), "u", pairsOf("a", "1", "3")) // sent again
	put("cart-2", nodeFile("b"), "u", pairsOf("b", "4"))
	put("cart-2", factsFile, "u", &evidence.Bundle{Format: 1, Release: "cart-2", Why: "E = 9000"})
	put("other", nodeFile("a"), "v", pairsOf("a", "9"))
	// What the judge has heard after that counts.
	put("cart-2", pathFile, "u", heardLater{[]evidence.Point{{E: 1}, {E: 9000}}, []string{"4"}})
	b, err := s.bundle("shop", "cart-2", "u")
	if err != nil {
		t.Fatal(err)
	}
	got := b.Why
	for _, p := range b.Pairs {
		got += " " + p.ID
	}
	if got != "E = 9000 4 1 3" || len(b.Path) != 2 || !slices.Equal(b.Moved, []string{"4"}) {
		t.Errorf("there is %q, moved %v, path %v", got, b.Moved, b.Path)
	}
	// A file that is cut costs what is in it, and nothing else.
	if err := os.WriteFile(filepath.Join(s.dir, "shop", "cart-2", "u", factsFile), []byte(`{"why": "E =`), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := s.bundle("shop", "cart-2", "u"); err != nil || len(b.Pairs) != 3 || b.Why != "" || b.Release != "cart-2" {
		t.Errorf("without its facts: %+v, %v", b, err)
	}
	for _, name := range []string{"", "..", "a/b", `a\b`} {
		if err := s.put(t.Context(), "shop", name, "u", "x", 1); err == nil {
			t.Errorf("%q was taken for a name", name)
		}
		if _, err := s.bundle(name, "cart-2", "u"); !errors.Is(err, evidence.ErrNone) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestOldEvidenceIsRemoved(t *testing.T) {
	s := &shelf{dir: t.TempDir()}
	for _, release := range []string{"old", "new"} {
		if err := s.put(t.Context(), "shop", release, "u", factsFile, &evidence.Bundle{Format: 1}); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * keepBundles)
	if err := os.Chtimes(filepath.Join(s.dir, "shop", "old", "u"), old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(s.dir, "shop", "old", "u", factsFile), old, old); err != nil {
		t.Fatal(err)
	}
	if err := s.sweep(time.Now().Add(-keepBundles), time.Now(), eachBundles, mostBundles); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "shop", "old")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old one is there: %v", err)
	}
	if !s.has("shop", "new", "u", factsFile) {
		t.Error("the new one is gone")
	}
}

func TestSecretsAreTakenOutBeforeAnythingIsWritten(t *testing.T) {
	c := &Controller{Dir: t.TempDir(), Secrets: func(_ context.Context, text string) ([]string, error) {
		if strings.Contains(text, "unreadable") {
			return nil, errors.New("too much")
		}
		if strings.Contains(text, "czNjcjN0") || strings.Contains(text, "s3cr3t") {
			return []string{"s3cr3t"}, nil // it looks into what is encoded, too
		}
		return nil, nil
	}}
	p := pairsOf("a", "1")
	p.Pairs[0].Why = "the key s3cr3t is wrong, twice: s3cr3t"
	p.Pairs[0].Request.Target = "/?key=czNjcjN0&more"
	p.Pairs[0].Request.Body.Bytes = append([]byte{0xff, 0xfe, 0xfd}, "s3cr3t and more of it"...)
	if err := c.shelf().put(t.Context(), "shop", "cart-2", "u", nodeFile("a"), p); err != nil {
		t.Fatal(err)
	}
	b, err := c.shelf().bundle("shop", "cart-2", "u")
	if err != nil {
		t.Fatal(err)
	}
	if k := b.Pairs[0]; k.Why != "the key [hidden] is wrong, twice: [hidden]" || k.Request.Target != "[hidden]" {
		t.Errorf("kept is %q of %q", k.Why, k.Request.Target)
	}
	p.Pairs[0].Why = "it is unreadable to everybody"
	if err := c.shelf().put(t.Context(), "shop", "cart-2", "u", nodeFile("b"), p); err == nil || c.shelf().has("shop", "cart-2", "u", nodeFile("b")) {
		t.Errorf("what was not searched was kept: %v", err)
	}
}

func TestEvidenceIsTakenFromAgents(t *testing.T) {
	c, r := serving(t)
	c.Dir = t.TempDir()
	post := func(token string, body []byte) int {
		w := httptest.NewRecorder()
		q := httptest.NewRequest(http.MethodPost, spec.PairsPath, bytes.NewReader(body))
		q.Header.Set("Authorization", "Bearer "+token)
		c.TakePairs(w, q)
		return w.Code
	}
	p := pairsOf("a", "1")
	p.Namespace, p.Release, p.UID = r.Namespace, r.Name, r.UID
	good, _ := json.Marshal(p)
	p.UID = "another"
	strange, _ := json.Marshal(p)
	p.Release, p.UID = "cart-1", "over"
	late, _ := json.Marshal(p)
	for _, tt := range []struct {
		what, token string
		body        []byte
		want        int
	}{
		{"a stranger", strangerToken, good, 403}, {"nonsense", agentToken, []byte("{"), 400}, {"another release", agentToken, strange, 404}, {"an agent", agentToken, good, 204},
		{"a release that is over", agentToken, late, 204},
	} {
		if got := post(tt.token, tt.body); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.what, got, tt.want)
		}
	}
	b, err := c.shelf().bundle(r.Namespace, r.Name, r.UID)
	if err != nil || len(b.Pairs) != 1 || b.Pairs[0].Request.Target != "/1" {
		t.Errorf("kept is %+v, %v", b, err)
	}
}

func TestWhatDiffersBetweenVersions(t *testing.T) {
	version := func(image, level, password string, extra bool) *corev1.PodTemplateSpec {
		t := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image, Env: []corev1.EnvVar{
			{Name: "LEVEL", Value: level}, {Name: "DB_PASSWORD", Value: password},
		}}}}}
		if extra {
			t.Annotations = map[string]string{"note": "ghp_abcdefghijklmnopqrstuvwxyz0123"}
		}
		return t
	}
	got := differs(version("cart:1", "info", "a", false), version("cart:2", "debug", "b", true))
	want := []string{
		"metadata.annotations.note: [hidden] (new)",
		"spec.containers[app].env[DB_PASSWORD].value: [hidden], and another",
		"spec.containers[app].env[LEVEL].value: info -> debug",
		"spec.containers[app].image: cart:1 -> cart:2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestThePathOfEIsBounded(t *testing.T) {
	b := &bench{}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 1000 {
		v := verdict.Verdict{E: float64(i), Metrics: []verdict.Metric{{Name: "errors", N: int64(10 * i), Bad: int64(i)}}}
		b.trace(v, at.Add(time.Duration(i)*time.Second))
		b.trace(v, at.Add(time.Duration(i)*time.Second)) // nothing new
	}
	n := len(b.kept.Path)
	if n > mostPoints || n < mostPoints/4 || b.kept.Path[0].E != 0 || b.kept.Path[n-1].E < 900 {
		t.Errorf("%d points, from %v to %v", n, b.kept.Path[0], b.kept.Path[n-1])
	}
	for i := 1; i < n; i++ {
		if !b.kept.Path[i].Time.After(b.kept.Path[i-1].Time) {
			t.Fatal(fmt.Sprint("out of order: ", b.kept.Path))
		}
	}
}

// The first version of a service comes without a release: what is stable then is of the
// change that the environment has.
func TestTheChangeOfWhatIsStable(t *testing.T) {
	head := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	app := &v1alpha1.App{ObjectMeta: head("shop", "shop")}
	app.Status.Environments = []v1alpha1.EnvironmentStatus{{Name: "stage", Namespace: "shop-stage", Change: "shop-2"}, {Name: "prod", Namespace: "shop-prod", Change: "shop-1"}}
	change := &v1alpha1.Change{ObjectMeta: head("shop", "shop-2")}
	change.Spec.App = "shop"
	made := func(name, change string, phase release.Phase, at int64) *v1alpha1.Release {
		r := &v1alpha1.Release{ObjectMeta: head("shop-prod", name)}
		r.Labels = map[string]string{v1alpha1.ServiceLabel: "cart"}
		r.CreationTimestamp = metav1.Unix(at, 0)
		r.Spec.Deployment, r.Spec.Change, r.Status.Phase = "cart", change, string(phase)
		return r
	}
	r := made("cart-2", "shop/shop-2#0", release.Undone, 2)
	undone, promoted := made("cart-0", "shop/shop-0#0", release.Undone, 0), made("cart-1", "shop/shop-0#1", release.Promoted, 1)
	for _, tt := range []struct {
		name string
		of   *v1alpha1.Release
		have []runtime.Object
		want string
	}{
		{"after a promoted release", r, []runtime.Object{app, change, undone, promoted, r}, "shop/shop-0#1"},
		{"the first release", r, []runtime.Object{app, change, undone, r}, "shop/shop-1"},
		{"by hand", made("cart-3", "", release.Undone, 2), []runtime.Object{app, change}, ""},
		{"of a change that is gone", r, []runtime.Object{app, r}, ""},
	} {
		scheme := runtime.NewScheme()
		if err := v1alpha1.AddToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		c := &Controller{dynamic: fake.NewSimpleDynamicClient(scheme, tt.have...)}
		if got := c.before(t.Context(), tt.of); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// serving is a controller with one release under way, which knows the agents by agentToken.
func serving(t *testing.T) (*Controller, *v1alpha1.Release) {
	t.Helper()
	c := &Controller{Agents: "agents", Log: slog.New(slog.DiscardHandler), desks: map[types.NamespacedName]*desk{}, seen: true}
	c.typed = reviewer(new(int))
	r := &v1alpha1.Release{}
	r.Namespace, r.Name, r.UID, r.Spec.Deployment = "shop", "cart-2", "u", "cart"
	key := types.NamespacedName{Namespace: "shop", Name: "cart"}
	c.desks[key] = newDesk(c, key)
	c.desks[key].releases[r.UID] = r
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	over := &v1alpha1.Release{}
	over.Namespace, over.Name, over.UID = "shop", "cart-1", "over"
	c.dynamic = fake.NewSimpleDynamicClient(scheme, over)
	return c, r
}
