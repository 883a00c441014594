package apart

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policy "k8s.io/pod-security-admission/policy"

	"github.com/bightdev/bight/internal/change/suite"
)

func program() suite.Program {
	return suite.Program{Unit: suite.Unit{Name: "shop/cart", Dir: "cart"}, File: "0.test"}
}

// TestPodsAreRestricted runs Pod Security's checks of level restricted.
func TestPodsAreRestricted(t *testing.T) {
	pod := podOf(Suite{Image: "i", Directory: "apps/shop"}, program(), Limits{}.withDefaults(), user(), nil)
	for _, check := range policy.DefaultChecks() {
		newest := check.Versions[len(check.Versions)-1]
		if r := newest.CheckPod(&pod.ObjectMeta, &pod.Spec); !r.Allowed {
			t.Errorf("%s: %s: %s", check.ID, r.ForbiddenReason, r.ForbiddenDetail)
		}
	}
}

func TestAPodHasNothingThatItsTestsDoNotNeed(t *testing.T) {
	l := Limits{Time: 12 * time.Second, Processes: 300, Memory: 256 << 20, Disk: 64 << 20}
	spec := podOf(Suite{Image: "i", Directory: "apps/shop"}, program(), l, user(), []string{"-test.run=^(TestA)$"}).Spec
	if *spec.AutomountServiceAccountToken || *spec.EnableServiceLinks || spec.HostNetwork || spec.DNSPolicy != corev1.DNSNone {
		t.Errorf("%+v", spec)
	}
	c := spec.Containers[0]
	want := "/bight/agent confine -processes 300 -disk 67108864 -time 17s -temp /tmp -- " +
		"/srv/app/tests/test2json -t -p shop/cart /srv/app/tests/0.test -test.v=test2json -test.paniconexit0 -test.timeout=12s -test.run=^(TestA)$"
	if d := cmp.Diff(want, strings.Join(c.Command, " ")); d != "" {
		t.Errorf("command (-want +got):\n%s", d)
	}
	if c.WorkingDir != "/srv/app/src/apps/shop/cart" {
		t.Errorf("it runs in %s", c.WorkingDir)
	}
	for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if limit, ok := c.Resources.Limits[r]; !ok || limit.Cmp(c.Resources.Requests[r]) < 0 {
			t.Errorf("%s: limit %v, request %v", r, c.Resources.Limits[r], c.Resources.Requests[r])
		}
	}
	if *spec.ActiveDeadlineSeconds < 12 || *spec.SecurityContext.RunAsUser < 1_000_000 {
		t.Errorf("deadline %d, user %d", *spec.ActiveDeadlineSeconds, *spec.SecurityContext.RunAsUser)
	}
}

func TestTheEndOfAPodIsTold(t *testing.T) {
	ended := func(reason string, t corev1.ContainerStateTerminated) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason, ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &t}}}}}
	}
	evicted := ended("Evicted", corev1.ContainerStateTerminated{})
	evicted.Status.Message = "Pod ephemeral local storage usage exceeds the total limit of containers 192Mi."
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		stop suite.Stop
		says string
		code int
	}{
		{"it passes", ended("", corev1.ContainerStateTerminated{ExitCode: 0}), "", "", 0},
		{"it fails", ended("", corev1.ContainerStateTerminated{ExitCode: 1}), "", "", 1},
		{"the agent ended it", ended("", corev1.ContainerStateTerminated{ExitCode: 137, Message: `{"stop":"processes","reason":"it had more than 300"}`}), suite.StopProcesses, "more than 300", 137},
		{"something else is in the message", ended("", corev1.ContainerStateTerminated{ExitCode: 1, Message: `{"stop":"passed"}`}), "", "", 1},
		{"it takes too much memory", ended("", corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}), suite.StopMemory, "more than 256 MiB of memory", 137},
		{"it fills the disk", evicted, suite.StopDisk, "its pod was evicted, it may write 64 MiB: Pod ephemeral", 0},
		{"it never ends", ended("DeadlineExceeded", corev1.ContainerStateTerminated{}), suite.StopTime, "longer than 12s", 0},
	} {
		got := endOf(c.pod, Limits{Time: 12 * time.Second, Memory: 256 << 20, Disk: 64 << 20})
		if got.stop != c.stop || !strings.Contains(got.reason, c.says) || got.code != c.code || got.err != nil {
			t.Errorf("%s: got %+v", c.name, got)
		}
	}
	for name, pod := range map[string]*corev1.Pod{
		"gone": nil, "never begun": {Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "NodeLost"}},
		"no agent": ended("", corev1.ContainerStateTerminated{Reason: "StartError", Message: "no such file"}),
	} {
		if got := endOf(pod, Limits{}); got.err == nil {
			t.Errorf("%s: got %+v, want an error: it says nothing of the tests", name, got)
		}
	}
}

func TestWhyAPodHasNotBegun(t *testing.T) {
	waiting := func(reason, message string) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}}}
	}
	for _, c := range []struct {
		pod   *corev1.Pod
		why   string
		fatal bool
	}{
		{&corev1.Pod{}, "it is not on a node yet", false},
		{&corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes"}}}}, "Unschedulable: 0/1 nodes", false},
		{waiting("ImagePullBackOff", "no such image"), "ImagePullBackOff: no such image", false},
		{waiting("InvalidImageName", ""), "InvalidImageName", true},
	} {
		if why, fatal := waitingFor(c.pod); why != c.why || fatal != c.fatal {
			t.Errorf("got %q, %t, want %q, %t", why, fatal, c.why, c.fatal)
		}
	}
}
