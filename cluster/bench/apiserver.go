package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/bightdev/bight/cluster/internal/component"
	"github.com/bightdev/bight/cluster/internal/netns"
	"github.com/bightdev/bight/cluster/internal/pki"
	"github.com/bightdev/bight/cluster/internal/spec"
)

// apiReady runs kube-apiserver, with the flags that it has in a cluster, on an
// empty store that is up, and returns how long it took to be ready.
func apiReady(ctx context.Context, program string) (time.Duration, error) {
	dir, err := os.MkdirTemp("", "bight-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	cluster := component.Cluster{
		Cluster:    &spec.Cluster{Name: "bench", Nodes: 1, Dir: dir},
		PKI:        filepath.Join(dir, "pki"),
		EtcdSocket: filepath.Join(dir, "etcd.sock"),
	}
	ns, err := netns.New()
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	if err := ns.Bridge("lan0", cluster.Node(1).Address+"/24"); err != nil {
		return 0, err
	}
	ca, err := pki.Open(cluster.PKI)
	if err != nil {
		return 0, err
	}
	if err := cluster.IssueFiles(ca); err != nil {
		return 0, err
	}
	stopStore, err := start(ns, program, cluster.Etcd(), dir)
	if err != nil {
		return 0, err
	}
	defer stopStore()
	if err := poll(ctx, func() error {
		conn, err := net.Dial("unix", cluster.EtcdSocket)
		if err != nil {
			return err
		}
		return conn.Close()
	}); err != nil {
		return 0, fmt.Errorf("wait for etcd: %w", err)
	}
	return timeAPI(ctx, ns, program, cluster)
}

func timeAPI(ctx context.Context, ns *netns.Namespace, program string, cluster component.Cluster) (time.Duration, error) {
	config, err := clientcmd.BuildConfigFromFlags("", cluster.File(component.Supervisor+".kubeconfig"))
	if err != nil {
		return 0, err
	}
	config.QPS = -1
	config.Dial = func(ctx context.Context, _, address string) (net.Conn, error) { return ns.Dial(ctx, address) }
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	stop, err := start(ns, program, cluster.APIServer(), cluster.Dir)
	if err != nil {
		return 0, err
	}
	defer stop()
	err = poll(ctx, func() error {
		_, err := client.CoreV1().RESTClient().Get().AbsPath("/readyz").Timeout(5 * time.Second).DoRaw(ctx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("wait for kube-apiserver: %w", err)
	}
	return time.Since(began), nil
}

// start starts a component in ns and returns what ends it.
func start(ns *netns.Namespace, program string, args []string, dir string) (stop func(), err error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	if err := ns.Start(cmd); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, nil
}

// poll calls f until it succeeds.
func poll(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}
