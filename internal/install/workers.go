package install

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	rbacac "k8s.io/client-go/applyconfigurations/rbac/v1"

	"github.com/bightdev/bight/api/v1alpha1"
)

// Worker is the Deployment of the workers, and their ServiceAccount and ClusterRole.
const Worker = "bight-worker"

// Workers say what does review, build and test in the cluster.
type Workers struct {
	// Count is how many there are; 0 is none, and then they are done elsewhere.
	Count int32
	// Image has the toolchains. This program is brought into it from [Settings.Image].
	Image string
	// Registry is where they push images, and Secret one of [Namespace], of type
	// kubernetes.io/dockerconfigjson, with which they may; "" is none.
	Registry, Secret string
	// NodeNetwork has them use the network of their node, where only nodes reach the
	// registry.
	NodeNetwork bool
	// Volume is the size of one volume for all of their caches, which outlives them and
	// keeps them on the node where it is; [NoVolume] is a cache for each, as long as it
	// lives, and so is "" to [Render].
	Volume string
	// Resources are what each is sure of; what there is of memory is its limit, too. nil is
	// little of both, and no limit.
	Resources corev1.ResourceList
	// Slots is how many steps one of them does at once, 0 is 2.
	Slots int32
}

// drain is how long a worker that is told to stop has for the steps that it is at. What
// takes longer is handed to another.
const drain = 20 * 60

const (
	programs = "/bight"
	cache    = "/cache"
)

// workers are pods that may read Apps and work for them, and nothing else: whether a
// step counts, the controller decides.
func (r *renderer) workers(s Settings) {
	w := s.Workers
	r.add(coreac.ServiceAccount(Worker, Namespace))
	r.add(rbacac.ClusterRole(Worker).WithRules(
		rbacac.PolicyRule().WithAPIGroups(v1alpha1.Group).WithResources("apps").WithVerbs("get", v1alpha1.VerbWork)))
	r.add(rbacac.ClusterRoleBinding(Worker).
		WithRoleRef(rbacac.RoleRef().WithAPIGroup(rbacGroup).WithKind("ClusterRole").WithName(Worker)).
		WithSubjects(rbacac.Subject().WithKind("ServiceAccount").WithNamespace(Namespace).WithName(Worker)))
	labels := map[string]string{"app.kubernetes.io/name": Worker}
	caches := coreac.Volume().WithName("cache").WithEmptyDir(coreac.EmptyDirVolumeSource())
	shared := w.Volume != "" && w.Volume != NoVolume
	if shared {
		size, err := ParseVolume(w.Volume)
		if err != nil {
			r.errs = append(r.errs, fmt.Errorf("the workers' volume: %w", err))
			return
		}
		r.add(claim(Worker, size))
		caches = coreac.Volume().WithName("cache").WithPersistentVolumeClaim(coreac.PersistentVolumeClaimVolumeSource().WithClaimName(Worker))
	}
	pod := coreac.PodSpec().
		WithServiceAccountName(Worker).
		WithTerminationGracePeriodSeconds(drain).
		WithShareProcessNamespace(true). // what tests leave behind is reaped by the pod's first process
		WithSecurityContext(coreac.PodSecurityContext().
			WithRunAsNonRoot(true).WithRunAsUser(65532).WithRunAsGroup(65532).WithFSGroup(65532).
			WithFSGroupChangePolicy(corev1.FSGroupChangeOnRootMismatch).
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithVolumes(
			coreac.Volume().WithName("programs").WithEmptyDir(coreac.EmptyDirVolumeSource()),
			caches,
			coreac.Volume().WithName("tmp").WithEmptyDir(coreac.EmptyDirVolumeSource())).
		WithInitContainers(coreac.Container().WithName("programs").WithImage(s.Image).
			WithCommand("/srv/app/bight", "copy-programs", programs).
			WithVolumeMounts(coreac.VolumeMount().WithName("programs").WithMountPath(programs)).
			WithSecurityContext(confined())).
		WithContainers(workerContainer(w))
	if shared {
		pod.WithAffinity(coreac.Affinity().WithPodAffinity(coreac.PodAffinity().WithRequiredDuringSchedulingIgnoredDuringExecution(
			coreac.PodAffinityTerm().WithTopologyKey("kubernetes.io/hostname").WithLabelSelector(metaac.LabelSelector().WithMatchLabels(labels)))))
	}
	if w.NodeNetwork {
		pod.WithHostNetwork(true).WithDNSPolicy(corev1.DNSClusterFirstWithHostNet)
	}
	if w.Secret != "" {
		pod.WithVolumes(coreac.Volume().WithName("registry").WithSecret(coreac.SecretVolumeSource().WithSecretName(w.Secret).
			WithItems(coreac.KeyToPath().WithKey(corev1.DockerConfigJsonKey).WithPath("config.json"))))
	}
	r.add(appsac.Deployment(Worker, Namespace).WithSpec(appsac.DeploymentSpec().
		WithReplicas(w.Count).
		WithSelector(metaac.LabelSelector().WithMatchLabels(labels)).
		// A new one is there before an old one finishes what it is at.
		WithStrategy(appsac.DeploymentStrategy().WithType(appsv1.RollingUpdateDeploymentStrategyType).
			WithRollingUpdate(appsac.RollingUpdateDeployment().WithMaxSurge(intstr.FromInt32(1)).WithMaxUnavailable(intstr.FromInt32(0)))).
		WithTemplate(coreac.PodTemplateSpec().WithLabels(labels).WithSpec(pod))))
}

// resources are at least what a worker takes that waits for work.
func (w Workers) resources() *coreac.ResourceRequirementsApplyConfiguration {
	requests := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("256Mi")}
	maps.Copy(requests, w.Resources)
	r := coreac.ResourceRequirements().WithRequests(requests)
	if memory, given := w.Resources[corev1.ResourceMemory]; given {
		r.WithLimits(corev1.ResourceList{corev1.ResourceMemory: memory})
	}
	return r
}

// ParseResources reads what each worker is to have, as in cpu=2,memory=4Gi. "" is nil.
func ParseResources(text string) (corev1.ResourceList, error) {
	if text == "" {
		return nil, nil
	}
	all := corev1.ResourceList{}
	for _, one := range strings.Split(text, ",") {
		name, amount, _ := strings.Cut(one, "=")
		if name != string(corev1.ResourceCPU) && name != string(corev1.ResourceMemory) {
			return nil, fmt.Errorf("%q is neither cpu=… nor memory=…: write it as in cpu=2,memory=4Gi", one)
		}
		q, err := resource.ParseQuantity(amount)
		if _, twice := all[corev1.ResourceName(name)]; twice {
			return nil, fmt.Errorf("%s is there twice: write it as in cpu=2,memory=4Gi", name)
		}
		if err == nil && q.Sign() <= 0 {
			err = errors.New("it has to be more than nothing")
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w; write it as in cpu=2,memory=4Gi", one, err)
		}
		all[corev1.ResourceName(name)] = q
	}
	return all, nil
}

func confined() *coreac.SecurityContextApplyConfiguration {
	return coreac.SecurityContext().WithAllowPrivilegeEscalation(false).WithCapabilities(coreac.Capabilities().WithDrop("ALL"))
}

func workerContainer(w Workers) *coreac.ContainerApplyConfiguration {
	value := func(name, value string) *coreac.EnvVarApplyConfiguration {
		return coreac.EnvVar().WithName(name).WithValue(value)
	}
	slots := w.Slots
	if slots == 0 {
		slots = 2
	}
	c := coreac.Container().WithName("worker").WithImage(w.Image).
		WithCommand(programs+"/bight-outer", "worker", "--controller", fmt.Sprintf("%s.%s.svc:80", Controller, Namespace),
			"--registry", w.Registry, "--slots", fmt.Sprint(slots), "--untrusted", "--name", "$(POD_NAME)").
		WithEnv(
			coreac.EnvVar().WithName("POD_NAME").WithValueFrom(coreac.EnvVarSource().WithFieldRef(coreac.ObjectFieldSelector().WithFieldPath("metadata.name"))),
			value("HOME", cache), value("XDG_CACHE_HOME", cache), value("GOPATH", cache+"/go")).
		WithWorkingDir(cache).
		WithVolumeMounts(
			coreac.VolumeMount().WithName("programs").WithMountPath(programs).WithReadOnly(true),
			coreac.VolumeMount().WithName("cache").WithMountPath(cache),
			coreac.VolumeMount().WithName("tmp").WithMountPath("/tmp")).
		WithResources(w.resources()).
		WithSecurityContext(confined())
	if w.Secret != "" {
		c.WithEnv(value("DOCKER_CONFIG", "/registry")).
			WithVolumeMounts(coreac.VolumeMount().WithName("registry").WithMountPath("/registry").WithReadOnly(true))
	}
	return c
}

// check says what is missing.
func (w Workers) check() error {
	var missing []string
	if w.Image == "" {
		missing = append(missing, "an image with toolchains")
	}
	if w.Registry == "" {
		missing = append(missing, "a registry to push to")
	}
	if w.Count > 0 && len(missing) > 0 {
		return fmt.Errorf("workers in the cluster need %s", strings.Join(missing, " and "))
	}
	return nil
}
