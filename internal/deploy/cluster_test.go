//go:build e2e

package deploy

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/bightdev/bight/internal/app"
)

// harness is a namespace of its own on the cluster of the tests, and an Applier
// whose requests are counted.
type harness struct {
	testing.TB
	ctx       context.Context
	namespace string
	config    *rest.Config
	admin     kubernetes.Interface
	applier   *Applier
	requests  *requests
}

type requests struct {
	mu    sync.Mutex
	lines []string
	// watched, if not nil, gets a value when pods are watched.
	watched chan struct{}
}

// take returns the requests since the last call, sorted.
func (r *requests) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lines
	r.lines = nil
	slices.Sort(l)
	return l
}

func newHarness(t testing.TB) *harness {
	t.Helper()
	file := os.Getenv("BIGHT_TEST_KUBECONFIG")
	if file == "" {
		t.Fatal("BIGHT_TEST_KUBECONFIG is not set: run these tests with make test, which starts a cluster for them")
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	h := &harness{TB: t, ctx: ctx, namespace: "deploy-" + strings.ToLower(rand.Text()[:8]), config: config, requests: &requests{}}
	h.admin = kubernetes.NewForConfigOrDie(config)
	h.applier = h.as("")
	t.Cleanup(func() {
		err := h.admin.CoreV1().Namespaces().Delete(context.Background(), h.namespace, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return h
}

// as makes an Applier that acts for a user; "" is the administrator.
func (h *harness) as(user string) *Applier {
	c := rest.CopyConfig(h.config)
	c.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		return &shared{h.requests, rt}
	})
	if user != "" {
		c.Impersonate = rest.ImpersonationConfig{UserName: user}
	}
	return &Applier{Client: kubernetes.NewForConfigOrDie(c), Dynamic: dynamic.NewForConfigOrDie(c)}
}

// shared counts into one place for several transports.
type shared struct {
	*requests
	next http.RoundTripper
}

func (s *shared) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.lines = append(s.lines, req.Method+" "+req.URL.Path)
	if s.watched != nil && req.URL.Query().Get("watch") == "true" && strings.HasSuffix(req.URL.Path, "/pods") {
		select {
		case s.watched <- struct{}{}:
		default: // it was watched before
		}
	}
	s.mu.Unlock()
	return s.next.RoundTrip(req)
}

func (h *harness) ensure() {
	h.Helper()
	if created, err := h.applier.EnsureNamespace(h.ctx, h.namespace, nil); err != nil || !created {
		h.Fatalf("EnsureNamespace = %v, %v; want true", created, err)
	}
}

func (h *harness) options() RenderOptions {
	o := sandboxOptions()
	o.Environment = h.namespace
	for name := range o.Images {
		// No registry is there, and a node learns that at once.
		o.Images[name] = "localhost:1/shop/" + name + "@sha256:" + strings.Repeat("ab", 32)
	}
	return o
}

func (h *harness) apply(a *app.App, o RenderOptions) *Result {
	h.Helper()
	res, err := h.applier.Apply(h.ctx, a.Name, h.namespace, render(h.TB, a, o))
	if err != nil {
		h.Fatal(err)
	}
	return res
}

// did lists the objects by action.
func did(res *Result, action Action) []string {
	var names []string
	for _, d := range res.Objects {
		if d.Action == action {
			names = append(names, d.Ref.String())
		}
	}
	return names
}

func TestApplyOnACluster(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	a := shop(t)
	all := []string{
		"configmap/cart", "configmap/frontend", "deployment/cart", "deployment/frontend", "deployment/prices",
		"persistentvolumeclaim/cart-data", "secret/bight-shop", "secret/cart",
		"service/cart", "service/frontend", "service/prices",
		"serviceaccount/cart", "serviceaccount/frontend", "serviceaccount/prices",
	}
	if d := cmp.Diff(all, did(h.apply(a, h.options()), Created)); d != "" {
		t.Errorf("created first (-want +got):\n%s", d)
	}

	h.requests.take()
	start := time.Now()
	if d := cmp.Diff(all, did(h.apply(a, h.options()), Unchanged)); d != "" {
		t.Errorf("unchanged (-want +got):\n%s", d)
	}
	got := h.requests.take()
	t.Logf("nothing changed: %d requests in %v", len(got), time.Since(start))
	if i := slices.IndexFunc(got, func(r string) bool { return !strings.HasPrefix(r, "GET ") }); i >= 0 || len(got) != 7 {
		t.Errorf("nothing changed, and the requests are not 7 reads:\n%s", strings.Join(got, "\n"))
	}

	token, err := h.applier.Token(h.ctx, h.namespace, "shop")
	if err != nil || token != "a-token" {
		t.Errorf("Token = %q, %v; want the one that is there", token, err)
	}

	o := h.options()
	o.Images["frontend"] = strings.Replace(o.Images["frontend"], "abab", "cdcd", 1)
	h.requests.take()
	if d := cmp.Diff([]string{"deployment/frontend"}, did(h.apply(a, o), Configured)); d != "" {
		t.Errorf("configured after a new image (-want +got):\n%s", d)
	}
	writes := slices.DeleteFunc(h.requests.take(), func(r string) bool { return !strings.HasPrefix(r, "PATCH ") })
	if len(writes) != 2 { // the Deployment and the record
		t.Errorf("one new image took these writes:\n%s", strings.Join(writes, "\n"))
	}
}

func TestApplyHealsWhatSomebodyChanged(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	h.apply(shop(t), h.options())
	if err := h.admin.CoreV1().ConfigMaps(h.namespace).Delete(h.ctx, "cart", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// A patch, since the controller writes the object's status at the same time.
	if _, err := h.admin.AppsV1().Deployments(h.namespace).Patch(h.ctx, "cart", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}, "scale"); err != nil {
		t.Fatal(err)
	}
	res := h.apply(shop(t), h.options())
	if d := cmp.Diff([]string{"configmap/cart"}, did(res, Created)); d != "" {
		t.Errorf("created again (-want +got):\n%s", d)
	}
	d, err := h.admin.AppsV1().Deployments(h.namespace).Get(h.ctx, "cart", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if *d.Spec.Replicas != 3 {
		t.Errorf("cart was scaled to 3 by hand, and Apply made it %d", *d.Spec.Replicas)
	}
	if res = h.apply(shop(t), h.options()); res.Changed() {
		t.Errorf("a third Apply still changed something: %+v", res)
	}
}

func TestApplyNamesWhoseFieldItIs(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	h.apply(shop(t), h.options())
	patch := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"frontend","image":"mine"}]}}}}`)
	if _, err := h.admin.AppsV1().Deployments(h.namespace).Patch(h.ctx, "frontend", types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: "kubectl-edit"}); err != nil {
		t.Fatal(err)
	}
	_, err := h.applier.Apply(h.ctx, "shop", h.namespace, render(t, shop(t), h.options()))
	var c *ConflictError
	if !errors.As(err, &c) {
		t.Fatalf("Apply = %v, want a ConflictError", err)
	}
	want := []Conflict{{Manager: "kubectl-edit", Field: `spec.template.spec.containers[name="frontend"].image`}}
	if d := cmp.Diff(want, c.Conflicts); d != "" {
		t.Errorf("conflicts (-want +got):\n%s", d)
	}
	h.applier.TakeOver = true
	if d := cmp.Diff([]string{"deployment/frontend"}, did(h.apply(shop(t), h.options()), Configured)); d != "" {
		t.Errorf("taken over (-want +got):\n%s", d)
	}
	h.applier.TakeOver = false
	if res := h.apply(shop(t), h.options()); res.Changed() {
		t.Errorf("not ours after taking over: %+v", res)
	}
}

func TestApplyLeavesStrangersAlone(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	mine := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cart", Labels: map[string]string{labelManagedBy: "Helm"}}, Data: map[string]string{"a": "b"}}
	if _, err := h.admin.CoreV1().ConfigMaps(h.namespace).Create(h.ctx, mine, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.requests.take()
	_, err := h.applier.Apply(h.ctx, "shop", h.namespace, render(t, shop(t), h.options()))
	var f *ForeignError
	if !errors.As(err, &f) || f.Ref.String() != "configmap/cart" || f.Owner != `"Helm"` {
		t.Fatalf("Apply = %v, want a ForeignError about configmap/cart of Helm", err)
	}
	if got := h.requests.take(); slices.ContainsFunc(got, func(r string) bool { return strings.HasPrefix(r, "PATCH") || strings.HasPrefix(r, "DELETE") }) {
		t.Errorf("something was written:\n%s", strings.Join(got, "\n"))
	}
}

func TestApplyTellsAQuotaFromAMissingRight(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	if _, err := h.admin.CoreV1().ResourceQuotas(h.namespace).Create(h.ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "team"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourceServices: resource.MustParse("0")}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := h.applier.Apply(h.ctx, "shop", h.namespace, render(t, shop(t), h.options()))
	var r *RefusedError
	if !errors.As(err, &r) || !strings.Contains(err.Error(), "exceeded quota: team") {
		t.Errorf("Apply = %v, want a RefusedError by quota team", err)
	}
	if errors.As(err, new(*RightsError)) {
		t.Error("the quota is taken for a missing right")
	}
}

func TestApplyPrunesWhatTheAppNoLongerHas(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	h.apply(shop(t), h.options())
	a := shop(t)
	a.Services = a.Services[1:] // no cart
	a.Services[0].Links = nil
	res := h.apply(a, h.options())
	want := []string{"configmap/cart", "deployment/cart", "secret/cart", "service/cart", "serviceaccount/cart"}
	if d := cmp.Diff(want, did(res, Removed)); d != "" {
		t.Errorf("removed (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"persistentvolumeclaim/cart-data"}, did(res, Kept)); d != "" {
		t.Errorf("kept (-want +got):\n%s", d)
	}
	if _, err := h.admin.CoreV1().PersistentVolumeClaims(h.namespace).Get(h.ctx, "cart-data", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestApplyNamesMissingRightsAndChangesNothing(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	h.grant("half", rbacv1.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"*"}, Verbs: []string{"get", "list", "watch"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"*"}, Verbs: []string{"create", "patch"}})
	h.requests.take()
	_, err := h.as("half").Apply(h.ctx, "shop", h.namespace, render(t, shop(t), h.options()))
	var r *RightsError
	if !errors.As(err, &r) {
		t.Fatalf("Apply = %v, want a RightsError", err)
	}
	want := []Right{{Verb: "create", Group: "apps", Resource: "deployments"}, {Verb: "patch", Group: "apps", Resource: "deployments"}}
	if d := cmp.Diff(want, r.Missing); d != "" {
		t.Errorf("missing (-want +got):\n%s", d)
	}
	if r.User != "half" {
		t.Errorf("the error is about user %q, want half", r.User)
	}
	if got := h.requests.take(); slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, "PATCH") }) {
		t.Errorf("something was written:\n%s", strings.Join(got, "\n"))
	}

	_, err = h.as("nobody").Apply(h.ctx, "shop", h.namespace, render(t, shop(t), h.options()))
	if !errors.As(err, &r) || len(r.Missing) == 0 {
		t.Errorf("Apply without any right = %v, want a RightsError that names one", err)
	}
}

// grant gives a user a role in the namespace.
func (h *harness) grant(user string, rules ...rbacv1.PolicyRule) {
	h.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules}
	if _, err := h.admin.RbacV1().Roles(h.namespace).Create(h.ctx, role, metav1.CreateOptions{}); err != nil {
		h.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user}}
	if _, err := h.admin.RbacV1().RoleBindings(h.namespace).Create(h.ctx, binding, metav1.CreateOptions{}); err != nil {
		h.Fatal(err)
	}
	// The authorizer learns of it by a watch of its own.
	for {
		ok, err := may(h.ctx, h.as(user).Client, h.namespace, Right{Verb: rules[0].Verbs[0], Group: rules[0].APIGroups[0], Resource: "configmaps"})
		if ok {
			return
		}
		if h.ctx.Err() != nil || err != nil {
			h.Fatalf("the role of %s has no effect: %v", user, errors.Join(err, h.ctx.Err()))
		}
	}
}

func TestEnsureNamespace(t *testing.T) {
	h := newHarness(t)
	_, err := h.as("nobody").EnsureNamespace(h.ctx, h.namespace, nil)
	var r *RightsError
	if !errors.As(err, &r) || r.Missing[0] != (Right{Verb: "create", Resource: "namespaces"}) {
		t.Errorf("EnsureNamespace without rights = %v, want a RightsError about creating namespaces", err)
	}
	h.ensure()
	if created, err := h.applier.EnsureNamespace(h.ctx, h.namespace, nil); err != nil || created {
		t.Errorf("a second EnsureNamespace = %v, %v; want false", created, err)
	}
	h.grant("dev", rbacv1.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"*"}, Verbs: []string{"*"}})
	if created, err := h.as("dev").EnsureNamespace(h.ctx, h.namespace, nil); err != nil || created {
		t.Errorf("EnsureNamespace with rights in the namespace only = %v, %v; want false", created, err)
	}

	if err := h.admin.CoreV1().Namespaces().Delete(h.ctx, h.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var notes []string
	h.applier.Note = func(s string) { notes = append(notes, s) }
	if created, err := h.applier.EnsureNamespace(h.ctx, h.namespace, nil); err != nil || !created {
		t.Errorf("EnsureNamespace of one that is going = %v, %v; want true", created, err)
	}
	if len(notes) > 0 && !strings.Contains(notes[0], "is being deleted; waiting until it is gone") {
		t.Errorf("notes are %q", notes)
	}
}

func TestDown(t *testing.T) {
	h := newHarness(t)
	h.ensure()
	h.apply(shop(t), h.options())
	stranger := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "notes"}}
	if _, err := h.admin.CoreV1().ConfigMaps(h.namespace).Create(h.ctx, stranger, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	res, err := h.applier.Down(h.ctx, "shop", h.namespace, DownOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Removed) != 13 || len(res.Kept) != 1 || res.NamespaceRemoved {
		t.Errorf("Down = %+v; want 13 objects removed, the volume and the namespace kept", res)
	}
	if d := cmp.Diff([]string{"configmap/notes", "persistentvolumeclaim/cart-data"}, res.Left); d != "" {
		t.Errorf("left (-want +got):\n%s", d)
	}
	pods, err := h.admin.CoreV1().Pods(h.namespace).List(h.ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) != 0 {
		t.Errorf("%d pods are left (%v)", len(pods.Items), err)
	}

	if err := h.admin.CoreV1().ConfigMaps(h.namespace).Delete(h.ctx, "notes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	res, err = h.applier.Down(h.ctx, "shop", h.namespace, DownOptions{Volumes: true})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Ref{{Kind: "PersistentVolumeClaim", Namespace: h.namespace, Name: "cart-data"}}, res.Removed); d != "" {
		t.Errorf("removed with volumes (-want +got):\n%s", d)
	}
	if !res.NamespaceRemoved {
		t.Errorf("the namespace, which Bight created and nobody uses, was kept: %v", res.Left)
	}
	if _, err := h.admin.CoreV1().Namespaces().Get(h.ctx, h.namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace is still there: %v", err)
	}
	if res, err = h.applier.Down(h.ctx, "shop", h.namespace, DownOptions{}); err != nil || len(res.Removed) != 0 {
		t.Errorf("Down of nothing = %+v, %v", res, err)
	}
}

func TestDownKeepsANamespaceThatBightDidNotCreate(t *testing.T) {
	h := newHarness(t)
	if _, err := h.admin.CoreV1().Namespaces().Create(h.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: h.namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.apply(shop(t), h.options())
	res, err := h.applier.Down(h.ctx, "shop", h.namespace, DownOptions{Volumes: true})
	if err != nil {
		t.Fatal(err)
	}
	ns, err := h.admin.CoreV1().Namespaces().Get(h.ctx, h.namespace, metav1.GetOptions{})
	if err != nil || ns.DeletionTimestamp != nil || res.NamespaceRemoved {
		t.Errorf("the namespace is gone or going (%v)", err)
	}
}

func quota(pods string) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "team"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse(pods)}}}
}
