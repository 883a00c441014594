package reach

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// As in a pod of containerd, some lines left out.
const podMountInfo = `813 712 0:152 / / rw,relatime master:259 - overlay overlay rw,lowerdir=x
814 813 0:155 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
815 813 0:156 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
818 813 0:149 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
820 815 0:146 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k
821 813 0:130 / /bight/live rw,relatime - tmpfs tmpfs rw,size=262144k
822 813 8:1 /var/lib/kubelet/pods/1c/volumes/kubernetes.io~empty-dir/bight-tmp /tmp rw,relatime - ext4 /dev/sda1 rw
823 813 8:1 /var/lib/kubelet/pods/1c/volumes/kubernetes.io~configmap/settings /etc/settings ro,relatime - ext4 /dev/sda1 rw
824 813 8:1 /var/lib/kubelet/pods/1c/volumes/kubernetes.io~configmap/settings/..2026_01_02/one.yaml /etc/one.yaml ro,relatime - ext4 /dev/sda1 rw
825 813 0:131 / /etc/keys ro,relatime - tmpfs tmpfs rw,size=1000k
826 813 0:132 /..2026_01_02/tls.key /etc/tls.key ro,relatime - tmpfs tmpfs rw
827 813 0:133 / /run/secrets/kubernetes.io/serviceaccount ro,relatime - tmpfs tmpfs rw
828 813 8:1 /var/lib/kubelet/pods/1c/volumes/kubernetes.io~empty-dir/scratch /var/my\040scratch rw,relatime - ext4 /dev/sda1 rw
829 813 8:1 /var/lib/kubelet/pods/1c/etc-hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw
830 813 8:1 /var/lib/kubelet/pods/1c/containers/web/0badcafe /last-words rw,relatime - ext4 /dev/sda1 rw
831 813 8:1 /k3s/sandboxes/7/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw
832 813 8:1 /k3s/sandboxes/7/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/sda1 rw
833 813 8:32 / /data rw,relatime - ext4 /dev/sdc rw
834 813 0:134 / /cache rw,relatime - tmpfs tmpfs rw
835 814 0:155 /bus /proc/bus ro,nosuid - proc proc rw
`

func TestMountsOfAPod(t *testing.T) {
	infos, err := parseMountInfo(podMountInfo)
	must(t, err)
	written := map[string]bool{"/etc/keys": true, "/run/secrets/kubernetes.io/serviceaccount": true}
	var got []Mount
	for _, info := range infos {
		if m, ok := info.mount([]string{"/bight/live"}, info.versioned() || written[info.point]); ok {
			got = append(got, m)
		}
	}
	want := []Mount{
		{Path: "/etc/settings", Kind: ConfigMap, Volume: "settings", ReadOnly: true, Copied: true},
		{Path: "/etc/one.yaml", Kind: ConfigMap, Volume: "settings", ReadOnly: true, Copied: true},
		{Path: "/etc/keys", Kind: Kubelet, ReadOnly: true, Copied: true},
		{Path: "/etc/tls.key", Kind: Kubelet, ReadOnly: true, Copied: true},
		{Path: "/run/secrets/kubernetes.io/serviceaccount", Kind: Kubelet, ReadOnly: true, Copied: true},
		{Path: "/var/my scratch", Kind: EmptyDir, Volume: "scratch"},
		{Path: "/data", Kind: Other},
		{Path: "/cache", Kind: Other},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestMountInfoThatIsNone(t *testing.T) {
	for _, text := range []string{"\n", "a b c\n", "1 2 3:4 / /x rw\n", "1 2 3:4 /  rw - ext4 x\n"} {
		if got, err := parseMountInfo(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
	// What is mounted over another mount hides that.
	got, err := parseMountInfo("1 2 3:4 / /x rw - ext4 a rw\n1 2 3:4 / /x ro - tmpfs b rw\n")
	if err != nil || len(got) != 1 || got[0].fsType != "tmpfs" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPodIsWhatTheProcessWasGiven(t *testing.T) {
	t.Setenv("BIGHT_TOKEN", "secret")
	t.Setenv("GREETING", "hello\nworld = \"x\"")
	t.Setenv("RAW", "\xff\xfe")
	t.Setenv("EMPTY", "")
	etc := t.TempDir()
	must(t, os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("nameserver 10.96.0.10\n"), 0o644))
	s := connect(t, &Server{Hidden: []string{"BIGHT_TOKEN"}, etc: etc})
	ln := listen(t, "127.0.0.1:0", echo)
	p, err := GetPod(t.Context(), s)
	must(t, err)
	env := map[string]string{}
	for _, v := range p.Env {
		env[v.Name] = v.Value
	}
	if _, ok := env["BIGHT_TOKEN"]; ok {
		t.Error("the token is among the variables")
	}
	if env["GREETING"] != "hello\nworld = \"x\"" || env["RAW"] != "\xff\xfe" {
		t.Errorf("GREETING %q, RAW %q", env["GREETING"], env["RAW"])
	}
	if v, ok := env["EMPTY"]; !ok || v != "" {
		t.Errorf("EMPTY %q, %v", v, ok)
	}
	dir, _ := os.Getwd()
	host, _ := os.Hostname()
	if p.Dir != dir || p.Hostname != host || p.UID != os.Getuid() || p.ResolvConf != "nameserver 10.96.0.10\n" {
		t.Errorf("pod %+v", p)
	}
	if !slices.Contains(p.Listening, ln.AddrPort()) {
		t.Errorf("listening %v, want %v among them", p.Listening, ln)
	}
	if len(p.Notes) != 1 { // there is no hosts file
		t.Errorf("notes %q", p.Notes)
	}
	if _, err := GetPod(t.Context(), refuser{s}); err == nil {
		t.Error("an agent that does not know the question answers it")
	}
}

func TestVariablesThroughJSON(t *testing.T) {
	want := []Variable{{"A", "b"}, {"A", ""}, {"A", "\xff"}, {"\xff", ""}, {"Ä", "<&>\u2028"}}
	b, err := json.Marshal(want)
	must(t, err)
	var got []Variable
	must(t, json.Unmarshal(b, &got))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("through %s (-want +got):\n%s", b, diff)
	}
}

func TestAGlobalAddressOfIPv6(t *testing.T) {
	const (
		loopback = "00000000000000000000000000000001 01 80 10 80       lo\n"
		link     = "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n"
		local    = "fd000010004200010000000000000004 04 40 00 82     eth0\n"
	)
	for table, want := range map[string]bool{"": false, loopback: false, loopback + link: false, link + local: true, local: true, "fd00 04 40": false} {
		if got := anyGlobal(table); got != want {
			t.Errorf("%q: %v, want %v", table, got, want)
		}
	}
}
