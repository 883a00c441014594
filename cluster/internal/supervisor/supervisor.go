// Package supervisor runs one embedded cluster: it is the first process of a PID
// and a mount namespace, makes the network namespaces of the nodes, starts the
// components in the order they need, keeps them running, and answers on a control
// socket. When it ends, however it ends, the kernel ends everything below it, and
// with the namespaces every mount, link and address is gone.
//
// The main type is [Supervisor]; its Run may be called once. Whatever it starts,
// Run waits for.
package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/cluster/internal/component"
	"github.com/bightdev/bight/cluster/internal/host"
	"github.com/bightdev/bight/cluster/internal/netns"
	"github.com/bightdev/bight/cluster/internal/pki"
	"github.com/bightdev/bight/cluster/internal/proc"
	"github.com/bightdev/bight/cluster/internal/spec"
)

// Supervisor runs one cluster.
type Supervisor struct {
	Cluster *spec.Cluster
	Tools   host.Tools
	Log     *slog.Logger

	status    *board
	processes *processes
	commands  component.Cluster
	nodes     []node
	ca        *pki.Authority
	client    kubernetes.Interface
	apiReady  chan struct{}  // closed when the API server is
	work      sync.WaitGroup // every goroutine but those of processes
}

// node is a node while it runs.
type node struct {
	component.Node
	ns *netns.Namespace
}

// Run starts the cluster and keeps it running until ctx ends or it is told to
// stop. An error is one that kept the cluster from coming up.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.identify(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer s.work.Wait()
	defer cancel()
	s.status = newBoard(s.Cluster)
	s.processes = newProcesses(s.Log, s.status.touch)
	s.commands = component.Cluster{Cluster: s.Cluster, PKI: s.Cluster.PKI(), EtcdSocket: component.EtcdSocket}
	s.apiReady = make(chan struct{})
	defer s.reap()()
	if err := s.serveControl(ctx, cancel); err != nil {
		return err
	}
	err := s.bringUp(ctx)
	if err != nil && ctx.Err() == nil {
		s.Log.Error("cluster failed", "error", err)
		s.status.fail(err)
		s.status.awaitReader(ctx, 5*time.Second) // whoever waits for the start reads why
	} else {
		err = nil
		<-ctx.Done()
	}
	s.bringDown()
	return err
}

// identify writes down which process runs the cluster, as the machine knows it:
// /proc is still the one of the namespace that we were started from.
func (s *Supervisor) identify() error {
	identity, err := proc.Self()
	if err != nil {
		return err
	}
	return identity.Save(s.Cluster.SupervisorFile())
}

// reap collects orphans until the function that it returns is called.
func (s *Supervisor) reap() (stop func()) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.processes.reap(children)
	}()
	return func() {
		signal.Stop(children)
		close(children)
		<-done
	}
}

// stage is one step of a start.
type stage struct {
	name string
	do   func(context.Context) error
}

// bringUp takes the cluster to the point where every node is ready.
func (s *Supervisor) bringUp(ctx context.Context) error {
	for _, stage := range s.stages() {
		s.status.stage(stage.name)
		if err := stage.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", stage.name, err)
		}
	}
	s.status.ready()
	return nil
}

func (s *Supervisor) stages() []stage {
	stages := []stage{
		{"preparing namespaces and mounts", s.prepareMachine},
		{"issuing certificates", s.prepareFiles},
		{"starting the registry and the way in", s.openDoors},
		{"starting etcd", s.startStore},
		{"waiting for the API server", s.startAPI},
		{"starting nodes", s.startNodes},
		{"waiting for nodes to be ready", s.waitForNodes},
	}
	if s.Cluster.Egress {
		const afterDoors = 3
		stages = slices.Insert(stages, afterDoors, stage{"opening the way out", s.openEgress})
	}
	return stages
}

// bringDown ends the components so that nothing is lost: first whoever would
// start containers again, then the containers, while they still reach each other,
// then the rest.
func (s *Supervisor) bringDown() {
	s.status.stage("stopping")
	s.processes.stop(func(p process) bool { return p.role == drives })
	endContainers(3 * time.Second)
	s.processes.stop(func(process) bool { return true })
	// What is left (shims, sandboxes) has no state worth keeping. Outside of a
	// namespace of our own, this would end everything on the machine.
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, syscall.SIGKILL)
	}
}
