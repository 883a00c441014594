package node

import (
	"strings"
	"testing"
)

const (
	testUID = "2d3f9c1e-6b1a-4a5e-9d0f-0123456789ab"
	testID  = "3ea1b2c3d4e5f60718293a4b5c6d7e8f3ea1b2c3d4e5f60718293a4b5c6d7e8f"
	otherID = "ffa1b2c3d4e5f60718293a4b5c6d7e8f3ea1b2c3d4e5f60718293a4b5c6d7e8f"
)

func TestContainerOfKnowsEachLayout(t *testing.T) {
	dashed := strings.ReplaceAll(testUID, "-", "_")
	for name, path := range map[string]string{
		"containerd, systemd":         "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-ID.scope",
		"containerd, guaranteed":      "0::/kubepods.slice/kubepods-podUID_.slice/cri-containerd-ID.scope",
		"containerd, cgroupfs":        "0::/kubepods/besteffort/podUID/ID",
		"cgroupfs, guaranteed":        "0::/kubepods/podUID/ID",
		"drivers that differ":         "11:memory:/system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID",
		"CRI-O":                       "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice/crio-ID.scope",
		"CRI-O with crun":             "0::/kubepods.slice/kubepods-podUID_.slice/crio-ID.scope/container",
		"Docker, systemd":             "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/docker-ID.scope",
		"Docker, cgroupfs, version 1": "4:memory:/kubepods/burstable/podUID/ID",
		"several hierarchies":         "12:cpu,cpuacct:/kubepods/burstable/podUID/ID\n1:name=systemd:/kubepods/burstable/podUID/ID\n0::/",
		"only one hierarchy":          "3:cpuset:/\n2:name=systemd:/kubepods/burstable/podUID/ID\n0::/",
		"a kubelet in a container":    "0::/docker/ab12/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podUID_.slice/cri-containerd-ID.scope",
		"a root of its own":           "0::/bight-cluster-dev-1f/node-0/kubepods/burstable/podUID/ID",
		"from a cgroup namespace":     "0::/../../podUID/ID",
		"the same, systemd":           "0::/../../kubepods-besteffort-podUID_.slice/cri-containerd-ID.scope",
		"a cgroup of the app's own":   "0::/kubepods/burstable/podUID/ID/init.scope",
		"in a container of a pod":     "0::/kubepods/burstable/pod11111111-6b1a-4a5e-9d0f-0123456789ab/OTHER/kubepods/podUID/ID",
		"with a container in it":      "0::/kubepods/burstable/podUID/ID/kubepods/pod11111111-6b1a-4a5e-9d0f-0123456789ab/OTHER",
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.NewReplacer("UID_", dashed, "UID", testUID, "ID", testID, "OTHER", otherID).Replace(path) + "\n"
			got, ok := containerOf(text, testUID)
			if !ok || got != testID {
				t.Errorf("container of %q: got %q, %v, want %q", text, got, ok, testID)
			}
		})
	}
}

func TestContainerOfLeavesOthersOut(t *testing.T) {
	for name, path := range map[string]string{
		"the root":               "0::/",
		"empty":                  "",
		"no path":                "0:",
		"another pod":            "0::/kubepods/burstable/pod11111111-6b1a-4a5e-9d0f-0123456789ab/" + testID,
		"the pod's own cgroup":   "0::/kubepods/burstable/pod" + testUID,
		"CRI-O's monitor":        "0::/kubepods.slice/kubepods-pod2d3f9c1e_6b1a_4a5e_9d0f_0123456789ab.slice/crio-conmon-" + testID + ".scope",
		"no container":           "0::/kubepods/burstable/pod" + testUID + "/something",
		"below something else":   "0::/kubepods/burstable/pod" + testUID + "/something/" + testID,
		"UID is a prefix of one": "0::/kubepods/burstable/pod" + testUID + "cd/" + testID,
		"a slice that is no pod": "0::/pod" + testUID + ".slice/" + testID,
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := containerOf(path+"\n", testUID); ok {
				t.Errorf("container of %q: got %q, want none", path, got)
			}
		})
	}
}

func TestContainerOfFindsStaticPods(t *testing.T) {
	const hash = "9f86d081884c7d659a2feaa0c55ad015"
	path := "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + hash + ".slice/cri-containerd-" + testID + ".scope"
	if got, ok := containerOf(path, hash); !ok || got != testID {
		t.Errorf("got %q, %v, want %q", got, ok, testID)
	}
}

func FuzzContainerOf(f *testing.F) {
	f.Add("0::/kubepods/burstable/pod"+testUID+"/"+testID, testUID)
	f.Add("1:name=systemd:/kubepods-burstable-pod2d3f.slice:cri-containerd:"+testID+"\n\n::", "2d3f")
	f.Fuzz(func(t *testing.T, cgroup, uid string) {
		id, ok := containerOf(cgroup, uid)
		if !ok {
			return
		}
		if len(id) < 32 || !strings.Contains(cgroup, id) {
			t.Errorf("container of %q in pod %q: got %q, which is not in it", cgroup, uid, id)
		}
		if uid == "" {
			t.Errorf("container of %q: found for no pod", cgroup)
		}
	})
}
