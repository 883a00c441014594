//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/bightdev/bight/cluster/internal/spec"
)

// program is the path of bight-kube, found by TestMain.
var program string

// probeFile is the program of the pods, built by TestMain.
var probeFile string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir := os.Getenv("BIGHT_BIN_DIR")
	if dir == "" {
		return 0, errors.New("BIGHT_BIN_DIR is not set: name the directory that has bight-kube (make build puts it in bin/)")
	}
	var err error
	if program, err = filepath.Abs(filepath.Join(dir, "bight-kube")); err != nil {
		return 0, err
	}
	if _, err := os.Stat(program); err != nil {
		return 0, fmt.Errorf("BIGHT_BIN_DIR: %w: make build puts bight-kube in bin/", err)
	}
	if os.Geteuid() != 0 {
		return 0, errors.New("an embedded cluster has to be started as root: run the tests as root")
	}
	tmp, err := os.MkdirTemp("", "bight-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	probeFile = filepath.Join(tmp, "probe")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", probeFile, "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the probe: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// cluster is one cluster of a test, and how the test reaches it.
type cluster struct {
	t          *testing.T
	name       string
	state      string // BIGHT_STATE_DIR
	kubeconfig string
	around     func(*exec.Cmd)                            // changes a command before it starts; nil: leave it
	dial       func(config *rest.Config)                  // changes how the API is reached; nil: leave it
	client     *kubernetes.Clientset                      // after start
	proxy      func(pod, question string) ([]byte, error) // after start
}

// newCluster returns a cluster that is not there yet, and is removed at the end
// of the test.
func newCluster(t *testing.T, name string) *cluster {
	t.Helper()
	// t.TempDir's names are longer than a socket's path may be.
	dir, err := os.MkdirTemp("", "bight-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, name: name, state: filepath.Join(dir, "s"), kubeconfig: filepath.Join(dir, "kubeconfig")}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("supervisor.log of %s:\n%s", name, c.log("supervisor"))
		}
		if r := c.run("delete"); r.code != 0 && r.code != 4 {
			t.Errorf("delete: %s", r)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return c
}

// dir is the cluster's own directory.
func (c *cluster) dir() string { return filepath.Join(c.state, "clusters", c.name) }

// context is the cluster's name in the kubeconfig.
func (c *cluster) context() string { return (&spec.Cluster{Name: c.name}).Context() }

func (c *cluster) log(component string) string {
	b, err := os.ReadFile(filepath.Join(c.dir(), "logs", component+".log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
}

// command makes a command of bight-kube that acts on the cluster.
func (c *cluster) command(args ...string) *exec.Cmd {
	args = append(args, "--name", c.name, "--kubeconfig", c.kubeconfig)
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "BIGHT_STATE_DIR="+c.state, "KUBECONFIG=/dev/null/none")
	if c.around != nil {
		c.around(cmd)
	}
	return cmd
}

func (c *cluster) run(args ...string) result {
	c.t.Helper()
	cmd := c.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("run bight-kube %s: %v", strings.Join(args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// must runs a command that has to succeed and returns its standard error.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	r := c.run(args...)
	if r.code != 0 {
		c.t.Fatalf("bight-kube %s: %s", strings.Join(args, " "), r)
	}
	return r.stderr
}

// refused runs a command that has to fail with a code and words in its error.
func (c *cluster) refused(code int, words []string, args ...string) {
	c.t.Helper()
	r := c.run(args...)
	if r.code != code {
		c.t.Errorf("bight-kube %s: want exit code %d, got %s", strings.Join(args, " "), code, r)
	}
	for _, word := range words {
		if !strings.Contains(r.stderr, word) {
			c.t.Errorf("bight-kube %s: the error lacks %q: %s", strings.Join(args, " "), word, r.stderr)
		}
	}
}

// start starts the cluster and connects to it.
func (c *cluster) start(args ...string) string {
	c.t.Helper()
	said := c.must(append([]string{"start"}, args...)...)
	c.connect()
	return said
}

// connect makes a client from what the kubeconfig says, and nothing else.
func (c *cluster) connect() {
	c.t.Helper()
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: c.kubeconfig},
		&clientcmd.ConfigOverrides{CurrentContext: c.context()},
	).ClientConfig()
	if err != nil {
		c.t.Fatal(err)
	}
	if config.Insecure {
		c.t.Fatal("the kubeconfig has certificates not checked")
	}
	config.QPS = -1
	config.Timeout = 15 * time.Second
	if c.dial != nil {
		c.dial(config)
	}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		c.t.Fatal(err)
	}
	c.proxy = func(pod, question string) ([]byte, error) {
		path, query, _ := strings.Cut(question, "?")
		request := c.client.CoreV1().RESTClient().Get().Namespace(namespace).Resource("pods").
			Name(pod + ":8080").SubResource("proxy").Suffix(path)
		for pair := range strings.SplitSeq(query, "&") {
			if key, value, ok := strings.Cut(pair, "="); ok {
				request.Param(key, value)
			}
		}
		return request.DoRaw(c.t.Context())
	}
}

// status is what the tests read of `status -o json`.
type status struct {
	State      string   `json:"state"`
	Problems   []string `json:"problems"`
	Context    string   `json:"context"`
	Server     string   `json:"server"`
	Registry   string   `json:"registry"`
	Components []struct {
		Name     string `json:"name"`
		PID      int    `json:"pid"`
		Restarts int    `json:"restarts"`
	} `json:"components"`
	Nodes []struct {
		Name  string `json:"name"`
		Ready bool   `json:"ready"`
	} `json:"nodes"`
}

func (c *cluster) status() status {
	c.t.Helper()
	r := c.run("status", "-o", "json")
	var s status
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		c.t.Fatalf("read the status: %v: %s", err, r)
	}
	return s
}

// eventually calls f until it succeeds; what it last said is the failure.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}
