package guest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/bightdev/bight/internal/intercept/podports"
)

// The ports of a pod's loopback of which one is taken: above those that agents and
// their doors have, below those that the kernel gives to connections.
const firstPort, lastPort = 24512, 28607

// container is what is put into a pod. It can be read by everybody who can read the
// pod, so it has no token but its hash.
func (s Settings) container(pod *core.Pod, tokenHash, name string, port int) *core.EphemeralContainer {
	target := cmp.Or(s.Container, pod.Spec.Containers[0].Name)
	command := []string{
		"/bight/agent", "gate", "--listen", strconv.Itoa(port), "--service", s.Workload,
		"--id", s.ID, "--owner", s.Owner, "--token-hash", tokenHash, "--container", target,
	}
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name == target {
			command = append(command, "--container-id", status.ContainerID)
		}
	}
	capabilities := &core.Capabilities{Drop: []core.Capability{"ALL"}}
	if s.Environment {
		command = append(command, "--environment")
		capabilities.Add = append(capabilities.Add, "SYS_PTRACE", "DAC_READ_SEARCH")
	}
	if s.Rule != nil {
		command = append(command, s.steering(pod)...)
		capabilities.Add = append(capabilities.Add, "NET_ADMIN")
	}
	return &core.EphemeralContainer{
		TargetContainerName: target,
		EphemeralContainerCommon: core.EphemeralContainerCommon{
			Name: name, Image: s.Image, ImagePullPolicy: core.PullIfNotPresent, Command: command,
			TerminationMessagePolicy: core.TerminationMessageFallbackToLogsOnError,
			SecurityContext: &core.SecurityContext{
				RunAsUser: ptr.To(int64(0)), RunAsGroup: ptr.To(int64(0)), RunAsNonRoot: ptr.To(false),
				ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false), Capabilities: capabilities,
			},
		},
	}
}

// steering are the flags that are about requests.
func (s Settings) steering(pod *core.Pod) []string {
	rule, err := json.Marshal(s.Rule)
	if err != nil {
		panic(err) // there is nothing in it that JSON does not have
	}
	args := []string{"--rule", string(rule)}
	silent := false
	for _, p := range podports.Of(pod, s.Rule.Port) {
		text := strconv.Itoa(p.Number)
		if p.Number == s.Rule.Port && s.Protocol != "" {
			text += "/" + s.Protocol
		}
		args = append(args, "--port", text)
		for _, path := range p.Probes {
			args = append(args, "--probe", fmt.Sprintf("%d=%s", p.Number, path))
		}
		if p.Silent {
			args = append(args, "--silent", strconv.Itoa(p.Number))
			silent = true
		}
	}
	if !silent {
		return args
	}
	nodes := pod.Status.HostIPs
	if len(nodes) == 0 && pod.Status.HostIP != "" {
		nodes = []core.HostIP{{IP: pod.Status.HostIP}}
	}
	for _, n := range nodes {
		args = append(args, "--node", n.IP)
	}
	return args
}

// port is a free one of a pod's loopback, as far as the pod says.
func port(pod *core.Pod) int {
	taken := map[int]bool{}
	for _, p := range podports.Of(pod) {
		taken[p.Number] = true
	}
	for i := range pod.Spec.EphemeralContainers {
		taken[portOf(&pod.Spec.EphemeralContainers[i])] = true
	}
	for {
		if n := firstPort + rand.IntN(lastPort-firstPort+1); !taken[n] {
			return n
		}
	}
}

// portOf is where one of our containers listens, 0 for another's.
func portOf(c *core.EphemeralContainer) int {
	i := slices.Index(c.Command, "--listen")
	if i < 0 || i+1 == len(c.Command) || !strings.HasPrefix(c.Name, "bight-") {
		return 0
	}
	n, err := strconv.Atoi(c.Command[i+1])
	if err != nil {
		return 0
	}
	return n
}

// what has become of our container.
type what string

const (
	waiting what = "waiting"
	runs    what = "runs"
	ended   what = "ended" // as it does when nobody needs it, or with the process beside it
	gone    what = "gone"  // with its pod
	taken   what = "taken" // its port was
	barred  what = "barred"
)

// state is what has become of our container, and for those that don't run why: a
// clause that its name is the subject of.
type state struct {
	what what
	why  string
}

// portTaken is the exit code by which the agent says that its port is taken; killed and
// terminated are how it ends with the process whose PID namespace it is in.
const portTaken, killed, terminated = 3, 137, 143

// judge tells what has become of our container. What can't heal is barred at once, in
// the words of the pod.
func judge(pod *core.Pod, name string) state {
	if pod.DeletionTimestamp != nil || pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed {
		return state{gone, "is gone with the pod"}
	}
	i := slices.IndexFunc(pod.Status.EphemeralContainerStatuses, func(s core.ContainerStatus) bool { return s.Name == name })
	if i < 0 {
		return state{waiting, ""}
	}
	s := pod.Status.EphemeralContainerStatuses[i].State
	switch {
	case s.Running != nil:
		return state{runs, ""}
	case s.Terminated != nil:
		return judgeEnd(s.Terminated)
	case s.Waiting != nil:
		switch s.Waiting.Reason {
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError":
			return state{barred, said("can't have its image", s.Waiting.Reason, s.Waiting.Message)}
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			return state{barred, said("can't be started", s.Waiting.Reason, s.Waiting.Message)}
		}
	}
	return state{waiting, ""}
}

func judgeEnd(t *core.ContainerStateTerminated) state {
	code := int(t.ExitCode)
	switch {
	case t.Reason == "OOMKilled":
		return state{barred, "was killed for want of memory: the pod's limit leaves none for it"}
	case t.Reason == "StartError" || t.Reason == "ContainerCannotRun":
		return state{barred, said("can't be started", t.Reason, t.Message)}
	case code == portTaken:
		return state{taken, "found its port taken"}
	case code == 0 || code == killed || code == terminated:
		return state{ended, fmt.Sprintf("has ended (exit code %d)", code)}
	}
	return state{barred, said("has ended", fmt.Sprintf("exit code %d", code), t.Message)}
}

// said puts the words of the pod behind ours.
func said(what, reason, message string) string {
	text := what + " (" + reason + ")"
	if message = strings.TrimSpace(message); message != "" {
		text += ": " + message
	}
	return text
}
