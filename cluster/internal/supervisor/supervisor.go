// Package supervisor runs one embedded cluster: it is the first process of a PID
// and a mount namespace, makes the network namespaces of the nodes, starts the
// components in the order they need, keeps them running, and answers on a control
// socket. When it ends, however it ends, the kernel ends everything below it, and
// with the namespaces every mount, link and address is gone.
//
// The main type is [Supervisor]; its Run may be called once.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/bightdev/bight/cluster/internal/netns"
	"github.com/bightdev/bight/cluster/internal/pause"
	"github.com/bightdev/bight/cluster/internal/pki"
	"github.com/bightdev/bight/cluster/internal/registry"
	"github.com/bightdev/bight/cluster/internal/spec"
	"github.com/bightdev/bight/cluster/internal/storage"
)

// Tools are the programs that the cluster needs from the machine.
type Tools struct {
	Self       string // this executable
	Containerd string
	CNI        string // the directory of the CNI plugins
	Arch       string // GOARCH
}

// Supervisor runs one cluster.
type Supervisor struct {
	Cluster *spec.Cluster
	Tools   Tools
	Log     *slog.Logger

	status    *board
	processes *processes
	nodes     []node
	ca        *pki.Authority
	client    kubernetes.Interface
}

// Run starts the cluster and keeps it running until ctx ends or it is told to
// stop. An error is one that kept the cluster from coming up.
func (s *Supervisor) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.status = newBoard(s.Cluster)
	s.processes = newProcesses(s.Log)
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	go s.processes.reap(children)

	control, err := s.serveControl(ctx, cancel)
	if err != nil {
		return err
	}
	defer control.Close()
	defer func() {
		if err != nil {
			s.status.fail(err)
			s.Log.Error("cluster failed", "error", err)
			// Whoever waits for the start reads the reason from the socket.
			select {
			case <-s.status.failureRead:
			case <-time.After(5 * time.Second):
			}
		}
	}()
	if err := s.bringUp(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	<-ctx.Done()
	s.bringDown()
	return nil
}

// bringUp takes the cluster to the point where every node is ready.
func (s *Supervisor) bringUp(ctx context.Context) error {
	stages := []struct {
		name string
		do   func(context.Context) error
	}{
		{"preparing namespaces and mounts", s.prepareMachine},
		{"issuing certificates", s.prepareFiles},
		{"starting the registry and the way in", s.openDoors},
		{"starting etcd", s.startStore},
		{"waiting for the API server", s.startAPI},
		{"starting nodes", s.startNodes},
		{"waiting for nodes to be ready", s.waitForNodes},
	}
	for _, stage := range stages {
		s.status.stage(stage.name)
		if err := stage.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", stage.name, err)
		}
	}
	s.status.ready()
	return nil
}

func (s *Supervisor) prepareMachine(context.Context) error {
	raiseFileLimit()
	if err := isolateMounts(s.Cluster.Dir); err != nil {
		return err
	}
	if err := makeCgroups(s.Cluster); err != nil {
		return err
	}
	for _, n := range s.Cluster.AllNodes() {
		ns, err := netns.New()
		if err != nil {
			return err
		}
		s.nodes = append(s.nodes, node{Node: n, ns: ns})
	}
	return s.connectNodes()
}

const lan = "lan0"

// connectNodes joins the nodes' namespaces by a bridge in the first one.
func (s *Supervisor) connectNodes() error {
	hub := s.nodes[0]
	if err := hub.ns.Bridge(lan, hub.Address+"/24"); err != nil {
		return err
	}
	for _, n := range s.nodes {
		if n.Index > 1 {
			if err := n.ns.Join(hub.ns, lan, "node"+strconv.Itoa(n.Index), n.Address+"/24"); err != nil {
				return err
			}
		}
		if err := n.ns.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
			return err
		}
	}
	for _, n := range s.nodes {
		for _, other := range s.nodes {
			if n.Index == other.Index {
				continue
			}
			if err := n.ns.Route(other.PodCIDR, other.Address); err != nil {
				return err
			}
		}
		if n.Index > 1 {
			if err := n.ns.Route("", hub.Address); err != nil {
				return err
			}
		}
	}
	return s.routeServices()
}

// routeServices gives node 1 a way for Service addresses: without any default
// route the kernel would refuse them before kube-proxy's rules are asked.
func (s *Supervisor) routeServices() error {
	if s.Cluster.Egress {
		return nil // the uplink is the default route
	}
	return s.nodes[0].ns.RouteDevice("", lan)
}

func (s *Supervisor) prepareFiles(context.Context) error {
	if err := os.MkdirAll(s.Cluster.Path("logs"), 0o700); err != nil {
		return err
	}
	ca, err := pki.Open(s.Cluster.Path("pki"))
	if err != nil {
		return err
	}
	s.ca = ca
	users := map[string]pki.Leaf{
		"kube-controller-manager": {User: "system:kube-controller-manager"},
		"kube-scheduler":          {User: "system:kube-scheduler"},
		"kube-proxy":              {User: "system:kube-proxy"},
		"dns":                     {User: dnsUser},
		"supervisor":              {User: "bight:supervisor", Groups: []string{"system:masters"}},
	}
	for file, user := range users {
		if _, err := ca.KubeconfigFile(file, s.Cluster.APINodeURL(), user); err != nil {
			return err
		}
	}
	servers := map[string]pki.Leaf{
		"apiserver": {User: "kube-apiserver", Hosts: []string{
			"127.0.0.1", "localhost", s.nodes[0].Address, spec.ServiceAPI,
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + spec.DNSDomain,
		}},
		"apiserver-kubelet": {User: "kube-apiserver-kubelet", Groups: []string{"system:masters"}},
		"front-proxy":       {User: "front-proxy-client"},
	}
	for file, leaf := range servers {
		if _, _, err := ca.IssueFiles(file, leaf); err != nil {
			return err
		}
	}
	if _, err := ca.KeyFile("service-account"); err != nil {
		return err
	}
	for _, n := range s.nodes {
		if err := s.prepareNode(n, ca); err != nil {
			return fmt.Errorf("prepare %s: %w", n.Name, err)
		}
	}
	return nil
}

// openDoors opens the listeners on the host and serves the registry, on the host
// and on each node under the same handler.
func (s *Supervisor) openDoors(ctx context.Context) error {
	api, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(s.Cluster.APIHostPort))
	if err != nil {
		return portTaken("API server", s.Cluster, err)
	}
	target := net.JoinHostPort(s.nodes[0].Address, strconv.Itoa(spec.APIPort))
	go s.carry(ctx, api, target)

	host, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(s.Cluster.RegistryHostPort))
	if err != nil {
		return portTaken("registry", s.Cluster, err)
	}
	server := &http.Server{Handler: registry.Handler(ctx, s.Cluster.Path("registry")), ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { server.Close() })
	listeners := []net.Listener{host}
	for _, n := range s.nodes {
		l, err := n.ns.Listen("127.0.0.1:" + strconv.Itoa(spec.RegistryPort))
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	for _, l := range listeners {
		go server.Serve(l)
	}
	return s.pushPause(ctx)
}

func portTaken(what string, c *spec.Cluster, err error) error {
	return fmt.Errorf("open the %s's port on this machine: %w; end the program that holds the port, or change it in %s", what, err, c.Path("cluster.json"))
}

// pushPause makes sure that the registry has the sandbox image.
func (s *Supervisor) pushPause(ctx context.Context) error {
	ref, err := name.ParseReference("127.0.0.1:"+strconv.Itoa(s.Cluster.RegistryHostPort)+"/bight/pause:1", name.Insecure)
	if err != nil {
		return err
	}
	image, err := pause.Image(s.Tools.Arch)
	if err != nil {
		return err
	}
	want, err := image.Digest()
	if err != nil {
		return err
	}
	if have, err := remote.Head(ref, remote.WithContext(ctx)); err == nil && have.Digest == want {
		return nil
	}
	return remote.Write(ref, image, remote.WithContext(ctx))
}

// carry joins connections from the host to an address inside node 1.
func (s *Supervisor) carry(ctx context.Context, from net.Listener, to string) {
	context.AfterFunc(ctx, func() { from.Close() })
	for {
		outer, err := from.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				s.Log.Warn("accept", "address", from.Addr().String(), "error", err)
				continue
			}
			return
		}
		go func() {
			defer outer.Close()
			inner, err := s.nodes[0].ns.Dial(ctx, to)
			if err != nil {
				return
			}
			defer inner.Close()
			join(outer.(*net.TCPConn), inner.(*net.TCPConn))
		}()
	}
}

// join copies both ways until both directions have ended. Between two TCP
// connections the kernel moves the bytes (splice).
func join(a, b *net.TCPConn) {
	var g errgroup.Group
	copyTo := func(to, from *net.TCPConn) func() error {
		return func() error {
			_, err := io.Copy(to, from)
			if err != nil {
				from.Close()
				to.Close()
				return err
			}
			return to.CloseWrite()
		}
	}
	g.Go(copyTo(a, b))
	g.Go(copyTo(b, a))
	_ = g.Wait()
}

const etcdSocket = "/run/etcd.sock"

func (s *Supervisor) startStore(ctx context.Context) error {
	first := s.nodes[0]
	for _, n := range s.nodes {
		s.processes.keep(ctx, s.containerd(n))
	}
	etcd := s.component("etcd", first, "--dir="+s.Cluster.Path("etcd"), "--socket="+etcdSocket)
	etcd.wait = 10 * time.Second
	s.processes.keep(ctx, etcd)
	return until(ctx, time.Minute, func() error {
		conn, err := net.Dial("unix", etcdSocket)
		if err != nil {
			return s.stuck("etcd", err)
		}
		return conn.Close()
	})
}

// hopeless is why waiting longer makes no sense.
type hopeless struct{ error }

// A component that ended this often while the cluster comes up will not recover.
const hopelessRestarts = 5

// stuck adds the last word of a component to what was seen of it.
func (s *Supervisor) stuck(name string, err error) error {
	for _, p := range s.processes.snapshot() {
		if err == nil || p.Name != name || p.Error == "" {
			continue
		}
		err = fmt.Errorf("%w (%s has ended %d times, last: %s; its log is %s)", err, name, p.Restarts, p.Error, p.Log)
		if p.Restarts >= hopelessRestarts {
			return hopeless{err}
		}
	}
	return err
}

// until calls f every few milliseconds until it succeeds.
func until(ctx context.Context, limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		if errors.As(err, new(hopeless)) {
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

func (s *Supervisor) startAPI(ctx context.Context) error {
	s.processes.keep(ctx, s.apiServer())
	config, err := clientcmd.BuildConfigFromFlags("", s.ca.File("supervisor.kubeconfig"))
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
	return until(ctx, 2*time.Minute, func() error {
		_, err := s.client.CoreV1().RESTClient().Get().AbsPath("/readyz").Timeout(5 * time.Second).DoRaw(ctx)
		return s.stuck("kube-apiserver", err)
	})
}

// apiServer has no state of its own. Asked to end, it would first wait for its
// watchers to leave, so it is not asked.
func (s *Supervisor) apiServer() process {
	p := s.component("kube-apiserver", s.nodes[0],
		"--etcd-servers=unix://"+etcdSocket,
		"--advertise-address="+s.nodes[0].Address,
		"--secure-port="+strconv.Itoa(spec.APIPort),
		"--tls-cert-file="+s.ca.File("apiserver.crt"), "--tls-private-key-file="+s.ca.File("apiserver.key"),
		"--client-ca-file="+s.ca.CertFile(),
		"--kubelet-certificate-authority="+s.ca.CertFile(),
		"--kubelet-client-certificate="+s.ca.File("apiserver-kubelet.crt"), "--kubelet-client-key="+s.ca.File("apiserver-kubelet.key"),
		"--proxy-client-cert-file="+s.ca.File("front-proxy.crt"), "--proxy-client-key-file="+s.ca.File("front-proxy.key"),
		"--requestheader-client-ca-file="+s.ca.CertFile(), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--service-account-issuer=https://kubernetes.default.svc."+spec.DNSDomain,
		"--service-account-key-file="+s.ca.File("service-account.key"), "--service-account-signing-key-file="+s.ca.File("service-account.key"),
		"--service-cluster-ip-range="+spec.ServiceNetwork,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true", "--profiling=false")
	p.stop = syscall.SIGKILL
	return p
}

func (s *Supervisor) startNodes(ctx context.Context) error {
	first := s.nodes[0]
	s.processes.keep(ctx, s.component("kube-controller-manager", first,
		"--kubeconfig="+s.ca.File("kube-controller-manager.kubeconfig"),
		"--authentication-kubeconfig="+s.ca.File("kube-controller-manager.kubeconfig"), "--authorization-kubeconfig="+s.ca.File("kube-controller-manager.kubeconfig"),
		"--service-account-private-key-file="+s.ca.File("service-account.key"), "--root-ca-file="+s.ca.CertFile(),
		"--cluster-signing-cert-file="+s.ca.CertFile(), "--cluster-signing-key-file="+s.ca.File("ca.key"),
		"--use-service-account-credentials=true", "--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false"))
	s.processes.keep(ctx, s.component("kube-scheduler", first,
		"--kubeconfig="+s.ca.File("kube-scheduler.kubeconfig"),
		"--authentication-kubeconfig="+s.ca.File("kube-scheduler.kubeconfig"), "--authorization-kubeconfig="+s.ca.File("kube-scheduler.kubeconfig"),
		"--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false"))
	for _, n := range s.nodes {
		s.processes.keep(ctx, s.kubelet(n, s.ca))
		s.processes.keep(ctx, s.kubeProxy(n, s.ca))
	}
	upstream := ""
	if s.Cluster.Egress {
		upstream = egressGateway
	}
	s.processes.keep(ctx, s.component("dns", first,
		"--address="+first.Address, "--domain="+spec.DNSDomain,
		"--kubeconfig="+s.ca.File("dns.kubeconfig"), "--upstream="+upstream))
	go storage.Run(ctx, s.client, s.Cluster.Path("volumes"))
	return until(ctx, time.Minute, func() error { return applyBootstrap(ctx, s.client, s.Cluster) })
}

// bringDown ends the components so that nothing is lost: first whoever would
// start containers again, then the containers, then the store.
func (s *Supervisor) bringDown() {
	s.status.stage("stopping")
	endContainers(3 * time.Second)
	s.processes.wait()
	// What is left (shims, sandboxes) has no state worth keeping.
	_ = unix.Kill(-1, syscall.SIGKILL)
}
