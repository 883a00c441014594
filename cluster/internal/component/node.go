package component

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"text/template"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// Node is one node's part: what its components are told.
type Node struct {
	spec.Node
	Cluster Cluster

	RestrictOOM bool   // out-of-memory scores may not be lowered here
	NoAppArmor  bool   // the machine has none
	CNI         string // the directory of the CNI plugins
}

// Path returns the path of a file of the node.
func (n Node) Path(elem ...string) string {
	return filepath.Join(append([]string{n.Dir}, elem...)...)
}

// ContainerdSocket is below /run so that its path is short: a Unix socket's may
// have 107 bytes, and a home directory can be deep. /run/containerd is private to
// the cluster's mount namespace.
func (n Node) ContainerdSocket() string {
	return "/run/containerd/node-" + strconv.Itoa(n.Index) + ".sock"
}

// Cgroup is the cgroup that the node's pods are below.
func (n Node) Cgroup() string {
	return n.Cluster.CgroupRoot() + "/node-" + strconv.Itoa(n.Index)
}

// keyName is the name of the kubelet's files among the keys.
func keyName(n spec.Node) string { return "kubelet-" + n.Name }

// Containerd returns the arguments of containerd.
func (n Node) Containerd() []string {
	return []string{"--config", n.Path("containerd.toml"), "--log-level", "warn"}
}

// Kubelet returns the arguments of the kubelet.
func (n Node) Kubelet() []string {
	return []string{
		"kubelet",
		"--config=" + n.Path("kubelet.yaml"),
		"--kubeconfig=" + n.Cluster.File(keyName(n.Node)+".kubeconfig"),
		"--hostname-override=" + n.Name,
		"--node-ip=" + n.Cluster.both(n.Address, n.Address6),
		"--root-dir=" + n.Path("kubelet"),
	}
}

// containerdTemplate is containerd's configuration. No image can be pulled from
// anywhere but the cluster's registry, so the sandbox's image is there too.
var containerdTemplate = template.Must(template.New("containerd").Parse(`version = 2
root = {{printf "%q" .Root}}
state = {{printf "%q" .State}}
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "{{.Socket}}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.PauseImage}}"
  restrict_oom_score_adj = {{.Node.RestrictOOM}}
  netns_mounts_under_state_dir = true
  disable_apparmor = {{.Node.NoAppArmor}}
  stream_server_address = "127.0.0.1"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = {{printf "%q" .Node.CNI}}
  conf_dir = {{printf "%q" .CNIConf}}

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
`))

// PauseRepository is the sandbox image's name in the registry.
const PauseRepository = "bight/pause:1"

// ContainerdConfig returns containerd's configuration file.
func (n Node) ContainerdConfig() ([]byte, error) {
	var b bytes.Buffer
	err := containerdTemplate.Execute(&b, map[string]any{
		"Node":       n,
		"Root":       n.Path("containerd"),
		"State":      "/run/containerd/node-" + strconv.Itoa(n.Index),
		"Socket":     n.ContainerdSocket(),
		"PauseImage": "localhost:" + strconv.Itoa(spec.RegistryPort) + "/" + PauseRepository,
		"CNIConf":    n.Path("cni/conf"),
	})
	if err != nil {
		return nil, fmt.Errorf("write containerd's configuration: %w", err)
	}
	return b.Bytes(), nil
}

// ResolvConf returns the file from which pods that use the node's names learn
// where to ask: there is somebody only with a way out.
func (n Node) ResolvConf() []byte {
	if !n.Cluster.Egress {
		return nil
	}
	return []byte("nameserver " + spec.EgressGateway + "\n")
}

// CNIConfig returns the network configuration of the node's pods.
func (n Node) CNIConfig() any {
	type m = map[string]any
	ranges := [][]m{{{"subnet": n.PodCIDR}}}
	if n.PodCIDR6 != "" {
		ranges = append(ranges, []m{{"subnet": n.PodCIDR6}})
	}
	return m{
		"cniVersion": "1.0.0",
		"name":       "bight",
		"plugins": []m{{
			"type": "bridge", "bridge": spec.PodBridge, "isGateway": true, "isDefaultGateway": true,
			"ipMasq": false, "hairpinMode": true,
			"ipam": m{"type": "host-local", "dataDir": n.Path("cni/state"), "ranges": ranges},
		}},
	}
}

// KubeletConfig returns a KubeletConfiguration; JSON is YAML.
func (n Node) KubeletConfig() any {
	type m = map[string]any
	return m{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"address":                  n.Address,
		"authentication":           m{"anonymous": m{"enabled": false}, "webhook": m{"enabled": true}, "x509": m{"clientCAFile": n.Cluster.CA()}},
		"authorization":            m{"mode": "Webhook"},
		"tlsCertFile":              n.Cluster.File(keyName(n.Node) + ".crt"),
		"tlsPrivateKeyFile":        n.Cluster.File(keyName(n.Node) + ".key"),
		"containerRuntimeEndpoint": "unix://" + n.ContainerdSocket(),
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               n.Cgroup(),
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"enforceNodeAllocatable":   []string{},
		"clusterDomain":            spec.DNSDomain,
		"clusterDNS":               []string{spec.ServiceDNS},
		"resolvConf":               n.Path("resolv.conf"),
		"podLogsDir":               n.Path("pod-logs"),
		"volumePluginDir":          n.Path("kubelet/volume-plugins"),
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
	}
}
