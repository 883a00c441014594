// Package component has the command lines of the programs that a cluster is made
// of, and the configuration files that some of them want: pure functions of the
// cluster's description. Whoever runs them decides where and when. The main type
// is [Cluster], which is only read.
package component

import (
	"path/filepath"
	"strconv"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// EtcdSocket is where etcd serves, in the cluster's own mount namespace.
const EtcdSocket = "/run/etcd.sock"

// Cluster is what the command lines depend on.
type Cluster struct {
	*spec.Cluster
	PKI        string // the directory of keys and certificates
	EtcdSocket string
}

// File returns the path of a key, certificate or kubeconfig.
func (c Cluster) File(name string) string { return filepath.Join(c.PKI, name) }

// CA is the certificate of the cluster's authority.
func (c Cluster) CA() string { return c.File("ca.crt") }

// both is what a component is told of both families, where the cluster has both.
func (c Cluster) both(four, six string) string {
	if !c.DualStack {
		return four
	}
	return four + "," + six
}

// Etcd returns etcd's arguments, its subcommand first as in all that follow.
func (c Cluster) Etcd() []string {
	return []string{"etcd", "--dir=" + c.Path("etcd"), "--socket=" + c.EtcdSocket}
}

// APIServer returns kube-apiserver's arguments.
func (c Cluster) APIServer() []string {
	return []string{
		"kube-apiserver",
		"--etcd-servers=unix://" + c.EtcdSocket,
		"--advertise-address=" + c.Node(1).Address,
		"--secure-port=" + strconv.Itoa(spec.APIPort),
		"--tls-cert-file=" + c.File("apiserver.crt"), "--tls-private-key-file=" + c.File("apiserver.key"),
		"--client-ca-file=" + c.CA(),
		"--kubelet-certificate-authority=" + c.CA(),
		"--kubelet-client-certificate=" + c.File("apiserver-kubelet.crt"), "--kubelet-client-key=" + c.File("apiserver-kubelet.key"),
		"--proxy-client-cert-file=" + c.File("front-proxy.crt"), "--proxy-client-key-file=" + c.File("front-proxy.key"),
		"--requestheader-client-ca-file=" + c.CA(), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--service-account-issuer=https://kubernetes.default.svc." + spec.DNSDomain,
		"--service-account-key-file=" + c.File("service-account.key"), "--service-account-signing-key-file=" + c.File("service-account.key"),
		"--service-cluster-ip-range=" + c.both(spec.ServiceNetwork, spec.ServiceNetwork6),
		"--kubelet-preferred-address-types=InternalIP", // no name server knows the nodes
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true", "--profiling=false",
	}
}

// ControllerManager returns kube-controller-manager's arguments.
func (c Cluster) ControllerManager() []string {
	kubeconfig := c.File("kube-controller-manager.kubeconfig")
	return []string{
		"kube-controller-manager",
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--service-account-private-key-file=" + c.File("service-account.key"), "--root-ca-file=" + c.CA(),
		"--cluster-signing-cert-file=" + c.CA(), "--cluster-signing-key-file=" + c.File("ca.key"),
		"--use-service-account-credentials=true", "--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false",
		// Each of its controllers asks for a token first. At the default of 20
		// requests per second none would start to work for four seconds.
		"--kube-api-qps=500", "--kube-api-burst=1000",
		// Whoever tries an autoscaler on a laptop watches it.
		"--horizontal-pod-autoscaler-sync-period=3s",
	}
}

// Scheduler returns kube-scheduler's arguments.
func (c Cluster) Scheduler() []string {
	kubeconfig := c.File("kube-scheduler.kubeconfig")
	return []string{
		"kube-scheduler",
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false",
	}
}

// DNS returns the arguments of the name server. Names that are not the cluster's
// are asked of whoever is at the way out; without one they do not exist.
func (c Cluster) DNS() []string {
	upstream := ""
	if c.Egress {
		upstream = spec.EgressGateway
	}
	return []string{
		"dns", "--address=" + c.Node(1).Address, "--domain=" + spec.DNSDomain,
		"--kubeconfig=" + c.File("dns.kubeconfig"), "--upstream=" + upstream,
	}
}

// KubeProxy returns kube-proxy's arguments. The conntrack settings are the
// machine's, not the cluster's, and are left alone.
func (c Cluster) KubeProxy(n spec.Node) []string {
	return []string{
		"kube-proxy",
		"--kubeconfig=" + c.File("kube-proxy.kubeconfig"),
		"--hostname-override=" + n.Name,
		"--proxy-mode=nftables",
		"--cluster-cidr=" + c.both(spec.PodNetwork, spec.PodNetwork6),
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		"--nodeport-addresses=primary",
		// Of all modes but IPVS. By default Services lead to pods that have ended for a second longer.
		"--iptables-min-sync-period=100ms",
		"--healthz-bind-address=", "--metrics-bind-address=127.0.0.1:10249",
	}
}
