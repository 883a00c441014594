package component

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	kubelet "k8s.io/kubelet/config/v1beta1"

	"github.com/bightdev/bight/cluster/internal/pki"
	"github.com/bightdev/bight/cluster/internal/spec"
)

func cluster(t *testing.T, egress bool) Cluster {
	t.Helper()
	dir := t.TempDir()
	return Cluster{
		Cluster: &spec.Cluster{Name: "dev", Nodes: 2, Egress: egress, Dir: dir},
		PKI:     filepath.Join(dir, "pki"), EtcdSocket: EtcdSocket,
	}
}

func node(c Cluster, i int) Node {
	return Node{Node: c.Node(i), Cluster: c, CNI: "/usr/lib/cni", RestrictOOM: true}
}

// TestEveryFileThatIsNamedIsMade looks at all that the components are told.
func TestEveryFileThatIsNamedIsMade(t *testing.T) {
	c := cluster(t, false)
	ca, err := pki.Open(c.PKI)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.IssueFiles(ca); err != nil {
		t.Fatal(err)
	}
	told := [][]string{c.Etcd(), c.APIServer(), c.ControllerManager(), c.Scheduler(), c.DNS()}
	for _, described := range c.AllNodes() {
		n := node(c, described.Index)
		config, err := json.Marshal(n.KubeletConfig())
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, n.Kubelet(), c.KubeProxy(described), strings.Split(string(config), `"`))
	}
	named := map[string]bool{}
	for _, args := range told {
		for _, arg := range args {
			if i := strings.Index(arg, c.PKI+"/"); i >= 0 {
				named[arg[i:]] = true
			}
		}
	}
	for file := range named {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	if len(named) < 17 {
		t.Errorf("only %d files are named: %v", len(named), named)
	}
}

func TestAKubeletWaitsAtTheGate(t *testing.T) {
	c := cluster(t, false)
	for name, k := range c.Kubeconfigs() {
		want := c.APINodeURL()
		if strings.HasPrefix(name, "kubelet-") {
			want = c.GateURL()
		}
		if k.Server != want {
			t.Errorf("%s asks %s, want %s", name, k.Server, want)
		}
	}
	user := c.Kubeconfigs()["kubelet-bight-dev-2"].User
	if user.User != "system:node:bight-dev-2" || strings.Join(user.Groups, ",") != "system:nodes" {
		t.Errorf("got %+v; the API server would not let it be its node", user)
	}
}

func TestKubeletConfigurationIsOne(t *testing.T) {
	n := node(cluster(t, false), 2)
	b, err := json.Marshal(n.KubeletConfig())
	if err != nil {
		t.Fatal(err)
	}
	strict := json.NewDecoder(bytes.NewReader(b))
	strict.DisallowUnknownFields()
	var got kubelet.KubeletConfiguration
	if err := strict.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.CgroupRoot != n.Cgroup() || got.Address != "10.41.0.12" || got.ContainerRuntimeEndpoint != "unix://"+n.ContainerdSocket() {
		t.Errorf("got %+v", got)
	}
	if *got.Authentication.Anonymous.Enabled || got.Authorization.Mode != kubelet.KubeletAuthorizationModeWebhook {
		t.Error("anybody may ask the kubelet")
	}
}

func TestContainerdConfigurationQuotesPaths(t *testing.T) {
	n := node(cluster(t, false), 1)
	n.Dir = `/home/a "b"/nodes/1`
	b, err := n.ContainerdConfig()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`root = "/home/a \"b\"/nodes/1/containerd"`,
		`conf_dir = "/home/a \"b\"/nodes/1/cni/conf"`,
		`address = "/run/containerd/node-1.sock"`,
		`sandbox_image = "localhost:5000/bight/pause:1"`,
		`restrict_oom_score_adj = true`,
		`disable_apparmor = false`,
	} {
		if !strings.Contains(string(b), want+"\n") {
			t.Errorf("lacks %s:\n%s", want, b)
		}
	}
}

func TestPodsOfEachNodeHaveTheirOwnNetwork(t *testing.T) {
	c := cluster(t, false)
	for i, want := range []string{`"subnet":"10.42.1.0/24"`, `"subnet":"10.42.2.0/24"`} {
		b, err := json.Marshal(node(c, i+1).CNIConfig())
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("node %d: got %s, %v; want %s", i+1, b, err, want)
		}
	}
}

func TestNamesAreAskedOutsideOnlyWithAWayOut(t *testing.T) {
	for _, c := range []struct {
		egress         bool
		dns, resolvers string
	}{
		{false, "--upstream=", ""},
		{true, "--upstream=" + spec.EgressGateway, "nameserver " + spec.EgressGateway + "\n"},
	} {
		cluster := cluster(t, c.egress)
		args := cluster.DNS()
		if got := args[len(args)-1]; got != c.dns {
			t.Errorf("egress %v: got %s, want %s", c.egress, got, c.dns)
		}
		if got := string(node(cluster, 1).ResolvConf()); got != c.resolvers {
			t.Errorf("egress %v: got %q, want %q", c.egress, got, c.resolvers)
		}
	}
}
