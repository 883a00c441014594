// Package spec says what one embedded cluster consists of: its name, its nodes,
// its addresses and where each of its files is. The main type is [Cluster]; it
// is written once when the cluster is first started and read by everything that
// comes after. A Cluster is read only after it was loaded.
package spec

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// Addresses inside a cluster's own network namespaces. Nothing outside can see
// them, so they are the same for every cluster and collide with nothing.
const (
	NodeNetwork    = "10.41.0.0/24"
	PodNetwork     = "10.42.0.0/16"
	ServiceNetwork = "10.43.0.0/16"
	ServiceAPI     = "10.43.0.1"
	ServiceDNS     = "10.43.0.10"
	APIPort        = 6443
	GatePort       = 6444 // where connections wait for the API server to be ready
	RegistryPort   = 5000
	DNSDomain      = "cluster.local"
	PodBridge      = "pods0" // in each node, with the first address of its pods' network
)

// Addresses of IPv6, which clusters with both families have besides (RFC 4193).
const (
	NodeNetwork6    = "fd00:10:41::/64"
	PodNetwork6     = "fd00:10:42::/48"
	ServiceNetwork6 = "fd00:10:43::/112"
)

// Addresses of the way out, between node 1 and the userspace NAT.
const (
	EgressNetwork = "10.41.1.0/24"
	EgressGateway = "10.41.1.1" // answers for packets and for names
	EgressNode    = "10.41.1.2/24"
	EgressHost    = "10.41.1.254" // the machine's own 127.0.0.1
)

// EgressHostName is the name of EgressHost.
const EgressHostName = "host.bight.internal"

// MaxNodes is how many nodes one cluster can have.
const MaxNodes = 16

// Cluster is the description of one embedded cluster.
type Cluster struct {
	Name   string `json:"name"`
	Nodes  int    `json:"nodes"`
	Egress bool   `json:"egress"` // pods may reach the outside through a userspace NAT
	// DualStack gives nodes, pods and Services addresses of IPv6, too.
	DualStack bool `json:"dualStack,omitempty"`

	// APIHostPort and RegistryHostPort are the loopback ports on the host.
	APIHostPort      int `json:"apiPort"`
	RegistryHostPort int `json:"registryPort"`
	// PodsHostPort is that of the way to the pods, a SOCKS5 proxy with a password. A
	// cluster that was started last by an older release has none.
	PodsHostPort int    `json:"podsPort,omitempty"`
	PodsSecret   string `json:"podsSecret,omitempty"`

	// Dir has everything that the cluster keeps on disk.
	Dir string `json:"-"`
}

// Node is one node of a Cluster.
type Node struct {
	Index   int    // from 1; node 1 also runs the control plane
	Name    string // as Kubernetes knows it
	Address string // in NodeNetwork
	PodCIDR string
	PodGate string // the node's own address there
	Dir     string
	// Address6 and PodCIDR6 are "" but where the cluster has both families.
	Address6 string // in NodeNetwork6
	PodCIDR6 string
}

var validName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$`)

// CheckName reports why name can't be a cluster's name.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("cluster name %q: use 1 to 32 lower-case letters, digits and dashes, starting with a letter", name)
	}
	return nil
}

// Root is the directory that has all clusters of this user.
func Root() (string, error) {
	if dir := os.Getenv("BIGHT_STATE_DIR"); dir != "" {
		return filepath.Abs(filepath.Join(dir, "clusters"))
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "bight", "clusters"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the state directory: %w; set BIGHT_STATE_DIR", err)
	}
	return filepath.Join(home, ".local", "state", "bight", "clusters"), nil
}

// Load reads the cluster in dir. The error is fs.ErrNotExist when none is there.
func Load(dir string) (*Cluster, error) {
	c := &Cluster{Dir: dir}
	b, err := os.ReadFile(c.file())
	if err != nil {
		return nil, err
	}
	if err = json.Unmarshal(b, c); err == nil {
		err = c.check()
	}
	if err != nil {
		name := filepath.Base(dir)
		return nil, fmt.Errorf("read %s: %w; mend it, or remove the cluster with bight cluster delete --name %s and start it again", c.file(), err, name)
	}
	return c, nil
}

// check reports what of a description makes no sense.
func (c *Cluster) check() error {
	if c.Name != filepath.Base(c.Dir) {
		return fmt.Errorf("name: %q is not the name of the directory", c.Name)
	}
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if c.Nodes < 1 || c.Nodes > MaxNodes {
		return fmt.Errorf("nodes: %d is not 1 to %d", c.Nodes, MaxNodes)
	}
	for field, port := range map[string]int{"apiPort": c.APIHostPort, "registryPort": c.RegistryHostPort} {
		if port < 1 || port > 65535 {
			return fmt.Errorf("%s: %d is not a port", field, port)
		}
	}
	if c.APIHostPort == c.RegistryHostPort {
		return fmt.Errorf("apiPort and registryPort are both %d", c.APIHostPort)
	}
	if c.PodsHostPort < 0 || c.PodsHostPort > 65535 {
		return fmt.Errorf("podsPort: %d is not a port", c.PodsHostPort)
	}
	return nil
}

func (c *Cluster) file() string { return c.Path("cluster.json") }

// Save writes the cluster's description into its directory, which it makes.
func (c *Cluster) Save() error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	tmp := c.file() + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, c.file())
}

// List returns the names of the clusters below root, sorted.
func List(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Path returns the path of a file in the cluster's directory.
func (c *Cluster) Path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

// ControlSocket is where the supervisor answers.
func (c *Cluster) ControlSocket() string { return c.Path("control.sock") }

// SupervisorFile says which process runs the cluster.
func (c *Cluster) SupervisorFile() string { return c.Path("supervisor.pid") }

// Logs is the directory of the components' logs.
func (c *Cluster) Logs() string { return c.Path("logs") }

// LogFile is where a component writes.
func (c *Cluster) LogFile(component string) string { return c.Path("logs", component+".log") }

// PKI is the directory of the keys and certificates.
func (c *Cluster) PKI() string { return c.Path("pki") }

// Context is the cluster's name in a kubeconfig.
func (c *Cluster) Context() string {
	if c.Name == "bight" {
		return c.Name
	}
	return "bight-" + c.Name
}

// CgroupRoot is the cgroup that all of the cluster's containers are below. Users
// with state directories of their own may have clusters of one name, so the
// directory is part of it.
func (c *Cluster) CgroupRoot() string {
	id := sha256.Sum256([]byte(c.Dir))
	return fmt.Sprintf("/bight-cluster-%s-%x", c.Name, id[:4])
}

// APIHostURL is the API server's address on the host.
func (c *Cluster) APIHostURL() string {
	return "https://127.0.0.1:" + strconv.Itoa(c.APIHostPort)
}

// APINodeURL is the API server's address inside the cluster's namespaces.
func (c *Cluster) APINodeURL() string {
	return "https://" + c.Node(1).Address + ":" + strconv.Itoa(APIPort)
}

// GateURL is where those that start before the API server is ready reach it.
func (c *Cluster) GateURL() string {
	return "https://" + c.Node(1).Address + ":" + strconv.Itoa(GatePort)
}

// PodsUser is who clients of the way to the pods say they are.
const PodsUser = "bight"

// PodsVia is how programs on the host reach addresses of pods, "" if they can't.
func (c *Cluster) PodsVia() string {
	if c.PodsHostPort == 0 {
		return ""
	}
	u := url.URL{Scheme: "socks5h", User: url.UserPassword(PodsUser, c.PodsSecret), Host: "127.0.0.1:" + strconv.Itoa(c.PodsHostPort)}
	return u.String()
}

// RegistryHost is the registry's address on the host, as in an image's name.
func (c *Cluster) RegistryHost() string {
	return "localhost:" + strconv.Itoa(c.RegistryHostPort)
}

// Node returns node i, from 1.
func (c *Cluster) Node(i int) Node {
	name := c.Context()
	if i > 1 {
		name += "-" + strconv.Itoa(i)
	}
	n := Node{
		Index:   i,
		Name:    name,
		Address: "10.41.0." + strconv.Itoa(10+i),
		PodCIDR: "10.42." + strconv.Itoa(i) + ".0/24",
		PodGate: "10.42." + strconv.Itoa(i) + ".1/24",
		Dir:     c.Path("nodes", strconv.Itoa(i)),
	}
	if c.DualStack {
		n.Address6 = "fd00:10:41::" + strconv.Itoa(10+i)
		n.PodCIDR6 = fmt.Sprintf("fd00:10:42:%x::/64", i)
	}
	return n
}

// AllNodes returns all nodes, node 1 first.
func (c *Cluster) AllNodes() []Node {
	var nodes []Node
	for i := 1; i <= c.Nodes; i++ {
		nodes = append(nodes, c.Node(i))
	}
	return nodes
}
