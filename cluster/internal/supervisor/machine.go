package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/bightdev/bight/cluster/internal/component"
	"github.com/bightdev/bight/cluster/internal/netns"
	"github.com/bightdev/bight/cluster/internal/pki"
)

func (s *Supervisor) prepareMachine(context.Context) error {
	raiseFileLimit()
	if err := isolateMounts(s.Cluster.Dir); err != nil {
		return err
	}
	cgroups, err := findCgroups(cgroupMount)
	if err != nil {
		return err
	}
	restrictOOM, noAppArmor := !hasResourceCapability(), !exists("/sys/kernel/security/apparmor")
	for _, described := range s.Cluster.AllNodes() {
		ns, err := netns.New()
		if err != nil {
			return err
		}
		n := node{ns: ns, Node: component.Node{
			Node: described, Cluster: s.commands,
			RestrictOOM: restrictOOM, NoAppArmor: noAppArmor, CNI: s.Tools.CNI,
		}}
		if err := cgroups.make(n.Cgroup()); err != nil {
			return fmt.Errorf("make the cgroup of %s: %w", described.Name, err)
		}
		s.nodes = append(s.nodes, n)
	}
	return s.connectNodes()
}

// prepareFiles writes what the components read.
func (s *Supervisor) prepareFiles(context.Context) error {
	ca, err := pki.Open(s.Cluster.PKI())
	if err != nil {
		return err
	}
	if err := s.commands.IssueFiles(ca); err != nil {
		return err
	}
	for _, n := range s.nodes {
		if err := n.writeFiles(); err != nil {
			return fmt.Errorf("prepare %s: %w", n.Name, err)
		}
	}
	return nil
}

func (n node) writeFiles() error {
	// Addresses handed out before the last stop belong to sandboxes that are gone.
	if err := os.RemoveAll(n.Path("cni/state")); err != nil {
		return err
	}
	for _, dir := range []string{"containerd", "kubelet", "cni/conf", "cni/state", "pod-logs"} {
		if err := os.MkdirAll(n.Path(dir), 0o755); err != nil {
			return err
		}
	}
	containerd, err := n.ContainerdConfig()
	if err != nil {
		return err
	}
	cni, err := json.MarshalIndent(n.CNIConfig(), "", "  ")
	if err != nil {
		return fmt.Errorf("encode the network configuration: %w", err)
	}
	kubelet, err := json.MarshalIndent(n.KubeletConfig(), "", "  ")
	if err != nil {
		return fmt.Errorf("encode the kubelet's configuration: %w", err)
	}
	for _, f := range []struct {
		name    string
		content []byte
		mode    os.FileMode
	}{
		{"containerd.toml", containerd, 0o600},
		{"cni/conf/10-bight.conflist", cni, 0o600},
		{"kubelet.yaml", kubelet, 0o600},
		{"resolv.conf", n.ResolvConf(), 0o644}, // pods get it
	} {
		if err := os.WriteFile(n.Path(f.name), f.content, f.mode); err != nil {
			return err
		}
	}
	return nil
}
