package component

import (
	"github.com/bightdev/bight/cluster/internal/pki"
	"github.com/bightdev/bight/cluster/internal/spec"
)

// DNSUser is who the name server is to the API server.
const DNSUser = "system:bight-dns"

// Supervisor is the name of the supervisor's kubeconfig.
const Supervisor = "supervisor"

// Kubeconfig is a file that says who its reader is and where to reach the API
// server.
type Kubeconfig struct {
	Server string
	User   pki.Leaf
}

// Kubeconfigs returns the components' kubeconfigs by name. The kubelets are
// started before the API server is ready, so they go through the gate.
func (c Cluster) Kubeconfigs() map[string]Kubeconfig {
	direct := c.APINodeURL()
	all := map[string]Kubeconfig{
		"kube-controller-manager": {direct, pki.Leaf{User: "system:kube-controller-manager"}},
		"kube-scheduler":          {direct, pki.Leaf{User: "system:kube-scheduler"}},
		"kube-proxy":              {direct, pki.Leaf{User: "system:kube-proxy"}},
		"dns":                     {direct, pki.Leaf{User: DNSUser}},
		Supervisor:                {direct, pki.Leaf{User: "bight:supervisor", Groups: []string{"system:masters"}}},
	}
	for _, n := range c.AllNodes() {
		all[keyName(n)] = Kubeconfig{c.GateURL(), nodeUser(n)}
	}
	return all
}

// Certificates returns those that are files of their own, by name.
func (c Cluster) Certificates() map[string]pki.Leaf {
	all := map[string]pki.Leaf{
		"apiserver": {User: "kube-apiserver", Hosts: []string{
			"127.0.0.1", "localhost", c.Node(1).Address, spec.ServiceAPI,
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + spec.DNSDomain,
		}},
		"apiserver-kubelet": {User: "kube-apiserver-kubelet", Groups: []string{"system:masters"}},
		"front-proxy":       {User: "front-proxy-client"},
	}
	for _, n := range c.AllNodes() {
		leaf := nodeUser(n)
		leaf.Hosts = []string{n.Address, n.Name}
		all[keyName(n)] = leaf
	}
	return all
}

func nodeUser(n spec.Node) pki.Leaf {
	return pki.Leaf{User: "system:node:" + n.Name, Groups: []string{"system:nodes"}}
}

// IssueFiles writes every key, certificate and kubeconfig that the components
// read.
func (c Cluster) IssueFiles(ca *pki.Authority) error {
	for name, k := range c.Kubeconfigs() {
		if _, err := ca.KubeconfigFile(name, k.Server, k.User); err != nil {
			return err
		}
	}
	for name, leaf := range c.Certificates() {
		if _, _, err := ca.IssueFiles(name, leaf); err != nil {
			return err
		}
	}
	_, err := ca.KeyFile("service-account")
	return err
}
