//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestOneNode is the life of one cluster: each step finds what the steps before
// it left.
func TestOneNode(t *testing.T) {
	c := newCluster(t, "bight")
	before := survey(t)
	step := func(name string, f func(*testing.T)) {
		if t.Failed() {
			return
		}
		t.Run(name, func(t *testing.T) {
			outer := c.t
			c.t = t
			defer func() { c.t = outer }()
			f(t)
		})
	}
	step("start", c.testStart)
	step("start again", c.testStartAgain)
	step("secrets are the owner's", c.testSecrets)
	step("pods", c.testPods)
	step("names", c.testNames)
	step("network policies", c.testPolicies)
	step("no way out", c.testNoWayOut)
	step("volume", c.testVolume)
	step("a killed component comes back", c.testKilledComponents)
	step("stop and start", c.testStopStart)
	step("killed supervisor", c.testKilledSupervisor)
	step("delete", func(t *testing.T) { c.testDelete(t, before) })
}

func (c *cluster) testStart(t *testing.T) {
	c.start()
	s := c.status()
	if s.State != "running" || s.Context != "bight" || len(s.Nodes) != 1 || !s.Nodes[0].Ready {
		t.Errorf("got status %+v", s)
	}
	if !strings.HasPrefix(s.Server, "https://127.0.0.1:") {
		t.Errorf("the API server is at %s", s.Server)
	}
	version, err := c.client.Discovery().ServerVersion()
	if err != nil || !strings.HasPrefix(version.GitVersion, "v1.") {
		t.Errorf("got version %v, %v", version, err)
	}
	stranger, err := kubernetes.NewForConfig(&rest.Config{Host: s.Server})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Discovery().ServerVersion(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("who does not know the cluster's authority: got %v, want an unknown certificate", err)
	}
}

func (c *cluster) testStartAgain(t *testing.T) {
	first := c.status()
	if said := c.start(); !strings.Contains(said, "already running") {
		t.Errorf("start said %q", said)
	}
	second := c.status()
	for i := range first.Components {
		if first.Components[i] != second.Components[i] {
			t.Errorf("got %+v, was %+v", second.Components[i], first.Components[i])
		}
	}
	c.refused(2, []string{"--nodes 1", "not 3", "delete", "--name"}, "start", "--nodes", "3")
	c.refused(2, []string{"--egress"}, "start", "--egress")
	c.refused(2, []string{"16"}, "start", "--nodes", "99")
}

func (c *cluster) testSecrets(t *testing.T) {
	private := []string{c.kubeconfig}
	err := filepath.WalkDir(filepath.Join(c.dir(), "pki"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			private = append(private, path)
		}
		return err
	})
	if err != nil || len(private) < 15 {
		t.Fatalf("found %d files, %v", len(private), err)
	}
	for _, file := range append(private, filepath.Join(c.dir(), "cluster.json"), filepath.Join(c.dir(), "control.sock")) {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want mode 600", file, info.Mode(), err)
		}
	}
	if info, err := os.Stat(c.dir()); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s: got %v, %v, want mode 700", c.dir(), info.Mode(), err)
	}
}

func (c *cluster) testPods(t *testing.T) {
	c.pushProbe()
	c.create(pod("sandbox", pauseImage, ""))
	c.create(pod("server", probeImage, ""))
	c.create(service("server"))
	c.create(pod("asker", probeImage, ""))
	for _, name := range []string{"sandbox", "server", "asker"} {
		c.running(name, time.Time{})
	}
	c.wants("asker", "/name", "asker")
	s, err := c.client.CoreV1().Services(namespace).Get(t.Context(), "server", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.wants("asker", "/get?url=http://"+s.Spec.ClusterIP+"/name", `{"value":"server"}`+"\n")
	c.wants("asker", "/get?url=http://server/name", `{"value":"server"}`+"\n")
}

func (c *cluster) testNames(t *testing.T) {
	s, err := c.client.CoreV1().Services(namespace).Get(t.Context(), "server", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server", "server.default", "server.default.svc.cluster.local."} {
		a, err := c.ask("asker", "/lookup?name="+name)
		if err != nil || len(a.Values) != 1 || a.Values[0] != s.Spec.ClusterIP {
			t.Errorf("%s: got %+v, %v; want %s", name, a, err, s.Spec.ClusterIP)
		}
	}
	for _, name := range []string{"nobody", "nobody.default.svc.cluster.local.", "bight.dev.", "localhost.example."} {
		if a, err := c.ask("asker", "/lookup?name="+name); err != nil || !a.NotFound {
			t.Errorf("%s: got %+v, %v; want that there is none", name, a, err)
		}
	}
}

// testNoWayOut asks a pod to reach this machine, by every address that it has.
func (c *cluster) testNoWayOut(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	targets := []string{"192.0.2.1", "169.254.169.254", "10.41.1.254", "10.41.1.1"}
	for _, a := range addresses {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.To4() != nil {
			targets = append(targets, ip.String())
		}
	}
	for _, ip := range targets {
		a, err := c.ask("asker", "/dial?address="+net.JoinHostPort(ip, port))
		if err != nil || a.Error == "" {
			t.Errorf("%s: got %+v, %v; want that there is no way", ip, a, err)
		}
	}
}

func (c *cluster) testVolume(t *testing.T) {
	c.create(claim("data"))
	c.create(withClaim(pod("keeper", probeImage, ""), "data"))
	c.running("keeper", time.Time{})
	c.wants("keeper", "/write?file=/data/note&data=kept", "written")
	got, err := c.client.CoreV1().PersistentVolumeClaims(namespace).Get(t.Context(), "data", meta.GetOptions{})
	if err != nil || got.Status.Phase != core.ClaimBound {
		t.Errorf("got phase %s, %v", got.Status.Phase, err)
	}
}

// testKilledComponents kills each component in turn and sees the cluster do
// everything that it is for after each.
func (c *cluster) testKilledComponents(t *testing.T) {
	for _, victim := range c.status().Components {
		if victim.PID == 0 {
			t.Fatalf("%s does not run", victim.Name)
		}
		if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
			t.Fatalf("kill %s: %v", victim.Name, err)
		}
		eventually(t, victim.Name+" after it was killed", func() error {
			for _, now := range c.status().Components {
				if now.Name == victim.Name && now.PID != 0 && now.PID != victim.PID && now.Restarts == victim.Restarts+1 {
					return nil
				}
			}
			return fmt.Errorf("%+v", c.status().Components)
		})
		c.deploys(t, "after-"+victim.Name)
	}
	eventually(t, "the cluster to be well", func() error {
		if s := c.status(); s.State != "running" {
			return fmt.Errorf("%s: %v", s.State, s.Problems)
		}
		return nil
	})
}

// deploys makes a Deployment with a Kubernetes Service, reaches its pod by name,
// and removes both.
func (c *cluster) deploys(t *testing.T, name string) {
	t.Helper()
	c.create(deployment(name))
	c.create(service(name))
	eventually(t, "the pod of "+name, func() error {
		a, err := c.ask("asker", "/get?url=http://"+name+"/name")
		if err == nil && !strings.Contains(a.Value, name) {
			err = fmt.Errorf("%+v", a)
		}
		return err
	})
	if err := c.client.AppsV1().Deployments(namespace).Delete(t.Context(), name, meta.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if err := c.client.CoreV1().Services(namespace).Delete(t.Context(), name, meta.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

func (c *cluster) testStopStart(t *testing.T) {
	inside := c.inside(t)
	c.must("stop")
	inside.mustBeGone(t)
	if r := c.run("status"); r.code != 1 || !strings.Contains(r.stderr, "bight cluster start") {
		t.Errorf("the status of a stopped cluster: %s", r)
	}
	c.must("stop") // a stopped cluster is stopped
	began := time.Now()
	c.start()
	c.isAsItWas(t, began)
}

// isAsItWas checks that everything that the steps before made is there, in
// containers that were started again.
func (c *cluster) isAsItWas(t *testing.T, began time.Time) {
	t.Helper()
	for _, name := range []string{"sandbox", "server", "asker", "keeper"} {
		c.running(name, began)
	}
	c.wants("asker", "/get?url=http://server/name", `{"value":"server"}`+"\n")
	c.wants("keeper", "/read?file=/data/note", "kept")
	image, err := makeProbe()
	if err != nil {
		t.Fatal(err)
	}
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := probeReference(c.status().Registry)
	if err != nil {
		t.Fatal(err)
	}
	if there, err := remote.Head(ref); err != nil || there.Digest != want {
		t.Errorf("the registry has %v, %v; want %s", there, err, want)
	}
}

func (c *cluster) testKilledSupervisor(t *testing.T) {
	inside := c.inside(t)
	if err := syscall.Kill(inside.supervisor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.start() // at once: the kernel is still ending the rest
	inside.mustHaveEnded(t)
	c.isAsItWas(t, began)
	c.deploys(t, "after-supervisor")

	inside = c.inside(t)
	if err := syscall.Kill(inside.supervisor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	inside.mustBeGone(t) // without anybody's help
	if r := c.run("status"); r.code != 1 {
		t.Errorf("the status after: %s", r)
	}
	began = time.Now()
	c.start()
	c.isAsItWas(t, began)
}

func (c *cluster) testDelete(t *testing.T, before machineState) {
	inside := c.inside(t)
	apiPort := c.status().Server
	c.must("delete")
	inside.mustBeGone(t)
	if left, err := os.ReadDir(filepath.Dir(c.dir())); err != nil || len(left) > 0 {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
	b, err := os.ReadFile(c.kubeconfig)
	if err != nil || strings.Contains(string(b), "bight") {
		t.Errorf("left in the kubeconfig: %s, %v", b, err)
	}
	if conn, err := net.Dial("tcp", strings.TrimPrefix(apiPort, "https://")); err == nil {
		conn.Close()
		t.Errorf("something answers at %s", apiPort)
	}
	before.mustBeAsNow(t, c.state)
	c.refused(4, []string{"bight", "bight cluster start"}, "status")
	c.refused(4, nil, "delete")
	c.refused(4, nil, "stop")
	c.refused(4, nil, "kubeconfig")
	if _, err := c.client.CoreV1().Nodes().List(t.Context(), meta.ListOptions{}); err == nil || apierrors.IsUnauthorized(err) {
		t.Errorf("the API after delete: got %v", err)
	}
}
