package guest

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/internal/steer"
)

// cartPod is a pod as somebody else has deployed it.
func cartPod(changes ...func(*core.Pod)) *core.Pod {
	p := &core.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "cart-1", Namespace: "shop", UID: "u1"},
		Spec: core.PodSpec{Containers: []core.Container{{
			Name: "cart", Ports: []core.ContainerPort{{Name: "http", ContainerPort: 8080}, {ContainerPort: 7000}},
			ReadinessProbe: &core.Probe{ProbeHandler: core.ProbeHandler{HTTPGet: &core.HTTPGetAction{
				Path: "/healthz", Port: intstr.FromString("http"), HTTPHeaders: []core.HTTPHeader{{Name: "User-Agent", Value: "probe"}},
			}}},
		}, {Name: "proxy"}}},
		Status: core.PodStatus{
			Phase: core.PodRunning, HostIP: "10.0.0.1", HostIPs: []core.HostIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}},
			ContainerStatuses: []core.ContainerStatus{{Name: "proxy", ContainerID: "containerd://p"}, {Name: "cart", ContainerID: "containerd://c"}},
		},
	}
	for _, change := range changes {
		change(p)
	}
	return p
}

func TestTheContainer(t *testing.T) {
	s := Settings{Image: "r/agent@sha256:1", ID: "cart-4711", Owner: "ada (ada@laptop)", Workload: "deployment/cart"}
	base := []string{
		"/bight/agent", "gate", "--listen", "24513", "--service", "deployment/cart", "--id", "cart-4711", "--owner", "ada (ada@laptop)",
		"--token-hash", "h", "--container", "cart", "--container-id", "containerd://c",
	}
	rule := &steer.Rule{ID: "cart-4711", Port: 8080, Mode: steer.Intercept}
	const asFlag = `{"id":"cart-4711","owner":"","service":"","port":8080,"mode":"intercept"}`
	tcpProbe := func(p *core.Pod) {
		p.Spec.Containers[0].LivenessProbe = &core.Probe{ProbeHandler: core.ProbeHandler{TCPSocket: &core.TCPSocketAction{Port: intstr.FromInt32(7000)}}}
	}
	for _, tt := range []struct {
		name    string
		change  func(*Settings)
		pod     *core.Pod
		command []string
		add     []core.Capability
	}{
		{"the environment", func(s *Settings) { s.Environment = true }, cartPod(),
			append(slices.Clone(base), "--environment"), []core.Capability{"SYS_PTRACE", "DAC_READ_SEARCH"}},
		{"another container's environment", func(s *Settings) { s.Environment, s.Container = true, "proxy" }, cartPod(),
			append(slices.Clone(base[:len(base)-3]), "proxy", "--container-id", "containerd://p", "--environment"), []core.Capability{"SYS_PTRACE", "DAC_READ_SEARCH"}},
		{"requests", func(s *Settings) { s.Rule, s.Protocol = rule, "http" }, cartPod(),
			append(slices.Clone(base), "--rule", asFlag, "--port", "8080/http", "--probe", "8080=/healthz", "--port", "7000"), []core.Capability{"NET_ADMIN"}},
		{"both, and a probe that can't be told from others", func(s *Settings) { s.Environment, s.Rule = true, rule }, cartPod(tcpProbe),
			append(slices.Clone(base), "--environment", "--rule", asFlag, "--port", "8080", "--probe", "8080=/healthz", "--port", "7000",
				"--silent", "7000", "--node", "10.0.0.1", "--node", "fd00::1"),
			[]core.Capability{"SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"}},
		{"an old cluster has one address of the node", func(s *Settings) { s.Rule = rule }, cartPod(tcpProbe, func(p *core.Pod) { p.Status.HostIPs = nil }),
			append(slices.Clone(base), "--rule", asFlag, "--port", "8080", "--probe", "8080=/healthz", "--port", "7000", "--silent", "7000", "--node", "10.0.0.1"),
			[]core.Capability{"NET_ADMIN"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := s
			tt.change(&s)
			target := "cart"
			if s.Container != "" {
				target = s.Container
			}
			want := &core.EphemeralContainer{
				TargetContainerName: target,
				EphemeralContainerCommon: core.EphemeralContainerCommon{
					Name: "bight-x", Image: "r/agent@sha256:1", ImagePullPolicy: core.PullIfNotPresent, Command: tt.command,
					TerminationMessagePolicy: core.TerminationMessageFallbackToLogsOnError,
					SecurityContext: &core.SecurityContext{
						RunAsUser: ptr.To(int64(0)), RunAsGroup: ptr.To(int64(0)), RunAsNonRoot: ptr.To(false),
						ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false),
						Capabilities: &core.Capabilities{Drop: []core.Capability{"ALL"}, Add: tt.add},
					},
				},
			}
			if d := cmp.Diff(want, s.container(tt.pod, "h", "bight-x", 24513)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestTheContainerHasNoToken(t *testing.T) {
	const token = "VERYSECRET"
	s := Settings{Rule: &steer.Rule{Port: 8080}, Environment: true}
	text, err := json.Marshal(s.container(cartPod(), hashOf(token), name(), port(cartPod())))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), token) || !strings.Contains(string(text), hashOf(token)) {
		t.Errorf("it has %s", text)
	}
}

func TestAPortThatNobodyHas(t *testing.T) {
	crowded := cartPod()
	for n := firstPort; n <= lastPort; n++ {
		c := core.EphemeralContainer{EphemeralContainerCommon: core.EphemeralContainerCommon{
			Name: "bight-" + strconv.Itoa(n), Command: []string{"/bight/agent", "gate", "--listen", strconv.Itoa(n)},
		}}
		switch n {
		case firstPort + 7: // of somebody else
			c.Name = "debugger"
		case firstPort + 8:
			crowded.Spec.Containers[1].Ports = []core.ContainerPort{{ContainerPort: int32(n)}}
			continue
		}
		crowded.Spec.EphemeralContainers = append(crowded.Spec.EphemeralContainers, c)
	}
	if got, want := port(crowded), firstPort+7; got != want {
		t.Errorf("got port %d, want %d, the only one", got, want)
	}
	if got := port(cartPod()); got < firstPort || got > lastPort {
		t.Errorf("got port %d, want one from %d to %d", got, firstPort, lastPort)
	}
	for _, c := range []core.EphemeralContainer{
		{}, {EphemeralContainerCommon: core.EphemeralContainerCommon{Name: "bight-x", Command: []string{"--listen"}}},
		{EphemeralContainerCommon: core.EphemeralContainerCommon{Name: "bight-x", Command: []string{"--listen", "x"}}},
	} {
		if got := portOf(&c); got != 0 {
			t.Errorf("%v has port %d, want none", c.Command, got)
		}
	}
}

func TestWhatHasBecomeOfTheContainer(t *testing.T) {
	with := func(s core.ContainerState) func(*core.Pod) {
		return func(p *core.Pod) {
			p.Status.EphemeralContainerStatuses = []core.ContainerStatus{{Name: "other", State: core.ContainerState{Running: &core.ContainerStateRunning{}}}, {Name: "bight-x", State: s}}
		}
	}
	waits := func(reason, message string) func(*core.Pod) {
		return with(core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: reason, Message: message}})
	}
	ends := func(code int32, reason, message string) func(*core.Pod) {
		return with(core.ContainerState{Terminated: &core.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}})
	}
	for _, tt := range []struct {
		name   string
		change func(*core.Pod)
		want   state
	}{
		{"nothing is said yet", func(*core.Pod) {}, state{waiting, ""}},
		{"it is being made", waits("ContainerCreating", ""), state{waiting, ""}},
		{"nothing is said of it", with(core.ContainerState{}), state{waiting, ""}},
		{"it runs", with(core.ContainerState{Running: &core.ContainerStateRunning{}}), state{runs, ""}},
		{"there is no image", waits("ErrImagePull", "r/agent: not found\n"), state{barred, "can't have its image (ErrImagePull): r/agent: not found"}},
		{"there is none after a while", waits("ImagePullBackOff", ""), state{barred, "can't have its image (ImagePullBackOff)"}},
		{"kubelet refuses it", waits("CreateContainerConfigError", "container's runAsUser breaks non-root policy"),
			state{barred, "can't be started (CreateContainerConfigError): container's runAsUser breaks non-root policy"}},
		{"the runtime refuses it", ends(128, "StartError", "exec format error"), state{barred, "can't be started (StartError): exec format error"}},
		{"nobody needs it", ends(0, "Completed", ""), state{ended, "has ended (exit code 0)"}},
		{"it ends with its pid namespace", ends(137, "Error", ""), state{ended, "has ended (exit code 137)"}},
		{"it is told to", ends(143, "Error", ""), state{ended, "has ended (exit code 143)"}},
		{"no memory", ends(137, "OOMKilled", ""), state{barred, "was killed for want of memory: the pod's limit leaves none for it"}},
		{"its port is taken", ends(portTaken, "Error", "agent gate: ..."), state{taken, "found its port taken"}},
		{"its own words", ends(1, "Error", "agent gate: no nf_tables\n"), state{barred, "has ended (exit code 1): agent gate: no nf_tables"}},
		{"the pod goes", func(p *core.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} }, state{gone, "is gone with the pod"}},
		{"the pod has ended", func(p *core.Pod) { p.Status.Phase = core.PodFailed }, state{gone, "is gone with the pod"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := judge(cartPod(tt.change), "bight-x"); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestThePodsThatAreEnteredFirst(t *testing.T) {
	now := time.Unix(1000, 0)
	pod := func(name string, age time.Duration, isReady bool, changes ...func(*core.Pod)) core.Pod {
		p := cartPod(changes...)
		p.Name, p.CreationTimestamp = name, metav1.Time{Time: now.Add(-age)}
		if isReady {
			p.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}}
		}
		return *p
	}
	pods := []core.Pod{
		pod("starting", 0, false), pod("old", time.Hour, true), pod("new", time.Minute, true), pod("newer in the list", time.Minute, true),
		pod("going", 0, true, func(p *core.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }),
		pod("pending", 0, true, func(p *core.Pod) { p.Status.Phase = core.PodPending }),
	}
	for _, tt := range []struct {
		name string
		pods []core.Pod
		all  bool
		want []string
	}{
		{"for a rule", pods, true, []string{"old", "new", "newer in the list"}},
		{"for the environment", pods, false, []string{"new"}},
		{"for the environment, none being ready", pods[:1], false, []string{"starting"}},
		{"none", pods[4:], false, nil},
	} {
		var got []string
		for _, p := range first(tt.pods, tt.all) {
			got = append(got, p.Name)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}
