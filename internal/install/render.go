package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	admissionac "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	rbacac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"sigs.k8s.io/yaml"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

const (
	// Namespace is where Bight's own pods run.
	Namespace = "bight-system"
	// NodeAgents is the DaemonSet of the node agents, and their ServiceAccount and
	// ClusterRole.
	NodeAgents = "bight-node"
	// FieldManager is who applies.
	FieldManager = "bight-install"

	// Controller is the StatefulSet of the controller, and its ServiceAccount, Service,
	// PersistentVolumeClaim and ClusterRole.
	Controller = "bight-controller"
	// ControllerPort is where it serves HTTP.
	ControllerPort = 8080
	// MetricsPort is where each controller serves metrics, those that do not act too.
	MetricsPort = 8081

	ownerPolicy  = "bight-intercept-owner"
	ticketPolicy = "bight-ticket-owner"
	clients      = "bight-controller-clients"
	viewers      = "bight-view"
	rulers       = "bight-release-policies"
	// Users is the ClusterRole of those who may make Intercepts, and have Apps. It is
	// a part of the roles edit and admin.
	Users = "bight-intercept"
)

// Settings say what is installed.
type Settings struct {
	// Image is the reference of the image with this program, as nodes pull it.
	Image   string
	Version string
	// Replicas is how many controllers there are, of which one acts; less than one is
	// one. Volume is how much their repositories, logs and results may take; "" is
	// 10Gi. What is installed may have another size: see [Installer.Volumes].
	Replicas int32
	Volume   string
	// Prometheus is the URL of who answers the guards of releases; "" is nobody, and no
	// release may have any.
	Prometheus string
	// Collector is the URL of an OpenTelemetry collector that takes traces by OTLP over
	// HTTP, "" for none.
	Collector string
	Workers   Workers
}

// Render returns everything that is installed, in the order in which it is applied.
func Render(s Settings) ([]*unstructured.Unstructured, error) {
	if s.Image == "" {
		return nil, errors.New("render: no image")
	}
	r := renderer{labels: map[string]string{
		"app.kubernetes.io/part-of": "bight", "app.kubernetes.io/managed-by": FieldManager,
	}}
	if s.Version != "" {
		r.labels["app.kubernetes.io/version"] = s.Version
	}
	r.namespace()
	r.definitions()
	r.rights()
	r.policy()
	r.nodeAgents(s.Image)
	r.controller(s)
	if s.Workers.Count > 0 {
		if err := s.Workers.check(); err != nil {
			return nil, err
		}
		r.workers(s)
	}
	return r.all, errors.Join(r.errs...)
}

// YAML is the objects as one stream of documents.
func YAML(all []*unstructured.Unstructured) ([]byte, error) {
	var out bytes.Buffer
	for _, u := range all {
		b, err := yaml.Marshal(u.Object)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", nameOf(u), err)
		}
		out.WriteString("---\n")
		out.Write(b)
	}
	return out.Bytes(), nil
}

type renderer struct {
	labels map[string]string
	all    []*unstructured.Unstructured
	errs   []error
}

// add takes an apply configuration or anything else that is an object in JSON.
func (r *renderer) add(object any) {
	b, err := json.Marshal(object)
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(b, &u.Object); err != nil {
		r.errs = append(r.errs, err)
		return
	}
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	for k, v := range r.labels {
		labels[k] = v
	}
	u.SetLabels(labels)
	r.all = append(r.all, u)
}

// namespace may have pods that Pod Security keeps out of others: the node agents.
func (r *renderer) namespace() {
	r.add(coreac.Namespace(Namespace).WithLabels(map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}))
}

func (r *renderer) definitions() {
	all, err := v1alpha1.Definitions()
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	for _, b := range all {
		var object map[string]any
		if err := yaml.Unmarshal(b, &object); err != nil {
			r.errs = append(r.errs, fmt.Errorf("read a definition: %w", err))
			continue
		}
		r.add(object)
	}
}

func (r *renderer) rights() {
	r.add(coreac.ServiceAccount(NodeAgents, Namespace))
	r.add(rbacac.ClusterRole(NodeAgents).WithRules(
		rbacac.PolicyRule().WithAPIGroups("").WithResources("pods").WithVerbs("list", "watch"),
		rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("intercepts").WithVerbs("list", "watch", "delete"),
		rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("releases").WithVerbs("list", "watch"),
		rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("intercepts/status", "releases/status").WithVerbs("patch"),
	))
	r.add(rbacac.ClusterRoleBinding(NodeAgents).
		WithRoleRef(rbacac.RoleRef().WithAPIGroup("rbac.authorization.k8s.io").WithKind("ClusterRole").WithName(NodeAgents)).
		WithSubjects(rbacac.Subject().WithKind("ServiceAccount").WithNamespace(Namespace).WithName(NodeAgents)))
	// Agents bring the controller what they have counted of a release.
	r.add(rbacac.Role(NodeAgents, Namespace).WithRules(
		rbacac.PolicyRule().WithAPIGroups("").WithResources("services").WithResourceNames(Controller).WithVerbs("get"),
	))
	r.add(rbacac.RoleBinding(NodeAgents, Namespace).
		WithRoleRef(rbacac.RoleRef().WithAPIGroup("rbac.authorization.k8s.io").WithKind("Role").WithName(NodeAgents)).
		WithSubjects(rbacac.Subject().WithKind("ServiceAccount").WithNamespace(Namespace).WithName(NodeAgents)))
	r.add(rbacac.ClusterRole(Users).
		WithLabels(map[string]string{
			"rbac.authorization.k8s.io/aggregate-to-edit":  "true",
			"rbac.authorization.k8s.io/aggregate-to-admin": "true",
		}).
		WithRules(
			rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("intercepts").
				WithVerbs("get", "list", "watch", "create", "patch", "delete"),
			rbacac.PolicyRule().WithAPIGroups("").WithResources("pods/portforward").WithVerbs("create", "get"),
			rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("apps").
				WithVerbs("get", "list", "watch", "create", "update", "patch", "delete"),
			// Changes are made by the controller; people cancel, retry and promote them.
			rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("changes").
				WithVerbs("get", "list", "watch", "patch", "delete"),
			rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("tickets").WithVerbs("get", "list", "create", "delete"),
			// A Release changes a Deployment, which who may edit may do anyway.
			rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("releases").
				WithVerbs("get", "list", "watch", "create", "update", "patch", "delete"),
			rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("releasepolicies").WithVerbs("get", "list", "watch"),
			// What users have sent, without what is secret: not for who may only look.
			rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("releases/evidence").WithVerbs("get"),
		))
	// Who orders does not say what may be ordered.
	r.add(rbacac.ClusterRole(rulers).
		WithLabels(map[string]string{"rbac.authorization.k8s.io/aggregate-to-admin": "true"}).
		WithRules(rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("releasepolicies").
			WithVerbs("get", "list", "watch", "create", "update", "patch", "delete")))
	r.add(rbacac.ClusterRole(viewers).
		WithLabels(map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}).
		WithRules(rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("apps", "changes", "releases", "releasepolicies").WithVerbs("get", "list", "watch")))
}

// policy makes an Intercept its maker's own: the agents act for the owner that it
// names, so nobody may name another, and nobody else may keep it alive. One that is
// being deleted may lose its finalizers by anybody's hand.
func (r *renderer) policy() {
	r.add(admissionac.ValidatingAdmissionPolicy(ownerPolicy).WithSpec(admissionac.ValidatingAdmissionPolicySpec().
		WithFailurePolicy(admissionv1.Fail).
		WithMatchConstraints(admissionac.MatchResources().WithResourceRules(admissionac.NamedRuleWithOperations().
			WithAPIGroups(v1alpha1.Group).WithAPIVersions("*").WithResources("intercepts").
			WithOperations(admissionv1.Create, admissionv1.Update))).
		WithValidations(admissionac.Validation().
			WithExpression("has(object.metadata.deletionTimestamp) || object.spec.owner == request.userInfo.username").
			WithMessageExpression("'the owner of an Intercept is who makes and renews it: spec.owner is ' + object.spec.owner + ', you are ' + request.userInfo.username").
			WithReason(metav1.StatusReasonForbidden))))
	r.add(admissionac.ValidatingAdmissionPolicyBinding(ownerPolicy).WithSpec(admissionac.ValidatingAdmissionPolicyBindingSpec().
		WithPolicyName(ownerPolicy).WithValidationActions(admissionv1.Deny)))
}

// nodeAgents see every process of their node and may enter the network of each pod.
func (r *renderer) nodeAgents(image string) {
	labels := map[string]string{"app.kubernetes.io/name": NodeAgents}
	container := coreac.Container().WithName("agent").WithImage(image).
		WithCommand("/srv/app/bight", "node").
		WithEnv(coreac.EnvVar().WithName("NODE_NAME").WithValueFrom(coreac.EnvVarSource().
			WithFieldRef(coreac.ObjectFieldSelector().WithFieldPath("spec.nodeName")))).
		WithVolumeMounts(coreac.VolumeMount().WithName("evidence").WithMountPath(v1alpha1.EvidenceTokens).WithReadOnly(true)).
		WithResources(coreac.ResourceRequirements().
			WithRequests(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("48Mi")}).
			WithLimits(corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("384Mi")})).
		WithSecurityContext(coreac.SecurityContext().
			WithRunAsUser(0).WithRunAsGroup(0).
			WithReadOnlyRootFilesystem(true).
			WithAppArmorProfile(coreac.AppArmorProfile().WithType(corev1.AppArmorProfileTypeUnconfined)).
			WithCapabilities(coreac.Capabilities().WithDrop("ALL").
				// The network of pods; their namespaces; their processes; files that
				// only their user may read.
				WithAdd("NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH")))
	r.add(appsac.DaemonSet(NodeAgents, Namespace).WithSpec(appsac.DaemonSetSpec().
		WithMinReadySeconds(1).
		WithUpdateStrategy(appsac.DaemonSetUpdateStrategy().WithType(appsv1.RollingUpdateDaemonSetStrategyType).
			WithRollingUpdate(appsac.RollingUpdateDaemonSet().WithMaxUnavailable(intstr.FromString("25%")))).
		WithSelector(metaac.LabelSelector().WithMatchLabels(labels)).
		WithTemplate(coreac.PodTemplateSpec().WithLabels(labels).WithSpec(coreac.PodSpec().
			WithServiceAccountName(NodeAgents).
			WithHostPID(true).
			WithTerminationGracePeriodSeconds(10).
			WithPriorityClassName("system-node-critical").
			WithTolerations(coreac.Toleration().WithOperator(corev1.TolerationOpExists)).
			// What the agents are known by to the controller is of no use at the API server.
			WithVolumes(coreac.Volume().WithName("evidence").WithProjected(coreac.ProjectedVolumeSource().WithDefaultMode(0o400).
				WithSources(coreac.VolumeProjection().WithServiceAccountToken(coreac.ServiceAccountTokenProjection().
					WithAudience(v1alpha1.EvidenceAudience).WithExpirationSeconds(3600).WithPath("token"))))).
			WithContainers(container)))))
}

// nameOf is how people write an object: "daemonset/bight-node".
func nameOf(u *unstructured.Unstructured) string {
	kind := []byte(u.GetKind())
	return string(bytes.ToLower(kind)) + "/" + u.GetName()
}
