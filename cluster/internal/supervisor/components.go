package supervisor

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/bightdev/bight/cluster/internal/component"
	"github.com/bightdev/bight/cluster/internal/policy"
	"github.com/bightdev/bight/cluster/internal/storage"
)

// subcommand is a component that is a subcommand of this executable.
func (s *Supervisor) subcommand(name string, n node, args []string) process {
	return process{
		name: name, role: serves, ns: n.ns, dir: s.Cluster.Dir, log: s.Cluster.LogFile(name),
		argv: append([]string{s.Tools.Self}, args...),
		term: syscall.SIGTERM, wait: 3 * time.Second,
	}
}

// driver is a subcommand that makes containers run, or others make them.
func (s *Supervisor) driver(name string, n node, args []string) process {
	p := s.subcommand(name, n, args)
	p.role = drives
	return p
}

func (s *Supervisor) containerd(n node) process {
	name := "containerd-" + strconv.Itoa(n.Index)
	return process{
		name: name, role: serves, ns: n.ns, dir: n.Dir, log: s.Cluster.LogFile(name),
		argv: append([]string{s.Tools.Containerd}, n.Containerd()...),
		term: syscall.SIGTERM, wait: 5 * time.Second,
	}
}

func (s *Supervisor) kubelet(n node) process {
	p := s.driver("kubelet-"+strconv.Itoa(n.Index), n, n.Kubelet())
	p.needs = n.ContainerdSocket()
	return p
}

// apiServer has no state of its own. Asked to end, it would first wait for its
// watchers to leave, so it is not asked.
func (s *Supervisor) apiServer() process {
	p := s.subcommand("kube-apiserver", s.nodes[0], s.commands.APIServer())
	p.term = syscall.SIGKILL
	return p
}

// startStore starts etcd, and what has to be up early: the kubelets' own start
// takes as long as the API server's rest, and they wait for it at the gate.
func (s *Supervisor) startStore(ctx context.Context) error {
	etcd := s.subcommand("etcd", s.nodes[0], s.commands.Etcd())
	etcd.wait = 10 * time.Second
	s.processes.keep(ctx, etcd)
	for _, n := range s.nodes {
		s.processes.keep(ctx, s.containerd(n))
	}
	return s.await(ctx, time.Minute, "etcd", func() error { return answers(ctx, s.commands.EtcdSocket) })
}

func (s *Supervisor) startAPI(ctx context.Context) error {
	s.processes.keep(ctx, s.apiServer())
	for _, n := range s.nodes {
		s.processes.keep(ctx, s.kubelet(n))
	}
	config, err := clientcmd.BuildConfigFromFlags("", s.commands.File(component.Supervisor+".kubeconfig"))
	if err != nil {
		return err
	}
	config.QPS = -1
	config.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
		return s.nodes[0].ns.Dial(ctx, address)
	}
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	if s.client, err = kubernetes.NewForConfigAndClient(config, transport); err != nil {
		return err
	}
	err = s.await(ctx, 2*time.Minute, "kube-apiserver", func() error {
		_, err := s.client.CoreV1().RESTClient().Get().AbsPath("/readyz").Timeout(5 * time.Second).DoRaw(ctx)
		return err
	})
	if err == nil {
		close(s.apiReady)
	}
	return err
}

// startNodes starts the rest.
func (s *Supervisor) startNodes(ctx context.Context) error {
	first := s.nodes[0]
	s.processes.keep(ctx, s.driver("kube-controller-manager", first, s.commands.ControllerManager()))
	s.processes.keep(ctx, s.driver("kube-scheduler", first, s.commands.Scheduler()))
	for _, n := range s.nodes {
		s.processes.keep(ctx, s.subcommand("kube-proxy-"+strconv.Itoa(n.Index), n, s.commands.KubeProxy(n.Node.Node)))
	}
	s.processes.keep(ctx, s.subcommand("dns", first, s.commands.DNS()))
	s.work.Go(func() { storage.Run(ctx, s.client, s.Cluster.Path("volumes")) })
	s.work.Go(func() { s.policies().Run(ctx, s.client) })
	return s.await(ctx, time.Minute, "kube-apiserver", func() error { return applyBootstrap(ctx, s.client, s.Cluster) })
}

// policies are those of the network, carried out in each node's namespace.
func (s *Supervisor) policies() policy.Nodes {
	byName, nodes := map[string]node{}, policy.Nodes{Ranges: map[string][]string{}, DNS: s.nodes[0].Address, Log: s.Log}
	for _, n := range s.nodes {
		byName[n.Name] = n
		nodes.Ranges[n.Name] = []string{n.PodCIDR}
		if n.PodCIDR6 != "" {
			nodes.Ranges[n.Name] = append(nodes.Ranges[n.Name], n.PodCIDR6)
		}
	}
	nodes.Apply = func(name, script string) error { return s.nft(byName[name], script) }
	return nodes
}

// nft has a node's rules changed by a script.
func (s *Supervisor) nft(n node, script string) error {
	nft := exec.Command(s.Tools.NFT, "-f", "-")
	nft.Stdin = strings.NewReader(script)
	if out, err := s.runIn(n, nft); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(out))
	}
	return nil
}

// await calls f until it succeeds, and says meanwhile what it waits for. The
// error has the last word of the component that f needs, or of any that keeps
// ending.
func (s *Supervisor) await(ctx context.Context, limit time.Duration, name string, f func() error) error {
	err := until(ctx, limit, func() error {
		err := f()
		if err == nil {
			return nil
		}
		err = s.processes.explain(name, err)
		s.status.waiting(err.Error())
		return err
	})
	s.status.waiting("")
	return err
}

// until calls f every few milliseconds until it succeeds or is hopeless.
func until(ctx context.Context, limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || isHopeless(err) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s: %w", limit, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answers reports why nobody listens on a Unix socket.
func answers(ctx context.Context, socket string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return conn.Close()
}
