package install

import (
	"cmp"
	"fmt"
	"net/url"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	admissionac "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	rbacac "k8s.io/client-go/applyconfigurations/rbac/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

const rbacGroup = "rbac.authorization.k8s.io"

// controller is the outer loop.
func (r *renderer) controller(s Settings) {
	replicas := max(s.Replicas, 1)
	size, err := ParseVolume(cmp.Or(s.Volume, usualVolume))
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("the controller's volume: %w", err))
		return
	}
	if err := CheckCollector(s.Collector); err != nil {
		r.errs = append(r.errs, err)
		return
	}
	r.controllerRights()
	r.clients(replicas)
	r.ticketPolicy()
	r.ordersPolicy()
	r.doorsPolicy()
	r.routesPolicy()
	if s.Prometheus == "" {
		r.guardsPolicy()
	}
	r.add(claim(Controller, size))
	labels := map[string]string{"app.kubernetes.io/name": Controller}
	r.add(coreac.Service(Controller, Namespace).WithSpec(coreac.ServiceSpec().
		WithSelector(map[string]string{"app.kubernetes.io/name": Controller, v1alpha1.LeaderLabel: "true"}).
		WithPorts(coreac.ServicePort().WithName("http").WithPort(80).WithTargetPort(intstr.FromInt32(ControllerPort)))))
	// One volume for all: they run where it is.
	together := coreac.Affinity().WithPodAffinity(coreac.PodAffinity().WithRequiredDuringSchedulingIgnoredDuringExecution(
		coreac.PodAffinityTerm().WithTopologyKey("kubernetes.io/hostname").WithLabelSelector(metaac.LabelSelector().WithMatchLabels(labels))))
	r.add(appsac.StatefulSet(Controller, Namespace).WithSpec(appsac.StatefulSetSpec().
		WithReplicas(replicas).
		WithServiceName(Controller).
		WithPodManagementPolicy(appsv1.ParallelPodManagement).
		WithSelector(metaac.LabelSelector().WithMatchLabels(labels)).
		WithTemplate(coreac.PodTemplateSpec().WithLabels(labels).WithAnnotations(map[string]string{
			"prometheus.io/scrape": "true", "prometheus.io/port": fmt.Sprint(MetricsPort), "prometheus.io/path": "/metrics",
		}).WithSpec(coreac.PodSpec().
			WithServiceAccountName(Controller).
			WithTerminationGracePeriodSeconds(15).
			WithAffinity(together).
			WithSecurityContext(coreac.PodSecurityContext().
				WithRunAsNonRoot(true).WithRunAsUser(65532).WithRunAsGroup(65532).WithFSGroup(65532).
				WithFSGroupChangePolicy(corev1.FSGroupChangeOnRootMismatch).
				WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
			WithVolumes(
				coreac.Volume().WithName("data").WithPersistentVolumeClaim(coreac.PersistentVolumeClaimVolumeSource().WithClaimName(Controller)),
				coreac.Volume().WithName("tmp").WithEmptyDir(coreac.EmptyDirVolumeSource())).
			WithContainers(controllerContainer(s))))))
}

func controllerContainer(s Settings) *coreac.ContainerApplyConfiguration {
	field := func(name, path string) *coreac.EnvVarApplyConfiguration {
		return coreac.EnvVar().WithName(name).WithValueFrom(coreac.EnvVarSource().WithFieldRef(coreac.ObjectFieldSelector().WithFieldPath(path)))
	}
	command := []string{
		"/srv/app/bight-outer", "controller", "--dir", "/data", "--listen", fmt.Sprintf(":%d", ControllerPort), "--metrics", fmt.Sprintf(":%d", MetricsPort),
	}
	if s.Prometheus != "" {
		command = append(command, "--prometheus", s.Prometheus)
	}
	c := coreac.Container().WithName("controller").WithImage(s.Image).
		WithCommand(command...).
		WithEnv(field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"), coreac.EnvVar().WithName("HOME").WithValue("/tmp")).
		WithPorts(
			coreac.ContainerPort().WithName("http").WithContainerPort(ControllerPort),
			coreac.ContainerPort().WithName("metrics").WithContainerPort(MetricsPort)).
		WithVolumeMounts(
			coreac.VolumeMount().WithName("data").WithMountPath("/data"),
			coreac.VolumeMount().WithName("tmp").WithMountPath("/tmp")).
		WithResources(coreac.ResourceRequirements().
			WithRequests(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("96Mi")}).
			WithLimits(corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")})).
		WithSecurityContext(coreac.SecurityContext().
			WithReadOnlyRootFilesystem(true).
			WithAllowPrivilegeEscalation(false).
			WithCapabilities(coreac.Capabilities().WithDrop("ALL")))
	if s.Collector != "" {
		c.WithEnv(coreac.EnvVar().WithName("OTEL_EXPORTER_OTLP_ENDPOINT").WithValue(s.Collector))
	}
	return c
}

// CheckCollector says what is wrong with the URL of a collector, "" for none.
func CheckCollector(collector string) error {
	if collector == "" {
		return nil
	}
	u, err := url.Parse(collector)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return fmt.Errorf("the collector's URL %q: write it as in http://collector.observability:4318, without credentials: anybody who may read pods sees them", collector)
	}
	return nil
}

// controllerRights are what it takes to make namespaces and deploy what Bight renders
// into them, and to know who somebody is.
func (r *renderer) controllerRights() {
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	rule := func(group string, resources []string, verbs ...string) *rbacac.PolicyRuleApplyConfiguration {
		return rbacac.PolicyRule().WithAPIGroups(group).WithResources(resources...).WithVerbs(verbs...)
	}
	r.add(coreac.ServiceAccount(Controller, Namespace))
	r.add(rbacac.ClusterRole(Controller).WithRules(
		rule(v1alpha1.Group, []string{"apps", "apps/status", "apps/finalizers", "changes", "changes/status", "tickets", "releases", "releases/status"}, all...),
		rule(v1alpha1.Group, []string{"releasepolicies"}, "get", "list", "watch"),
		rule(v1alpha1.Group, []string{"releasepolicies/status"}, "patch"),
		rule("", []string{"namespaces", "services", "configmaps", "secrets", "serviceaccounts", "persistentvolumeclaims"}, all...),
		rule("apps", []string{"deployments"}, all...),
		rule("apps", []string{"replicasets"}, "get", "list", "watch", "create"),
		rule("apps", []string{"replicasets/scale"}, "update"),
		rule("", []string{"pods", "pods/log", "events"}, "get", "list", "watch"),
		// The tests of strangers are pods without a controller of their own, in namespaces
		// that are closed off. Who may make Deployments may make pods.
		rule("", []string{"pods"}, "create", "delete"),
		rule("networking.k8s.io", []string{"networkpolicies"}, "create"),
		// Routes of Gateway API share the requests of those releases that name them.
		rule("gateway.networking.k8s.io", []string{"httproutes", "grpcroutes"}, "get", "list", "watch", "update", "patch"),
		rule("gateway.networking.k8s.io", []string{"gateways", "gatewayclasses"}, "get"),
		rule("discovery.k8s.io", []string{"endpointslices"}, "get", "list", "watch"),
		rule("authentication.k8s.io", []string{"tokenreviews"}, "create"),
		rule("authorization.k8s.io", []string{"subjectaccessreviews"}, "create"),
	))
	r.add(rbacac.ClusterRoleBinding(Controller).
		WithRoleRef(rbacac.RoleRef().WithAPIGroup(rbacGroup).WithKind("ClusterRole").WithName(Controller)).
		WithSubjects(rbacac.Subject().WithKind("ServiceAccount").WithNamespace(Namespace).WithName(Controller)))
	r.add(rbacac.Role(Controller, Namespace).WithRules(
		rule("coordination.k8s.io", []string{"leases"}, "get", "list", "watch", "create", "update", "patch"),
		rule("", []string{"events"}, "create", "patch"),
		rule("", []string{"pods"}, "patch"),
	))
	r.add(rbacac.RoleBinding(Controller, Namespace).
		WithRoleRef(rbacac.RoleRef().WithAPIGroup(rbacGroup).WithKind("Role").WithName(Controller)).
		WithSubjects(rbacac.Subject().WithKind("ServiceAccount").WithNamespace(Namespace).WithName(Controller)))
}

// clients lets everybody whom the cluster knows connect to the controllers, and to no
// other pod here. Whom they serve, these decide themselves.
func (r *renderer) clients(replicas int32) {
	var pods []string
	for i := range replicas {
		pods = append(pods, fmt.Sprintf("%s-%d", Controller, i))
	}
	r.add(rbacac.Role(clients, Namespace).WithRules(
		rbacac.PolicyRule().WithAPIGroups("").WithResources("pods").WithResourceNames(pods...).WithVerbs("get"),
		rbacac.PolicyRule().WithAPIGroups("").WithResources("pods/portforward").WithResourceNames(pods...).WithVerbs("create", "get")))
	r.add(rbacac.RoleBinding(clients, Namespace).
		WithRoleRef(rbacac.RoleRef().WithAPIGroup(rbacGroup).WithKind("Role").WithName(clients)).
		WithSubjects(rbacac.Subject().WithAPIGroup(rbacGroup).WithKind("Group").WithName("system:authenticated")))
}

// ticketPolicy makes a Ticket its maker's own: the controller takes who has the key
// for whom it names.
func (r *renderer) ticketPolicy() {
	r.add(admissionac.ValidatingAdmissionPolicy(ticketPolicy).WithSpec(admissionac.ValidatingAdmissionPolicySpec().
		WithFailurePolicy(admissionv1.Fail).
		WithMatchConstraints(admissionac.MatchResources().WithResourceRules(admissionac.NamedRuleWithOperations().
			WithAPIGroups(v1alpha1.Group).WithAPIVersions("*").WithResources("tickets").WithOperations(admissionv1.Create))).
		WithValidations(
			admissionac.Validation().
				WithExpression("object.spec.owner == request.userInfo.username").
				WithMessageExpression("'a Ticket is its maker\\'s: spec.owner is ' + object.spec.owner + ', you are ' + request.userInfo.username").
				WithReason(metav1.StatusReasonForbidden),
			admissionac.Validation().
				WithExpression("!has(object.spec.groups) || object.spec.groups.all(g, g in request.userInfo.groups)").
				WithMessage("a Ticket names no group that its maker is not in").
				WithReason(metav1.StatusReasonForbidden))))
	r.add(admissionac.ValidatingAdmissionPolicyBinding(ticketPolicy).WithSpec(admissionac.ValidatingAdmissionPolicyBindingSpec().
		WithPolicyName(ticketPolicy).WithValidationActions(admissionv1.Deny)))
}
