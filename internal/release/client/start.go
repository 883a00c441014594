package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/release"
	"github.com/bightdev/bight/internal/release/config"
	"github.com/bightdev/bight/internal/release/spec"
)

// Wish is a version that somebody wants to release by hand: what a Deployment runs,
// with another image or environment.
type Wish struct {
	Deployment string
	Images     []Image
	Env        []Env // in the containers of Images or, without those, in the only one
	Configs    []Config
	Service    string
	Version    string // what people call it; "" is read from the image
	Plan       v1alpha1.ReleasePlan
	// Routes of Gateway API share the requests; without any, doors do.
	Routes []v1alpha1.TrafficRoute
	// Again takes a version, too, that the evidence was against.
	Again bool
}

// Image is that of a container, "" for the only one.
type Image struct{ Container, Image string }

// Env is a variable.
type Env struct{ Name, Value string }

// scene is what of a namespace matters to a release that is to begin.
type scene struct {
	now        time.Time
	fields     *unstructured.Unstructured // the Deployment as it is, with what this program knows nothing of
	deployment *appsv1.Deployment
	services   []core.Service
	releases   []v1alpha1.Release // the newest first
	configs    map[config.Ref]present
	made       []made // what the version takes besides
}

// template is the Deployment's, a copy.
func (s *scene) template() map[string]any {
	t, _, _ := unstructured.NestedMap(s.fields.Object, "spec", "template")
	return t
}

// Name is that of the release of a version: of the Deployment's name and the digest of
// the pod template. Whatever was convicted has it still when it comes again.
func Name(deployment string, template any) (string, error) {
	raw, err := canonical(template)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return strings.TrimRight(deployment[:min(len(deployment), 200)], "-.") + "-" + hex.EncodeToString(sum[:])[:10], nil
}

// canonical is JSON with sorted keys, without what an API server only adds for show.
func canonical(template any) ([]byte, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("write the pod template: %w", err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("read the pod template: %w", err)
	}
	unstructured.RemoveNestedField(fields, "metadata", "creationTimestamp")
	return json.Marshal(fields)
}

// look reads a namespace.
func (c *Client) look(ctx context.Context, deployment string) (*scene, error) {
	all, err := c.List(ctx) // first: it says whether anything is installed
	if err != nil {
		return nil, err
	}
	deployments := c.dynamic.Resource(appsv1.SchemeGroupVersion.WithResource("deployments")).Namespace(c.namespace)
	s := &scene{now: time.Now(), releases: all, deployment: &appsv1.Deployment{}}
	s.fields, err = deployments.Get(ctx, deployment, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, c.noDeployment(ctx, deployments, deployment)
	}
	if err != nil {
		return nil, fmt.Errorf("read deployment %s: %w", deployment, c.cluster.Explain(err))
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(s.fields.Object, s.deployment); err != nil {
		return nil, fmt.Errorf("read deployment %s: %w", deployment, err)
	}
	services, err := c.typed.CoreV1().Services(c.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the Kubernetes Services of namespace %s: %w", c.namespace, c.cluster.Explain(err))
	}
	s.services = services.Items
	return s, nil
}

// lister lists.
type lister interface {
	List(context.Context, metav1.ListOptions) (*unstructured.UnstructuredList, error)
}

func (c *Client) noDeployment(ctx context.Context, deployments lister, name string) error {
	there := ""
	if list, err := deployments.List(ctx, metav1.ListOptions{Limit: 100}); err == nil {
		var names []string
		for _, d := range list.Items {
			names = append(names, d.GetName())
		}
		if there = "; it has none"; len(names) > 0 {
			there = "; it has " + some(names)
		}
	}
	return &NotFoundError{fmt.Sprintf("there is no deployment %s in namespace %s%s; choose another namespace with -n", name, c.namespace, there)}
}

// Rehearse says what Start would begin, with all that its plan means, and changes nothing. It
// may be applied as it is, by the same user.
func (c *Client) Rehearse(ctx context.Context, w Wish) (*v1alpha1.Release, error) {
	_, r, _, err := c.wished(ctx, w)
	if err != nil {
		return nil, err
	}
	if r.Spec.Orders.By, r.Spec.Orders.Groups, err = c.who(ctx); err != nil {
		return nil, err
	}
	r.Spec.Plan = spec.Expand(r.Spec.Plan)
	if plan, err := spec.Plan(w.Plan); err == nil && len(r.Spec.Plan.Steps) == 0 {
		r.Spec.Plan.Steps = spec.Written(plan.Steps)
	}
	return r, nil
}

// Start begins the release that somebody wishes. What is left of one that was undone it
// waits for, and tells say.
func (c *Client) Start(ctx context.Context, w Wish, say func(waiting string)) (*v1alpha1.Release, error) {
	if _, err := CheckPlan(w.Plan); err != nil {
		return nil, err
	}
	all, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	if last := leaving(all, w.Deployment, time.Now()); last != nil {
		if _, err := c.over(ctx, last, say); err != nil {
			return nil, err
		}
	}
	s, r, before, err := c.wished(ctx, w)
	if err != nil {
		return nil, err
	}
	if err := c.makeConfigs(ctx, s); err != nil {
		return nil, err
	}
	return c.begin(ctx, r, before)
}

// wished is the release that somebody wishes, and the one in whose place it comes, nil for
// none. It refuses what can't work.
func (c *Client) wished(ctx context.Context, w Wish) (s *scene, r, before *v1alpha1.Release, err error) {
	if _, err := CheckPlan(w.Plan); err != nil {
		return nil, nil, nil, err
	}
	if s, err = c.look(ctx, w.Deployment); err != nil {
		return nil, nil, nil, err
	}
	if err := c.configs(ctx, w, s); err != nil {
		return nil, nil, nil, err
	}
	if r, before, err = prepare(w, s); err != nil {
		return nil, nil, nil, err
	}
	return s, r, before, c.possible(ctx, s, r)
}

// possible refuses what stands in the way of a release besides its Deployment.
func (c *Client) possible(ctx context.Context, s *scene, r *v1alpha1.Release) error {
	if err := c.routed(ctx, r); err != nil {
		return err
	}
	return c.alone(ctx, s, r.Spec.Service)
}

// CheckPlan says what of a plan makes no sense, and returns what it means.
func CheckPlan(p v1alpha1.ReleasePlan) (release.Plan, error) {
	plan, err := spec.Plan(p)
	if err == nil {
		_, err = spec.Judge(p.Judge, nil, 1, false)
	}
	if err != nil {
		return plan, refuse("%s", err)
	}
	return plan, nil
}

// Retry begins a release anew that was undone. say is told what it waits for.
func (c *Client) Retry(ctx context.Context, name string, again bool, say func(waiting string)) (*v1alpha1.Release, error) {
	before, err := c.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	switch phase := phaseOf(before); {
	case phase == release.Promoted:
		return nil, refuse("release %s is promoted: there is nothing to do again", before.Name)
	case !phase.Ended() && !undoing(before):
		return nil, refuse("release %s is %s: %s", before.Name, lower(cmp.Or(before.Status.Phase, "about to begin")), before.Status.Message)
	}
	refused := func() error {
		if !before.Status.Convicted || again {
			return nil
		}
		return convicted(before, "bight release retry "+before.Spec.Deployment+" --again")
	}
	if err := refused(); err != nil {
		return nil, err
	}
	if before, err = c.over(ctx, before, say); err != nil {
		return nil, err
	}
	if err := refused(); err != nil { // it may be known only now
		return nil, err
	}
	s, err := c.look(ctx, before.Spec.Deployment)
	if err != nil {
		return nil, err
	}
	r := before.DeepCopy()
	if r, err = fresh(r, s); err != nil {
		return nil, err
	}
	if err := c.possible(ctx, s, r); err != nil {
		return nil, err
	}
	template := map[string]any{}
	if err := json.Unmarshal(r.Spec.Template.Raw, &template); err != nil {
		return nil, fmt.Errorf("read the pod template of release %s: %w", r.Name, err)
	}
	if err := c.remembered(ctx, r.Name, template); err != nil {
		return nil, err
	}
	return c.begin(ctx, r, before)
}

// over waits until nothing of an ended release is left.
func (c *Client) over(ctx context.Context, r *v1alpha1.Release, say func(string)) (*v1alpha1.Release, error) {
	last := r
	err := c.Follow(ctx, r, func(now *v1alpha1.Release) (bool, error) {
		if last = now; spec.Over(now) {
			return true, nil
		}
		if now.ResourceVersion == r.ResourceVersion {
			say(first(now))
		}
		return false, nil
	})
	return last, err
}

// first says what another release waits for.
func first(r *v1alpha1.Release) string {
	phase := release.Undoing
	if phaseOf(r).Ended() {
		phase = phaseOf(r)
	}
	text := fmt.Sprintf("release %s is %s: this one begins when its pods have answered what they were asked", r.Name, lower(string(phase)))
	if until := keptUntil(r); phaseOf(r).Ended() && until.After(time.Now()) {
		text += ", at " + until.Local().Format(time.TimeOnly)
	}
	return text
}

// fresh is a release as it was when nobody had interfered with it.
func fresh(r *v1alpha1.Release, s *scene) (*v1alpha1.Release, error) {
	template := map[string]any{}
	if err := json.Unmarshal(r.Spec.Template.Raw, &template); err != nil {
		return nil, fmt.Errorf("read the pod template of release %s: %w", r.Name, err)
	}
	r.Spec.Orders, r.Spec.Ask, r.Status = v1alpha1.ReleaseOrders{}, nil, v1alpha1.ReleaseStatus{}
	r.ObjectMeta = metav1.ObjectMeta{Name: r.Name, Namespace: r.Namespace, Labels: r.Labels, Annotations: r.Annotations}
	if err := steady(s); err != nil {
		return nil, err
	}
	if _, err := serviceOf(s, r.Spec.Service); err != nil {
		return nil, err
	}
	return r, differs(s, template)
}

func convicted(r *v1alpha1.Release, again string) error {
	return refuse("this version was released before, as %s, and the evidence was against it: %s\n%s tries it all the same", r.Name, r.Status.Message, again)
}

// prepare makes the release, and refuses one that can't work. before is the one of its
// name that has ended, nil for none.
func prepare(w Wish, s *scene) (r, before *v1alpha1.Release, err error) {
	if err := steady(s); err != nil {
		return nil, nil, err
	}
	service, err := serviceOf(s, w.Service)
	if err != nil {
		return nil, nil, err
	}
	if preview := spec.PreviewService(service.Name); spec.Previewed(w.Plan) {
		for _, x := range s.services {
			if x.Name == preview && x.Labels[v1alpha1.PreviewLabel] == "" {
				return nil, nil, refuse("there is a Kubernetes Service %s, which is what the preview of service %s is to be called: give it another name, or choose another strategy", preview, service.Name)
			}
		}
	}
	template, version, err := change(w, s)
	if err != nil {
		return nil, nil, err
	}
	if err := differs(s, template); err != nil {
		return nil, nil, err
	}
	raw, err := canonical(template)
	if err != nil {
		return nil, nil, err
	}
	name, err := Name(w.Deployment, template)
	if err != nil {
		return nil, nil, err
	}
	for i := range s.releases {
		if s.releases[i].Name == name {
			before = &s.releases[i]
		}
	}
	if before != nil && before.Status.Convicted && !w.Again {
		return nil, nil, convicted(before, "bight release start with --again")
	}
	return &v1alpha1.Release{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "Release"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.deployment.Namespace, Labels: map[string]string{v1alpha1.ServiceLabel: w.Deployment}},
		Spec: v1alpha1.ReleaseSpec{
			Deployment: w.Deployment, Service: service.Name, Template: runtime.RawExtension{Raw: raw},
			Version: cmp.Or(w.Version, version), Plan: w.Plan, Traffic: v1alpha1.ReleaseTraffic{Routes: w.Routes},
		},
	}, before, nil
}

// begin makes a release, in place of one of its name that has ended.
func (c *Client) begin(ctx context.Context, r, before *v1alpha1.Release) (*v1alpha1.Release, error) {
	by, groups, err := c.who(ctx)
	if err != nil {
		return nil, err
	}
	r.Spec.Orders.By, r.Spec.Orders.Groups = by, groups
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		return nil, err
	}
	delete(object, "status")
	if before != nil {
		// What is refused now must not cost what was there.
		try := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(object)}
		try.SetName("")
		try.SetGenerateName("try-")
		if _, err := c.releases().Create(ctx, try, metav1.CreateOptions{FieldManager: manager, DryRun: []string{metav1.DryRunAll}}); err != nil {
			return nil, fmt.Errorf("make release %s: %w", r.Name, c.explain(err))
		}
		if err := c.remove(ctx, before); err != nil {
			return nil, err
		}
	}
	made, err := c.releases().Create(ctx, &unstructured.Unstructured{Object: object}, metav1.CreateOptions{FieldManager: manager})
	if apierrors.IsInvalid(err) { // by its schema, or a policy of the cluster
		return nil, refuse("the cluster refuses release %s: %s", r.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("make release %s: %w", r.Name, c.explain(err))
	}
	return read(made)
}

// Unshared says why no request of a release can be shared or judged, and what to do about it,
// "" where one may be or where that can't be seen.
func (c *Client) Unshared(ctx context.Context, r *v1alpha1.Release) (why, then string) {
	s, err := c.typed.CoreV1().Services(c.namespace).Get(ctx, r.Spec.Service, metav1.GetOptions{})
	if err != nil {
		return "", "" // without it less can be said
	}
	if why = spec.Unshared(s); why != "" {
		return why, "bight release promote " + r.Spec.Deployment + " gives it all of them, when it seems right"
	}
	if len(r.Spec.Traffic.Routes) > 0 {
		return "", "" // who carries them is no pod of the Deployment
	}
	policies, err := c.typed.NetworkingV1().NetworkPolicies(c.namespace).List(ctx, metav1.ListOptions{})
	t := &core.PodTemplateSpec{}
	if err != nil || json.Unmarshal(r.Spec.Template.Raw, t) != nil {
		return "", ""
	}
	return spec.Barred(s, t, policies.Items), "let pods of deployment " + r.Spec.Deployment + " connect to each other there: see Connections in docs/release.md"
}

// remove deletes a release and returns when it is gone.
func (c *Client) remove(ctx context.Context, r *v1alpha1.Release) error {
	err := c.releases().Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &r.UID}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove release %s of before: %w", r.Name, c.cluster.Explain(err))
	}
	gone := false
	err = c.changes(ctx, r, func(now *v1alpha1.Release) error {
		if gone = now == nil || now.UID != r.UID; gone {
			return errSeen
		}
		return nil
	})
	if gone {
		return nil
	}
	return fmt.Errorf("wait until release %s of before is removed: %w", r.Name, c.cluster.Explain(err))
}

// alone refuses a Service that leads to pods of others, too: as long as the release
// runs, it leads to the Deployment's alone.
func (c *Client) alone(ctx context.Context, s *scene, service string) error {
	i := slices.IndexFunc(s.services, func(x core.Service) bool { return x.Name == service })
	selector := labels.Set(s.services[i].Spec.Selector)
	pods, err := c.typed.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if kube.KindOf(c.cluster.Explain(err)) == kube.Forbidden {
		return nil // who may not see pods can't be told of them
	}
	if err != nil {
		return fmt.Errorf("list the pods of Kubernetes Service %s: %w", service, c.cluster.Explain(err))
	}
	own, err := metav1.LabelSelectorAsSelector(s.deployment.Spec.Selector)
	if err != nil {
		return fmt.Errorf("read the selector of deployment %s: %w", s.deployment.Name, err)
	}
	for _, p := range pods.Items {
		if !own.Matches(labels.Set(p.Labels)) {
			return refuse("Kubernetes Service %s leads to pod %s as well, which is not of deployment %s and would get no requests during the release: narrow the Service's selector, or remove that pod's workload", service, p.Name, s.deployment.Name)
		}
	}
	return nil
}
