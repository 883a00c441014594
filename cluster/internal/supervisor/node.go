package supervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"text/template"
	"time"

	"github.com/bightdev/bight/cluster/internal/netns"
	"github.com/bightdev/bight/cluster/internal/pki"
	"github.com/bightdev/bight/cluster/internal/spec"
)

// node is a node while it runs.
type node struct {
	spec.Node
	ns *netns.Namespace
}

func (n node) path(elem ...string) string {
	return filepath.Join(append([]string{n.Dir}, elem...)...)
}

// containerdSocket is below /run so that its path is short: a Unix socket's may
// have 107 bytes, and a home directory can be deep. /run/containerd is private to
// the cluster's mount namespace.
func (n node) containerdSocket() string {
	return "/run/containerd/node-" + strconv.Itoa(n.Index) + ".sock"
}

var containerdConfig = template.Must(template.New("containerd").Parse(`version = 2
root = "{{.Root}}"
state = "/run/containerd/node-{{.Index}}"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "{{.Socket}}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost:{{.RegistryPort}}/bight/pause:1"
  restrict_oom_score_adj = {{.RestrictOOM}}
  netns_mounts_under_state_dir = true
  disable_apparmor = {{.NoAppArmor}}
  stream_server_address = "127.0.0.1"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{{.CNI}}"
  conf_dir = "{{.CNIConf}}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
`))

// prepare writes the node's files.
func (s *Supervisor) prepareNode(n node, ca *pki.Authority) error {
	for _, dir := range []string{"containerd", "kubelet", "cni/conf", "cni/state", "pod-logs"} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			return err
		}
	}
	// Addresses handed out before the last stop belong to sandboxes that are gone.
	if err := os.RemoveAll(n.path("cni/state")); err != nil {
		return err
	}
	var config bytes.Buffer
	err := containerdConfig.Execute(&config, map[string]any{
		"Root":         n.path("containerd"),
		"Index":        n.Index,
		"Socket":       n.containerdSocket(),
		"RegistryPort": spec.RegistryPort,
		"RestrictOOM":  !hasResourceCapability(),
		"NoAppArmor":   !exists("/sys/kernel/security/apparmor"),
		"CNI":          s.Tools.CNI,
		"CNIConf":      n.path("cni/conf"),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(n.path("containerd.toml"), config.Bytes(), 0o600); err != nil {
		return err
	}
	if err := writeJSON(n.path("cni/conf/10-bight.conflist"), s.cniConfig(n)); err != nil {
		return err
	}
	user := pki.Leaf{User: "system:node:" + n.Name, Groups: []string{"system:nodes"}, Hosts: []string{n.Address, n.Name}}
	if _, _, err := ca.IssueFiles("kubelet-"+n.Name, user); err != nil {
		return err
	}
	if _, err := ca.KubeconfigFile("kubelet-"+n.Name, s.Cluster.APINodeURL(), pki.Leaf{User: user.User, Groups: user.Groups}); err != nil {
		return err
	}
	if err := writeJSON(n.path("kubelet.yaml"), s.kubeletConfig(n, ca)); err != nil {
		return err
	}
	resolv := ""
	if s.Cluster.Egress {
		resolv = "nameserver " + egressGateway + "\n"
	}
	return os.WriteFile(n.path("resolv.conf"), []byte(resolv), 0o644)
}

func (s *Supervisor) cniConfig(n node) any {
	type m = map[string]any
	return m{
		"cniVersion": "1.0.0",
		"name":       "bight",
		"plugins": []m{{
			"type": "bridge", "bridge": "pods0", "isGateway": true, "isDefaultGateway": true,
			"ipMasq": false, "hairpinMode": true,
			"ipam": m{"type": "host-local", "dataDir": n.path("cni/state"), "ranges": [][]m{{{"subnet": n.PodCIDR}}}},
		}},
	}
}

// kubeletConfig is a KubeletConfiguration; JSON is YAML.
func (s *Supervisor) kubeletConfig(n node, ca *pki.Authority) any {
	type m = map[string]any
	return m{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"address":                  n.Address,
		"authentication":           m{"anonymous": m{"enabled": false}, "webhook": m{"enabled": true}, "x509": m{"clientCAFile": ca.CertFile()}},
		"authorization":            m{"mode": "Webhook"},
		"tlsCertFile":              ca.File("kubelet-" + n.Name + ".crt"),
		"tlsPrivateKeyFile":        ca.File("kubelet-" + n.Name + ".key"),
		"containerRuntimeEndpoint": "unix://" + n.containerdSocket(),
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               s.Cluster.CgroupRoot() + "/node-" + strconv.Itoa(n.Index),
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"enforceNodeAllocatable":   []string{},
		"clusterDomain":            spec.DNSDomain,
		"clusterDNS":               []string{spec.ServiceDNS},
		"resolvConf":               n.path("resolv.conf"),
		"podLogsDir":               n.path("pod-logs"),
		"volumePluginDir":          n.path("kubelet/volume-plugins"),
		"makeIPTablesUtilChains":   false,
		"serializeImagePulls":      false,
		"maxPods":                  250,
		"registryPullQPS":          0,
		"eventRecordQPS":           0,
		"kubeAPIQPS":               200,
		"kubeAPIBurst":             400,
		// A full shared disk is no reason to end a developer's pods.
		"imageGCHighThresholdPercent": 100,
		"imageGCLowThresholdPercent":  99,
		"evictionHard":                m{"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%"},
		// One pause less between a pod's changes and what the API says of them.
		"nodeStatusUpdateFrequency": "10s",
		"syncFrequency":             "1m",
	}
}

// startNode starts containerd, and once the API server answers the rest.
func (s *Supervisor) containerd(n node) process {
	return process{
		name: "containerd-" + strconv.Itoa(n.Index), ns: n.ns, dir: n.Dir, log: s.logFile("containerd-" + strconv.Itoa(n.Index)),
		argv: []string{s.Tools.Containerd, "--config", n.path("containerd.toml"), "--log-level", "warn"},
		stop: syscall.SIGTERM, wait: 5 * time.Second,
	}
}

func (s *Supervisor) kubelet(n node, ca *pki.Authority) process {
	return s.component("kubelet", n,
		"--config="+n.path("kubelet.yaml"),
		"--kubeconfig="+ca.File("kubelet-"+n.Name+".kubeconfig"),
		"--hostname-override="+n.Name,
		"--node-ip="+n.Address,
		"--root-dir="+n.path("kubelet"),
		"--v=0")
}

func (s *Supervisor) kubeProxy(n node, ca *pki.Authority) process {
	return s.component("kube-proxy", n,
		"--kubeconfig="+ca.File("kube-proxy.kubeconfig"),
		"--hostname-override="+n.Name,
		"--proxy-mode=nftables",
		"--cluster-cidr="+spec.PodNetwork,
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		"--nodeport-addresses=primary",
		"--healthz-bind-address=", "--metrics-bind-address=127.0.0.1:10249")
}

// component is one of our own executable's subcommands.
func (s *Supervisor) component(name string, n node, args ...string) process {
	full := name
	if name == "kubelet" || name == "kube-proxy" {
		full += "-" + strconv.Itoa(n.Index)
	}
	return process{
		name: full, ns: n.ns, dir: s.Cluster.Dir, log: s.logFile(full),
		argv: append([]string{s.Tools.Self, name}, args...),
		stop: syscall.SIGTERM, wait: 3 * time.Second,
	}
}

func (s *Supervisor) logFile(name string) string { return s.Cluster.Path("logs", name+".log") }

func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", file, err)
	}
	return os.WriteFile(file, b, 0o600)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
