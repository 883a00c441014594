package apart

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/internal/change/suite"
	"github.com/bightdev/bight/internal/image"
)

const (
	temp = "/tmp"
	// graceful is how long tests have to print what they are doing after their time is
	// over, and starting how long a pod may take to begin.
	graceful = 5 * time.Second
	starting = 3 * time.Minute
	// overhead is what of the disk is not for the tests: their log.
	overhead = 128 << 20
)

// podOf is the pod of one package's tests. It has no credentials, no names, no network
// where that can be had, and what it may use is limited: by the agent, which is its
// first process and tells what was exceeded, and again by the node.
func podOf(s Suite, p suite.Program, l Limits, user int64, args []string) *corev1.Pod {
	limits := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("2"),
		corev1.ResourceMemory:           *resource.NewQuantity(l.Memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(l.Disk+overhead, resource.BinarySI),
	}
	requests := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("100m"),
		corev1.ResourceMemory:           *resource.NewQuantity(min(l.Memory, 128<<20), resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(min(l.Disk, 128<<20), resource.BinarySI),
	}
	name := "tests-" + strings.TrimSuffix(p.File, ".test") + "-"
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "bight-tests"}},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			ActiveDeadlineSeconds:         ptr.To(int64((l.Time + graceful + starting) / time.Second)),
			TerminationGracePeriodSeconds: ptr.To(int64(1)),
			ServiceAccountName:            account,
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			DNSPolicy:                     corev1.DNSNone,
			DNSConfig:                     &corev1.PodDNSConfig{Nameservers: []string{"127.0.0.1"}},
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To(user), RunAsGroup: ptr.To(user),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Volumes: []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{
				EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(l.Disk+overhead, resource.BinarySI)},
			}}},
			Containers: []corev1.Container{{
				Name: "tests", Image: s.Image, Command: command(p, l, args),
				WorkingDir: path.Join(image.Root, Source, s.Directory, p.Dir),
				Env: []corev1.EnvVar{
					{Name: "HOME", Value: temp}, {Name: "TMPDIR", Value: temp}, {Name: "CI", Value: "true"},
				},
				VolumeMounts: []corev1.VolumeMount{{Name: "tmp", MountPath: temp}},
				Resources:    corev1.ResourceRequirements{Limits: limits, Requests: requests},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: ptr.To(false),
					Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}

// command runs the tests as go test does, with the agent around them.
func command(p suite.Program, l Limits, args []string) []string {
	at := func(file string) string { return path.Join(image.Root, Programs, file) }
	all := []string{
		image.AgentPath, "confine", "-processes", strconv.Itoa(l.Processes), "-disk", strconv.FormatInt(l.Disk, 10),
		"-time", (l.Time + graceful).String(), "-temp", temp, "--",
		at(suite.Converter), "-t", "-p", p.Name,
		at(p.File), "-test.v=test2json", "-test.paniconexit0", "-test.timeout=" + l.Time.String(),
	}
	return append(all, args...)
}

// told reads what the agent has said of its end.
func told(message string) (suite.Stop, string, bool) {
	var said struct{ Stop, Reason string }
	if json.Unmarshal([]byte(message), &said) != nil {
		return "", "", false
	}
	switch stop := suite.Stop(said.Stop); stop {
	case suite.StopTime, suite.StopProcesses, suite.StopDisk:
		if len(said.Reason) > 200 {
			said.Reason = said.Reason[:200]
		}
		return stop, said.Reason, true
	}
	return "", "", false
}

// waitingFor says why a pod that has not begun has not; fatal tells that it never will.
func waitingFor(pod *corev1.Pod) (why string, fatal bool) {
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "" {
			why = strings.TrimSuffix(fmt.Sprintf("%s: %s", w.Reason, w.Message), ": ")
			return why, w.Reason == "InvalidImageName" || w.Reason == "CreateContainerConfigError"
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Reason + ": " + c.Message, false
		}
	}
	return "it is not on a node yet", false
}
